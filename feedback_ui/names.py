"""Names that would tell who wrote an answer: which they are, and how they are blacked out of what raters read."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from html import unescape

MASK = "█████"
MARKS = "\\*_`~"  # Markdown may stand in the middle of a name
UNMARKED = dict.fromkeys(map(ord, MARKS))
ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,24});", re.ASCII)


def masked(pieces: Sequence[str], hidden: Collection[str]) -> list[str]:
    """The pieces of one text, without the names that stand in it, or run from one piece into the next.

    Neither case nor Markdown nor an entity hides a name, nor another form of its letters, nor what cannot be seen.
    """
    wanted = sorted(filter(None, map(folded, hidden)), key=len, reverse=True)
    whole = "".join(pieces)
    if not wanted or (whole.isascii() and not _holds(whole, wanted)):
        return list(pieces)  # most texts, and soon
    letters = [(letter, at, start, end) for at, piece in enumerate(pieces) for letter, start, end in _letters(piece)]
    made = [list(piece) for piece in pieces]
    for found in re.finditer("|".join(map(re.escape, wanted)), "".join(letter for letter, *_ in letters)):
        for number, (_, at, start, end) in enumerate(letters[found.start() : found.end()]):
            made[at][start:end] = [MASK if number == 0 else "", *[""] * (end - start - 1)]
    return ["".join(piece) for piece in made]


def folded(name: str) -> str:
    return "".join(letter for letter, *_ in _letters(name.strip()))


def of_policies(policies: Collection[str]) -> tuple[str, ...]:
    """Of the writers' names those to be masked: the names of runs and checkpoints, every part of a path that is
    one, and no plain words or numbers.
    """
    words = {word for policy in policies for word in (policy.rstrip("/"), *re.split(r"[\s()\\]+", policy))}
    found = {part for word in words for part in (word, *word.split("/"))
             if len(part) > 3 and re.search(r"[0-9/_.-]", part) and re.search(r"[^\W\d_]", part)}
    return tuple(sorted(found))


def _holds(text: str, wanted: Sequence[str]) -> bool:
    """Does any stand in this, which is ASCII but for its entities?"""
    read = unescape(text)
    return not read.isascii() or any(name in read.lower().translate(UNMARKED) for name in wanted)


def _letters(text: str) -> Iterator[tuple[str, int, int]]:
    """What can be read of the text, letter by letter in one form, and where each stands."""
    at = 0
    while at < len(text):
        entity = ENTITY.match(text, at) if text[at] == "&" else None
        end = entity.end() if entity else at + 1
        read = unescape(entity[0]) if entity else text[at]
        for letter in read.casefold() if read.isascii() else unicodedata.normalize("NFKD", read).casefold():
            if letter not in MARKS and (letter.isascii() or unicodedata.category(letter) not in ("Cf", "Mn", "Me")):
                yield letter, at, end
        at = end
