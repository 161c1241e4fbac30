"""Folders that exist only once they are whole: a manifest of sizes and SHA-256, renamed in last, verified on load."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from prefloop.errors import RequestError

MANIFEST = "manifest.json"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by the JSON of `value`: a reader sees the old file or the new one, never half."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
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
    """The manifest, after every file it lists was found with the size and checksum it had; else RequestError."""
    if not (folder / MANIFEST).is_file():
        raise RequestError(f"{folder}: it has no {MANIFEST}, so it was never finished; use another checkpoint")
    manifest = read_json(folder / MANIFEST)
    content = {key: value for key, value in manifest.items() if key != "sha256"} if isinstance(manifest, dict) else {}
    if not content or manifest.get("sha256") != _own_sha256(content):
        raise RequestError(f"{folder / MANIFEST}: altered since it was saved; use another checkpoint")
    for name, wanted in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise RequestError(f"{path}: missing, though the manifest lists it; use another checkpoint")
        if path.stat().st_size != wanted["size"] or file_sha256(path) != wanted["sha256"]:
            raise RequestError(f"{path}: altered since it was saved (its SHA-256 differs); use another checkpoint")
    return manifest


def _own_sha256(content: dict[str, Any]) -> str:
    """The manifest vouches for itself too: a changed byte in it is noticed like one in the weights."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def verifies(folder: Path) -> bool:
    try:
        verify(folder)
    except RequestError:
        return False
    return True


def steps(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [p for p in run.glob("checkpoint-*") if p.name[11:].isdigit() and (p / MANIFEST).is_file()]
    return sorted(found, key=lambda p: int(p.name[11:]))


def newest(run: Path) -> Path | None:
    """The newest checkpoint of a run that verifies."""
    return next((folder for folder in reversed(steps(run)) if verifies(folder)), None)


def rotate(run: Path, keep: int | None) -> None:
    """Delete the oldest checkpoints beyond `keep`, but never the newest that verifies.

    The manifest goes first, so that a half-deleted checkpoint does not exist any more.
    """
    if keep is None:
        return
    good = newest(run)
    for folder in steps(run)[: -max(keep, 1)]:
        if folder != good:
            (folder / MANIFEST).unlink()
            shutil.rmtree(folder)


def clear_unfinished(run: Path) -> None:
    """Remove what a killed save left: checkpoint folders without a manifest."""
    for folder in run.glob("checkpoint-*"):
        if not (folder / MANIFEST).is_file():
            shutil.rmtree(folder)
