"""A store's copy to keep elsewhere, with a manifest that vouches for it, and the way back.

    FILE                  one moment of the store, whole, as one file
    FILE.manifest.json    its size, sha256 and schema, and the rows of each table
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from prefloop import checkpoints
from prefloop.errors import RequestError, RunError
from prefloop.store import migrating, schema
from prefloop.store.copying import copied, inspected
from prefloop.store.opening import SqliteFile


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
    """Copies a store, also while a server writes to it."""
    if not store.is_file():
        raise RequestError(f"{store}: there is no store here")
    if any(one.exists() or one.is_symlink() for one in (out, manifest_of(out))):
        raise RequestError(f"{out}: it exists already, or its manifest does; name a new file for the backup")
    if out.parent.resolve() == store.parent.resolve() and out.name.startswith(store.name + "-"):
        raise RequestError(f"{out}: SQLite could take it for a part of {store}; choose another name")
    version = _schema(store)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{out.parent}: this folder cannot be made: {error.strerror}; name another place for the "
                           "backup") from None
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
    lock = SqliteFile(store).alone()  # nobody writes to it meanwhile
    draft, aside = store.with_name(f"{store.name}.restoring"), None
    try:
        if store.exists() and not overwrite:
            raise RequestError(f"{store}: there is a store here; restore.overwrite=true moves it aside and goes on")
        draft.unlink(missing_ok=True)
        draft.touch(0o600)
        shutil.copyfile(backup, draft)
        checkpoints.sync(draft)
        if checkpoints.file_sha256(draft) != told.sha256:
            raise RunError(f"{draft}: the copy differs from the backup; look after this disk")
        aside = _kept_aside(store)
        draft.rename(store)
        checkpoints.sync(store.parent)
    except OSError as error:
        raise RunError(f"{store}: it could not be restored: {error.strerror}{_where(aside)}") from None
    finally:
        draft.unlink(missing_ok=True)
        lock.close()
    return told


def manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.manifest.json")


def _kept_aside(store: Path) -> Path | None:
    """The store that is there under another name as well, and without a log, which SQLite would otherwise take for the
    restored store's own. Until the rename that follows, the store stays in its place.
    """
    if not store.exists():
        for end in ("-wal", "-shm"):
            store.with_name(store.name + end).unlink(missing_ok=True)  # a log without a store says nothing
        return None
    number = 1
    while (aside := store.with_name(f"{store.name}.replaced-{number}")).exists():
        number += 1
    _settle(store, aside)
    os.link(store, aside)
    return aside


def _settle(store: Path, aside: Path) -> None:
    """Writes what is in the log into the store. A store too damaged for that has its log beside its other name."""
    log, kept = (one.with_name(f"{one.name}-wal") for one in (store, aside))
    if log.exists():
        os.link(log, kept)
    try:
        db = sqlite3.connect(store, timeout=5)
        try:
            db.execute("pragma wal_checkpoint(truncate)").fetchone()
        finally:
            db.close()  # the last to close removes the log
    except sqlite3.DatabaseError:
        log.unlink(missing_ok=True)
        store.with_name(f"{store.name}-shm").unlink(missing_ok=True)
        return
    kept.unlink(missing_ok=True)
    if log.exists():
        raise RequestError(f"{store}: another program reads this store; close it first")


def _where(aside: Path | None) -> str:
    return f"; the store that was there is also {aside}" if aside else ""


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
