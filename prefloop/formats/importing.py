"""`prefloop import`: outside files become a snapshot, and every row is accounted for."""

from __future__ import annotations

import codecs
import sqlite3
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from prefloop import config
from prefloop.errors import RequestError, RunError
from prefloop.formats import files, snapshot, sources
from prefloop.formats.chats import SKIP
from prefloop.formats.readers import FORMATS
from prefloop.formats.reading import Reading
from prefloop.formats.report import Tally, printable, summary
from prefloop.formats.row import Rules
from prefloop.records import ROLES

CHOICES = {"bad_rows": ("refuse", "drop"), "duplicates": ("drop", "keep"), "near": ("keep", "drop", "ignore"),
           "turns": ("last", "all"), "cycles": ("drop", "pairs")}


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Rules):
    """`import:` says what to read, how, and where to put it. configs/import.yaml explains each key."""

    format: str
    out: str
    path: str | list[str] | None = None
    dataset: str | None = None
    subset: str | None = None
    dataset_split: str | None = None
    revision: str | None = None
    kind: str = "auto"
    encoding: str = "utf-8"
    between: str = "[-=]{3,}"
    where: dict[str, Any] = field(default_factory=dict)
    lookup: dict[str, Any] = field(default_factory=dict)
    bad_rows: str = "refuse"
    duplicates: str = "drop"
    near: str = "keep"

    def __post_init__(self) -> None:
        one_of("format", self.format, tuple(FORMATS))
        one_of("kind", self.kind, files.KINDS)
        for key, known in CHOICES.items():
            one_of(key, getattr(self, key), known)
        for ours in self.columns:
            one_of("columns", ours, FORMATS[self.format].columns)
        require_rules(self)
        if self.dimensions and self.format != "ratings":
            raise RequestError("import.dimensions: only answers that are rated (import.format=ratings) have these")
        self._check_what()

    def _check_what(self) -> None:
        if (self.path is None) == (self.dataset is None):
            raise RequestError("import.path: expected a file or a list of files, or else import.dataset, the name of "
                               "a dataset: one of the two")
        if self.path is not None and (not self.paths or not all(isinstance(p, str) and p for p in self.paths)):
            raise RequestError(f"import.path: expected a file or a list of files, got {self.path!r}")
        require_encoding(self.encoding)

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path or []

    def sources(self) -> list[sources.Source]:
        if self.dataset is not None:
            return sources.from_dataset(self.dataset, self.subset, self.dataset_split, self.revision)
        return sources.from_files(sources.expanded(self.paths), self.files(), self.format == "log")

    def files(self) -> files.Asked:
        return files.Asked(self.kind, self.encoding, self.between)


def require_encoding(name: str) -> None:
    try:
        codecs.lookup(name)
    except LookupError:
        raise RequestError(f"import.encoding: {name!r} is not known; known are utf-8, utf-16, cp1252, latin-1, and "
                           "others") from None


def require_rules(rules: Rules) -> None:
    """What can be seen to be wrong with them before a file is read."""
    for key in ("columns", "raters", "dimensions"):
        for ours, theirs in getattr(rules, key).items():
            if not (isinstance(theirs, str) or (theirs is None and key == "columns")):
                raise RequestError(f"import.{key}: {ours!r} should name a column of the file, got {theirs!r}")
    _valued("winners", rules.winners, ("a", "b", "tie", "bad"))
    _valued("roles", rules.roles, (*ROLES, SKIP))
    _valued("speakers", rules.speakers, (*ROLES, SKIP))
    if rules.opens is not None:
        one_of("opens", rules.opens, ROLES)
    weights = rules.scores if isinstance(rules.scores, dict) else {}
    if isinstance(rules.scores, dict) and not any(weights.values()):
        raise RequestError("import.scores: expected weights that are not all 0, such as {helpfulness: 1}")
    for path, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise RequestError(f"import.scores: {path!r} should have a number for its weight, got {weight!r}")
    # YAML reads the 1 of {1: a} as a number; rows hold it as a number or a text.
    object.__setattr__(rules, "winners", {str(name): told for name, told in rules.winners.items()})


def one_of(key: str, value: Any, known: tuple[str, ...], section: str = "import") -> None:
    if value not in known:
        close = get_close_matches(str(value), known, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise RequestError(f"{section}.{key}: {value!r} is not known; {hint}known: {', '.join(known)}")


def _valued(key: str, given: dict[str, str], known: tuple[str, ...]) -> None:
    for value in given.values():
        one_of(key, value, known)


def sections() -> config.Sections:
    return {"import": config.Section(ImportConfig)}


def main(asked: config.Asked) -> None:
    (ask,) = config.build(asked, sections())
    folder, tally = Path(ask.out), Tally()
    snapshot.require_new(folder)
    reading = Reading(FORMATS[ask.format], ask, ask.sources(), sources.lookup(ask.lookup, ask.files()),
                      ask.where, ask.bad_rows == "refuse", ask.duplicates == "drop", ask.near != "ignore")
    # Without `out`: the same rows under another name are the same snapshot.
    source = {"command": "import"} | {key: value for key, value in asdict(ask).items() if key != "out"}
    try:
        with snapshot.beside(folder.with_name(f"{folder.name}.scratch")) as scratch:
            unwanted = reading.near_repeats(scratch) if ask.near == "drop" else None
            found = reading.records(tally, scratch, source, unwanted)
            ranks = reading.form.ranks
            snapshot.write(folder, found if ranks else (), () if ranks else found, source=source,
                           dropped=tally.dropped)
    except OSError as error:
        raise RunError(f"{folder}: cannot write this snapshot: {error.strerror or error}") from error
    except sqlite3.Error as error:
        raise RunError(f"{folder}: cannot write this snapshot: {error}") from error
    manifest, checksum = snapshot.verified(folder)
    names = ", ".join(one.name for one in reading.sources[:3]) + f" and {len(reading.sources) - 3} files more" * (
        len(reading.sources) > 3)
    print(summary(tally, names, ranks, ask.duplicates, manifest["splits"]))
    print(printable(f"wrote {folder} (checksum {checksum[:16]})"))
