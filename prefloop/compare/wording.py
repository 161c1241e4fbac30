"""Which words went and which came, from one text to another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

WORD = re.compile(r"\S+\s*|\s+")
LONGEST = 800  # words of a text that are compared: the time grows with their square, to a sixth of a second


@dataclass(frozen=True)
class Part:
    """A stretch of a text; `changed` where the other text does not have it."""

    text: str
    changed: bool


def changes(before: str, after: str) -> tuple[list[Part], list[Part]]:
    """Both texts in parts: of the first what went is changed, of the second what came.

    Words are compared without the space behind them. A text of over LONGEST words is left as it stands.
    """
    old, new = WORD.findall(before), WORD.findall(after)
    if max(len(old), len(new)) > LONGEST:
        return [Part(before, False)], [Part(after, False)]
    found = SequenceMatcher(None, [one.strip() for one in old], [one.strip() for one in new], autojunk=False)
    left, right = [], []
    for kind, a, b, c, d in found.get_opcodes():
        left += [Part("".join(old[a:b]), kind != "equal")] if b > a else []
        right += [Part("".join(new[c:d]), kind != "equal")] if d > c else []
    return left, right
