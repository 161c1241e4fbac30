"""A whole copy of a store as a file, taken while others write to it, and looked at before anybody relies on it.

    FILE                  one moment of the store, whole, as one SQLite file, whatever database the store is in
    FILE.manifest.json    its size, sha256 and schema, and the rows of each table
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from sqlalchemy import Connection, MetaData, delete, insert, select
from sqlalchemy.exc import DBAPIError

from prefloop import checkpoints
from prefloop.errors import RequestError, RunError
from prefloop.store import migrations, schema
from prefloop.store.opening import Place, SqliteFile
from prefloop.store.postgres import PostgresDatabase, said

PART = 1000  # rows that are carried over at once


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


def manifest_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.manifest.json")


def backed_up(place: Place, version: str, out: Path) -> Backup:
    """Copies a store of this schema, and writes the manifest that vouches for the copy."""
    rows = copied(place, version, out)
    made = Backup(version, out.stat().st_size, checkpoints.file_sha256(out), rows)
    checkpoints.write_json(manifest_of(out), asdict(made))
    return made


def copied(place: Place, version: str, out: Path) -> dict[str, int]:
    """Copies a store of this schema to `out`, which takes its name once it is whole and on disk; the rows of each
    table.
    """
    if isinstance(place, SqliteFile):
        return _vacuumed(place.path, out)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            made = SqliteFile(Path(folder) / "store.db")
            _drain(place, version, made)
            return _vacuumed(made.path, out)
    except (OSError, DBAPIError) as error:
        told = said(error) if isinstance(error, DBAPIError) else error.strerror
        raise RunError(f"{out}: cannot copy {place} here: {told}") from None


def _drain(place: PostgresDatabase, version: str, made: SqliteFile) -> None:
    """All rows of one moment, in a new file that earlier steps of the schema make: it may not be today's."""
    reader, writer = place.reader(), made.maker()
    try:
        with reader.begin() as source, writer.begin() as target:
            migrations.upgrade(target, None, version)
            own, new = MetaData(), MetaData()
            own.reflect(source)
            new.reflect(target)
            for table in reversed(new.sorted_tables):
                target.execute(delete(table))
            for table in own.sorted_tables:
                found = source.execute(select(table), execution_options={"yield_per": PART}).mappings()
                for rows in found.partitions():
                    target.execute(insert(new.tables[table.name]), [dict(row) for row in rows])
    finally:
        reader.dispose()
        writer.dispose()


def filled(db: Connection, path: Path) -> None:
    """Puts all rows of a copy of today's schema into the empty tables of a PostgreSQL database."""
    raw = db.connection.driver_connection
    assert isinstance(raw, psycopg.Connection)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as source:
        for table in schema.tables.sorted_tables:
            columns = ", ".join(f'"{column.name}"' for column in table.c)
            number = 0
            try:
                with raw.cursor().copy(f'copy "{table.name}" ({columns}) from stdin'.encode()) as copy:
                    for row in source.execute(f'select {columns} from "{table.name}"'):
                        number += 1
                        copy.write_row(row)
            except psycopg.DataError:
                raise RequestError(f"{path}: {table.name}, row {number}: it holds a NUL (\\u0000), which PostgreSQL "
                                   "cannot keep") from None
    db.exec_driver_sql("analyze")


def _vacuumed(path: Path, out: Path) -> dict[str, int]:
    """VACUUM INTO reads one moment of the store, and what it writes needs no WAL beside it."""
    draft = out.with_name(f"{out.name}.partial")
    try:
        draft.unlink(missing_ok=True)
        draft.touch(0o600)  # it will have all that raters wrote, and their passwords' hashes
        source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            source.execute("VACUUM INTO ?", (str(draft),))
        finally:
            source.close()
        counts = inspected(draft)
        checkpoints.sync(draft)
        draft.rename(out)
        checkpoints.sync(out.parent)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise RunError(f"{out}: cannot copy {path} here: {error}") from None
    return counts


def inspected(path: Path) -> dict[str, int]:
    """The rows of each table, once SQLite has found the file whole and every reference in it to lead somewhere."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            told = db.execute("pragma integrity_check").fetchone()[0]
            if told != "ok" or db.execute("pragma foreign_key_check").fetchone():
                raise RequestError(f"{path}: it is damaged: {told}")
            names = [row[0] for row in db.execute("select name from sqlite_master where type = 'table' order by name")]
            return {name: db.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names}
        finally:
            db.close()
    except sqlite3.Error as error:
        raise RequestError(f"{path}: it is damaged, or no store: {error}") from None
