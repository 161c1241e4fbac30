"""The questions that a run answers worse than another did: found by any judge, written down, and asked again later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefloop import checkpoints, runs
from prefloop.compare.question_sets import MUST_PASS
from prefloop.compare.records import HELD_OUT, Answer, Contestant, Contests, Judge, Question, Rewards, by_rule
from prefloop.remote import shortened

FALL = 0.5  # standard deviations of a reward over the questions, which a single model's fall must exceed
HALF = 0.5  # of the votes
TITLE = 80


@dataclass(frozen=True)
class Loss:
    """How far an answer is behind another: the share of votes it lost (ties half), or the reward by which it is lower.
    It is worse if that is more than `noise`. `sample` is the answer that lost most. `ruled` where nobody had to judge:
    who is behind became empty, and `amount` is the share of answers."""

    amount: float
    noise: float
    sample: int = 0
    ruled: bool = False

    @property
    def worse(self) -> bool:
        return self.amount > self.noise


@dataclass(frozen=True)
class Regression:
    """A question that got worse, with the answer before and the answer after."""

    number: int
    question: Question
    loss: Loss
    before: str
    after: str

    @property
    def place(self) -> tuple[bool, float, int]:
        """The worst first: an answer that became empty is, and its loss is in no judge's units."""
        return not self.loss.ruled, -self.loss.amount, self.number

    def to_json(self) -> dict[str, Any]:
        """As report.json shows it."""
        title = shortened(self.question.prompt.messages[-1].content)[:TITLE]
        return {"prompt": self.question.prompt.id, "number": self.number, "set": self.question.set, "title": title,
                "loss": self.loss.amount, "emptied": self.loss.ruled, "before": self.before, "after": self.after}


def by_votes(contests: Contests, one: int, other: int) -> dict[int, Loss]:
    """By question, how `one` fares against `other` in the votes of people or of an AI judge."""
    forth = (contests.first_D == one) & (contests.second_D == other)
    back = (contests.first_D == other) & (contests.second_D == one)
    lost_D = np.where(back, contests.won_D, 1.0 - contests.won_D)[forth | back]
    asked, place_D = np.unique(contests.prompt_D[forth | back], return_inverse=True)
    shares = np.bincount(place_D, lost_D) / np.bincount(place_D) if len(asked) else asked
    return {n: Loss(share, HALF) for n, share in zip(asked.tolist(), shares.tolist(), strict=True)}


def by_reward(rewards: Rewards, one: int, other: int) -> dict[int, Loss]:
    """By question, how far the mean reward of `one` is below that of `other`."""
    ours, theirs = rewards.scores[one], rewards.scores[other]
    fallback = FALL * _spread_over(theirs)
    found = {}
    for n, (own, rival) in enumerate(zip(ours, theirs, strict=True)):
        if own and rival:
            noise = fallback
            if rewards.spreads and any(map(any, rewards.spreads[other])):
                noise = _noise([*rewards.spreads[one][n], *rewards.spreads[other][n]])
            falls = [b - a for a, b in zip(own, rival, strict=True)]
            found[n] = Loss(float(np.mean(falls)), noise, int(np.argmax(falls)))
    return found


def by_recorded_reward(rewards: Rewards, one: int) -> dict[int, Loss]:
    """By question, how far the mean reward of `one` is below that of the answer that was recorded as good."""
    fallback = FALL * _spread_over(rewards.scores[0])  # the baseline's, so that an erratic run is let off nothing
    found = {}
    for n, good in rewards.recorded.items():
        own = rewards.scores[one][n]
        if own:
            spreads = rewards.spreads[one][n] if rewards.spreads else ()
            noise = _noise([*spreads, *spreads]) if any(spreads) else fallback
            found[n] = Loss(good - float(np.mean(own)), noise, int(np.argmin(own)))
    return found


def by_recorded_votes(judge: Judge, one: int, contestants: Sequence[Contestant],
                      questions: Sequence[Question]) -> dict[int, Loss]:
    """By question, how `one` fared in votes against whoever wrote again what was recorded as good."""
    found = {}
    for other, rival in enumerate(contestants):
        if other != one:
            found |= {n: loss for n, loss in by_votes(judge.contests, one, other).items()
                      if rival.answers[n] and rival.answers[n][0].text == questions[n].reference}
    return found


def _noise(spreads: Sequence[float]) -> float:
    """What a difference of two answers' rewards strays by among an ensemble's members: two spreads, each a mean."""
    return float(np.sqrt(2.0 * np.mean(np.square(spreads))))


def _spread_over(scores: Sequence[Sequence[float]]) -> float:
    return float(np.std([np.mean(own) for own in scores if own] or [0.0]))


