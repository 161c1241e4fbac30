"""answers.jsonl and report.json: everything that a comparison found, to be judged again without any model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from prefloop import checkpoints, runs
from prefloop.compare import shapes
from prefloop.compare.question_sets import MUST_PASS
from prefloop.compare.records import HELD_OUT, PEOPLE, Answer, Contestant, Question, Rewards
from prefloop.errors import RequestError
from prefloop.records import Prompt

ANSWERS, REPORT = "answers.jsonl", "report.json"
SURPRISE = 500.0  # nats a token of a reference: no model gives so little, and its exponential is finite

TEXTS, NUMBERS = {str: [str]}, {str: {str: [float]}}
ROW = {"set": str, "reference": str, "of": (None, int), "answers": TEXTS, "tokens": {str: [int]},
       "ended": {str: [bool]}, "kl": {str: [(None, float)]}, "rewards": NUMBERS, "spreads": NUMBERS,
       "references": {str: (None, [float])}, "recorded": {str: float}}
SEEN = {"run": str, "by": str, "snapshot": str, "exact": int, "near": int, str: object}
FACTS = {
    "runs": {str: {"checksum": (None, str), "base_checksum": (None, str), "cost": (None, {str: (None, float)}),
                   "tasks": (None, {str: {str: {"values": (None, [float]), str: float}}})}},
    "judges": {str: {"checksum": (None, str)}}, "proxies": [str], "swept": (None, bool), "split": str,
    "over_length": int, "sampling": {"answers": int, "max_new_tokens": int, "temperature": float,
                                      "seed": (None, float), str: object},
    "hold": {str: object}, "provenance": {"data": (None, {str: str}), str: (None, str)},
    "overlap": (None, {"exact": int, "near": int, "in": [SEEN], "unchecked": [str], "near_questions": [str],
                       str: object})}


@dataclass(frozen=True)
class Compared:
    """Questions, the answers to them (the baseline's first), rewards of them, and facts of how they were made."""

    questions: tuple[Question, ...]
    contestants: tuple[Contestant, ...]
    rewards: tuple[Rewards, ...]
    facts: dict[str, Any]


def rows(compared: Compared) -> list[dict[str, Any]]:
    """A row for each question."""
    names = [one.name for one in compared.contestants]
    found = []
    for n, question in enumerate(compared.questions):
        own = {one.name: one.answers[n] for one in compared.contestants}
        row: dict[str, Any] = {"prompt": question.prompt.to_json(), "set": question.set,
                               "reference": question.reference, "of": question.of}
        for column, of in (("answers", "text"), ("tokens", "tokens"), ("ended", "ended"), ("kl", "kl")):
            row[column] = {name: [getattr(answer, of) for answer in answers] for name, answers in own.items()}
        scored = [one for one in compared.rewards if one.scores[0][n]]
        row["rewards"] = {one.name: {name: list(own[n]) for name, own in zip(names, one.scores, strict=True)}
                          for one in scored}
        spread = [one for one in scored if one.spreads]
        row["spreads"] = {one.name: {name: list(own[n]) for name, own in zip(names, one.spreads, strict=True)}
                          for one in spread}
        row["references"] = {one.name: one.references[n] for one in compared.contestants if one.references}
        row["recorded"] = {one.name: one.recorded[n] for one in compared.rewards if n in one.recorded}
        found.append(row)
    return found


def answers_in(place: Path) -> Path:
    """A run folder stands for the answers.jsonl in it."""
    return place / ANSWERS if place.is_dir() else place


def write(folder: Path, found: Sequence[dict[str, Any]]) -> None:
    with checkpoints.replacing(folder / ANSWERS) as file:
        file.writelines(map(runs.line, found))


def read(path: Path) -> Compared:
    """An earlier comparison: its folder, or its answers.jsonl."""
    file = answers_in(path)
    found = parsed(file)
    report = report_of(file.with_name(REPORT))
    names = list(found[0]["answers"])
    told = report["runs"]
    unknown = next((name for name in names if name not in told), None)
    if unknown:
        raise RequestError(f"{file.with_name(REPORT)}: it does not tell of {unknown!r}, whose answers stand in "
                           f"{file.name}")
    contestants = tuple(Contestant(name, told[name].get("checksum") or name,
                                   tuple(answers_of(row, name) for row in found),
                                   {key: told[name][key] for key in ("checksum", "base_checksum", "cost", "tasks")
                                    if told[name].get(key) is not None}, references_of(found, name))
                        for name in names)
    rewards = tuple(rewards_of(judge, names, found, report) for judge in judges_of(found))
    return Compared(tuple(question_of(row) for row in found), contestants, rewards, report)


def parsed(path: Path) -> list[dict[str, Any]]:
    """The rows of an answers.jsonl, each of the form that `rows` makes; what is not names its file and row."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RequestError(f"{path}: cannot read these answers: {error.strerror}; name the folder of an earlier "
                           "`prefloop compare`") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            shapes.require_text(row)
            shapes.require(row, ROW, "row")
            question_of(row)
            require_alike(row, found[0] if found else row)
        except RequestError as error:
            raise RequestError(f"{path}:{number}: {error}") from None
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise RequestError(f"{path}:{number}: not a row that `prefloop compare` wrote: "
                               f"{type(error).__name__}: {error}") from None
        found.append(row)
    if not found:
        raise RequestError(f"{path}: there are no answers in this file")
    wrong = wrong_together(found)
    if wrong:
        raise RequestError(f"{path}: {wrong}")
    return found


def wrong_together(found: Sequence[dict[str, Any]]) -> str:
    """What no row shows by itself, or nothing."""
    for row in found:
        of = row["of"]
        if of is not None and (of >= len(found) or found[of]["of"] is not None):
            return f"a row is a variant of question {of}, which is not in this file, or is a variant itself"
        if PEOPLE in row["rewards"]:
            return f"a reward model is called {PEOPLE}, as are those who vote; give it another name"
    for judge in judges_of(found):
        if len({judge in row["spreads"] for row in found if judge in row["rewards"]}) > 1:
            return f"spreads of {judge!r}: expected wherever it gave rewards, or nowhere"
    return ""


def judges_of(found: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(judge for row in found for judge in row["rewards"]))


def question_of(row: dict[str, Any]) -> Question:
    return Question(Prompt.from_json(row["prompt"]), row["set"], row["reference"], row["of"])


def require_alike(row: dict[str, Any], first: dict[str, Any]) -> None:
    """ValueError unless the runs are those of the first row, and every column has as many samples as it."""
    names = list(first["answers"])
    if list(row["answers"]) != names or len(names) < 2:
        raise ValueError("expected answers of the same two or more runs in every row")
    samples = len(first["answers"][names[0]])
    columns = {column: row[column] for column in ("answers", "tokens", "ended", "kl")} | {
        f"{column} of {judge!r}": own for column in ("rewards", "spreads") for judge, own in row[column].items()}
    for column, own in columns.items():
        for name in names:
            if not samples or len(own.get(name, ())) != samples:
                raise ValueError(f"{column} of {name!r}: expected one for each of {samples or 'its'} samples")
    for name, read in row["references"].items():
        if read and not (len(read) == 2 and read[1] >= 1 and 0 <= read[0] <= SURPRISE * read[1]):
            raise ValueError(f"references of {name!r}: expected nats and tokens")


def answers_of(row: dict[str, Any], name: str) -> tuple[Answer, ...]:
    return tuple(map(Answer, *(row[column][name] for column in ("answers", "tokens", "ended", "kl"))))


def references_of(found: Sequence[dict[str, Any]], name: str) -> tuple[tuple[float, int] | None, ...]:
    if not all(name in row["references"] for row in found):
        return ()
    return tuple((float(own[0]), int(own[1])) if (own := row["references"][name]) else None for row in found)


def rewards_of(judge: str, names: Sequence[str], found: Sequence[dict[str, Any]], report: dict[str, Any]) -> Rewards:
    def column(kind: str) -> tuple[tuple[tuple[float, ...], ...], ...]:
        return tuple(tuple(tuple(map(float, row[kind].get(judge, {}).get(name, ()))) for row in found)
                     for name in names)

    spread = any(judge in row["spreads"] for row in found)
    told = report["judges"].get(judge, {})
    recorded = {n: float(row["recorded"][judge]) for n, row in enumerate(found) if judge in row["recorded"]}
    return Rewards(judge, told.get("checksum") or "", column("rewards"), column("spreads") if spread else (),
                   recorded)


def report_of(path: Path) -> dict[str, Any]:
    """What FACTS tells of, of a report.json."""
    found = checkpoints.read_json(path)
    try:
        shapes.require_text(found)
        shapes.require(found, FACTS, "report")
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path}: not a report that this version of `prefloop compare` wrote: {error}") from None
    return {key: found[key] for key in FACTS if found.get(key) is not None}


# -- several comparisons as one ---------------------------------------------------------------------------------------


def joined(found: Sequence[Compared], shared_only: bool, places: Sequence[str]) -> Compared:
    """The contestants of several comparisons side by side, the first one's baseline first.

    Other questions or sampling settings are refused, for they make other answers; `shared_only` takes the questions
    that all have. A checkpoint that stands in several is taken once.
    """
    first, asked = found[0], [set(map(_asked, one.questions)) for one in found]
    for other, place, its in zip(found[1:], places[1:], asked[1:], strict=True):
        for name in ("sampling", "hold"):
            if other.facts.get(name) != first.facts.get(name):
                raise RequestError(f"{place}: its answers were made with other settings ({name}) than those of "
                                   f"{places[0]}; sample both in one comparison")
        if its != asked[0] and not shared_only:
            raise RequestError(f"{place}: it asks other prompts than {places[0]} ({_difference(asked[0], its)}); "
                               "compare.shared_only=true takes those that both have")
    shared = [one for one in map(_asked, first.questions) if all(one in its for its in asked[1:])]
    if not any(which == HELD_OUT for which, *_ in shared):
        raise RequestError(f"{places[-1]}: it shares no held-out prompt with {places[0]}")
    made = reduce(beside, (only(one, shared) for one in found))
    return replace(made, rewards=tuple(one for one in made.rewards if any(
        own for own, (which, *_) in zip(one.scores[0], shared, strict=True) if which == HELD_OUT)))


def _asked(question: Question) -> tuple[str, str, str]:
    """What makes a question the same as another; what must pass is held against a former answer."""
    return question.set, question.prompt.id, question.reference if question.set == MUST_PASS else ""


def _difference(mine: Set[Any], its: Set[Any]) -> str:
    return f"{len(mine & its)} are the same, {len(mine - its)} only there and {len(its - mine)} only here"


def only(compared: Compared, shared: Sequence[tuple[str, str, str]]) -> Compared:
    """The questions of `shared`, in its order. A variant whose original is gone stands alone."""
    place = {_asked(question): n for n, question in enumerate(compared.questions)}
    numbers = [place[one] for one in shared]
    new = {old: n for n, old in enumerate(numbers)}

    def taken(rows: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(rows[n] for n in numbers)

    questions = tuple(replace(one, of=None if one.of is None else new.get(one.of))
                      for one in taken(compared.questions))
    return Compared(questions, tuple(replace(one, answers=taken(one.answers), references=taken(
                        one.references) if one.references else ()) for one in compared.contestants),
                    tuple(replace(one, scores=tuple(map(taken, one.scores)), spreads=tuple(map(taken, one.spreads)),
                                  recorded={new[n]: mean for n, mean in one.recorded.items() if n in new})
                          for one in compared.rewards), compared.facts)


def beside(one: Compared, other: Compared) -> Compared:
    """Both contestants' answers to the same questions. Rewards are of the models that scored both."""
    known = {contestant.key for contestant in one.contestants}
    new = [n for n, contestant in enumerate(other.contestants) if contestant.key not in known]
    theirs = {judge.checksum or judge.name: judge for judge in other.rewards}
    same_baseline = one.contestants[0].key == other.contestants[0].key
    added = [other.contestants[n] if same_baseline else without_kl(other.contestants[n]) for n in new]
    taken = {contestant.name for contestant in one.contestants}
    added = [replace(each, name=f"{each.name} ({each.key[:8]})") if each.name in taken else each for each in added]
    rewards, proxies = [], []
    for judge in one.rewards:
        its = theirs.get(judge.checksum or judge.name)
        if its is not None:
            spreads = judge.spreads and its.spreads and judge.spreads + tuple(its.spreads[n] for n in new)
            rewards.append(_read_by_all(replace(
                judge, scores=judge.scores + tuple(its.scores[n] for n in new), spreads=spreads)))
            if judge.name in one.facts["proxies"] or its.name in other.facts["proxies"]:
                proxies.append(judge.name)
    return Compared(one.questions, (*one.contestants, *added), tuple(rewards),
                    one.facts | {"proxies": proxies} | overlap_of(one.facts, other.facts))


def overlap_of(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The overlap that two comparisons of the same questions tell of: all that either found."""
    told = [facts["overlap"] for facts in (one, other) if "overlap" in facts]
    if not told:
        return {}
    lists = {key: [*(first := told[0][key]), *(each for each in told[-1][key] if each not in first)]
             for key in ("in", "unchecked", "near_questions")}
    exact = max(each["exact"] for each in told)
    near = max(len(lists["near_questions"]) - exact, *(each["near"] for each in told))
    return {"overlap": lists | {"exact": exact, "near": near}}


def without_kl(one: Contestant) -> Contestant:
    """Its KL was from another baseline."""
    return replace(one, answers=tuple(tuple(replace(answer, kl=None) for answer in own) for own in one.answers))


def _read_by_all(judge: Rewards) -> Rewards:
    """Where one of them has no reward, none has."""
    whole = [all(own[n] for own in judge.scores) for n in range(len(judge.scores[0]))]

    def cleared(rows: tuple[tuple[tuple[float, ...], ...], ...]) -> tuple[tuple[tuple[float, ...], ...], ...]:
        return tuple(tuple(each if fits else () for each, fits in zip(own, whole, strict=True)) for own in rows)

    return replace(judge, scores=cleared(judge.scores), spreads=cleared(judge.spreads))
