"""Rankings on their way out: into one of the LAYOUTS and one kind of file, and what of them is lost on the way."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefloop import checkpoints
from prefloop.errors import RequestError
from prefloop.formats import losses, writing
from prefloop.formats.grouping import Groups
from prefloop.formats.layouts import LAYOUTS, Layout
from prefloop.formats.row import Part
from prefloop.records import Ranking


@dataclass
class Left:
    """What went out, by rater, and what did not. Complete once the file is written."""

    rankings: int = 0
    rows: int = 0
    raters: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    checksum: str = ""

    def told(self) -> list[str]:
        return losses.told(self.lost)


def kind_for(form: str, path: Path, asked: str | None) -> str:
    """The kind of file: as asked, as the name says, or the form's usual one."""
    layout = LAYOUTS[form]
    kind = asked or writing.kind_of(path) or layout.kinds[0]
    if kind not in layout.kinds:
        raise RequestError(f"export.kind: {form} is not written as {kind}; it is as {', '.join(layout.kinds)}")
    return kind


def write(path: Path, form: str, kind: str, rankings: Iterable[Ranking], named: Callable[[str], str] = str) -> Left:
    """A file, or a folder of kind `datasets`, with these rankings. `named` is what raters are called in it."""
    out, layout = Left(), LAYOUTS[form]
    with tempfile.TemporaryDirectory() as scratch:
        rows = _rows(layout, _kept(layout, rankings, out, named), out, Path(scratch))
        writing.write(path, kind, rows, layout.columns)
    if kind != "datasets":
        out.checksum = checkpoints.file_sha256(path)
    return out


def measure(form: str, rankings: Iterable[Ranking]) -> Left:
    """What would be lost, without a file."""
    out = Left()
    for _ in _kept(LAYOUTS[form], rankings, out):
        pass
    return out


def _kept(layout: Layout, rankings: Iterable[Ranking], out: Left,
          named: Callable[[str], str] = str) -> Iterator[Ranking]:
    seen: Counter[str] = Counter()
    for one in rankings:
        called = named(one.rater)
        kept = losses.held(one if called == one.rater else replace(one, rater=called), layout.holds, out.lost)
        if kept is not None:
            if layout.group is not None and "each" not in layout.holds:
                key = layout.group(kept)
                seen[key] += 1
                out.lost["each"] += 2 if seen[key] == 2 else int(seen[key] > 2)  # the second tells of the first too
            out.rankings += 1
            out.raters[one.rater] += 1
            yield kept


def _rows(layout: Layout, rankings: Iterable[Ranking], out: Left, scratch: Path) -> Iterator[dict[str, Any]]:
    for group in _groups(layout, rankings, scratch):
        for row in layout.rows(group):
            out.rows += 1
            yield row


def _groups(layout: Layout, rankings: Iterable[Ranking], scratch: Path) -> Iterator[list[Ranking]]:
    if layout.group is None:
        yield from ([one] for one in rankings)
        return
    with closing(Groups(scratch / "groups.db")) as groups:
        for number, one in enumerate(rankings, start=1):
            groups.add(Part(layout.group(one), one.to_json()), 0, number)
        for contents, _ in groups:
            yield [Ranking.from_json(one) for one in contents]
