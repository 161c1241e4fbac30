"""answers.jsonl and report.json: everything that a comparison found, to be judged again without any model."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from prefloop import checkpoints, runs
from prefloop.compare.question_sets import MUST_PASS
from prefloop.compare.records import HELD_OUT, Answer, Contestant, Question, Rewards
from prefloop.errors import RequestError
from prefloop.records import Prompt

ANSWERS, REPORT = "answers.jsonl", "report.json"
# What figures, the screen and the page take from a report.json.
SHAPE = {"runs": dict, "judges": dict, "hold": dict, "provenance": dict, "proxies": list, "split": str,
         "sampling": {"answers": int, "max_new_tokens": int, "temperature": int | float}, "over_length": int}
OVERLAP = {"in": list, "unchecked": list, "near_questions": list}


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
    first = found[0]
    names = list(first["answers"])
    odd = next((n for n, row in enumerate(found, start=1) if list(row["answers"]) != names), None)
    if odd or len(names) < 2:
        raise RequestError(f"{file}:{odd or 1}: expected answers of the same two or more runs in every row")
    told = report["runs"]
    unknown = next((name for name in names if name not in told), None)
    if unknown:
        raise RequestError(f"{file.with_name(REPORT)}: it does not tell of {unknown!r}, whose answers stand in "
                           f"{file.name}")
    contestants = tuple(Contestant(name, str(told[name].get("checksum") or name),
                                   tuple(answers_of(row, name) for row in found),
                                   {key: told[name][key] for key in ("checksum", "base_checksum", "cost", "tasks")
                                    if key in told[name]}, references_of(found, name))
                        for name in names)
    judges = dict.fromkeys(judge for row in found for judge in row["rewards"])
    rewards = tuple(rewards_of(judge, names, found, report) for judge in judges)
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
            question_of(row)
            for name in row["answers"]:
                answers_of(row, name)
                references_of([row], name)
            _require_numbers(row)
        except RequestError as error:
            raise RequestError(f"{path}:{number}: {error}") from None
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise RequestError(f"{path}:{number}: not a row that `prefloop compare` wrote: "
                               f"{type(error).__name__}: {error}") from None
        found.append(row)
    if not found:
        raise RequestError(f"{path}: there are no answers in this file")
    lost = next((row["of"] for row in found if row.get("of") is not None and not 0 <= row["of"] < len(found)), None)
    if lost is not None:
        raise RequestError(f"{path}: a row is a variant of question {lost}, which is not in this file")
    return found


def question_of(row: dict[str, Any]) -> Question:
    of = row.get("of")
    if not (of is None or isinstance(of, int)) or not isinstance(row.get("reference", ""), str):
        raise ValueError("'of' is the number of a row, 'reference' a text")
    return Question(Prompt.from_json(row["prompt"]), str(row.get("set", HELD_OUT)), row.get("reference", ""), of)


def answers_of(row: dict[str, Any], name: str) -> tuple[Answer, ...]:
    texts, tokens, ended = (row[column][name] for column in ("answers", "tokens", "ended"))
    if not texts or not all(isinstance(text, str) for text in texts) or not all(
            isinstance(one, int) and one >= 0 for one in tokens):
        raise ValueError(f"the answers of {name!r} are not a list of texts with their tokens")
    if not all(kl is None or _finite(kl) for kl in row["kl"][name]):
        raise ValueError(f"kl of {name!r} is not a number or null for each answer")
    return tuple(Answer(text, count, bool(end), None if kl is None else float(kl))
                 for text, count, end, kl in zip(texts, tokens, ended, row["kl"][name], strict=True))


def references_of(found: Sequence[dict[str, Any]], name: str) -> tuple[tuple[float, int] | None, ...]:
    if not all(name in row["references"] for row in found):
        return ()
    return tuple((float(own[0]), int(own[1])) if (own := row["references"][name]) else None for row in found)


def _finite(one: Any) -> bool:
    return isinstance(one, int | float) and math.isfinite(one)


def _require_numbers(row: dict[str, Any]) -> None:
    if not all(map(_finite, row["recorded"].values())):
        raise ValueError("recorded: not a number for each judge")
    for column in ("rewards", "spreads"):
        for judge, own in row[column].items():
            for name, texts in row["answers"].items():
                if len(own[name]) != len(texts) or not all(map(_finite, own[name])):
                    raise ValueError(f"{column} of {judge!r} are not a number for each answer of {name!r}")


def rewards_of(judge: str, names: Sequence[str], found: Sequence[dict[str, Any]], report: dict[str, Any]) -> Rewards:
    def column(kind: str) -> tuple[tuple[tuple[float, ...], ...], ...]:
        return tuple(tuple(tuple(map(float, row[kind].get(judge, {}).get(name, ()))) for row in found)
                     for name in names)

    spread = any(judge in row["spreads"] for row in found)
    told = report.get("judges", {}).get(judge, {})
    recorded = {n: float(row["recorded"][judge]) for n, row in enumerate(found) if judge in row["recorded"]}
    return Rewards(judge, str(told.get("checksum", "")), column("rewards"), column("spreads") if spread else (),
                   recorded)


def report_of(path: Path) -> dict[str, Any]:
    try:
        found = checkpoints.read_json(path)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: cannot read this report: {error}") from None
    if not _shaped(found, SHAPE) or (found.get("overlap") and not _shaped(found["overlap"], OVERLAP)) or not all(
            isinstance(own, dict) for kind in ("runs", "judges") for own in found[kind].values()):
        raise RequestError(f"{path}: not a report that this version of `prefloop compare` wrote")
    return found


def _shaped(found: Any, shape: Any) -> bool:
    if not isinstance(shape, dict):
        return isinstance(found, shape)
    return isinstance(found, dict) and all(_shaped(found.get(key), own) for key, own in shape.items())


# -- several comparisons as one ---------------------------------------------------------------------------------------


def joined(found: Sequence[Compared], shared_only: bool, places: Sequence[str]) -> Compared:
    """The contestants of several comparisons side by side, the first one's baseline first.

    Other questions or sampling settings are refused, for they make other answers; `shared_only` takes the questions
    that all have. A checkpoint that stands in several is taken once.
    """
    first = found[0]
    for other, place in zip(found[1:], places[1:], strict=True):
        for name in ("sampling", "hold"):
            if other.facts.get(name) != first.facts.get(name):
                raise RequestError(f"{place}: its answers were made with other settings ({name}) than those of "
                                   f"{places[0]}; sample both in one comparison")
        if set(map(_asked, other.questions)) != set(map(_asked, first.questions)) and not shared_only:
            raise RequestError(f"{place}: it asks other prompts than {places[0]} ({_difference(first, other)}); "
                               "compare.shared_only=true takes those that both have")
    shared = [one for one in map(_asked, first.questions)
              if all(one in set(map(_asked, other.questions)) for other in found[1:])]
    if not any(which == HELD_OUT for which, *_ in shared):
        raise RequestError(f"{places[-1]}: it shares no held-out prompt with {places[0]}")
    return reduce(beside, (only(one, shared) for one in found))


def _asked(question: Question) -> tuple[str, ...]:
    """What makes it this question; of those that must pass, two may be of one prompt."""
    return (question.set, question.prompt.id, *([question.reference] if question.set == MUST_PASS else []))


def _difference(one: Compared, other: Compared) -> str:
    mine, its = ({_asked(question) for question in each.questions} for each in (one, other))
    return f"{len(mine & its)} are the same, {len(mine - its)} only there and {len(its - mine)} only here"


def only(compared: Compared, shared: Sequence[tuple[str, ...]]) -> Compared:
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
    theirs = {judge.checksum: judge for judge in other.rewards}
    same_baseline = one.contestants[0].key == other.contestants[0].key
    added = [other.contestants[n] if same_baseline else without_kl(other.contestants[n]) for n in new]
    taken = {contestant.name for contestant in one.contestants}
    added = [replace(each, name=f"{each.name} ({each.key[:8]})") if each.name in taken else each for each in added]
    rewards = []
    for judge in one.rewards:
        its = theirs.get(judge.checksum)
        if its is not None:
            spreads = judge.spreads and its.spreads and judge.spreads + tuple(its.spreads[n] for n in new)
            rewards.append(_read_by_all(replace(
                judge, scores=judge.scores + tuple(its.scores[n] for n in new), spreads=spreads)))
    return Compared(one.questions, (*one.contestants, *added), tuple(rewards), one.facts)


def without_kl(one: Contestant) -> Contestant:
    """Its KL was from another baseline."""
    return replace(one, answers=tuple(tuple(replace(answer, kl=None) for answer in own) for own in one.answers))


def _read_by_all(judge: Rewards) -> Rewards:
    """Where one of them has no reward, none has."""
    whole = [all(own[n] for own in judge.scores) for n in range(len(judge.scores[0]))]

    def cleared(rows: tuple[tuple[tuple[float, ...], ...], ...]) -> tuple[tuple[tuple[float, ...], ...], ...]:
        return tuple(tuple(each if fits else () for each, fits in zip(own, whole, strict=True)) for own in rows)

    return replace(judge, scores=cleared(judge.scores), spreads=cleared(judge.spreads))
