"""Folders that exist only once they are whole: a manifest of sizes and SHA-256, renamed in last, verified on load."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from prefloop.errors import RequestError, RunError, disk_is_full

MANIFEST = "manifest.json"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A write that fails inside is told with the file's name: errors of a full disk bring none."""
    try:
        yield
    except OSError as error:
        full = "; make room on this disk" if disk_is_full(error) else ""
        raise RunError(f"{path}: cannot be written: {error.strerror or error}{full}") from error


def require_place(path: Path, key: str) -> None:
    """Whether a file can be made at `path`: said before the work whose result goes there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise RequestError(f"{key}: {path} is a folder, or in one that cannot be written to")
    except OSError as error:
        raise RequestError(f"{key}: no file can be made at {path}: {error.strerror}") from None


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A draft that becomes `path` once it is whole and on disk: a reader sees the old file or the new, never half."""
    draft = path.with_name(path.name + ".tmp")
    with naming(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            sync(path.parent)
        except BaseException:
            if draft.is_file():
                draft.unlink()
            raise


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: cannot be read: {error}") from None


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(folder: Path, **facts: Any) -> str:
    """Sync every file, then rename the manifest in. Returns its checksum, which names the whole content."""
    for draft in folder.rglob("*.tmp"):  # of a save into this very folder that was killed
        draft.unlink()
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        sync(path)
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": file_sha256(path)}
    for inner in sorted(p for p in folder.rglob("*") if p.is_dir()):
        sync(inner)
    content = {**facts, "files": files}
    write_json(folder / MANIFEST, {**content, "sha256": _own_sha256(content)})
    sync(folder.parent)
    return file_sha256(folder / MANIFEST)


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, after its files and no others were found, with the size and checksum they had; else RequestError.

    A file that it does not list may have been put there to be loaded beside the weights. Hidden ones never are.
    """
    if not (folder / MANIFEST).is_file():
        raise RequestError(f"{folder}: it has no {MANIFEST}, so it was never finished; use another checkpoint")
    manifest = read_json(folder / MANIFEST)
    content = {key: value for key, value in manifest.items() if key != "sha256"} if isinstance(manifest, dict) else {}
    listed = content.get("files")
    if not isinstance(listed, dict) or manifest.get("sha256") != _own_sha256(content):
        raise RequestError(f"{folder / MANIFEST}: altered since it was saved; use another checkpoint")
    present = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")
               if path.is_symlink() or not path.is_dir()}
    for name, wanted in listed.items():
        path = present.pop(name, None)
        if path is None:
            raise RequestError(f"{folder / name}: missing, though the manifest lists it; use another checkpoint")
        if path.is_symlink() or not path.is_file():
            raise RequestError(f"{path}: not a plain file but a link or a device; use another checkpoint")
        if wanted != {"size": path.stat().st_size, "sha256": file_sha256(path)}:
            raise RequestError(f"{path}: altered since it was saved (its SHA-256 differs); use another checkpoint")
    for name, path in present.items():
        if name != MANIFEST and not path.name.startswith("."):
            raise RequestError(f"{path}: put there after the checkpoint was saved (the manifest does not list it); "
                               "move it elsewhere")
    return manifest


def _own_sha256(content: dict[str, Any]) -> str:
    """The manifest vouches for itself too: a changed byte in it is noticed like one in the weights."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def steps(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if p.name[11:].isdigit() and (p / MANIFEST).is_file()]
    return sorted(found, key=lambda p: int(p.name[11:]))


def newest(run: Path, passed_over: Callable[[RequestError], None] = lambda error: None,
           before: int | None = None) -> Path | None:
    """The newest checkpoint of a run (`before` a step) that verifies; `passed_over` is told why a newer one does not.
    """
    for folder in reversed([one for one in steps(run) if before is None or int(one.name[11:]) < before]):
        try:
            verify(folder)
        except RequestError as error:
            passed_over(error)
            continue
        return folder
    return None


def rotate(run: Path, keep: int | None, spared: Path | None = None) -> None:
    """Delete the oldest checkpoints beyond `keep`, but never the newest that verifies, nor the one `spared`."""
    if keep is None:
        return
    good = newest(run)
    for folder in steps(run)[: -max(keep, 1)]:
        if folder not in (good, spared):
            discard(folder)


def discard(folder: Path) -> None:
    """Delete a checkpoint. Its manifest goes first, so that one half deleted does not exist any more."""
    if folder.is_dir():
        (folder / MANIFEST).unlink(missing_ok=True)
        sync(folder)
        shutil.rmtree(folder)


def clear_unfinished(run: Path) -> list[Path]:
    """Remove what a save that was cut off left: folders of checkpoints, or final/, without a manifest."""
    saved = [folder for folder in run.glob("checkpoint-*") if folder.name[11:].isdigit()]
    cut_off = [folder for folder in [*saved, *run.glob("final")] if not (folder / MANIFEST).is_file()]
    for folder in cut_off:
        discard(folder)
    return cut_off
