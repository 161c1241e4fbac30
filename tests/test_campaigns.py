"""Campaigns: what files come to, what stands before the work, and what comes in between."""

import json
import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import explored
import pytest
from sqlalchemy import select
from test_queue import RIGHT, WRONG, about, key
from test_store import Clock, item, url

from prefloop import config
from prefloop.errors import RequestError
from prefloop.feedback_ui import assignment, campaigns, queueing, revealing, telling
from prefloop.feedback_ui.campaigns import CampaignConfig
from prefloop.feedback_ui.names import MASK
from prefloop.records import Answers, Message, Prompt, Ranking, Response
from prefloop.store import Campaign, Judgement, Lease, Lesson, Qualification, Store
from prefloop.store.accounts import Accounts
from prefloop.store.admission import agreement
from prefloop.store.schema import illustrations, pictures

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + bytes(17)


def answers(number: int, texts: tuple[str, ...] = ("one", "two", "three", "four"), policy: str = "runs/a") -> Answers:
    prompt = Prompt((Message("user", f"question {number}"),))
    return Answers(prompt, tuple(Response(text, policy) for text in texts))


def written(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows) + "\n")
    return str(path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(url(tmp_path), clock=clock, seed=3) as opened:
        yield opened


def leased(store: Store, rater: str, campaign: str = "study") -> Lease:
    lease = store.lease(rater, 600, campaign=campaign)
    assert lease is not None
    return lease


def rate(store: Store, rater: str, count: int, said: Judgement = RIGHT) -> list[str]:
    """The kinds of the items that this rater is given, in their order."""
    kinds = []
    for _ in range(count):
        lease = leased(store, rater)
        kinds.append(about(store, lease.token).kind)
        store.submit(lease.token, rater, said)
    return kinds


# -- from files -------------------------------------------------------------------------------------------------------


def test_answers_are_queued_once_and_lone_ones_left_out(tmp_path: Path, store: Store) -> None:
    path = written(tmp_path / "answers.jsonl", [answers(7), answers(8, ("only one",)), answers(9, ())])
    settings = CampaignConfig(answers=path)
    assert "1 item queued, 0 queued before, 2 left out" in campaigns.apply(store, settings, several=False)
    assert "0 items queued, 1 queued before, 2 left out" in campaigns.apply(store, settings, several=False)


@pytest.mark.parametrize(("line", "names"), [
    ("{", "not a row of answers"), ("[]", "not a row of answers"), ('"x"', "not a row of answers"),
    ("[" * 100_000, "not a row of answers"),
    ('{"prompt": {"messages": []}, "responses": []}', "it has no messages"),
    ('{"responses": []}', "column 'prompt' is missing"),
    ('{"prompt": "why?", "responses": []}', "column 'prompt' must be an object with 'messages'"),
    ('{"prompt": {"messages": ["why?"]}, "responses": []}', r"prompt\.messages\[0\] must be an object with 'role'"),
    (json.dumps(answers(1).to_json() | {"responses": "ab"}), "column 'responses' must be a list"),
    (json.dumps(answers(1).to_json() | {"responses": [{"text": "a"}, "b"]}),
     r"responses\[1\] must be an object with 'text'"),
    ('{"prompt": {"messages": [', "not JSON at column 26: Expecting value;"),
    ('{"prompt": "\udcff"}', "byte 13 of this row is not UTF-8"),
    (json.dumps(answers(1, ("same", "same")).to_json()), r"responses\[1\]: the answer equals its rival"),
    (json.dumps(answers(1, ("fine", " ")).to_json()), r"responses\[1\]: the answer is empty"),
    (json.dumps(answers(1, ("fine", "\ud800")).to_json()), "half of a surrogate pair"),
    (json.dumps(answers(1).to_json()).replace('"sampling": {}', '"sampling": {"temperature": NaN}'), "not a row"),
])
def test_a_malformed_row_is_named_and_nothing_is_queued(tmp_path: Path, store: Store, line: str, names: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps(answers(7).to_json()) + "\n" + line + "\n", errors="surrogateescape")
    with pytest.raises(RequestError, match=rf"answers\.jsonl:2: .*{names}.*nothing was queued"):
        campaigns.apply(store, CampaignConfig(name="other", answers=str(path)), several=False)
    assert store.progress().items == 0
    assert [one.name for one in store.campaigns()] == ["default"]


def test_the_line_of_the_docs_can_be_queued(tmp_path: Path, store: Store) -> None:
    docs = (Path(__file__).parent.parent / "docs" / "campaigns.md").read_text()
    line = next(block for block in docs.split("```json\n")[1:] if '"ranks"' not in block.partition("```")[0])
    (tmp_path / "answers.jsonl").write_text(" ".join(line.partition("```")[0].split()))
    assert "1 item queued" in campaigns.apply(store, CampaignConfig(answers=str(tmp_path / "answers.jsonl")), False)


def test_a_file_without_answers_is_refused_and_nothing_to_rate_is_said(tmp_path: Path, store: Store) -> None:
    empty, alone = tmp_path / "empty.jsonl", written(tmp_path / "alone.jsonl", [answers(8, ("only one",))])
    empty.write_text("\n\n")
    with pytest.raises(RequestError, match=r"empty\.jsonl: this file is empty"):
        campaigns.apply(store, CampaignConfig(answers=(alone, str(empty))), several=False)
    with pytest.raises(RequestError, match="never be filled: nothing to rate: no prompt has two different answers"):
        campaigns.apply(store, CampaignConfig(answers=alone), several=False)
    assert "; nothing to rate;" in campaigns.apply(store, CampaignConfig(answers=alone, state="draft"), several=False)


def test_named_raters_without_an_account_are_told_once_there_are_accounts(tmp_path: Path, store: Store) -> None:
    settings = CampaignConfig(answers=written(tmp_path / "a.jsonl", [answers(1)]), raters=("Ann", "bob", "cyd"))
    assert "without an account" not in campaigns.apply(store, settings, several=True)
    Accounts(store).add("ann", "a long password")
    assert "campaign.raters without an account: bob, cyd;" in campaigns.apply(store, settings, several=True)


def test_answers_of_one_prompt_from_several_runs_are_put_together(tmp_path: Path, store: Store) -> None:
    written(tmp_path / "run-b" / "answers.jsonl", [answers(1, ("two", "five"), "runs/b"), answers(2, ("x",))])
    paths = (written(tmp_path / "a.jsonl", [answers(1), answers(3)]), str(tmp_path / "run-b"))
    campaigns.apply(store, CampaignConfig(answers=paths), several=False)
    lease = leased(store, "ann", "default")
    assert [one.text for one in lease.responses] == ["one", "two", "three", "four", "five"]
    assert [one.policy for one in lease.responses] == ["runs/a"] * 4 + ["runs/b"]
    assert store.progress().items == 2


def test_a_comparison_stands_alone_and_its_names_come_at_the_end(tmp_path: Path, store: Store) -> None:
    place = explored.comparison(tmp_path / "compare-0001", 12)
    other = written(tmp_path / "a.jsonl", [answers(1)])
    with pytest.raises(RequestError, match=r"compare-0001/answers\.jsonl is a comparison, and stands alone"):
        campaigns.apply(store, CampaignConfig(answers=(str(place), other)), several=False)
    assert store.progress().items == 0
    settings = CampaignConfig(name="study", answers=str(place), answers_per_item=2, gold_share=0, repeats=0)
    assert "12 items queued, 0 queued before, 0 left out" in campaigns.apply(store, settings, several=False)
    assert "0 items queued" in campaigns.apply(store, replace(settings, answers=()), several=False)

    def told() -> Any:
        (own,) = (one for one in store.campaigns() if one.name == "study")
        return revealing.standings(store, own)

    given = []
    for _ in range(12):
        assert told() is None
        assert all(one.editable for one in store.history("ann"))
        lease = leased(store, "ann")
        assert len(lease.responses) == 2, "so many are drawn for each prompt"
        assert {"runs/sft-0001", "dpo-0003"} <= set(assignment.task_of(lease).hidden)
        given.append(store.submit(lease.token, "ann", Judgement((1, 1))).answer)
    assert [one["name"] for one in told()["standings"]] == list(explored.RUNS), "though its settings were given anew"
    assert told()["votes"] == 12
    for change in (lambda: store.revise(given[-1], "ann", Judgement((1, 2))), lambda: store.reopen(given[-1], "ann"),
                   lambda: store.withdraw(given[-1], "ann")):
        with pytest.raises(RequestError, match="have been told who wrote what"):
            change()
    assert not any(one.editable for one in store.history("ann"))
    assert {one.ranks for one in store.rankings()} == {(1, 1)}
    campaigns.apply(store, replace(settings, reveal=False), several=False)
    assert told() is None
    store.revise(given[-1], "ann", Judgement((1, 2)))


@pytest.mark.parametrize(("name", "title", "named"), [
    ("sft-vs-base", "", "sft"), ("november", "Is PPO_0002 better? Runs compared", "0002, ppo"),
    ("november", "Endpoints and runs", ""), ("number 1", "", "")])
def test_a_title_that_names_a_checkpoint_is_warned_of(tmp_path: Path, store: Store, name: str, title: str,
                                                      named: str) -> None:
    settings = CampaignConfig(name, title, answers=str(explored.comparison(tmp_path / "compare-0001", 3)))
    told = campaigns.apply(store, settings, several=False)
    assert ("raters read" in told) == bool(named)
    assert f"raters read {named} in campaign.name or campaign.title" in told or not named


def test_the_history_masks_what_the_task_masks(store: Store) -> None:
    said = "Is sft-0001 like dpo-0003, writer-9 or secret?"
    row = Answers(Prompt((Message("user", said),)), (Response("one", "runs/writer-9"), Response("two")))
    store.apply(Campaign("study", hide=("secret",), contestants=(("runs/sft-0001", ""), ("dpo-0003/final", ""))),
                rows=[row])
    lease = leased(store, "ann")
    store.submit(lease.token, "ann", Judgement((1, 2)))
    (past,) = store.history("ann")
    assert telling.past(past)["prompt"] == f"Is {MASK} like {MASK}, {MASK} or {MASK}?"
    task = telling.task(assignment.task_of(lease))
    assert task["conversation"][0]["html"].count(MASK) == 4


@pytest.mark.parametrize(("most", "expected"), [(2, 2), (3, 3), (8, 8), (None, 8)])
def test_of_many_answers_so_many_are_drawn_and_always_the_same(tmp_path: Path, most: int | None,
                                                               expected: int) -> None:
    path = Path(written(tmp_path / "a.jsonl", [answers(n, tuple("abcdefghijkl")) for n in range(20)]))
    found, again = (queueing.waiting([path], most).rows for _ in range(2))
    assert found == again
    assert {len(row.responses) for row in found} == {expected}
    assert len({tuple(one.text for one in row.responses) for row in found}) > 10, "and not the same of each prompt"


def scored(path: Path, rows: list[Answers], spreads: list[float | None], worth: list[float] | None = None) -> str:
    """As `prefloop score` writes them; each item's answers are worth the same, or `worth`."""
    told = [{"prompt_id": row.prompt.id, "response_id": one.id, "text": one.text, "score": score,
             **({} if spread is None else {"spread": spread})}
            for row, spread in zip(rows, spreads, strict=True)
            for one, score in zip(row.responses, worth or [0.0] * len(row.responses), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return str(path)


def test_what_reward_models_disagree_on_comes_first(tmp_path: Path, store: Store) -> None:
    rows = [answers(n) for n in range(40)]
    settings = CampaignConfig(answers=written(tmp_path / "a.jsonl", rows), ask="uncertainty", random_share=0.25,
                              scores=scored(tmp_path / "scores.jsonl", rows, [n / 10 for n in range(40)]))
    campaigns.apply(store, settings, several=False)
    order = []
    for n in range(40):
        lease = leased(store, f"rater {n}", "default")
        order.append(int(lease.prompt.messages[-1].content.split()[1]))
        store.submit(lease.token, lease.rater, Judgement((1, 2, 3, 4)))
    first = [one for n, one in enumerate(order[:20]) if one == max(set(range(40)) - set(order[:n]))]
    assert 9 <= len(first) < 20, "three of four are where they disagree most; the rest by chance"
    found = [one.propensity for one in store.rankings()]
    assert all(one is not None and 0 < one <= 1 for one in found)
    assert found[0] in (pytest.approx(0.75 + 0.25 / 40), pytest.approx(0.25 / 40))


@pytest.mark.parametrize(("line", "names"), [
    ('{"prompt_id": "p", "response_id": "r", "score": 1.0}', "no item has scores of an ensemble"),
    ('{"prompt_id": "p", "response_id": "r", "score": NaN}', r"scores\.jsonl:1: not a row of scores"),
    ("[1]", r"scores\.jsonl:1: not a row of scores"),
])
def test_scores_that_say_nothing_are_refused(tmp_path: Path, store: Store, line: str, names: str) -> None:
    (tmp_path / "scores.jsonl").write_text(line)
    path = written(tmp_path / "a.jsonl", [answers(9)])
    settings = CampaignConfig(answers=path, scores=str(tmp_path / "scores.jsonl"), ask="uncertainty")
    with pytest.raises(RequestError, match=names):
        campaigns.apply(store, settings, several=False)
    assert store.progress().items == 0


def test_the_overlap_is_a_share_of_the_items_and_always_the_same(tmp_path: Path, store: Store) -> None:
    settings = CampaignConfig(answers=written(tmp_path / "a.jsonl", [answers(n) for n in range(500)]))
    campaigns.apply(store, settings, several=False)
    assert store.progress().wanted == 500, "alone there is nobody to agree with"
    campaigns.apply(store, settings, several=True)
    shared = (store.progress().wanted - 500) // 2
    assert 30 <= shared <= 70
    campaigns.apply(store, settings, several=True)
    assert store.progress().wanted == 500 + 2 * shared


@pytest.mark.parametrize(("quotas", "names"), [
    ("{a: 0.5}", "sum to 0.5, not to 1"), ("{a: 1.5, b: -0.5}", "a share above 0"), ("[a]", "quotas: expected"),
    ("{a: true}", "a share above 0"), ("{1: 1}", "a share above 0")])
def test_quotas_that_make_no_sense(quotas: str, names: str) -> None:
    with pytest.raises(RequestError, match=names):
        config.build(config.read("feedback", None, ["campaign.ask=stratified", f"campaign.quotas={quotas}"]),
                     {"campaign": config.Section(CampaignConfig)})


@pytest.mark.parametrize(("change", "names"), [
    ("name=''", "campaign.name"), ("name='a\u202eb'", "campaign.name"), ("answers_per_item=1", "answers_per_item"),
    ("answers_per_item=9", "answers_per_item"), ("raters_per_item=0", "raters_per_item"),
    ("raters_per_item=10000000000", "1 to 1000"),
    ("overlap_raters=0", "overlap_raters"), ("gold_share=1.5", "gold_share is a share"),
    ("gold_share=.nan", "gold_share is a share"), ("overlap=-1", "overlap is a share"),
    ("repeats=0.5", "together 0.5 at most"), ("answers=[1]", "not names of files"), ("raters=[1]", "raters"),
    ("raters=1", "raters: expected"), ("hide=['']", "hide"), ("break_minutes=-1", "break_minutes"),
    ("gold_shar=1", "did you mean campaign.gold_share"), ("state=closed", "campaign.state is draft, open, paused"),
    ("ask=closest", "campaign.ask is one of queued"), ("random_share=-0.1", "random_share is a share"),
    ("quotas={a: 1}", "belongs to ask=stratified"), ("ask=stratified", "belongs to ask=stratified")])
def test_settings_that_make_no_sense(change: str, names: str) -> None:
    with pytest.raises(RequestError, match=names):
        config.build(config.read("feedback", None, [f"campaign.{change}"]),
                     {"campaign": config.Section(CampaignConfig)})


@pytest.mark.parametrize("name", ["answers", "gold", "qualification", "scores", "guideline"])
def test_a_file_that_is_not_there_is_said_before_anything_is_done(tmp_path: Path, store: Store, name: str) -> None:
    missing: dict[str, Any] = {name: str(tmp_path / "none.md")}
    with pytest.raises(RequestError, match=rf"campaign\.{name}: .*none\.md"):
        campaigns.apply(store, CampaignConfig(title="new", **missing), several=False)
    assert [one.title for one in store.campaigns()] == [""]


def test_settings_survive_a_journey_as_json(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command hands them to the running server, which was started elsewhere."""
    written(tmp_path / "here" / "run" / "answers.jsonl", [answers(1)])
    written(tmp_path / "here" / "gold.jsonl", [key(1, "gold")])
    (tmp_path / "here" / "guide.md").write_text("# Be fair\n")
    monkeypatch.chdir(tmp_path / "here")
    sent = json.dumps(asdict(CampaignConfig(answers=("run",), gold="gold.jsonl", guideline="guide.md",
                                            raters=("Ann",)).resolved()))
    monkeypatch.chdir(tmp_path)
    told = campaigns.apply(store, CampaignConfig(**json.loads(sent)), several=True)
    assert told == ("campaign default: 1 item queued, 0 queued before, 0 left out (fewer than two distinct answers); "
                    "1 gold item; a guideline; open to 1 named rater; an item wants one rater, and nobody can rate it "
                    "as yet; invite 1 more; campaign.repeats: there are too few items to repeat one 5 answers later")
    guideline = store.guideline("ann", "default")
    assert guideline is not None
    assert guideline.text == "# Be fair\n"
    assert store.gate("ann", "default") == "guideline", "and so Ann is admitted"
    assert store.gate("bob", "default") == "not_admitted"


# -- pictures ---------------------------------------------------------------------------------------------------------


def test_pictures_beside_the_answers_are_kept_and_nothing_else_is(tmp_path: Path, store: Store) -> None:
    folder = tmp_path / "data"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "cat 1.png").write_bytes(PNG)
    (folder / "text.png").write_text("not a picture")
    (folder / "large.png").write_bytes(PNG + bytes(3 * 1024 * 1024))
    (tmp_path / "outside.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "folder.png").mkdir()
    refused = ("text.png", "large.png", "../outside.png", "link.png", "folder.png", "none.png", "https://x/a.png",
               str(tmp_path / "outside.png"), "file:///etc/passwd", "in/\x00.png", "x" * 5000)
    text = "![cat](<in/cat 1.png>)\n\n" + "\n\n".join(f"![a](<{one}>)" for one in refused)
    row = Answers(Prompt((Message("user", text),)), answers(1).responses)
    gold = replace(key(1, "gold"), prompt=Prompt((Message("user", "![cat](cat.png)"),)))
    (tmp_path / "gold").mkdir()
    (tmp_path / "gold" / "cat.png").write_bytes(PNG + b"another")
    told = campaigns.apply(store, CampaignConfig(answers=written(folder / "a.jsonl", [row]), gold=written(
        tmp_path / "gold" / "gold.jsonl", [gold])), several=False)
    assert re.search(r"; \d+ pictures not found or not fit to show, such as .*a\.jsonl:1 text\.png; they are", told)
    task = assignment.next_task(store, "ann", campaign="default")
    assert task is not None
    assert list(task.pictures) == ["in/cat 1.png"]
    assert store.picture(task.pictures["in/cat 1.png"]) == ("image/png", PNG)
    assert store.picture("made up") is None
    with store.reading() as db:
        assert dict(db.execute(select(illustrations.c.source, pictures.c.data).join(pictures)).all()) == {
            "in/cat 1.png": PNG, "cat.png": PNG + b"another"}


# -- what stands before the work --------------------------------------------------------------------------------------


def study(store: Store, count: int = 40, guideline: str = "", gold: int = 0, trials: int = 0, **settings: Any) -> None:
    store.apply(Campaign("study", **settings), guideline, [key(n, "gold") for n in range(gold)],
                [key(n, "trial") for n in range(trials)], [item(n) for n in range(count)])


def test_a_warning_is_accepted_or_nothing_is_shown(store: Store) -> None:
    study(store, warning="Some of this is unkind.")
    assert store.gate("ann", "study") == "warning"
    assert store.lease("ann", 60, campaign="study") is None
    store.answer_warning("ann", "study", accepted=False)
    assert store.gate("ann", "study") == "warning"
    store.answer_warning("ann", "study", accepted=True)
    assert store.gate("ann", "study") is None
    assert store.gate("bob", "study") == "warning"
    study(store, warning="All of this is unkind.")
    assert store.gate("ann", "study") == "warning", "it says something else now"


def test_answers_keep_the_version_of_the_guideline_they_were_given_under(store: Store) -> None:
    study(store, guideline="Be fair.")
    first = store.guideline("ann", "study")
    assert first is not None
    assert (first.number, first.text, first.acknowledged, first.changed) == (1, "Be fair.", False, False)
    assert store.gate("ann", "study") == "guideline"
    assert store.lease("ann", 60, campaign="study") is None
    with pytest.raises(RequestError, match="has changed meanwhile"):
        store.acknowledge("ann", "study", "made up")
    store.acknowledge("ann", "study", first.version)
    rate(store, "ann", 2)
    study(store, guideline="Be fair, and kind.")
    second = store.guideline("ann", "study")
    assert second is not None
    assert (second.number, second.acknowledged, second.changed) == (2, False, True)
    assert store.gate("ann", "study") == "guideline"
    with pytest.raises(RequestError, match="has changed meanwhile"):
        store.acknowledge("ann", "study", first.version)
    store.acknowledge("ann", "study", second.version)
    store.acknowledge("ann", "study", second.version)
    rate(store, "ann", 1)
    study(store, guideline="Be fair, and kind.")
    assert store.gate("ann", "study") is None, "the same text is no change"
    study(store, guideline="Be fair.")
    assert store.gate("ann", "study") == "guideline", "back to the first is a change"
    assert [r.guideline for r in store.rankings()] == [first.version, first.version, second.version]
    study(store, guideline="")
    assert store.gate("ann", "study") is None


def test_who_may_rate(store: Store) -> None:
    assert campaigns._campaign(CampaignConfig(raters="Ann")).raters == ("Ann",)
    study(store, raters=(" ＡNN ",))
    assert store.gate("ann", "study") is None
    assert store.gate("bob", "study") == "not_admitted"
    assert store.lease("bob", 60, campaign="study") is None
    with pytest.raises(RequestError, match="none named 'nowhere'"):
        store.gate("ann", "nowhere")


def test_the_qualification_round(store: Store) -> None:
    study(store, trials=4, gold=5, gold_share=0.3, qualification_pass=0.5)
    assert store.qualification("ann", "study") == Qualification(4, 0, 0, "open")
    for number in range(4):
        lease = leased(store, "ann")
        assert lease.practice == (number + 1, 4)
        said = RIGHT if number < 2 else WRONG
        receipt = store.submit(lease.token, "ann", said)
        lesson = store.lesson(receipt.answer, "ann")
        about_it = lease.prompt.messages[0].content.removeprefix("trial ")
        assert lesson == Lesson(number < 2, (1, 2, 3), f"because {about_it}")
        with pytest.raises(RequestError, match="stays as it is"):
            store.revise(receipt.answer, "ann", RIGHT)
        assert store.lesson(receipt.answer, "bob") is None
    assert store.qualification("ann", "study") == Qualification(4, 4, 2, "passed")
    assert leased(store, "ann").practice is None
    for _ in range(4):
        store.submit(leased(store, "bob").token, "bob", WRONG)
    assert store.gate("bob", "study") == "failed"
    assert store.lease("bob", 60, campaign="study") is None
    study(store, trials=6, gold=5, gold_share=0.3, qualification_pass=0.5)
    assert store.qualification("ann", "study") == Qualification(4, 4, 2, "passed"), "a verdict is kept"
    assert store.gate("bob", "study") == "failed"
    assert list(store.rankings()) == [], "nobody trains on what was said to qualify"
    assert store.progress("ann").mine == 0


def test_a_lesson_is_told_in_the_order_shown_and_of_nothing_else(store: Store) -> None:
    study(store, trials=1, gold=1, gold_share=0.5)
    lease = store.lease("ann", 60, order=lambda *_: [2, 0, 1], campaign="study")
    assert lease is not None
    receipt = store.submit(lease.token, "ann", Judgement((3, 1, 2)))
    assert store.lesson(receipt.answer, "ann") == Lesson(True, (3, 1, 2), "because 0")
    while about(store, (lease := leased(store, "ann")).token).kind != "gold":
        store.submit(lease.token, "ann", RIGHT)
    assert store.lesson(store.submit(lease.token, "ann", RIGHT).answer, "ann") is None


def test_a_trial_that_is_skipped_comes_back_at_the_end(store: Store) -> None:
    study(store, trials=3)
    first = leased(store, "ann")
    store.release(first.token, "ann")
    order = [first.token]
    for _ in range(3):
        lease = leased(store, "ann")
        order.append(lease.token)
        store.submit(lease.token, "ann", RIGHT)
    assert order[-1] == first.token
    assert len(set(order)) == 3


@pytest.mark.parametrize(("ranks", "right", "share"), [
    ((1, 2, 3, 4), (1, 2, 3, 4), 1.0), ((2, 1, 3, 4), (1, 2, 3, 4), 5 / 6), ((4, 3, 2, 1), (1, 2, 3, 4), 0.0),
    ((1, 1, 1, 1), (1, 2, 3, 4), 0.5), ((1, 2), (1, None), 1.0), ((1, None, None), (1, 2, 2), 1.0),
    ((None, None), (1, 2), 0.5), ((1, 2), (None, None), None)])
def test_how_far_a_ranking_agrees_with_what_is_right(ranks: Any, right: Any, share: float | None) -> None:
    assert agreement(ranks, right) == share


# -- what comes in between --------------------------------------------------------------------------------------------


def test_gold_and_repeats_come_in_their_shares_where_nobody_can_tell(store: Store) -> None:
    study(store, count=300, gold=200, gold_share=0.1, repeats=0.05)
    kinds = rate(store, "ann", 300)
    counts = Counter(kinds)
    assert 18 <= counts["gold"] <= 45
    assert 6 <= counts["repeat"] <= 26
    places = [number for number, kind in enumerate(kinds) if kind == "gold"]
    assert len({after - before for before, after in pairwise(places)}) > 6, "no rhythm"
    exported = Counter(r.kind for r in store.rankings())
    assert exported == counts
    progress = store.progress("ann", campaign="study")
    assert (progress.wanted, progress.done, progress.mine) == (300, counts["normal"], 300)


def test_which_turn_brings_gold_is_decided_by_the_stores_seed(tmp_path: Path) -> None:
    def run(name: str, seed: int, rater: str = "ann") -> list[str]:
        with Store(f"sqlite:///{tmp_path / name}", seed=seed) as store:
            study(store, count=60, gold=30, gold_share=0.2, repeats=0.1)
            return rate(store, rater, 60)

    first = run("a.db", 1)
    assert first == run("b.db", 1)
    assert first != run("c.db", 2)
    assert first != run("d.db", 1, "bob")


def test_a_repeat_is_an_item_of_its_own_in_the_opposite_order_some_time_later(store: Store) -> None:
    study(store, count=60, repeats=0.4)
    seen: dict[str, tuple[int, Lease]] = {}
    repeats = 0
    for number in range(140):
        lease = store.lease("ann", 600, order=lambda *_: [1, 2, 0], campaign="study")
        if lease is None:
            break
        name = lease.prompt.messages[0].content
        if name in seen:
            before, first = seen[name]
            repeats += 1
            assert number - before > 5
            assert (lease.shown, lease.token == first.token) == (first.shown[::-1], False)
            assert about(store, lease.token).kind == "repeat"
        seen[name] = number, lease
        store.submit(lease.token, "ann", RIGHT)
    assert repeats > 10
    assert len(seen) == 60, "all others came too"
    assert {r.kind for r in store.rankings()} == {"normal", "repeat"}
    assert store.progress().wanted == store.progress().done == 60


def test_gold_that_is_no_longer_named_is_given_no_more(store: Store) -> None:
    study(store, count=100, gold=3, gold_share=0.5)
    rate(store, "ann", 1)
    study(store, count=100, gold=1, gold_share=0.5)
    kinds = Counter(rate(store, "bob", 30))
    assert kinds["gold"] == 1
    study(store, count=100, gold=3, gold_share=0.5)
    assert Counter(rate(store, "bob", 30))["gold"] == 2


def test_a_gold_item_does_not_come_twice(tmp_path: Path, store: Store) -> None:
    golden = [key(n, "gold") for n in range(3)]
    rows = [Answers(one.prompt, one.responses[::-1]) for one in golden[:2]] + [answers(n) for n in range(20)]
    path, gold = written(tmp_path / "a.jsonl", rows), written(tmp_path / "g.jsonl", golden)
    told = campaigns.apply(store, CampaignConfig("study", answers=path, gold=gold, gold_share=0.4), several=True)
    assert "20 items queued" in told
    assert "2 left out, for they are gold or qualification items" in told


def test_gold_of_a_prompt_that_the_rater_had_is_passed_over(store: Store) -> None:
    gold, rows = key(0, "gold"), [item(n) for n in range(3)]
    store.apply(Campaign("study"), rows=[Answers(gold.prompt, answers(1).responses), *rows])
    rate(store, "ann", 1, Judgement((1, 2, 3, 4)))
    store.apply(Campaign("study", gold_share=1.0), gold=[gold])
    assert rate(store, "ann", 3) == ["normal"] * 3
    store.add_items([item(5)], campaign="study")
    assert rate(store, "bob", 1) == ["gold"]


def test_what_an_earlier_config_had_is_said_when_it_goes(tmp_path: Path, store: Store) -> None:
    gold, trial = written(tmp_path / "g.jsonl", [key(0, "gold")]), written(tmp_path / "t.jsonl", [key(0, "trial")])
    path, more = written(tmp_path / "a.jsonl", [answers(0)]), written(tmp_path / "b.jsonl", [answers(0, ("x", "y"))])
    campaigns.apply(store, CampaignConfig(answers=path, gold=gold, qualification=trial, warning="Sad."), several=True)
    told = campaigns.apply(store, CampaignConfig(answers=(path, more)), several=True)
    assert told == ("campaign default: 1 item queued, 0 queued before, 0 left out (fewer than two distinct answers); "
                    "1 of the new has a prompt that was queued before with other answers; 2 earlier gold or "
                    "qualification items are given out no more; open to all raters; an item wants one rater, and "
                    "nobody can rate it as yet; invite 1 more; campaign.gold_share: there are no gold items, so "
                    "nothing tells who rates well; campaign.repeats: there are too few items to repeat one 5 answers "
                    "later")


@pytest.mark.parametrize(("row", "names"), [
    (replace(key(1, "gold"), ranks=(1, 1, 1)), "put no answer above another"),
    (Ranking(answers(1).prompt, tuple(Response(t) for t in "abcdefghi"), (1,) + (2,) * 8, "x"), "9 answers"),
    (replace(key(1, "gold"), ranks=(1, 2, 4)), "ranks: 4 is beyond the 3 answers"),
])
def test_gold_that_cannot_tell_is_refused(tmp_path: Path, store: Store, row: Ranking, names: str) -> None:
    path = written(tmp_path / "gold.jsonl", [key(0, "gold"), row])
    with pytest.raises(RequestError, match=rf"gold\.jsonl:2: .*{names}"):
        campaigns.apply(store, CampaignConfig(gold=path), several=True)


def test_an_unknown_column_of_gold_is_refused(tmp_path: Path, store: Store) -> None:
    (tmp_path / "gold.jsonl").write_text(json.dumps(key(0, "gold").to_json() | {"resaon": "it is right"}))
    with pytest.raises(RequestError, match=r"gold\.jsonl:1: unknown column 'resaon'; did you mean 'reason'\?"):
        campaigns.apply(store, CampaignConfig(gold=str(tmp_path / "gold.jsonl")), several=True)


def test_a_reason_is_required_on_a_share_of_the_items(store: Store) -> None:
    study(store, count=100, reason_share=0.3)
    asked = 0
    for _ in range(60):
        lease = leased(store, "ann")
        if lease.reason_required:
            asked += 1
            with pytest.raises(RequestError, match="reason: "):
                store.submit(lease.token, "ann", replace(RIGHT, reason=" \n"))
            receipt = store.submit(lease.token, "ann", replace(RIGHT, reason="shorter"))
            with pytest.raises(RequestError, match="reason: "):
                store.revise(receipt.answer, "ann", WRONG)
        else:
            store.submit(lease.token, "ann", RIGHT)
    assert 8 <= asked <= 30


def test_a_paused_campaign_gives_nothing_out_and_takes_what_was_begun(store: Store) -> None:
    study(store)
    lease = leased(store, "ann")
    store.write(lambda db: db.exec_driver_sql("update campaigns set state = 'paused'"))
    assert store.lease("ann", 60, campaign="study") is None
    assert store.submit(lease.token, "ann", RIGHT).surplus is False


def test_campaigns_do_not_mix(store: Store) -> None:
    study(store, count=2)
    store.apply(Campaign("other", title="Another"), rows=[item(0), item(5)])
    for _ in range(2):
        lease = leased(store, "bob", "other")
        store.submit(lease.token, "bob", RIGHT)
    assert store.lease("bob", 60, campaign="other") is None
    assert store.waiting("bob", "study") == 2
    assert store.waiting("bob", "other") == 0
    assert store.progress("bob", campaign="other").mine == 2
    assert store.progress("bob", campaign="study").mine == 0
    assert [(one.name, one.title) for one in store.campaigns()] == [("default", ""), ("study", ""),
                                                                    ("other", "Another")]
