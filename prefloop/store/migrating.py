"""A store of an earlier schema is brought to today's: a verified copy beside it first, then all in one transaction."""

from __future__ import annotations

import time
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from prefloop.errors import RunError
from prefloop.store import events, schema
from prefloop.store.copying import copied
from prefloop.store.opening import Place, SqliteFile

FIRST = "1"  # a store of this schema bears no Alembic version yet
OLDER = ("1", "2")  # what can be brought to today's


def migrate(place: Place, version: str) -> Path:
    """Returns the copy of the store as it was. The caller holds the store's lock."""
    assert isinstance(place, SqliteFile)
    path = place.path
    from alembic import command
    from alembic.config import Config

    kept = path.with_name(f"{path.name}.schema-{version}")
    copied(path, kept)
    config = Config()
    config.set_main_option("script_location", f"{__package__}:migrations")
    engine = place.writer(foreign_keys=False)  # tables are made anew, and their names are free for a moment
    try:
        with engine.begin() as db:
            config.attributes["connection"] = db
            if version == FIRST:
                command.stamp(config, FIRST)
            command.upgrade(config, schema.VERSION)
            events.adopt(db, int(time.time()))
            if broken := db.exec_driver_sql("pragma foreign_key_check").fetchall():
                raise RunError(f"{path}: {len(broken)} rows refer to nothing, so it was left at schema {version}")
    except DatabaseError as error:
        raise RunError(f"{path}: it stays at schema {version}, for it cannot be brought to {schema.VERSION}: "
                       f"{error.orig}") from None
    finally:
        engine.dispose()
    return kept
