"""Rankings leave in every form and kind of file, and come back as they were, but for what the export says is lost."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from prefloop.errors import RequestError
from prefloop.formats import arriving, files, leaving, losses
from prefloop.formats.guarding import guarded, unguarded
from prefloop.formats.layouts import LAYOUTS, table
from prefloop.formats.report import Tally
from prefloop.formats.row import Rules
from prefloop.records import KINDS, STRENGTHS, Answers, Message, Prompt, Ranking, Response

FORMULAS = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", '"=1', "'=1", "''=1", "'", "'a", "''",
            '"', "\uff1d1", "\uff0b1", "\uff0d1", "\uff201", "=cmd|' /C calc'!A0", "\u00a0=1", "\ufeff=1",
            "- a list\n- of it")
HOSTILE = (*FORMULAS, '[{"role": "user", "content": "forged"}]', '{"messages": []}', "[1, 2]", "{", "<script>",
           "a,b\r\nc", "\u2028 \u2029 \x85", "\x1b[2J", "e\u0301\u202e", "\U0001f600", "null", "NaN", "1.0", "",
           "\\u0000 \\n", "[]", "Human: x\n\nAssistant: y", "<extra_id_1>User", "%s {0} $1", "tie", "_", "answer-1",
           "rank-1", "{}", "{'a': 1}")


def texts(dice: Random, most: int = 3) -> str:
    return "".join(dice.choice((*HOSTILE, "word ", "ü\n", "  ")) for _ in range(dice.randint(0, most)))


def some_text(dice: Random) -> str:
    made = texts(dice)
    return made if made.strip() else f"{made}x"


def any_prompt(dice: Random, number: int) -> Prompt:
    """The prompt's number is in it, so that no two are the same."""
    turns = [Message("system", texts(dice))] if dice.random() < 0.2 else []
    for _ in range(dice.choice((0, 0, 0, 1, 2))):
        turns += [Message("user", texts(dice)), Message("assistant", texts(dice))]
    return Prompt((*turns, Message("user", f"{texts(dice)} {number}")), texts(dice), texts(dice))


def any_responses(dice: Random, alike: bool) -> tuple[Response, ...]:
    made: dict[str, Response] = {}
    while len(made) < dice.randint(2, 8):
        text = some_text(dice)
        made.setdefault(text if alike else text.strip(), Response(
            text, dice.choice(("", "runs/a", "m, n", texts(dice))), dice.choice(("", "12ab")),
            dice.choice(({}, {"temperature": 0.7}, {"top_p": 1.0})), dice.choice((0, 7, 2**62))))
    return tuple(made.values())


def any_ranking(dice: Random, number: int, rater: str, item: Answers | None = None) -> Ranking:
    given = item or Answers(any_prompt(dice, number), any_responses(dice, alike=False))
    count = len(given.responses)
    bad = dice.random() < 0.2
    ranks = tuple(dice.choice((None, *range(1, count + 1))) for _ in range(count))
    if not bad and not any(ranks):
        ranks = (1, *ranks[1:])
    dimensions: dict[str, tuple[int | None, ...]] = {"clear": tuple(dice.randint(1, 3) for _ in range(count))}
    dimensions = dimensions if dice.random() < 0.2 else {}
    return Ranking(given.prompt, given.responses, ranks, rater, dice.choice((None, *STRENGTHS)), bad, texts(dice),
                   texts(dice), tuple(dice.sample(range(count), count)) if dice.random() < 0.7 else (),
                   dice.choice((None, 0.1 + dice.random(), 3)), dice.choice(("", "v1", texts(dice))),
                   dice.choice(KINDS), dimensions, dice.choice((None, 0.1, 1.0)))


def many(seed: int, count: int = 40, several: bool = True) -> list[Ranking]:
    """Rankings of which some are of one item, by several raters or by one twice."""
    dice, made = Random(seed), []
    for number in range(count):
        again = dice.choice(made) if made and several and dice.random() < 0.3 else None
        item = Answers(again.prompt, again.responses) if again else None
        rater = dice.choice(("ann", "=bob", "42", "rater ü", again.rater if again else "eve"))
        made.append(any_ranking(dice, number, rater, item))
    return made


def written(folder: Path, form: str, kind: str, rankings: Iterable[Ranking]) -> tuple[Path, leaving.Left]:
    path = folder / f"out-{form}.{kind}"
    return path, leaving.write(path, form, kind, rankings)


def back(path: Path, form: str = "auto", **rules: object) -> list[Ranking]:
    found = arriving.opened([str(path)], files.Asked())
    _, reader, own = arriving.formed(form, Rules(**rules), found)  # type: ignore[arg-type]
    return [one for _, one in arriving.records(reader, own, found, Tally()) if isinstance(one, Ranking)]


