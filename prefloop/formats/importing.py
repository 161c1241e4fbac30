"""`prefloop import`: outside files become a snapshot, and every row is accounted for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from prefloop import config
from prefloop.errors import RequestError
from prefloop.formats import files, snapshot
from prefloop.formats.readers import FORMATS, Format
from prefloop.formats.row import BadRow, Row
from prefloop.records import Demonstration, Ranking

DUPLICATE = "exact duplicate"


@dataclass(frozen=True)
class ImportConfig:
    """`import:` says what to read, how, and where to put it. configs/import.yaml explains each key."""

    path: str | list[str]
    format: str
    out: str
    columns: dict[str, str] = field(default_factory=dict)
    rater: str | None = None
    bad_rows: str = "refuse"
    duplicates: str = "drop"

    def __post_init__(self) -> None:
        _one_of("format", self.format, tuple(FORMATS))
        _one_of("bad_rows", self.bad_rows, ("refuse", "drop"))
        _one_of("duplicates", self.duplicates, ("drop", "keep"))
        for ours, theirs in self.columns.items():
            _one_of("columns", ours, FORMATS[self.format].columns)
            if not isinstance(theirs, str):
                raise RequestError(f"import.columns: {ours!r} should name a column of the file, got {theirs!r}")
        if not self.paths or not all(isinstance(path, str) and path for path in self.paths):
            raise RequestError(f"import.path: expected a file or a list of files, got {self.path!r}")

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path


def _one_of(key: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        near = get_close_matches(str(value), known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RequestError(f"import.{key}: {value!r} is not known; {hint}known: {', '.join(known)}")


@dataclass
class Tally:
    """What became of the rows, so far."""

    rows: int = 0
    used: int = 0
    pairs: int = 0
    duplicates: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set, repr=False)

    def drop(self, reason: str, detail: str) -> None:
        self.dropped[reason] += 1
        self.first.setdefault(reason, detail)

    def repeats(self, record: Ranking | Demonstration) -> bool:
        """Whether a record said all of this before; where its file says it is from does not count."""
        said = record.to_json()
        del said["prompt"]["source"]
        mark = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()[:16]
        known = mark in self.seen
        self.seen.add(mark)
        self.duplicates += known
        return known


def sections() -> config.Sections:
    return {"import": config.Section(ImportConfig)}


def main(asked: config.Asked) -> None:
    (ask,) = config.build(asked, sections())
    how, tally = FORMATS[ask.format], Tally()
    # Without `out`: the same rows under another name are the same snapshot.
    source = {"command": "import"} | {key: value for key, value in asdict(ask).items() if key != "out"}
    found = records(ask, how, tally, source)
    folder = snapshot.write(Path(ask.out), found if how.ranks else (), () if how.ranks else found,
                            source=source, dropped=tally.dropped)
    print(summary(ask, how, tally, folder))


def records(ask: ImportConfig, how: Format, tally: Tally, source: dict[str, Any]) -> Iterator[Any]:
    """The rows of all files as records, one at a time. `tally` and `source` are complete once it ends."""
    for path in map(Path, ask.paths):
        for number, line in files.lines(path):
            tally.rows += 1
            where = f"{path}:{number}"
            try:
                record = read_row(line, how, ask, path.name)
            except RequestError as error:
                if ask.bad_rows == "refuse":
                    raise RequestError(f"{_told(where, error)}; to leave such rows out: "
                                       "import.bad_rows=drop") from None
                tally.drop(_reason(error), _told(where, error))
                continue
            if tally.repeats(record) and ask.duplicates == "drop":
                tally.drop(DUPLICATE, f"{where}: an earlier row says the same")
                continue
            tally.used += 1
            tally.pairs += sum(1 for _ in record.pairs()) if isinstance(record, Ranking) else 0
            yield record
    if not tally.used:
        reason, count = tally.dropped.most_common(1)[0]
        raise RequestError(f"{', '.join(ask.paths)}: no row can be used; {count} of {tally.rows}: {reason}, "
                           f"first {tally.first[reason]}")
    source.update(rows=tally.rows, used=tally.used, duplicates=tally.duplicates,
                  sha256={path: files.sha256(Path(path)) for path in ask.paths})


def read_row(line: bytes, how: Format, ask: ImportConfig, source: str) -> Ranking | Demonstration:
    return how.read(Row(files.parse(line), ask.columns, ask.rater, source))


def _told(where: str, error: RequestError) -> str:
    """One line that a terminal can show, whatever the row held."""
    text = str(error)
    return f"{where}: {text if len(text) <= 300 else text[:297] + '...'}"


def _reason(error: RequestError) -> str:
    """A reader's own reason; for a record's rule, the field that broke it."""
    return error.reason if isinstance(error, BadRow) else f"bad {str(error).partition(':')[0].partition('[')[0]}"


def summary(ask: ImportConfig, how: Format, tally: Tally, folder: Path) -> str:
    lines = [f"{', '.join(ask.paths)}: {tally.rows} rows, {tally.used} used, {tally.dropped.total()} dropped"]
    for reason, count in tally.dropped.most_common():
        lines.append(f"  dropped {count}: {reason} (first {tally.first[reason]})")
    if ask.duplicates == "keep":
        lines.append(f"  kept {tally.duplicates}: {DUPLICATE}")
    manifest, checksum = snapshot.verified(folder)
    counts, splits = manifest["counts"], manifest["splits"]
    what = f"{tally.used} rankings, {tally.pairs} pairs" if how.ranks else f"{tally.used} demonstrations"
    lines.append(f"{what}; {counts['prompts']} prompts: {splits['train']} train, {splits['validation']} validation, "
                 f"{splits['test']} test")
    lines.append(f"wrote {folder} (checksum {checksum[:16]})")
    return "\n".join(lines)
