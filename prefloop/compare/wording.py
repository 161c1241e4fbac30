"""Which words went and which came, from one text to another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from prefloop.compare.answer_rules import common_rows

WORD = re.compile(r"\S+\s*|\s+")
LONGEST = 5000  # words of a text that are compared: the rows take as many bits squared, three megabytes


@dataclass(frozen=True)
class Part:
    """A stretch of a text; `changed` where the other text does not have it."""

    text: str
    changed: bool


def changes(before: str, after: str) -> tuple[list[Part], list[Part]]:
    """Both texts in parts: of the first what went is changed, of the second what came.

    As many words as can be stay. They are compared without the space behind them. A text of over LONGEST words is left
    as it stands.
    """
    old, new = WORD.findall(before), WORD.findall(after)
    if max(len(old), len(new)) > LONGEST:
        return [Part(before, False)], [Part(after, False)]
    pairs = common([one.strip() for one in old], [one.strip() for one in new])
    stayed_old, stayed_new = {a for a, _ in pairs}, {b for _, b in pairs}
    return parts(old, stayed_old), parts(new, stayed_new)


def common(one: Sequence[str], other: Sequence[str]) -> list[tuple[int, int]]:
    """The places, in both, of a longest common subsequence, last first: a way back through its rows."""
    rows = list(common_rows(one, other))
    found = []
    i, j = len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            i, j = i - 1, j - 1
            found.append((i, j))
        elif rows[j] >> (i - 1) & 1:  # this word of `one` added nothing
            i -= 1
        else:
            j -= 1
    return found


def parts(words: Sequence[str], stayed: set[int]) -> list[Part]:
    return [Part("".join(words[n] for n in places), changed)
            for changed, places in groupby(range(len(words)), lambda n: n not in stayed)]
