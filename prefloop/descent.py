"""Which runs learned from a snapshot, by themselves or through the runs that they were made from."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from prefloop import checkpoints, runs
from prefloop.errors import RequestError
from prefloop.runs import Run


def descendants(root: Path, checksums: Collection[str]) -> list[Run]:
    """The runs under `root` that have one of these checksums among their parents, or such a run; ordered by path.

    Parents are known by their checksums, wherever they lie now, and by their paths.
    """
    known, found = set(checksums), dict[Path, Run]()
    every = list(_every(root))
    while new := [run for run in every if run.path not in found and _learned(run, known, found)]:
        for run in new:
            found[run.path] = run
            known |= _checksums(run)
    return [found[path] for path in sorted(found)]


def _every(root: Path) -> Iterator[Run]:
    for record in root.rglob("run.json"):
        try:
            yield runs.load(record.parent)
        except RequestError as error:
            print(f"passed over {error}")


def _learned(run: Run, known: set[str], found: dict[Path, Run]) -> bool:
    homes = {path.resolve() for path in found}
    for parent in run.record.get("parents", {}).values():
        if isinstance(parent, dict):
            path, checksum = parent.get("path"), parent.get("checksum")
            if checksum in known or (isinstance(path, str) and not homes.isdisjoint(_above(Path(path)))):
                return True
    return False


def _above(path: Path) -> set[Path]:
    whole = path.resolve()
    return {whole, *whole.parents}


def _checksums(run: Run) -> set[Any]:
    """What others know a run by: its weights, or its files."""
    files = run.record.get("files")
    own = [*run.path.glob(f"checkpoint-*/{checkpoints.MANIFEST}"), *run.path.glob(f"final/{checkpoints.MANIFEST}")]
    return {checkpoints.file_sha256(one) for one in own} | set(files.values() if isinstance(files, dict) else ())
