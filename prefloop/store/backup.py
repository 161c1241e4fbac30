"""A store's copy to keep elsewhere, with a manifest that vouches for it, and the way back.

    FILE                  one moment of the store, whole, as one file
    FILE.manifest.json    its size, sha256 and schema, and the rows of each table
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from prefloop import checkpoints
from prefloop.errors import RequestError, RunError
from prefloop.store import migrating, opening, schema
from prefloop.store.copying import copied, inspected


@dataclass(frozen=True)
class Backup:
    """What a manifest says."""

    schema: str
    size: int
    sha256: str
    rows: dict[str, int]

    @property
    def answers(self) -> int:
        return self.rows["answers"]


def backup(store: Path, out: Path) -> Backup:
    """Copies a store, also while a server writes to it. What has the name already stays until the copy is whole."""
    if not store.is_file():
        raise RequestError(f"{store}: there is no store here")
    if out.is_dir() or out.resolve() == store.resolve():
        raise RequestError(f"{out}: name a new file for the backup")
    if not out.parent.is_dir():
        raise RequestError(f"{out.parent}: there is no such folder")
    version = _schema(store)
    rows = copied(store, out)
    made = Backup(version, out.stat().st_size, checkpoints.file_sha256(out), rows)
    checkpoints.write_json(manifest_of(out), asdict(made))
    return made


def verified(path: Path) -> Backup:
    """A backup's manifest, once the file was found to be what it says, and a store that this prefloop reads."""
    try:
        told = Backup(**json.loads(manifest_of(path).read_bytes()))
    except OSError as error:
        raise RequestError(f"{manifest_of(path)}: cannot be read: {error.strerror}; `prefloop feedback backup` writes "
                           "it beside each backup") from None
    except (ValueError, TypeError, RecursionError):
        raise RequestError(f"{manifest_of(path)}: not a manifest of a backup") from None
    if not path.is_file():
        raise RequestError(f"{path}: there is no backup here")
    if (path.stat().st_size, checkpoints.file_sha256(path)) != (told.size, told.sha256):
        raise RequestError(f"{path}: it is not what its manifest says: it was damaged or changed after the backup")
    if inspected(path) != told.rows or _schema(path) != told.schema:
        raise RequestError(f"{path}: its rows are not those that its manifest counts")
    return told


def restore(backup: Path, store: Path, overwrite: bool = False) -> Backup:
    """Puts a verified backup in a store's place. With `overwrite`, the store that is there is moved aside."""
    told = verified(backup)
    if backup.resolve() == store.resolve():
        raise RequestError(f"{store}: this is the backup itself; name another file for the store")
    lock = opening.locked(store)  # nobody writes to it meanwhile
    draft = store.with_name(f"{store.name}.restoring")
    try:
        if store.exists() and not overwrite:
            raise RequestError(f"{store}: there is a store here; restore.overwrite=true moves it aside and goes on")
        draft.unlink(missing_ok=True)
        draft.touch(0o600)
        shutil.copyfile(backup, draft)
        checkpoints.sync(draft)
        if checkpoints.file_sha256(draft) != told.sha256:
            raise RunError(f"{draft}: the copy differs from the backup; look after this disk")
        _move_aside(store)
        draft.rename(store)
        checkpoints.sync(store.parent)
    except OSError as error:
        raise RunError(f"{store}: it could not be restored: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
        lock.close()
    return told


def manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.manifest.json")


def _move_aside(store: Path) -> None:
    """With its log, which SQLite would otherwise take for the restored store's own."""
    number = 1
    while (aside := store.with_name(f"{store.name}.replaced-{number}")).exists():
        number += 1
    for end in ("-wal", "-shm", ""):
        own = store.with_name(store.name + end)
        if own.exists():
            own.rename(aside.with_name(aside.name + end))


def _schema(path: Path) -> str:
    """The schema of a store; an error if this prefloop cannot read it."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            row = db.execute("select value from meta where name = 'schema'").fetchone()
        finally:
            db.close()
    except sqlite3.Error as error:
        raise RequestError(f"{path}: this is not a prefloop store: {error}") from None
    if row is None or row[0] not in (schema.VERSION, *migrating.OLDER):
        raise RequestError(f"{path}: its schema is version {row and row[0]}; this prefloop reads {schema.VERSION}")
    return row[0]