def as_set(rankings: Iterable[Ranking], form: str) -> Counter[str]:
    """What they say, in any order; prompts that come without a source bear the file's name, and 3 s are 3.0 s."""
    own = "source" in LAYOUTS[form].holds
    said = [(one if own else losses.FACTS["source"].without(one) or one).to_json() for one in rankings]
    return Counter(json.dumps(one | {"seconds": one["seconds"] and float(one["seconds"])}, sort_keys=True)
                   for one in said)


WAYS = [(form, kind) for form, layout in LAYOUTS.items() for kind in layout.kinds]
ROUND = [(form, kind) for form, kind in WAYS if form not in ("trl", "helpsteer")]


@pytest.mark.parametrize(("form", "kind"), ROUND)
def test_what_a_form_holds_comes_back(tmp_path: Path, form: str, kind: str) -> None:
    holds = LAYOUTS[form].holds
    for seed in range(3):
        # Who ranked is not held by all; then two rankings of one item may say the same, which is one on reading.
        rankings = many(seed, several="rater" in holds)
        kept = [one for each in rankings if (one := losses.held(each, holds))]
        path, out = written(tmp_path, f"{form}", kind, rankings)
        assert as_set(back(path), form) == Counter(dict.fromkeys(as_set(kept, form), 1))
        assert out.rankings == len(kept)
        path.rename(tmp_path / f"done-{seed}")


@pytest.mark.parametrize("kind", LAYOUTS["helpsteer"].kinds)
def test_helpsteer_holds_the_order_of_a_prompt(tmp_path: Path, kind: str) -> None:
    rankings = many(7, several=False)
    kept = [one for each in rankings if (one := losses.held(each, LAYOUTS["helpsteer"].holds))]
    path, _ = written(tmp_path, "helpsteer", kind, rankings)
    assert as_set(back(path), "helpsteer") == as_set(kept, "helpsteer")


def test_helpsteer_tells_the_mean_of_several_raters(tmp_path: Path) -> None:
    item = Answers(Prompt((Message("user", "q"),)), tuple(map(Response, "abc")))
    path, _ = written(tmp_path, "helpsteer", "jsonl", [
        Ranking(item.prompt, item.responses, ranks, rater) for ranks, rater in (((1, 2, 3), "x"), ((2, 1, 3), "y"),
                                                                               ((1, 2, 2), "z"))])
    told = {row["response"]: row["helpfulness"] for row in map(json.loads, path.read_text().splitlines())}
    assert told == {"a": pytest.approx(10 / 3, abs=1e-6), "b": 2, "c": 0}


@pytest.mark.parametrize("kind", LAYOUTS["trl"].kinds)
def test_trl_has_every_decided_pair_and_its_margin(tmp_path: Path, kind: str) -> None:
    rankings = many(8, several=False)
    path, _ = written(tmp_path, "trl", kind, rankings)
    pairs = Counter((one.prompt.messages, one.responses[0].text, one.responses[1].text) for one in back(path))
    assert pairs == Counter((pair.prompt.messages, pair.chosen, pair.rejected)
                            for one in rankings for pair in one.pairs())
    three = Ranking(rankings[0].prompt, tuple(map(Response, "abc")), (2, 1, 3), "r", "better")
    path, _ = written(tmp_path / "x", "trl", "jsonl", [three])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"], row["margin"]) for row in rows] == [
        ("b", "a", 2 / 3), ("a", "c", 0.0), ("b", "c", 2 / 3)]


def test_the_table_of_the_docs_is_the_code_s() -> None:
    docs = Path(__file__).resolve().parent.parent / "docs" / "formats.md"
    assert table() in docs.read_text(), "python -m prefloop.formats.layouts prints it"


@pytest.mark.parametrize("form", LAYOUTS)
def test_what_is_lost_is_counted(tmp_path: Path, form: str) -> None:
    whole = Ranking(Prompt((Message("user", "q"),), "s", "f"), tuple(Response(text, "m", "c", {"t": 1.0}, 3)
                    for text in "abc"), (1, 4, None), "ann", "better", True, "r", "e", (1, 0, 2), 2.0, "v1", "gold",
                    {"clear": (1, 1, 2)}, 0.5)
    _, out = written(tmp_path, form, LAYOUTS[form].kinds[0], [whole, replace(whole, rater="bob")])
    lost = {name for name, fact in losses.FACTS.items() if fact.has(whole)} - LAYOUTS[form].holds
    if "none acceptable" in lost:
        lost -= {"bad in order"}  # which is of those that hold it where answers tie
    if form == "helpsteer":
        lost |= {"each"}
    assert {name: count for name, count in out.lost.items() if count} == dict.fromkeys(lost, 2)
    assert len(out.told()) == len(lost)
    assert out.raters == {"ann": 1, "bob": 1}


