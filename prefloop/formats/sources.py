"""What an import reads: files, folders and patterns, or a dataset's name; and the files that its ids refer to."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefloop.errors import RequestError
from prefloop.formats import files, tables
from prefloop.formats.row import BadRow, brief

HELD = 512 << 20  # bytes of a lookup file, which is held in memory
READABLE = (*files.SUFFIXES, ".json", ".gz", ".bz2", ".xz")


@dataclass(frozen=True)
class Source:
    """One file, or a dataset by its name. `rows` is given what wants to know how many bytes were read."""

    name: str
    path: Path | None
    rows: Callable[[Callable[[int], None]], files.Rows]

    @property
    def label(self) -> str:
        """Where its prompts say they are from."""
        return self.path.name if self.path else self.name

    def where(self, number: int) -> str:
        return f"{self.name}:{number}" if self.path else f"{self.name}: row {number}"


def expanded(paths: list[str]) -> list[Path]:
    """The files that are meant, each folder's and pattern's in sorted order."""
    meant: list[Path] = []
    for text in paths:
        path = Path(text)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in READABLE
                            and not any(part.startswith(".") for part in p.relative_to(path).parts))
            if not inside:
                raise RequestError(f"{text}: no file in this folder ends in {', '.join(READABLE)}")
            meant += inside
        elif not path.exists() and glob.has_magic(text):
            matched = sorted(Path(one) for one in glob.glob(text, recursive=True) if Path(one).is_file())
            if not matched:
                raise RequestError(f"{text}: no file matches this pattern")
            meant += matched
        else:
            meant.append(path)
    seen: dict[Path, Path] = {}
    for path in meant:
        real = path.resolve()
        if real in seen:
            raise RequestError(f"{path}: this file is meant twice (as {seen[real]} too); import.path should name it "
                               "once")
        seen[real] = path
    return meant


def from_files(paths: list[Path], how: files.Asked, plain_text: bool) -> list[Source]:
    def reader(path: Path) -> Callable[[Callable[[int], None]], files.Rows]:
        return lambda noted: files.rows(path, how, plain_text, noted)

    return [Source(str(path), path, reader(path)) for path in paths]


def from_dataset(name: str, subset: str | None, split: str | None, revision: str | None) -> list[Source]:
    return [Source(name, None, lambda noted: tables.dataset(name, subset, split, revision))]


@dataclass(frozen=True)
class Lookup:
    """Columns that hold ids of another file's rows are given these rows: `a` of {a: 7} becomes the row of id 7."""

    path: str
    columns: tuple[str, ...]
    table: dict[str, dict[str, Any]] = field(repr=False)

    def fill(self, values: dict[str, Any]) -> dict[str, Any]:
        filled = dict(values)
        for column in self.columns:
            if column not in values:
                raise BadRow(f"no column {column!r}", f"column {column!r} is missing (import.lookup)")
            if str(values[column]) not in self.table:
                raise BadRow(f"unknown {column!r}",
                             f"column {column!r}: {self.path} has no row {brief(values[column])}")
            filled[column] = self.table[str(values[column])]
        return filled


def lookup(asked: dict[str, Any], how: files.Asked) -> Lookup | None:
    """`import.lookup`: {path: the other file, key: its column of ids, columns: [ours that hold such ids]}."""
    if not asked:
        return None
    path, key, columns = (asked.get(name) for name in ("path", "key", "columns"))
    if (set(asked) != {"path", "key", "columns"} or not isinstance(path, str) or not isinstance(key, str)
            or not isinstance(columns, list) or not columns or not all(isinstance(one, str) for one in columns)):
        raise RequestError("import.lookup: expected {path: FILE, key: COLUMN, columns: [COLUMN, ...]}, got "
                           f"{brief(asked, 100)}")
    table: dict[str, dict[str, Any]] = {}
    size = 0
    for number, row in files.rows(Path(path), how):
        if isinstance(row, BadRow):
            raise RequestError(f"{path}:{number}: {row} (import.lookup)")
        if row.get(key) is None:
            raise RequestError(f"{path}:{number}: column {key!r} is missing (import.lookup)")
        if str(row[key]) in table:
            raise RequestError(f"{path}:{number}: id {brief(row[key])} stands twice (import.lookup)")
        table[str(row[key])] = row
        size += sum(sys.getsizeof(value) for value in row.values()) + 200
        if size > HELD:
            raise RequestError(f"{path}: import.lookup holds this file in memory, and it is over {HELD >> 20} MB")
    return Lookup(path, tuple(columns), table)


@contextmanager
def progress(sources: list[Source], what: str) -> Iterator[Callable[[Source, int], None]]:
    """A bar with the time left, on stderr, by the bytes read of all files."""
    from tqdm import tqdm

    sizes = [source.path.stat().st_size if source.path and source.path.is_file() else 0 for source in sources]
    before = {source.name: sum(sizes[:place]) for place, source in enumerate(sources)}
    with tqdm(total=sum(sizes) or None, desc=what, unit="B", unit_scale=True, mininterval=1, delay=2,
              disable=None) as bar:  # in a log it says nothing
        def noted(source: Source, read: int) -> None:
            bar.update(max(0, before[source.name] + read - bar.n))

        yield noted
