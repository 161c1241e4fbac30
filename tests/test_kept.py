"""answers.jsonl and report.json as anybody may have written them: read, or refused in one line."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tiny

from prefloop.compare import kept
from prefloop.compare.kept import Compared
from prefloop.compare.records import HELD_OUT, Answer, Contestant, Question, Rewards
from prefloop.errors import RequestError
from prefloop.records import Message, Prompt

NAMES = ("base", "tuned")
ABSENT = object()
HALF = "\ud800"
WRONG = (ABSENT, None, "x", HALF, [], {}, [{}], ["a"], [[["a"]]], -1, 0, 2.5, 10**400, 1e308, -1e308, float("nan"),
         True)
MUTATIONS = 60  # of each seed


def question(text: str, which: str = HELD_OUT, reference: str = "", of: int | None = None) -> Question:
    return Question(Prompt((Message("user", text),)), which, reference, of)


def compared(judges: tuple[str, ...] = ("reward",), samples: int = 1) -> Compared:
    """Two runs on six questions: a variant, a far one and one that must pass among them."""
    questions = (question("one?", reference="1"), question("two?"), question("three?"),
                 question("one then?", "injection", of=0), question("far?", "far"), question("old?", "must pass", "a"))
    contestants = tuple(Contestant(
        name, name * 8, tuple(tuple(Answer(f"{name} says {n} {k}" if n != 2 else "", 4 + n + place, n != 1,
                                           0.5 * place if place else None) for k in range(samples))
                              for n, _ in enumerate(questions)),
        {"cost": {"tokens": 40, "seconds": 2.5, "peak_mb": 300}, "tasks": {"arc": {"acc": {"values": [0.0, 1.0]}}}},
        ((3.5, 4), None, None, None, None, (2.0, 2))) for place, name in enumerate(NAMES))
    rewards = tuple(Rewards(judge, f"{judge} of", *(tuple(tuple(
        (scale * (n % 3) + place + 0.1 * k,) if samples == 1 else tuple(float(n + place + k) for k in range(samples))
        for n, _ in enumerate(questions) for k in [0]) for place, _ in enumerate(NAMES)) for scale in (1.0, 0.25)),
        recorded={5: 0.5}) for judge in judges)
    return Compared(questions, contestants, rewards, {})


def report(of: Compared) -> dict[str, Any]:
    seen = {"run": "tuned", "by": "sft", "snapshot": "data", "exact": 0, "near": 1}
    return {
        "runs": {one.name: {"checksum": one.key, "base_checksum": "b", **one.facts} for one in of.contestants},
        "judges": {one.name: {"checksum": one.checksum} for one in of.rewards}, "proxies": ["reward"], "swept": False,
        "sampling": {"answers": len(of.contestants[0].answers[0]), "max_new_tokens": 16, "temperature": 1.0},
        "hold": {"four_bit": False, "dtype": "auto"}, "split": "test", "over_length": 1,
        "provenance": {"data": {"path": "data", "checksum": "d"}, "questions": "q", "commit": None},
        "overlap": {"exact": 0, "near": 1, "in": [seen], "unchecked": ["base: not known"],
                    "near_questions": [of.questions[1].prompt.id]}}


def written(folder: Path, rows: list[Any], told: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / kept.ANSWERS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / kept.REPORT).write_text(json.dumps(told))
    return folder


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    found = inner = copy.deepcopy(value)
    for key in path[:-1]:
        inner = inner[key]
    if new is ABSENT:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return found


def judged(folder: Path, *others: str, out: str = "out") -> int:
    home = folder.parent
    return tiny.launch("compare", f"compare.answers=[{','.join([str(folder), *others])}]", f"run.root={home / 'runs'}",
                       f"compare.out={home / out}")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    made = compared(("reward", "second"), samples=2)
    found = kept.read(written(tmp_path / "a", kept.rows(made), report(made)))
    assert (found.questions, found.rewards) == (made.questions, made.rewards)
    assert [(one.name, one.key, one.answers, one.references) for one in found.contestants] == [
        (one.name, one.key, one.answers, one.references) for one in made.contestants]
    assert judged(tmp_path / "a") in (0, 3, 4)
    again = kept.read(tmp_path / "out")
    assert (again.questions, again.rewards) == (made.questions, made.rewards)
    assert again.facts["overlap"] == found.facts["overlap"]


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_files_hold_is_judged_or_refused_in_one_line(seed: int, tmp_path: Path,
                                                                  capsys: pytest.CaptureFixture[str]) -> None:
    made, dice = compared(), Random(seed)
    both = {"rows": kept.rows(made), "report": report(made)}
    where = {which: list(places(both[which], (which,)))[1:] for which in both}
    codes = set()
    for _ in range(MUTATIONS):
        path, new = dice.choice(where[dice.choice(list(where))]), dice.choice(WRONG)
        hostile = changed(both, path, new)
        folder = written(tmp_path / "a", hostile["rows"], hostile["report"])
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            code = judged(folder)
        said = capsys.readouterr().err
        assert code in (0, 2, 3, 4), (path, new, said)
        named = str(folder) in said or "the tasks that its report tells of" in said
        assert code != 2 or (named and said.count("\n") == 1), (path, new, said)
        codes.add(code)
    assert len(codes) > 1


def same_rewards(one: dict[str, Any]) -> None:
    one["rewards"] = {"reward": {"base": [5.0], "tuned": [5.000000000000001]}}


def no_tokens(one: dict[str, Any]) -> None:
    one["tokens"] = {name: [0] for name in NAMES}


def only_far(one: dict[str, Any]) -> None:
    if one["set"] == HELD_OUT:
        one["rewards"] = one["spreads"] = {}


@pytest.mark.parametrize("change", [same_rewards, no_tokens, only_far])
def test_what_is_odd_in_every_row_is_judged(change: Any, tmp_path: Path) -> None:
    made = compared()
    rows = kept.rows(made)
    for row in rows:
        change(row)
    assert judged(written(tmp_path / "a", rows, report(made))) in (0, 3, 4)


@pytest.mark.parametrize(("path", "new", "why"), [
    (("tokens", "tuned"), [10**400], r"row\.tokens\.tuned\[0\] is not a whole number"),
    (("rewards", "reward", "tuned"), [1e308], r"row\.rewards\.reward\.tuned\[0\] is not a number within"),
    (("kl", "tuned"), [10**400], r"row\.kl\.tuned\[0\] is not a number within"),
    (("answers", "tuned"), "text", r"row\.answers\.tuned is not a list"),
    (("answers", "tuned"), [HALF], "half of a surrogate pair"),
    (("answers",), {"base": ["a"]}, "the same two or more runs in every row"),
    (("answers", "tuned"), ["a", "b"], "answers of 'tuned': expected one for each of 1 samples"),
    (("ended", "tuned"), [], "ended of 'tuned': expected one for each of 1 samples"),
    (("rewards", "reward", "tuned"), [1.0, 2.0], "rewards of 'reward' of 'tuned': expected one for each of 1 samples"),
    (("references", "tuned"), [1e9, 3], "references of 'tuned': expected nats and tokens"),
    (("of",), True, r"row\.of is not a whole number")])
def test_a_row_that_compare_did_not_write_is_named(path: tuple[Any, ...], new: Any, why: str, tmp_path: Path) -> None:
    made = compared()
    rows = kept.rows(made)
    rows[1] = changed(rows[1], path, new)
    with pytest.raises(RequestError, match=rf"answers\.jsonl:2: .*{why}"):
        kept.read(written(tmp_path / "a", rows, report(made)))


@pytest.mark.parametrize(("change", "why"), [
    ({"of": 1}, "a row is a variant of question 1, which is not in this file, or is a variant itself"),
    ({"rewards": {"people": {name: [1.0] for name in NAMES}}}, "a reward model is called people"),
    ({"spreads": {}}, "spreads of 'reward': expected wherever it gave rewards")])
def test_rows_that_do_not_fit_together_are_refused(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    made = compared()
    rows = kept.rows(made)
    rows[1] |= change
    with pytest.raises(RequestError, match=rf"answers\.jsonl: {why}"):
        kept.read(written(tmp_path / "a", rows, report(made)))


def test_comparisons_side_by_side_tell_of_all_that_either_found(tmp_path: Path) -> None:
    """The second one was trained on a question, and by a proxy that has another name in the first."""
    made, other = compared(), compared()
    other = replace(other, contestants=tuple(replace(one, name=f"{one.name}2", key=f"{one.key}2")
                                             for one in other.contestants),
                    rewards=tuple(replace(one, name="reward2") for one in other.rewards))
    first: dict[str, Any] = report(made) | {"proxies": []}
    second: dict[str, Any] = report(other) | {"proxies": ["reward2"]}
    seen = {"run": "tuned2", "by": "tuned2", "snapshot": "data", "exact": 1, "near": 1}
    second["overlap"] = {"exact": 1, "near": 1, "in": [seen], "unchecked": ["base: not known", "tuned2: not known"],
                         "near_questions": [one.prompt.id for one in made.questions[1:3]]}
    found = [kept.read(written(tmp_path / name, kept.rows(of), told))
             for name, of, told in (("a", made, first), ("b", other, second))]
    facts = kept.joined(found, False, ["a", "b"]).facts
    assert facts["proxies"] == ["reward"]
    assert facts["overlap"] == {
        "exact": 1, "near": 1, "in": [*first["overlap"]["in"], seen],
        "unchecked": ["base: not known", "tuned2: not known"],
        "near_questions": [one.prompt.id for one in made.questions[1:3]]}
    assert kept.joined(found[:1], False, ["a"]).facts == found[0].facts
    assert judged(tmp_path / "a", str(tmp_path / "b")) in (0, 3, 4)
    shown = (tmp_path / "out" / "report.html").read_text()
    assert re.search(r"1 and 1 in data, which [^<]*\btuned2\b[^<]* learned from", shown)


def test_many_questions_are_joined_in_one_pass() -> None:
    asked: list[int] = []

    class Counted(Question):
        def __getattribute__(self, name: str) -> Any:
            asked.append(name == "set")
            return super().__getattribute__(name)

    questions = tuple(Counted(Prompt((Message("user", f"{n}?"),))) for n in range(300))
    answers = tuple((Answer("x", 1, ended=True),) for _ in questions)
    found = [Compared(questions, (Contestant(name, name, answers),), (), {"proxies": []}) for name in "abc"]
    assert len(kept.joined(found, True, "abc").contestants) == 3
    assert sum(asked) < 20 * len(questions)
