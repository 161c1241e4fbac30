"""A run's own figures, which need no judge: lengths, ends, and KL from the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefloop import stats
from prefloop.compare.records import HELD_OUT, Answer, Contestant, Question


def of_run(one: Contestant, baseline: Contestant, questions: Sequence[Question], level: float) -> dict[str, Any]:
    """On the held-out questions. `same` counts the answers that are the baseline's to the letter."""
    own, its = (held_out(each, questions) for each in (one, baseline))
    flat = [answer for answers in own for answer in answers]
    return {
        **one.facts,
        "mean_length": sum(answer.tokens for answer in flat) / len(flat),
        "ended": sum(answer.ended for answer in flat) / len(flat),
        "cut": sum(not answer.ended for answer in flat),
        "empty": sum(answer.empty for answer in flat),
        "same": 0 if one is baseline else sum(
            a.text == b.text for x, y in zip(own, its, strict=True) for a, b in zip(x, y, strict=True)),
        **kl_figures(own, level)}


def held_out(one: Contestant, questions: Sequence[Question]) -> list[tuple[Answer, ...]]:
    return [answers for answers, question in zip(one.answers, questions, strict=True) if question.set == HELD_OUT]


def kl_figures(own: Sequence[Sequence[Answer]], level: float) -> dict[str, Any]:
    """KL(run, baseline) in nats, of the run's own answers: the mean of log p_run - log p_baseline, over prompts.

    Each prompt's answers are averaged first: they are not independent. Per token is the ratio of the two means.
    """
    gaps = [[answer.kl for answer in answers if answer.kl is not None] for answers in own]
    if not gaps or any(len(gap) < len(answers) for gap, answers in zip(gaps, own, strict=True)):
        return {}
    per_prompt = [mean(gap) for gap in gaps]
    tokens = mean([mean([answer.tokens for answer in answers]) for answers in own])
    per_token = {"kl_per_token": mean(per_prompt) / tokens} if tokens else {}
    return {"kl": estimate(per_prompt, level), **per_token}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def estimate(per_question: Sequence[float], level: float) -> dict[str, float]:
    """The mean over questions with its bootstrap interval."""
    return stats.Estimate(mean(per_question), *stats.bootstrap_interval(per_question, level=level))._asdict()