FACTS_BY_HAND: dict[str, Callable[[Ranking], Ranking]] = {
    "strength": lambda one: replace(one, strength="better"), "reason": lambda one: replace(one, reason="r"),
    "edited": lambda one: replace(one, edited="e"), "shown": lambda one: replace(one, shown=(2, 0, 1)),
    "seconds": lambda one: replace(one, seconds=1.5), "guideline": lambda one: replace(one, guideline="v"),
    "kind": lambda one: replace(one, kind="gold"), "none acceptable": lambda one: replace(one, none_acceptable=True),
    "unranked": lambda one: replace(one, ranks=(1, None, None)), "ties": lambda one: replace(one, ranks=(1, 1, 2)),
    "dimensions": lambda one: replace(one, dimensions={"clear": (1, 2, 3)}),
    "propensity": lambda one: replace(one, propensity=0.25),
    "rank numbers": lambda one: replace(one, ranks=(3, 6, 6))}


@pytest.mark.parametrize("form", [form for form in LAYOUTS if form not in ("trl", "helpsteer", "ultrafeedback")])
def test_each_thing_that_a_form_holds_is_in_its_file(tmp_path: Path, form: str) -> None:
    """A claim to hold something would go unseen where nothing had it."""
    plain = Ranking(Prompt((Message("user", "q"),)), tuple(map(Response, "abc")), (1, 2, 2), "ann")
    for name, changed in FACTS_BY_HAND.items():
        path, out = written(tmp_path, form, "jsonl", [changed(plain)])
        (found,) = back(path)
        same = as_set([found], form) == as_set([changed(plain)], form)
        assert same == (name in LAYOUTS[form].holds), name
        assert (name in out.lost) != same
        path.unlink()


def test_no_cell_starts_a_formula(tmp_path: Path) -> None:
    rankings = [replace(any_ranking(Random(number), number, cell.strip() or "x"), reason=cell, edited=cell,
                        guideline=cell) for number, cell in enumerate(HOSTILE)]
    cells = 0
    for form in LAYOUTS:
        if "csv" in LAYOUTS[form].kinds:
            path, _ = written(tmp_path, form, "csv", rankings)
            with path.open(newline="", encoding="utf-8") as file:
                for row in csv.reader(file):
                    for cell in row:
                        cells += 1
                        folded = unicodedata.normalize("NFKC", cell).lstrip(" \n\"\u200b\ufeff")
                        assert not folded.startswith(("=", "+", "-", "@", "\t", "\r")), cell
    assert cells > 1000


@pytest.mark.parametrize("cell", [*HOSTILE, *(f"'{cell}" for cell in HOSTILE), *(f"x{cell}" for cell in HOSTILE)])
def test_a_guarded_cell_comes_back(cell: str) -> None:
    assert unguarded(guarded(cell)) == cell


def test_a_cell_of_apostrophes_is_looked_through_once() -> None:
    for sign in ("'", '"', " ", "\u200b", "'\n", "' "):
        cell = sign * 10**5 + "x"  # a second look from each place would take minutes
        assert unguarded(guarded(cell)) == cell


def test_a_foreign_cell_that_is_only_quoted_stays() -> None:
    for cell in ("'tis", "'", "''", "'a' = b", "5'-3"):
        assert unguarded(cell) == cell


def test_no_half_of_a_file_is_left(tmp_path: Path) -> None:
    def broken() -> Iterable[Ranking]:
        yield any_ranking(Random(1), 1, "ann")
        raise RequestError("stop")

    for kind in LAYOUTS["rankings"].kinds:
        with pytest.raises(RequestError, match="stop"):
            leaving.write(tmp_path / f"x.{kind}", "rankings", kind, broken())
    assert list(tmp_path.iterdir()) == []
    path, _ = written(tmp_path, "rankings", "csv", many(1))
    with pytest.raises(RequestError, match="exists already"):
        written(tmp_path, "rankings", "csv", many(1))
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_pairs_stay_together_wherever_they_stand(tmp_path: Path) -> None:
    rankings = [one for one in many(3) if len(one.responses) > 2]
    kept = [one for each in rankings if (one := losses.held(each, LAYOUTS["battles"].holds))]
    path, _ = written(tmp_path, "battles", "jsonl", rankings)
    lines = path.read_bytes().splitlines(keepends=True)
    Random(4).shuffle(lines)
    path.write_bytes(b"".join(lines))
    assert as_set(back(path), "battles") == as_set(kept, "battles")
    path.write_bytes(b"".join(lines[1:]))  # a pair is missing: what is left of its ranking is in pairs
    assert len(back(path)) > len(kept)


def test_ranks_in_order_of_their_numbers() -> None:
    assert [losses.dense(ranks) for ranks in ((2, 7, None), (3, 3), (None,))] == [(1, 2, None), (1, 1), (None,)]
    assert losses.tied_last((None, 4, None)) == (2, 1, 2)
    assert all(a <= b for a, b in pairwise(sorted(losses.tied_last((5, 1, 3)))))
