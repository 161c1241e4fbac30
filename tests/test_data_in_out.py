"""Rankings leave a store and come into another: through the commands, in every form, whole or not at all."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import func, select
from test_round_trips import any_prompt, any_responses, as_set, texts

from prefloop import cli, config
from prefloop.errors import RequestError
from prefloop.feedback_ui import data_in, data_out
from prefloop.formats import files, importing, losses, snapshot
from prefloop.formats.layouts import LAYOUTS
from prefloop.records import STRENGTHS, Answers, Message, Prompt, Ranking, Response
from prefloop.store import Judgement, Store, schema, verifying

NAMED = data_out.Which(raters="names")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}", seed=1) as made:
        yield made


@pytest.fixture
def either(store_url: str) -> Iterator[Store]:
    """A store of each database."""
    with Store(store_url, seed=1) as made:
        yield made


def rated(store: Store, seed: int, count: int = 12, raters: tuple[str, ...] = ("ann", "=bob", "eve")) -> None:
    """Items with answers as raters give them, through the queue."""
    dice = Random(seed)
    store.add_items([Answers(any_prompt(dice, number), any_responses(dice, alike=False)) for number in range(count)],
                    need=len(raters))
    for rater in raters:
        while lease := store.lease(rater, 60, lambda item, k: dice.sample(range(k), k)):
            k = len(lease.responses)
            bad = dice.random() < 0.2
            ranks = tuple(dice.choice((None, *range(1, k + 1))) for _ in range(k))
            store.submit(lease.token, rater, Judgement(
                ranks if bad or any(ranks) else (1,) * k, dice.choice((None, *STRENGTHS)), bad, texts(dice),
                texts(dice), dice.choice((None, 2.5))))


def read_into(folder: Path, path: Path, **settings: object) -> list[Ranking]:
    """What a new store says of a file that it took in."""
    with Store(f"sqlite:///{folder / f'{path.name}.db'}", seed=2) as other:
        data_in.received(other, "default", data_in.ImportConfig(path=str(path), **settings))  # type: ignore[arg-type]
        require_as_logged(other)
        return list(other.rankings())


def require_as_logged(store: Store) -> None:
    with store.reading() as db:
        assert verifying.verify(db).bad == ()


@pytest.mark.parametrize("form", [form for form in LAYOUTS if "rater" in LAYOUTS[form].holds])
def test_a_store_s_answers_come_into_another_as_they_were(tmp_path: Path, store: Store, form: str) -> None:
    rated(store, seed=3)
    path = tmp_path / f"out.{LAYOUTS[form].kinds[0]}"
    made = data_out.sent(store, path, form, LAYOUTS[form].kinds[0], NAMED)
    kept = [one for each in store.rankings() if (one := losses.held(each, LAYOUTS[form].holds))]
    back = read_into(tmp_path, path)
    if "shown" not in LAYOUTS[form].holds:
        back = [losses.FACTS["shown"].without(one) or one for one in back]
    assert as_set(back, form) == as_set(kept, form)
    assert made.raters == Counter(one.rater for one in kept)


def test_the_same_file_twice_is_taken_in_once(tmp_path: Path, either: Store) -> None:
    rated(either, seed=4)
    data_out.sent(either, tmp_path / "out.csv", "rankings", "csv", NAMED)
    before = as_set(either.rankings(), "rankings")
    told = data_in.received(either, "default", data_in.ImportConfig(path=str(tmp_path / "out.csv")))
    assert "0 answers by 0 raters to 0 new items; 36 there before" in told
    assert as_set(either.rankings(), "rankings") == before
    assert either.progress().done == either.progress().wanted == 36
    require_as_logged(either)


def test_an_answer_that_says_otherwise_is_refused_and_nothing_taken(tmp_path: Path, either: Store) -> None:
    rated(either, seed=5, raters=("ann",))
    data_out.sent(either, tmp_path / "out.jsonl", "rankings", "jsonl", NAMED)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    other = [{**row, "rater": "new"} for row in rows]
    two = "".join(json.dumps(row) + "\n" for row in [*other, {**rows[3], "reason": "x"}])
    (tmp_path / "two.jsonl").write_text(two)
    before = state(either)
    with pytest.raises(RequestError, match=r"two.jsonl:13: column 'ranks': 'ann' has answered this item before, and"):
        data_in.received(either, "default", data_in.ImportConfig(path=str(tmp_path / "two.jsonl")))
    assert state(either) == before


def state(store: Store) -> list[int]:
    tables = (schema.answers, schema.items, schema.leases, schema.prompts, schema.responses, schema.events)
    with store.reading() as db:
        return [db.scalar(select(func.count()).select_from(table)) or 0 for table in tables]


CHAT = [{"role": "user", "content": "q"}]
GOOD = {"prompt": "q", "responses": ["a", "b"], "ranks": [1, 2], "rater": "ann"}
TASK = {"data": {"prompt": "q", "items": [{"id": "x", "body": "a"}, {"id": "y", "body": "b"}]},
        "annotations": [{"result": [{"type": "ranker", "value": {"ranker": {"rank": ["y", "x"]}}}]}]}
RECORD = {"fields": {"instruction": "q", "reply_1": "a", "reply_2": "b"},
          "responses": {"order": [{"value": [{"value": "reply-1", "rank": 2}, {"value": "reply-2", "rank": 1}]}]}}
BAD = {
    "ranks": ("rankings", {**GOOD, "ranks": [1]}, "column 'ranks': expected a list of 2 ranks"),
    "strength": ("rankings", {**GOOD, "strength": "very"}, "strength: 'very' is not one of"),
    "too many": ("rankings", {**GOOD, "responses": list("abcdefghi"), "ranks": [1] * 9}, "a rater can rank 8 at most"),
    "nobody": ("answers", {"prompt": "q", "responses": ["a", "b"]}, "nobody has ranked these answers"),
    "winner": ("battles", {"conversation_a": CHAT, "conversation_b": CHAT, "winner": "a", "judge": "j"},
               "column 'conversation_a': its last turn is not the assistant's"),
    "place": ("battles", {"prompt": "q", "response_a": "a", "response_b": "b", "winner": "a", "ranking": "r",
                          "place_a": "x", "place_b": 1}, "column 'place_a': expected a number"),
    "data": ("label_studio", {**TASK, "data": 3}, "column 'data': expected an object"),
    "no prompt": ("label_studio", {**TASK, "data": {"items": TASK["data"]["items"]}}, "it has no 'prompt'"),
    "no result": ("label_studio", {**TASK, "annotations": [{}]}, "column 'annotations[0].result'"),
    "chose nothing": ("label_studio", {**TASK, "annotations": [{"result": []}]}, "it ranks nothing"),
    "unknown item": ("label_studio", {**TASK, "annotations": [{"result": [
        {"type": "ranker", "value": {"ranker": {"rank": ["z"]}}}]}]}, "it ranks 'z', which is no answer's id"),
    "fields": ("argilla", {**RECORD, "fields": []}, "column 'fields': expected an object"),
    "responses": ("argilla", {**RECORD, "responses": 3}, "column 'responses': expected responses by question"),
    "unknown answer": ("argilla", {**RECORD, "fields": {"instruction": "q", "reply_1": "a"}}, "'responses.order[0]'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_row_is_named_and_nothing_taken(tmp_path: Path, store: Store, case: str) -> None:
    form, row, message = BAD[case]
    good = {"rankings": GOOD, "answers": GOOD, "label_studio": TASK, "argilla": RECORD,
            "battles": {**BAD["place"][1], "place_a": 0}}[form]
    (tmp_path / "in.jsonl").write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    before = state(store)
    with pytest.raises(RequestError) as caught:
        data_in.received(store, "default", data_in.ImportConfig(path=str(tmp_path / "in.jsonl"), format=form))
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/in.jsonl:{1 if case == 'nobody' else 2}: ")
    assert str(caught.value).endswith("; nothing was imported")
    assert state(store) == before


def test_foreign_tasks_and_records(tmp_path: Path) -> None:
    pair = {"data": {"prompt": "q", "text1": "a", "text2": "b"}, "annotations": [
        {"completed_by": {"email": "x@y"}, "lead_time": 4.5, "result": [{"type": "pairwise", "value": {
            "selected": "right"}}]}, {"completed_by": 7, "was_cancelled": True, "result": []}]}
    older = {"fields": {"prompt": "q", "response-1": "a", "response-2": "b"}, "responses": [
        {"user_id": "u", "status": "submitted", "values": {"ranks": {"value": [
            {"value": "response-1", "rank": 1}, {"value": "response-2", "rank": 1}]}}},
        {"user_id": "v", "status": "discarded", "values": {"ranks": {"value": []}}}]}
    found = {}
    for name, row in (("list", TASK), ("pair", pair), ("record", RECORD), ("older", older)):
        (tmp_path / f"{name}.json").write_text(json.dumps([row]))
        (made,) = read_into(tmp_path, tmp_path / f"{name}.json")
        found[name] = ([one.text for one in made.responses], made.ranks, made.rater, made.seconds)
    assert found == {"list": (["a", "b"], (2, 1), "import", None), "pair": (["a", "b"], (2, 1), "x@y", 4.5),
                     "record": (["a", "b"], (2, 1), "import", None), "older": (["a", "b"], (1, 1), "u", None)}


@pytest.mark.parametrize("form", ["rankings", "battles", "ultrafeedback", "label_studio_ranker", "argilla"])
def test_items_without_answers_come_in_to_be_rated(tmp_path: Path, store: Store, form: str) -> None:
    rows = {"rankings": {"prompt": "q", "responses": ["a", "b"]},
            "battles": {"prompt": "q", "response_a": "a", "response_b": "b", "winner": "a"},
            "ultrafeedback": {"instruction": "q", "completions": [{"response": "a", "overall_score": 1},
                                                                  {"response": "b", "overall_score": 2}]},
            "label_studio_ranker": {**TASK, "annotations": []}, "argilla": {**RECORD, "responses": {}}}
    (tmp_path / "in.jsonl").write_text(json.dumps(rows[form]) + "\n")
    asked = data_in.ImportConfig(path=str(tmp_path / "in.jsonl"), take="items", raters_per_item=2)
    assert "1 item queued" in data_in.received(store, "default", asked)
    assert "0 items queued; 1 queued before" in data_in.received(store, "default", asked)
    assert list(store.rankings()) == []
    lease = store.lease("ann", 60, campaign="default")
    assert lease is not None
    assert [one.text for one in lease.responses] == ["a", "b"]
    assert store.progress().wanted == 2


def test_what_a_rater_holds_is_done_once_their_answer_comes_in(tmp_path: Path, either: Store) -> None:
    item = Answers(Prompt((Message("user", "q"),)), (Response("a"), Response("b")))
    either.add_items([item])
    lease = either.lease("ann", 60)
    assert lease is not None
    said = Ranking(item.prompt, item.responses, (2, 1), "ann", shown=(1, 0), seconds=3)
    (tmp_path / "in.jsonl").write_text(json.dumps(said.to_json()) + "\n")
    data_in.received(either, "default", data_in.ImportConfig(path=str(tmp_path / "in.jsonl")))
    assert list(either.rankings()) == [said]
    assert either.lease("ann", 60) is None


def test_whoever_is_at_work_keeps_their_place_when_others_answers_come_in(tmp_path: Path, either: Store) -> None:
    item = Answers(Prompt((Message("user", "q"),)), (Response("a"), Response("b")))
    either.add_items([item])
    lease = either.lease("ann", 60)
    assert lease is not None
    (tmp_path / "in.jsonl").write_text(json.dumps(Ranking(item.prompt, item.responses, (1, 2), "bob").to_json()))
    data_in.received(either, "default", data_in.ImportConfig(path=str(tmp_path / "in.jsonl")))
    assert either.lease("eve", 60) is None  # both places are taken
    assert not either.submit(lease.token, "ann", Judgement((2, 1))).surplus
    assert [one.rater for one in either.rankings()] == ["bob", "ann"]
    assert (either.progress().done, either.progress().wanted) == (2, 2)
    require_as_logged(either)


@pytest.mark.parametrize("lines", [
    [{"prompt": f"q{number}", "responses": ["a", "b"], "ranks": [1, 2], "rater": "ann"}
     for number in range(4)],
    [{"prompt": "q", "responses": list("abcde"), "pairs": [[0, own, "a"] for own in range(1, 5)], "rater": "ann"}],
    [{"prompt": "q", "response": f"a{number}", "helpfulness": number} for number in range(9)],
    [{"prompt": "q" * 999, "responses": ["a", "b"], "ranks": [1, 2], "rater": "ann"}] * 2])
def test_an_import_is_bounded(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch,
                              lines: list[dict[str, object]]) -> None:
    monkeypatch.setattr(data_in, "MOST_ROWS", 3)
    monkeypatch.setattr(data_in, "MOST_BYTES", 1500)
    before = state(store)
    for packed in (False, True):
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        (tmp_path / "in.jsonl").write_bytes(gzip.compress(content) if packed else content)
        with pytest.raises(RequestError, match=r"in.jsonl:\d: an import takes .*split the file; nothing was imported|"
                                               r"in.jsonl: it unpacks to more than"):
            data_in.received(store, "default", data_in.ImportConfig(path=str(tmp_path / "in.jsonl")))
        assert state(store) == before


def test_a_file_that_unpacks_without_end_is_read_up_to_a_bound(tmp_path: Path) -> None:
    for content in (b"\n" * 10**6, b"a,b\n" + b" " * 10**6, b"\xff" + b" " * 10**6):
        (tmp_path / "in.csv").write_bytes(gzip.compress(content))
        with pytest.raises(RequestError, match=r"in.csv: it unpacks to more than"):
            list(files.rows(tmp_path / "in.csv", files.Asked(most=10**5)))
        with suppress(RequestError):
            list(files.rows(tmp_path / "in.csv", files.Asked(most=10**7)))


def test_damaged_parquet_is_told_in_a_line(tmp_path: Path, store: Store) -> None:
    rated(store, seed=8, raters=("ann",))
    data_out.sent(store, tmp_path / "out.parquet", "rankings", "parquet")
    whole = (tmp_path / "out.parquet").read_bytes()
    (tmp_path / "out.parquet").write_bytes(whole[:4] + b"\xff" * 40 + whole[44:])
    with pytest.raises(RequestError, match=r"^.*out.parquet: damaged Parquet file, perhaps cut short: .*$") as found:
        data_in.received(store, "default", data_in.ImportConfig(path=str(tmp_path / "out.parquet")))
    assert "\n" not in str(found.value)


def test_a_store_that_takes_in_its_own_export_counts_nobody_twice(tmp_path: Path, either: Store) -> None:
    rated(either, seed=9, raters=("ann", "bob"))
    data_out.sent(either, tmp_path / "out.jsonl", "rankings", "jsonl")
    (one, *_) = either.rankings()
    decided = replace(one, rater="review:lea", guideline="").to_json()
    with (tmp_path / "out.jsonl").open("a") as file:
        file.write(json.dumps(decided) + "\n")
    before = as_set(either.rankings(), "rankings")
    told = data_in.received(either, "default", data_in.ImportConfig(path=str(tmp_path / "out.jsonl")))
    assert "0 answers by 0 raters to 0 new items; 24 there before; 1 decision of reviews left out" in told
    assert as_set(either.rankings(), "rankings") == before
    assert either.progress().done == either.progress().wanted == 24


def test_what_a_store_cannot_hold_is_told(tmp_path: Path, store: Store) -> None:
    item = Answers(Prompt((Message("user", "q"),)), tuple(map(Response, "abc")))
    said = (Ranking(item.prompt, item.responses, (1, 5, 9), "ann", dimensions={"kind": (1, 2, 3)}),
            Ranking(item.prompt, item.responses, (1, 3, 3), "bob"))
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(one.to_json()) + "\n" for one in said))
    told = data_in.received(store, "default", data_in.ImportConfig(path=str(tmp_path / "in.jsonl")))
    assert ("a store cannot hold: 1 rankings whose ranks are counted anew, without gaps, 1 rankings by one thing each"
            in told)
    assert [one.ranks for one in store.rankings()] == [(1, 2, 3), (1, 3, 3)]


def test_an_order_that_nobody_knows_favours_no_place(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{number}", "chosen": "good", "rejected": "bad", "rater": "ann"} for number in range(200)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_into(tmp_path, tmp_path / "in.jsonl")
    assert {one.ranks for one in found} == {(1, 2)}
    assert 70 < sum(one.shown == (0, 1) for one in found) < 130


def test_pseudonyms_are_a_store_s_own_and_stay(tmp_path: Path, store: Store) -> None:
    rated(store, seed=6, raters=("ann", "bob"))
    names = []
    for number, of in enumerate((store, store)):
        data_out.sent(of, tmp_path / f"{number}.jsonl", "rankings", "jsonl")
        rows = [json.loads(line) for line in (tmp_path / f"{number}.jsonl").read_bytes().splitlines()]
        names.append({row["rater"] for row in rows})
    assert names[0] == names[1]
    assert len(names[0]) == 2
    assert all(name.startswith("rater-") and len(name) == 18 for name in names[0])
    with Store(f"sqlite:///{tmp_path / 'other.db'}", seed=1) as other:
        rated(other, seed=6, raters=("ann", "bob"))
        data_out.sent(other, tmp_path / "other.jsonl", "rankings", "jsonl")
    rows = [json.loads(line) for line in (tmp_path / "other.jsonl").read_bytes().splitlines()]
    assert names[0].isdisjoint(row["rater"] for row in rows)


def test_an_export_is_kept_in_the_store(tmp_path: Path, either: Store) -> None:
    rated(either, seed=6, raters=("ann", "bob"))
    made = data_out.sent(either, tmp_path / "x.jsonl", "trl", "jsonl")
    with either.reading() as db:
        (row,) = db.execute(select(schema.exports)).mappings().all()
        of = {one.rater: one.answers for one in db.execute(select(schema.exports_of))}
    assert (row["kind"], row["place"], row["checksum"]) == ("export trl", str(tmp_path / "x.jsonl"), made.checksum)
    assert row["rows"] == made.rankings
    assert of == made.raters
    assert set(of) == {"ann", "bob"}


def test_the_commands(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    rated(store, seed=7)
    url, other = f"sqlite:///{store.place}", f"sqlite:///{tmp_path / 'other.db'}"
    store.close()
    assert cli.main(["feedback", "export", f"feedback.store={url}", "export.format=battles",
                     f"export.out={tmp_path / 'b.parquet'}", "export.raters=names"]) == 0
    out = capsys.readouterr().out
    assert "36 rankings by 3 raters in" in out
    assert "battles cannot hold:" in out
    assert "strengths of the pref" in out
    Store(other).close()
    assert cli.main(["feedback", "import", f"feedback.store={other}", f"import.path={tmp_path / 'b.parquet'}"]) == 0
    assert "of battles; 36 answers by 3 raters to 12 new items" in capsys.readouterr().out
    there, new = (f"export.out={tmp_path / name}" for name in ("b.parquet", "c.csv"))
    for wrong, said in (([there], "it exists already"), ([new, "export.format=argilla"], "is not written as csv"),
                        ([new, "export.format=battle"], "did you mean 'battles'")):
        assert cli.main(["feedback", "export", f"feedback.store={url}", *wrong]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["feedback", "import", f"feedback.store={other}", "campaign.name=none",
                     f"import.path={tmp_path / 'b.parquet'}"]) == 2
    assert "there is none named 'none'" in capsys.readouterr().err


REAL = ("ukpconvarg1/comparisons.jsonl.gz", "finegrained_qa/quads.jsonl.gz", "hh_harmless/pairs.jsonl.gz")


@pytest.fixture(scope="module")
def real() -> list[Ranking]:
    """Some hundred rankings of people, of three data sets, each text as they wrote it."""
    if not all((SHARED / name).exists() for name in REAL):
        pytest.skip("the real data sets are not here (shared/data)")
    from prefloop.formats import arriving, files
    from prefloop.formats.report import Tally
    from prefloop.formats.row import Rules

    with gzip.open(SHARED / "ukpconvarg1/arguments.jsonl.gz") as lines, gzip.open(SHARED / REAL[0]) as compared:
        arguments = {row["id"]: row for row in map(json.loads, lines)}
        votes = [json.loads(line) for line, _ in zip(compared, range(60), strict=False)]
    made = [Ranking(Prompt((Message("user", arguments[one["a"]]["prompt"]),), one["topic"], "ukpconvarg1"),
                    tuple(Response(arguments[one[side]]["text"], one[side]) for side in "ab"),
                    {1: (1, 2), 2: (2, 1), 0: (1, 1)}[winner], str(rater)) for one in votes
            for rater, winner in one["votes"]]
    for name, form, rules in ((REAL[1], "votes", {"winners": {"1": "a", "2": "b", "0": "tie"}, "cycles": "pairs"}),
                              (REAL[2], "hh", {})):
        found = arriving.opened([str(SHARED / name)], files.Asked())
        _, reader, own = arriving.formed(form, Rules(**rules), found)
        rows = (one for _, one in arriving.records(reader, own, found, Tally()) if isinstance(one, Ranking))
        made += [one for one, _ in zip(rows, range(120), strict=False)]
    return made


@pytest.mark.parametrize("form", LAYOUTS)
def test_real_data_through_every_form(tmp_path: Path, real: list[Ranking], form: str) -> None:
    from test_round_trips import back, written

    kept = [one for each in real if (one := losses.held(each, LAYOUTS[form].holds))]
    path, out = written(tmp_path, form, "jsonl", real)
    found = back(path)
    assert out.rankings == len(kept) > 300
    if form == "trl":
        assert sum(1 for one in kept for _ in one.decided()) >= len(found) > 300
    elif form == "helpsteer":  # the mean of all who rated an answer
        assert len(found) == len({one.prompt.id for one in kept})
    else:
        assert as_set(found, form) == Counter(dict.fromkeys(as_set(kept, form), 1))


def test_tasks_become_a_snapshot_too_but_for_those_that_nobody_ranked(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(TASK) + "\n")
    asked = ["import.format=label_studio", f"import.path={tmp_path / 'in.jsonl'}", f"import.out={tmp_path / 'out'}"]
    assert cli.main(["import", *asked]) == 0
    (made,) = snapshot.read(tmp_path / "out").rankings
    assert (made.ranks, made.rater) == ((2, 1), "import")
    (tmp_path / "in.jsonl").write_text(json.dumps({**TASK, "annotations": []}) + "\n")
    with pytest.raises(RequestError, match=r"in.jsonl:1: nobody has ranked these answers"):
        importing.main(config.read("import", None, [*asked[:2], f"import.out={tmp_path / 'new'}"]))
    assert not (tmp_path / "new").exists()
