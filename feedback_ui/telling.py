"""What the page is told, as JSON: texts as HTML that can do nothing, and no word of who wrote an answer.

A task looks the same whatever kind its item is. What raters see again and again is rendered once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from string import ascii_uppercase
from typing import Any

from prefloop.store import Guideline, Judgement, Lesson, Past, Progress, Receipt

from .assignment import Task, hidden_of
from .rendering import masked, to_html

FIRST = 80  # characters of a prompt in the history
SEVERAL = 20  # answers at least, by which the progress that raters are told goes up


def html(text: str, hidden: tuple[str, ...] = (), pictures: Mapping[str, str] | None = None) -> str:
    """`pictures` has the names of the pictures that this text may show; None is a text that may show none."""
    return _html(text, hidden, None if pictures is None else tuple(sorted(pictures.items())))


@lru_cache(maxsize=512)
def _html(text: str, hidden: tuple[str, ...], pictures: tuple[tuple[str, str], ...] | None) -> str:
    if pictures is None:
        return to_html(text, hidden)
    named = dict(pictures)

    def address(source: str) -> str | None:
        return f"/api/picture/{named[source]}" if source in named else None

    return to_html(text, hidden, address)


def task(one: Task) -> dict[str, Any]:
    practice = one.practice and {"number": one.practice[0], "of": one.practice[1]}
    conversation = [{"role": message.role, "html": html(message.content, one.hidden, one.pictures)}
                    for message in one.conversation]
    answers = [{"letter": letter, "html": html(text, one.hidden), "text": masked(text, one.hidden)}
               for letter, text in zip(one.letters, one.answers, strict=True)]
    return {"token": one.token, "conversation": conversation, "answers": answers, "strength": one.strength,
            "reason_required": one.reason_required, "expires": one.expires, "practice": practice}


def said(judgement: Judgement) -> dict[str, Any]:
    """A judgement, as the page sends it."""
    return {"ranks": judgement.ranks, "strength": judgement.strength, "none_acceptable": judgement.none_acceptable,
            "reason": judgement.reason, "edited": judgement.edited}


def lesson(one: Lesson | None) -> dict[str, Any] | None:
    return one and {"right": one.right, "ranks": one.ranks, "html": html(one.explanation)}


def guideline(one: Guideline | None) -> dict[str, Any] | None:
    return one and {"version": one.version, "number": one.number, "html": html(one.text),
                    "acknowledged": one.acknowledged, "changed": one.changed}


def receipt(one: Receipt) -> dict[str, Any]:
    """`model`: the order of a reward model, told once the rater has given theirs."""
    return {"answer": one.answer, "surplus": one.surplus, "model": one.model and order(one.model)}


def coarse(one: Progress) -> Progress:
    """How far all raters are, so that nobody learns from it which of their items were gold or repeats.

    Only normal items are counted, and a count that stands still after an answer would say so: it goes by eighths, each
    of many items.
    """
    step = max(one.wanted // 8, SEVERAL)
    return replace(one, done=one.done if one.done == one.wanted else one.done // step * step, surplus=0)


def past(one: Past) -> dict[str, Any]:
    last = one.prompt.messages[-1].content
    prompt = " ".join(masked(last, hidden_of(one.campaign, one.responses)).split())
    return {"answer": one.answer, "at": one.at, "prompt": prompt[:FIRST], "order": order(one.ranks),
            "none_acceptable": one.none_acceptable, "editable": one.editable, "model": one.model and order(one.model)}


def order(ranks: Sequence[int | None]) -> list[list[str]]:
    """Best first; those that share a rank stand together, and what was left unranked is left out."""
    given = sorted({rank for rank in ranks if rank is not None})
    return [[letter for letter, own in zip(ascii_uppercase, ranks, strict=False) if own == rank] for rank in given]
