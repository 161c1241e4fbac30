"""Where a store is, by its URL: a file, or a PostgreSQL database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from prefloop.errors import RequestError
from prefloop.store.postgres import PostgresDatabase
from prefloop.store.sqlite import SqliteFile

Place = SqliteFile | PostgresDatabase
POSTGRES = "postgresql+psycopg"


def place_of(url: str) -> Place:
    """A URL may hold a password: what is wrong with one is told without quoting it."""
    kind, _, rest = url.partition("://")
    shown = repr(url) if kind == "sqlite" or not rest else f"'{kind}://...'"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # a port that is no number
        raise RequestError(f"store: {shown} is not a database URL such as sqlite:///feedback.db or "
                           f"{POSTGRES}://user@host/database") from None
    if parsed.drivername == POSTGRES and parsed.database:
        return PostgresDatabase(parsed)
    if parsed.drivername != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise RequestError(f"store: {shown} is not supported; name a file, such as sqlite:///feedback.db, or a "
                           f"database, such as {POSTGRES}://user@host/database")
    return SqliteFile(Path(parsed.database).resolve())


def require_no_password(url: str, key: str) -> None:
    """Of a store that is named in a run, whose folder keeps what was asked."""
    place = place_of(url)
    if isinstance(place, PostgresDatabase) and (place.url.password or "password" in place.url.query):
        raise RequestError(f"{key}: the password of {place} would be kept in the run's folder; leave it out, for "
                           "PGPASSWORD or ~/.pgpass may hold it")
