"""A snapshot: an immutable folder of rankings, demonstrations and prompts that training reads.

    NAME/rankings.jsonl, demonstrations.jsonl, prompts.jsonl    one record a line, as its `to_json`
         manifest.json                                          sizes and sha256 of the three, counts, what was dropped

It is written beside its name and renamed into place, so a snapshot either is whole or is not there; its checksum,
that of the manifest, vouches for every byte. The same records and source give the same checksum: no time is kept.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar
from uuid import uuid4

from prefloop import checkpoints
from prefloop.errors import RequestError, RunError
from prefloop.formats.digests import Digests
from prefloop.records import SPLITS, Demonstration, Pair, Prompt, Ranking

RANKINGS, DEMONSTRATIONS, PROMPTS = "rankings.jsonl", "demonstrations.jsonl", "prompts.jsonl"
MANIFEST = "manifest.json"
FILES = (RANKINGS, DEMONSTRATIONS, PROMPTS)
ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


class Record(Protocol):
    def to_json(self) -> dict[str, Any]: ...


R = TypeVar("R")


@dataclass(frozen=True)
class Snapshot:
    """What a folder held when it was read and verified. `split` is 'train', 'validation', 'test', or None for all."""

    path: Path
    checksum: str
    rankings: tuple[Ranking, ...]
    demonstrations: tuple[Demonstration, ...]
    prompts: tuple[Prompt, ...]

    def pairs(self, split: str | None = None) -> list[Pair]:
        return [pair for ranking in self.rankings if _in(split, ranking.prompt) for pair in ranking.pairs()]

    def rankings_of(self, split: str | None = None) -> list[Ranking]:
        return [one for one in self.rankings if _in(split, one.prompt)]

    def lineage(self) -> dict[str, str]:
        return {"path": str(self.path), "checksum": self.checksum}

    def demonstrations_of(self, split: str | None = None) -> list[Demonstration]:
        return [one for one in self.demonstrations if _in(split, one.prompt)]

    def prompts_of(self, split: str | None = None) -> list[Prompt]:
        return [one for one in self.prompts if _in(split, one)]


def _in(split: str | None, prompt: Prompt) -> bool:
    if split is not None and split not in SPLITS:
        raise RequestError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    return split is None or prompt.split == split


def write(folder: Path | str, rankings: Iterable[Ranking] = (), demonstrations: Iterable[Demonstration] = (),
          prompts: Iterable[Prompt] = (), source: str | Mapping[str, Any] = "",
          dropped: Mapping[str, int] | None = None) -> Path:
    """Write a snapshot and return its folder.

    The records are taken one by one and may come from generators, which may count into `dropped` as they go: it is
    read last. Every prompt of a ranking or a demonstration is added to `prompts`, once.
    """
    folder = Path(folder)
    with _renamed_into(folder) as draft:
        seen = Digests()
        splits: dict[str, int] = dict.fromkeys(SPLITS, 0)
        counts: dict[str, int] = {}
        with (draft / PROMPTS).open("wb") as prompts_file:
            def noted(prompt: Prompt) -> None:
                if seen.add(int(prompt.id, 16) - 2**63):
                    splits[prompt.split] += 1
                    prompts_file.write(_line(prompt, f"{PROMPTS}:{len(seen)}"))

            for name, records in ((RANKINGS, rankings), (DEMONSTRATIONS, demonstrations)):
                counts[Path(name).stem] = _write_lines(draft / name, records, noted)
            for prompt in prompts:
                noted(prompt)
            _sync(prompts_file)
        counts["prompts"] = len(seen)
        manifest = {"files": {name: _sealed(draft / name) for name in FILES}, "counts": counts,
                    "splits": splits,
                    "dropped": dict(dropped or {}), "source": source if isinstance(source, str) else dict(source)}
        with (draft / MANIFEST).open("wb") as file:
            file.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
            _sync(file)
    return folder


@contextmanager
def _renamed_into(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` that takes its name if the work in it succeeds, and goes away if it does not."""
    require_new(folder)
    try:
        with beside(folder) as draft:
            yield draft
            checkpoints.sync(draft)
            draft.rename(folder)
            checkpoints.sync(folder.parent)
    except OSError as error:
        raise RunError(f"{folder}: cannot write this snapshot: {error.strerror or error}") from error