def regressed(losses: Mapping[int, Loss], questions: Sequence[Question], before: Contestant,
              after: Contestant) -> list[Regression]:
    """The questions, worst first, on which `after` is worse than `before`; no variants, and none that must pass.

    An answer that became empty is worse, and the same one is not, whoever judges.
    """
    found = []
    for n, question in enumerate(questions):
        loss = _ruled(before.answers[n], after.answers[n]) or losses.get(n)
        if loss and loss.worse and question.of is None and question.set != MUST_PASS:
            found.append(Regression(n, question, loss, before.answers[n][loss.sample].text,
                                    after.answers[n][loss.sample].text))
    return sorted(found, key=lambda one: one.place)


def write(path: Path, found: Sequence[Regression], before: str, after: str, judge: Judge) -> None:
    """regressions.jsonl: all of them, to be named as compare.must_pass by a later comparison."""
    with checkpoints.replacing(path) as file:
        file.writelines(runs.line({**one.to_json(), "prompt": one.question.prompt.to_json(), "baseline": before,
                                   "run": after, "by": judge.name, "kind": judge.kind}) for one in found)


def must_passed(losses: Mapping[int, Loss], questions: Sequence[Question], after: Contestant) -> dict[str, Any] | None:
    """How `after` answers the questions that must pass: none may be worse than what was recorded as good.

    The same text passes and an empty one fails, whoever judges; `unjudged` are others of which the judge says nothing.
    """
    asked = [n for n, one in enumerate(questions) if one.set == MUST_PASS]
    if not asked:
        return None
    failed, unjudged = [], 0
    for n in asked:
        recorded = [Answer(questions[n].reference, 0, ended=True)] * len(after.answers[n])
        loss = _ruled(recorded, after.answers[n]) or losses.get(n)
        unjudged += loss is None
        if loss and loss.worse:
            failed.append(Regression(n, questions[n], loss, questions[n].reference,
                                     after.answers[n][loss.sample].text))
    return {"asked": len(asked), "passed": len(asked) - unjudged - len(failed), "unjudged": unjudged,
            "failed": [one.to_json() for one in sorted(failed, key=lambda one: one.place)]}


def _ruled(before: Sequence[Answer], after: Sequence[Answer]) -> Loss | None:
    """What needs no judge: each answer is the same as before, or one of the two is empty."""
    lost = [by_rule(good, one) for good, one in zip(before, after, strict=True)]
    if not lost or None in lost:
        return None
    shares = [one for one in lost if one is not None]
    return Loss(float(np.mean(shares)), HALF, int(np.argmax(shares)), ruled=True)


# -- of a whole comparison --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regressions:
    """Of each candidate by its number: what got worse than the baseline's answer, and what must pass again."""

    by: Judge
    found: dict[int, list[Regression]]
    must_pass: dict[int, dict[str, Any] | None]


def told_by(judge: Judge, rewards: Sequence[Rewards], contestants: Sequence[Contestant],
            questions: Sequence[Question], asked: Mapping[int, dict[int, Loss]]) -> Regressions:
    """By the judge whose word the verdict takes: its votes, or of a reward model its rewards. `asked` has what an AI
    judge said of each candidate's answers against the recorded ones."""
    own = next((one for one in rewards if judge.kind == "reward" and one.name == judge.name), None)
    found, passing = {}, {}
    for c in range(1, len(contestants)):
        losses = by_reward(own, c, 0) if own else by_votes(judge.contests, c, 0)
        recorded = (by_recorded_reward(own, c) if own else asked.get(c, {}) if judge.kind == "ai"
                    else by_recorded_votes(judge, c, contestants, questions))
        found[c] = regressed(losses, questions, contestants[0], contestants[c])
        passing[c] = must_passed(recorded, questions, contestants[c])
    return Regressions(judge, found, passing)


def figures(told: Regressions, contestants: Sequence[Contestant]) -> dict[str, Any]:
    """As report.json has them, but for the rows of the run that the verdict speaks of. `counts` are of the held-out
    prompts, which the verdict is about, `elsewhere` of the other sets."""
    asked = [one for one in told.must_pass.values() if one]
    passing = {"asked": asked[0]["asked"], "passed": {contestants[c].name: one["passed"]
                                                     for c, one in told.must_pass.items() if one},
               "unjudged": {contestants[c].name: one["unjudged"] for c, one in told.must_pass.items() if one},
               "failed": [{**row, "run": contestants[c].name} for c, one in told.must_pass.items() if one
                          for row in one["failed"]]} if asked else None
    counts = {contestants[c].name: sum(one.question.set == HELD_OUT for one in rows) for c, rows in told.found.items()}
    return {"by": told.by.name, "counts": counts, "must_pass": passing,
            "elsewhere": {contestants[c].name: len(rows) - counts[contestants[c].name]
                          for c, rows in told.found.items()}}
