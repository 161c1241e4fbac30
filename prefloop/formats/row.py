"""One row of an outside file, as a reader sees it: its columns under our names, errors under the file's."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from prefloop.errors import RequestError

PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
NULLS = ("", "null", "none", "nan", "n/a")


class BadRow(RequestError):
    """A row that cannot be used. `reason` is the same for all rows alike, so that they can be counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Left:
    """Part of a row that was used: what was left out of it, and how many."""

    reason: str
    count: int = 1


@dataclass(frozen=True)
class Part:
    """A row that says something only beside the others of its `key`; `content` is JSON."""

    key: str
    content: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How rows are read. configs/import.yaml explains each key."""

    columns: dict[str, str | None] = field(default_factory=dict)
    prompt: str | None = None
    rater: str | None = None
    raters: dict[str, str] = field(default_factory=dict)
    scores: str | dict[str, float] | None = None
    dimensions: dict[str, str] = field(default_factory=dict)
    winners: dict[str, str] = field(default_factory=dict)
    cycles: str = "drop"
    roles: dict[str, str] = field(default_factory=dict)
    speakers: dict[str, str] = field(default_factory=dict)
    opens: str | None = None
    turns: str = "last"


@dataclass(frozen=True)
class Row:
    """A column that holds null, or an empty cell of a table, counts as missing. `source` says where prompts are from.

    A column's name may be a path: `a.text` is the key `text` of the object in column `a`, `answers.0` a list's first.
    """

    values: dict[str, Any]
    rules: Rules = Rules()
    source: str = ""

    def name(self, ours: str) -> str:
        return self.rules.columns.get(ours, ours) or ours

    def need(self, ours: str) -> Any:
        value = self.get(ours)
        if value is None:
            raise self.missing(ours)
        return value

    def get(self, ours: str) -> Any | None:
        """The value, or None where the column is missing; a column that was mapped by hand must be there.

        A column mapped to null is not looked at.
        """
        theirs = self.rules.columns.get(ours, ours)
        if theirs is None:
            return None
        value = self.values.get(theirs)
        if value is None and theirs not in self.values and ours in self.rules.columns:
            there, value = found(self.values, theirs)
            if not there:
                raise self.missing(ours)
        if value is not None:
            refuse_broken_text(value, theirs)
        return value

    def listed(self, ours: str) -> Any | None:
        """The value, where a list or an object may be told as text, as tables hold them."""
        value = self.get(ours)
        return unpacked(value, self.name(ours)) if isinstance(value, str) else value

    def filled(self, template: str) -> str:
        """`template` with the columns it names in braces; a missing one is empty."""
        return PLACEHOLDER.sub(lambda name: self._text(name[1]), template).strip()

    def _text(self, column: str) -> str:
        there, value = found(self.values, column)
        if not there and column not in self.values:
            raise self._missing(column)
        refuse_broken_text(value, column)
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return "\n\n".join(value)
        if isinstance(value, dict | list):
            raise wrong(column, "a text, for import.prompt", value)
        return "" if value is None else str(value)

    def missing(self, ours: str) -> BadRow:
        return self._missing(self.name(ours))

    def _missing(self, theirs: str) -> BadRow:
        if found(self.values, theirs)[0]:
            return BadRow(f"no {theirs!r}", f"column {theirs!r} holds null")
        near = get_close_matches(theirs, self.values, n=1)
        here = brief(", ".join(map(repr, self.values)) or "none", 150, quoted=False)
        have = f"the nearest here is {near[0]!r}" if near else f"here are {here}"
        return BadRow(f"no column {theirs!r}", f"column {theirs!r} is missing; {have} (map it with import.columns)")


def found(values: Any, path: str) -> tuple[bool, Any]:
    """Whether there is such a column, and what it holds. A name that holds dots as they are comes first."""
    if isinstance(values, dict) and path in values:
        return True, values[path]
    head, dot, rest = path.partition(".")
    while dot:
        inner = unpacked(values[head], head) if isinstance(values, dict) and head in values else None
        if isinstance(values, list) and head.isdecimal() and int(head) < len(values):
            inner = values[int(head)]
        if isinstance(inner, list | dict):
            return found(inner, rest)
        more, dot, rest = rest.partition(".")
        head = f"{head}.{more}"
    if isinstance(values, list) and path.isdecimal() and int(path) < len(values):
        return True, values[int(path)]
    return False, None


def unpacked(value: Any, column: str) -> Any:
    """What a cell that looks like a list or an object holds, written as JSON or, by pandas, as Python; else itself."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        inner = json.loads(value)
    except (ValueError, RecursionError):
        try:
            inner = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return value
    if not isinstance(inner, list | dict):
        return value
    refuse_broken_text(inner, column)
    return inner


def refuse_broken_text(value: Any, column: str) -> None:
    """Tokenizers and databases choke on NUL and on half of a surrogate pair, which JSON can spell."""
    if isinstance(value, str):
        if "\x00" in value:
            raise BadRow("NUL character", f"column {column!r}: the text holds a NUL character")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BadRow("lone surrogate", f"column {column!r}: the text holds half of a surrogate pair") from None
        return
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str):
            refuse_broken_text(one, column)


def number(value: Any, column: str) -> float | None:
    """A number, told as one, as text or as yes or no; None where nothing is told; of a list, the mean."""
    if isinstance(value, list):
        told = [number(one, column) for one in value]
        kept = [one for one in told if one is not None]
        return sum(kept) / len(kept) if kept else None
    text = str(value).strip().lower()
    if value is None or text in NULLS:
        return None
    try:
        told = {"true": 1.0, "false": 0.0}.get(text)
        told = float(text) if told is None else told
    except ValueError:
        raise wrong(column, "a number", value) from None
    if told in (float("inf"), float("-inf")):
        raise wrong(column, "a finite number", value)
    return told


def wrong(column: str, expected: str, value: Any) -> BadRow:
    return BadRow(f"not {expected}", f"column {column!r}: expected {expected}, got {brief(value)}")


def brief(value: Any, most: int = 60, quoted: bool = True) -> str:
    text = repr(value) if quoted else str(value)
    return text if len(text) <= most else text[: most - 3] + "..."
