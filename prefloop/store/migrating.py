"""A store of an earlier schema is brought to today's: a verified copy first, then all in one transaction.

The copy of a file lies beside it; that of a database in the working directory, as a backup that can be restored.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

from sqlalchemy import Engine, inspect, select
from sqlalchemy.exc import DatabaseError

from prefloop.errors import RequestError, RunError
from prefloop.store import events, migrations, schema
from prefloop.store.copying import backed_up, copied
from prefloop.store.opening import Place, SqliteFile
from prefloop.store.postgres import said

OLDER = ("1", "2")  # what can be brought to today's


def look(place: Place, reader: Engine, alone: bool) -> None:
    """Before anything is written: a foreign database stays as it is, an earlier schema is brought to today's.

    `alone`: the caller is the only one who may write.
    """
    if not place.exists():
        return
    with reader.begin() as db:
        tables = set(inspect(db).get_table_names())
        if not tables:
            return
        if not {"leases", "meta"} <= tables:
            raise RequestError(f"{place}: this database is not a prefloop store; name another")
        version = db.scalar(select(schema.meta.c.value).where(schema.meta.c.name == "schema")) or "unknown"
    if version in OLDER:
        reader.dispose()
        with nullcontext() if alone else place.alone():
            kept = migrate(place, version)
        print(f"{place}: brought from schema {version} to {schema.VERSION}; as it was, it is kept in {kept}",
              flush=True)
    elif version != schema.VERSION:
        raise RequestError(f"{place}: its schema is version {version}; this prefloop reads {schema.VERSION}")


def migrate(place: Place, version: str) -> Path:
    """Returns the copy of the store as it was. The caller alone may write to it."""
    if isinstance(place, SqliteFile):
        kept = place.path.with_name(f"{place.name}.schema-{version}")
        copied(place, version, kept)
    else:
        kept = Path(f"{place.name}.schema-{version}.db").resolve()
        backed_up(place, version, kept)
    engine = place.maker()
    try:
        with engine.begin() as db:
            migrations.upgrade(db, version, schema.VERSION)
            if events.head(db) == f"0:{events.GENESIS}":  # of a schema that had no log
                events.adopt(db, int(time.time()))
            if isinstance(place, SqliteFile) and (broken := db.exec_driver_sql("pragma foreign_key_check").fetchall()):
                raise RunError(f"{place}: {len(broken)} rows refer to nothing, so it was left at schema {version}")
    except DatabaseError as error:
        raise RunError(f"{place}: it stays at schema {version}, for it cannot be brought to {schema.VERSION}: "
                       f"{said(error)}") from None
    finally:
        engine.dispose()
    return kept
