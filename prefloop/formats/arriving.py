"""Files on their way into a store: which form they have, and the rankings or the answers that their rows hold."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from prefloop.errors import RequestError
from prefloop.formats import files, sources
from prefloop.formats.layouts import LAYOUTS
from prefloop.formats.readers import ANSWERS, FORMATS, Format, looks_like
from prefloop.formats.reading import Reading
from prefloop.formats.report import Tally
from prefloop.formats.row import BadRow, Rules, brief
from prefloop.formats.sources import Source
from prefloop.records import Answers, Ranking

R = TypeVar("R", bound=Rules)
AUTO = "auto"
RANKED = tuple(name for name, form in FORMATS.items() if form.ranks)
NAMES = (AUTO, "answers", *dict.fromkeys((*LAYOUTS, *RANKED)))
SAVED = ("state.json", "dataset_dict.json")  # one of these is in a folder that `datasets` saved


def opened(paths: list[str], how: files.Asked, split: str | None = None) -> list[Source]:
    """Files, folders and patterns, as `prefloop import` takes them; or one folder that `datasets` saved."""
    for path in map(Path, paths):
        if any((path / name).is_file() for name in SAVED):
            if len(paths) > 1:
                raise RequestError(f"{path}: a folder that `datasets` saved is imported alone")
            return [replace(one, name=path.name) for one in sources.from_dataset(str(path), None, split, None)]
    return sources.from_files(sources.expanded(paths), how, False)


def formed(name: str, rules: R, first: list[Source]) -> tuple[str, Format, R]:
    """The form as it is called, what reads it, and the rules with what the form adds to them."""
    columns = _columns(first)
    if name == AUTO:
        name = _looks(columns, first[0].name)
    if name == "answers":
        return name, ANSWERS, rules
    layout = LAYOUTS.get(name)
    if layout is None:
        return name, FORMATS[name], rules
    own: dict[str, Any] = {key: value for key, value in layout.rules.items() if key != "columns" and
                           not getattr(rules, key)}
    mapped = {ours: theirs for ours, theirs in layout.rules.get("columns", {}).items() if theirs in columns}
    return name, FORMATS[layout.read], replace(rules, **own, columns={**mapped, **rules.columns})


def _columns(found: list[Source]) -> dict[str, Any]:
    """The first row that can be read."""
    for source in found:
        for _, values in source.rows(lambda _: None):
            if not isinstance(values, BadRow):
                return values
    return {}


def _looks(columns: dict[str, Any], name: str) -> str:
    fits = sorted((form for form, layout in LAYOUTS.items() if layout.known <= set(columns)),
                  key=lambda form: -len(LAYOUTS[form].known))
    likely = [*fits, *(form for form in looks_like(columns) if form in RANKED),
              *(["answers"] if {"prompt", "responses"} <= set(columns) else [])]
    if not likely:
        here = brief(", ".join(map(repr, columns)) or "none that can be read", 150, quoted=False)
        raise RequestError(f"{name}: no form is known that has its columns ({here}); name one, such as "
                           "import.format=ratings, and map columns with import.columns")
    return likely[0]


def records(form: Format, rules: Rules, found: list[Source],
            tally: Tally) -> Iterator[tuple[str, Ranking | Answers]]:
    """What the rows say, and where they stand, each exact repetition once.

    The first bad row is refused by file, row and column.
    """
    reading = Reading(form, rules, found, None, {}, refuses=True, drops_duplicates=True, looks_for_near=False,
                      takes_answers=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for one in reading.records(tally, Path(scratch), {}):
                yield tally.at, one
        except RequestError as error:
            told = str(error).removesuffix("; to leave such rows out: import.bad_rows=drop")
            raise RequestError(f"{told}; nothing was imported") from None
