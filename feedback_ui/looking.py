"""The prompts as a list to look through: searched, filtered and sorted. Pure functions of what was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .held_out import HeldOut, Written

Order = Literal["given", "worse", "better", "longer", "shorter"]
TITLE = 90  # characters


@dataclass(frozen=True)
class Line:
    """One prompt in the list. `gap` is what the list is sorted by: the last checkpoint against the first."""

    number: int
    title: str
    stratum: str
    complete: bool
    same: bool
    gap: float | None


def listed(held_out: HeldOut, text: str = "", differing: bool = False, order: Order = "given",
           against: int = -1) -> list[Line]:
    """The prompts in which `text` occurs; with `differing`, only those where not all answered the same.

    The other orders put first the prompts where checkpoint `against` lost (or won) most reward, or grew (or shrank)
    most, against the first checkpoint; prompts where that is not known come last.
    """
    wanted = text.casefold()
    lines = []
    for number, prompt in enumerate(held_out.prompts):
        row = held_out.row(number)
        if wanted and not any(wanted in one.casefold() for one in _texts(prompt.messages, row)):
            continue
        complete = None not in row
        line = Line(number, " ".join(prompt.messages[-1].content.split())[:TITLE], prompt.stratum, complete,
                    complete and len({one.texts for one in row if one}) == 1, _gap(row[0], row[against], order))
        if not differing or not line.same:
            lines.append(line)
    sign = -1 if order in ("better", "longer") else 1
    return lines if order == "given" else sorted(
        lines, key=lambda line: (line.gap is None, sign * (line.gap or 0.0), line.number))


def _texts(messages: Any, row: list[Written | None]) -> list[str]:
    return [*(m.content for m in messages), *(text for one in row if one is not None for text in one.texts)]


def _gap(first: Written | None, other: Written | None, order: Order) -> float | None:
    if first is None or other is None:
        return None
    if order in ("longer", "shorter"):
        return float(len(other.texts[0]) - len(first.texts[0]))
    return None if first.reward is None or other.reward is None else other.reward - first.reward
