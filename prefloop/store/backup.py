"""A store's copy to keep elsewhere (copying.py says how it looks), and the way back, into a file or a database."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import MetaData, select
from sqlalchemy.exc import DatabaseError, DBAPIError

from prefloop import checkpoints
from prefloop.errors import RequestError, RunError
from prefloop.store import migrating, schema
from prefloop.store.copying import Backup, backed_up, filled, inspected, manifest_of
from prefloop.store.opening import Place, SqliteFile
from prefloop.store.postgres import PostgresDatabase, said


def backup(place: Place, out: Path) -> Backup:
    """Copies a store, also while servers write to it."""
    if not place.exists():
        raise RequestError(f"{place}: there is no store here")
    if any(one.exists() or one.is_symlink() for one in (out, manifest_of(out))):
        raise RequestError(f"{out}: it exists already, or its manifest does; name a new file for the backup")
    if isinstance(place, SqliteFile) and out.parent.resolve() == place.path.parent.resolve() and out.name.startswith(
            place.name + "-"):
        raise RequestError(f"{out}: SQLite could take it for a part of {place}; choose another name")
    version = _schema(place)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"{out.parent}: this folder cannot be made: {error.strerror}; name another place for the "
                           "backup") from None
    return backed_up(place, version, out)


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
    if inspected(path) != told.rows or _schema(SqliteFile(path)) != told.schema:
        raise RequestError(f"{path}: its rows are not those that its manifest counts")
    return told


def restore(backup: Path, place: Place, overwrite: bool = False) -> Backup:
    """Puts a verified backup in a store's place. With `overwrite`, the store that is there is moved aside: a file
    beside it, a database as a backup in the working directory.
    """
    told = verified(backup)
    if isinstance(place, SqliteFile):
        _into_file(backup, told, place.path, overwrite)
    else:
        _into_database(backup, told, place, overwrite)
    return told


def _into_file(backup: Path, told: Backup, store: Path, overwrite: bool) -> None:
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


def _into_database(backup: Path, told: Backup, place: PostgresDatabase, overwrite: bool) -> None:
    """In one transaction: whoever is stopped in the middle leaves what was there."""
    with place.alone():
        there = place.exists()
        if there and not overwrite:
            raise RequestError(f"{place}: there is a store here; restore.overwrite=true moves it aside and goes on")
        if there:
            aside = _free(Path(f"{place.name}.replaced"))
            backed_up(place, _schema(place), aside)
        engine = place.maker()
        try:
            with todays(backup, told.schema) as path, engine.begin() as db:
                before = MetaData()
                before.reflect(db)
                before.drop_all(db)
                schema.tables.create_all(db, checkfirst=False)
                filled(db, path)
        except DBAPIError as error:
            raise RunError(f"{place}: it could not be restored, and is as it was: {said(error)}") from None
        finally:
            engine.dispose()


@contextmanager
def todays(backup: Path, version: str) -> Iterator[Path]:
    """The backup, or a copy of it that was brought to today's schema."""
    if version == schema.VERSION:
        yield backup
        return
    with tempfile.TemporaryDirectory(prefix="prefloop-") as folder:
        path = Path(folder) / "store.db"
        shutil.copyfile(backup, path)
        migrating.migrate(SqliteFile(path), version)
        inspected(path)
        yield path


def _free(path: Path) -> Path:
    """A name with a number that nothing has."""
    number = 1
    while (found := path.with_name(f"{path.name}-{number}.db")).exists():
        number += 1
    return found


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


def _schema(place: Place) -> str:
    """The schema of a store; an error if this prefloop cannot read it."""
    engine = place.reader()
    try:
        with engine.begin() as db:
            found = db.scalar(select(schema.meta.c.value).where(schema.meta.c.name == "schema"))
    except DatabaseError as error:
        raise RequestError(f"{place}: this is not a prefloop store: {said(error)}") from None
    finally:
        engine.dispose()
    if found not in (schema.VERSION, *migrating.OLDER):
        raise RequestError(f"{place}: its schema is version {found}; this prefloop reads {schema.VERSION}")
    return found
