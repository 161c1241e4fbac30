"""A store in a PostgreSQL database, which several processes may serve at once.

Whoever writes takes one lock first, for the transaction: writers of all processes take turns, as in SQLite, and what
is true of one writer at a time is true here. Readers see one moment of the store and wait for nobody.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.adapt import Buffer, Loader
from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError, OperationalError

from prefloop.errors import RequestError, RunError
from prefloop.store import schema

WRITING = int.from_bytes(b"prefloop")  # the advisory lock of whoever writes just now
SERVING = WRITING + 1  # shared by all who may write; whoever makes the store another takes it alone
# A process that hangs in the middle of a change must not stop the others for ever. Many items take a while to queue.
PATIENCE = {"lock_timeout": "60s", "idle_in_transaction_session_timeout": "60s"}
READERS = 32  # connections at once and no more: a server has 100 for everybody. They are dear to make, and stay


class Number(Loader):
    """Sums and means as SQLite gives them. PostgreSQL's are decimals, and no column is one."""

    def load(self, data: Buffer) -> float:
        said = bytes(data).decode()
        return int(said) if said.lstrip("-").isdigit() else float(said)


@dataclass(frozen=True)
class PostgresDatabase:
    url: URL = field(repr=False)  # with its password

    def __str__(self) -> str:
        """Without the password, wherever in the URL it is."""
        url = self.url
        return URL.create(url.drivername, url.username, None, url.host, url.port, url.database).render_as_string()

    @property
    def name(self) -> str:
        return self.url.database or "postgresql"

    def exists(self) -> bool:
        """Whether there is anything at all in the database; it need not be a store."""
        engine = self.reader()
        try:
            with engine.begin() as db:
                encoding = db.exec_driver_sql("show server_encoding").scalar_one()
                if encoding != "UTF8":
                    raise RequestError(f"{self}: its encoding is {encoding}; make the database in UTF8 (createdb -E "
                                       "UTF8)")
                return bool(inspect(db).get_table_names())
        except OperationalError as error:
            raise RequestError(f"{self}: cannot be reached: {said(error)}") from None
        finally:
            engine.dispose()

    def held(self) -> None:
        """Nothing: the writer's own connection holds what is needed, also after it was lost and made anew."""

    def alone(self) -> psycopg.Connection[Any]:
        """Nobody else writes, until what is returned is closed. Who was killed just now is gone in a moment."""
        try:
            connection = psycopg.connect(_plain(self.url), autocommit=True, connect_timeout=10)
        except psycopg.OperationalError as error:
            raise RequestError(f"{self}: cannot be reached: {' '.join(str(error).split())}") from None
        try:
            connection.execute("set lock_timeout = '3s'")
            connection.execute("select pg_advisory_lock(%s)", (SERVING,))
        except psycopg.errors.LockNotAvailable:
            connection.close()
            raise RequestError(f"{self}: another process is writing to this store; stop it (a `prefloop feedback` "
                               "that is still running?)") from None
        return connection

    def writer(self) -> Engine:
        """One connection, shared by threads that take turns; every transaction takes the write lock at its start."""
        engine = self.maker()
        event.listen(engine, "connect", self._join)
        return engine

    def maker(self) -> Engine:
        """As `writer`, for whoever is alone and makes another store of it."""
        engine = self._engine("READ COMMITTED", pool_size=1, max_overflow=0)
        event.listen(engine, "begin", _take_turn)
        return engine

    def _join(self, connection: Any, _: Any) -> None:
        """A server that lost its connection may find another store than the one that it knew."""
        asked = connection.cursor()
        if not asked.execute(f"select pg_try_advisory_lock_shared({SERVING})").fetchone()[0]:
            raise RunError(f"{self}: it is being restored, or brought to another schema; try again when that is done")
        if asked.execute("select to_regclass('meta')").fetchone()[0]:
            found = asked.execute("select value from meta where name = 'schema'").fetchone()
            if found and found[0] != schema.VERSION:
                raise RunError(f"{self}: its schema is version {found[0]} now; this prefloop writes {schema.VERSION}")
        connection.commit()

    def reader(self) -> Engine:
        """Connections that cannot write; each transaction sees one moment of the store."""
        return self._engine("REPEATABLE READ", readonly=True, pool_size=READERS, max_overflow=0, pool_use_lifo=True)

    def _engine(self, isolation: str, readonly: bool = False, **pool: Any) -> Engine:
        engine = create_engine(
            self.url, pool_pre_ping=True, hide_parameters=True, **pool,
            execution_options={"isolation_level": isolation, "postgresql_readonly": readonly},
            connect_args={"connect_timeout": 10})
        event.listen(engine, "connect", _settle)
        event.listen(engine, "handle_error", _hush)
        return engine

    def emptied(self, _: Engine) -> str:
        """Where deleted rows still are, a sentence: the server's files are not ours to overwrite."""
        return "PostgreSQL's files and its write-ahead log have what was deleted until it writes over that."

    def sizes(self, db: Connection) -> dict[str, int]:
        """Bytes of the database."""
        return {"database": db.exec_driver_sql("select pg_database_size(current_database())").scalar_one()}


def said(error: DBAPIError) -> str:
    """In one line; of several addresses of one server libpq tells one by one."""
    return " ".join(str(error.orig).split())


def _plain(url: URL) -> str:
    """As libpq takes it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _settle(connection: Any, _: Any) -> None:
    """What an acknowledged answer rests on, whatever the server's own settings are."""
    connection.adapters.register_loader("numeric", Number)
    values = {"synchronous_commit": "on", "timezone": "UTC", **PATIENCE}
    connection.cursor().execute("select " + ", ".join(f"set_config('{name}', '{value}', false)"
                                                      for name, value in values.items()))
    connection.commit()


def _hush(context: ExceptionContext) -> None:
    """What raters wrote must not be quoted by an error that ends in a log: PostgreSQL tells the whole row."""
    error, told = context.original_exception, context.sqlalchemy_exception
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError) and told is not None:
        error.args = (" ".join(filter(None, (type(error).__name__, error.diag.constraint_name))),)
        told.args = error.args


def _take_turn(connection: Connection) -> None:
    connection.exec_driver_sql(f"select pg_advisory_xact_lock({WRITING})")
