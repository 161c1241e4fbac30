"""The prompts as a list to look through: searched, filtered and sorted. Pure functions of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from .held_out import HeldOut, Written
from .voting import Voting

Order = Literal["given", "worse", "better", "longer", "shorter"]
Only = Literal["all", "differing", "worse", "cut", "empty"]
TITLE = 90  # characters


@dataclass(frozen=True)
class Wish:
    """Which prompts are looked for: those in which `text` occurs, of a set and a stratum ("" is any).

    `only`: where not all answered the same; where checkpoint `against` lost against the first by `judge`, one of the
    judges ("" is the first); where an answer was cut, or is empty. The orders other than the given put first where
    `against` lost (or won) most, or grew (or shrank) most. Such a wish sets a checkpoint against the first by name.
    """

    text: str = ""
    only: Only = "all"
    order: Order = "given"
    against: int = -1
    judge: str = ""
    stratum: str = ""
    set: str = ""

    @property
    def names_writers(self) -> bool:
        return self.order != "given" or self.only == "worse"


@dataclass(frozen=True)
class Line:
    """One prompt in the list. `gap` is what the list is sorted by: a checkpoint against the first. `mark`: "empty" or
    "cut", where some answer is.
    """

    number: int
    title: str
    complete: bool
    same: bool
    gap: float | None
    mark: str


def listed(held_out: HeldOut, wish: Wish) -> list[Line]:
    """What is wished for; prompts of which the gap is not known come last."""
    text, judge = wish.text.casefold(), wish.judge or next(iter(judges(held_out)), "")
    lines = []
    for number, prompt in enumerate(held_out.prompts):
        if (wish.stratum and wish.stratum != prompt.stratum) or (wish.set and wish.set != held_out.sets[number]):
            continue
        row = held_out.row(number)
        if text and not any(text in one.casefold() for one in _texts(prompt.messages, row)):
            continue
        complete = None not in row
        line = Line(number, " ".join(prompt.messages[-1].content[:4 * TITLE].split())[:TITLE], complete,
                    complete and len({one.texts for one in row if one}) == 1,
                    _gap(row[0], row[wish.against], wish.order, judge), _mark(row))
        if _wanted(line, row, wish, judge):
            lines.append(line)
    sign = -1 if wish.order in ("better", "longer") else 1
    return lines if wish.order == "given" else sorted(
        lines, key=lambda line: (line.gap is None, sign * (line.gap or 0.0), line.number))


def told(held_out: HeldOut, wish: Wish, voting: Voting) -> list[Line]:
    """The list for one who votes. A gap says of a named checkpoint which text it wrote: the prompts that still wait
    for a blind vote show none, unless the wish is about gaps. Then they were looked at: those that are left out too,
    for they did not lose.
    """
    lines = listed(held_out, wish)
    if wish.names_writers:
        compared = listed(held_out, replace(wish, only="all")) if wish.only == "worse" else lines
        voting.look(*(line.number for line in compared if line.gap is not None))
        return lines
    blind = voting.blind()
    return [replace(line, gap=None) if line.number in blind else line for line in lines]


def judges(held_out: HeldOut) -> list[str]:
    """Whose rewards are known of some answer, in the order in which they stand there."""
    return list(dict.fromkeys(judge for own in held_out.written for one in own.values() for judge in one.rewards))


def _wanted(line: Line, row: Sequence[Written | None], wish: Wish, judge: str) -> bool:
    if wish.only == "differing":
        return not line.same
    if wish.only == "worse":
        gap = _gap(row[0], row[wish.against], "given", judge)
        return gap is not None and gap < 0
    if wish.only == "cut":
        return any(one is not None and one.cut for one in row)
    return wish.only != "empty" or line.mark == "empty"


def _mark(row: Sequence[Written | None]) -> str:
    written = [one for one in row if one is not None]
    return "empty" if any(one.empty for one in written) else "cut" if any(one.cut for one in written) else ""


def _texts(messages: Any, row: Sequence[Written | None]) -> list[str]:
    return [*(m.content for m in messages), *(text for one in row if one is not None for text in one.texts)]


def _gap(first: Written | None, other: Written | None, order: Order, judge: str) -> float | None:
    if first is None or other is None:
        return None
    if order in ("longer", "shorter"):
        return other.length - first.length
    was, now = first.reward(judge), other.reward(judge)
    return None if was is None or now is None else now - was