def require_new(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise RequestError(f"{folder}: it exists already, and a snapshot is never changed; choose another name")


@contextmanager
def beside(folder: Path) -> Iterator[Path]:
    """A hidden folder beside `folder` for as long as the work lasts. Those that killed work left behind go first.

    A lock says that its process lives: the kernel lets go of it however the process ends.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.partial"):
        with suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
    draft = folder.parent / f".{folder.name}.{uuid4().hex[:8]}.partial"
    new = draft.with_suffix(".new")  # no one takes it for left behind before it is locked
    new.mkdir()
    with _locked(new):
        try:
            new.rename(draft)
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _write_lines(path: Path, records: Iterable[Ranking] | Iterable[Demonstration],
                 noted: Callable[[Prompt], None]) -> int:
    count = 0
    with path.open("wb") as file:
        for count, record in enumerate(records, start=1):
            file.write(_line(record, f"{path.name}:{count}"))
            noted(record.prompt)
        _sync(file)
    return count


def _line(record: Record, where: str) -> bytes:
    try:
        return ENCODER.encode(record.to_json()).encode("utf-8") + b"\n"
    except (ValueError, TypeError) as error:
        raise RequestError(f"{where}: this record cannot be written: {error}") from None


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sealed(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": checkpoints.file_sha256(path)}


def read(folder: Path | str) -> Snapshot:
    """The snapshot in `folder`, after every file was found to be what the manifest says."""
    folder = Path(folder)
    _, checksum = verified(folder)
    return Snapshot(folder, checksum, tuple(_records(folder / RANKINGS, Ranking.from_json)),
                    tuple(_records(folder / DEMONSTRATIONS, Demonstration.from_json)),
                    tuple(_records(folder / PROMPTS, Prompt.from_json)))


def read_prompts(folder: Path) -> tuple[tuple[Prompt, ...], str]:
    """The prompts of the snapshot in `folder` and its checksum, without its rankings, which may be very many."""
    _, checksum = verified(folder)
    return tuple(_records(folder / PROMPTS, Prompt.from_json)), checksum


def verified(folder: Path) -> tuple[dict[str, Any], str]:
    """The manifest of `folder`, after every file was found to be what it says, and the snapshot's checksum."""
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise RequestError(f"{folder}: not a snapshot: cannot read {MANIFEST}: {error.strerror or error}; "
                           "`prefloop import` and `prefloop snapshot` make one") from None
    try:
        manifest = json.loads(content)
        sealed = {name: manifest["files"][name] for name in FILES}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RequestError(f"{folder / MANIFEST}: damaged: it is not a snapshot's manifest") from None
    for name in FILES:
        try:
            found = _sealed(folder / name)
        except OSError as error:
            raise RequestError(f"{folder / name}: the manifest names this file, but it cannot be read: "
                               f"{error.strerror or error}") from None
        if found != sealed[name]:
            raise RequestError(f"{folder / name}: it changed since the snapshot was written (its size or checksum "
                               "differs from the manifest's); make the snapshot again")
    return manifest, hashlib.sha256(content).hexdigest()


def _records(path: Path, parse: Callable[[dict[str, Any]], R]) -> Iterator[R]:
    """One record a line. Lines end at \\n alone: U+2028 and its like are text."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield parse(json.loads(line))
            except RequestError as error:
                raise RequestError(f"{path}:{number}: {error}") from None
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise RequestError(f"{path}:{number}: not a record of a snapshot: "
                                   f"{type(error).__name__}: {error}") from None
