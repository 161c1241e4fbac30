"""The slices of the held-out questions that figures are told by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefloop.compare.records import HELD_OUT, Question

LENGTHS = ((50, "up to 50 words"), (200, "51 to 200 words"), (float("inf"), "over 200 words"))


def slices(questions: Sequence[Question], overlap: Mapping[str, Any]) -> dict[str, list[str]]:
    """By what, and of each question in which slice it is ("": in none)."""
    near = overlap.get("near_questions") or []
    found = {"stratum": [one.prompt.stratum for one in questions],
             "prompt length": [length(one) for one in questions],
             "turns": ["one turn" if len(one.prompt.messages) == 1 else "several turns" for one in questions],
             "training data": ["in it, or near it" if one.prompt.id in near else "not near it" for one in questions]}
    return {by: own for by, own in found.items()
            if len({name for name, one in zip(own, questions, strict=True) if one.set == HELD_OUT}) > 1}


def length(question: Question) -> str:
    words = sum(len(message.content.split()) for message in question.prompt.messages)
    return next(name for most, name in LENGTHS if words <= most)
