"""One row of an outside file, as a reader sees it: its columns under our names, errors under the file's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from prefloop.errors import RequestError

LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class BadRow(RequestError):
    """A row that cannot be used. `reason` is the same for all rows alike, so that they can be counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Row:
    """`columns` maps our names to the file's where they differ. A column that holds null counts as missing.

    `rater` and `source` are for rows that do not say who ranked and for prompts that do not say where they are from.
    """

    values: Mapping[str, Any]
    columns: Mapping[str, str] = field(default_factory=dict)
    rater: str | None = None
    source: str = ""

    def name(self, ours: str) -> str:
        return self.columns.get(ours, ours)

    def need(self, ours: str) -> Any:
        value = self.get(ours)
        if value is None:
            raise self.missing(ours)
        return value

    def get(self, ours: str) -> Any | None:
        """The value, or None where the column is missing; a column that was mapped by hand must be there."""
        theirs = self.name(ours)
        if ours in self.columns and theirs not in self.values:
            raise self.missing(ours)
        value = self.values.get(theirs)
        _refuse_broken_text(value, theirs)
        return value

    def missing(self, ours: str) -> BadRow:
        theirs = self.name(ours)
        if theirs in self.values:
            return BadRow(f"no {theirs!r}", f"column {theirs!r} holds null")
        near = get_close_matches(theirs, self.values, n=1)
        here = ", ".join(map(repr, self.values)) or "none"
        have = f"the nearest here is {near[0]!r}" if near else f"here are {here}"
        return BadRow(f"no column {theirs!r}", f"column {theirs!r} is missing; {have} (map it with import.columns)")


def _refuse_broken_text(value: Any, column: str) -> None:
    """Tokenizers and databases choke on NUL and on half of a surrogate pair, which JSON can spell."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str):
            if "\x00" in one:
                raise BadRow("NUL character", f"column {column!r}: the text holds a NUL character")
            if LONE_SURROGATE.search(one):
                raise BadRow("lone surrogate", f"column {column!r}: the text holds half of a surrogate pair")
