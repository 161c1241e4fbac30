"""A store in a file: the settings under which an acknowledged answer survives a crash."""

from __future__ import annotations

import fcntl
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from prefloop.errors import RequestError

PATIENCE = 5  # seconds that one connection waits for another


@dataclass(frozen=True)
class SqliteFile:
    """`path` is whole: one file, one lock, by whatever name it is reached."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    def exists(self) -> bool:
        """Whether there is anything at all; it need not be a store."""
        if self.path.is_dir():
            raise RequestError(f"{self.path}: a folder; name a file, such as sqlite:///feedback.db")
        return self.path.is_file()

    def held(self) -> IO[str]:
        """The lock that makes this process the only writer, until the file returned is closed or the process ends.

        Debian's SQLite 3.40 can corrupt a WAL that two connections checkpoint at once: one writing connection in one
        process never does.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = open(f"{self.path}.lock", "a")  # noqa: SIM115 - it stays open as long as the store
        except OSError as error:
            raise RequestError(f"{self.path}: cannot keep a store here: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise RequestError(f"{self.path}: another process is writing to this store; stop it (a "
                               "`prefloop feedback` that is still running?) or name another file, such as "
                               "sqlite:///other.db") from None
        return lock

    alone = held  # whoever writes is alone

    def writer(self, foreign_keys: bool = True) -> Engine:
        """One connection, shared by threads that take turns; every transaction takes the write lock at its start."""
        self.path.touch(0o600)  # what raters wrote, and their passwords' hashes, are for nobody else here to read

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None,
                                         check_same_thread=False)
            for setting in ("journal_mode=WAL", "synchronous=FULL", f"foreign_keys={int(foreign_keys)}",
                            "mmap_size=0", "trusted_schema=OFF"):
                connection.execute(f"PRAGMA {setting}")
            return connection

        return _beginning(create_engine("sqlite://", creator=connect, poolclass=StaticPool, hide_parameters=True),
                          "BEGIN IMMEDIATE")

    def maker(self) -> Engine:
        """Tables are made anew, and their names are free for a moment."""
        return self.writer(foreign_keys=False)

    def reader(self) -> Engine:
        """Connections that cannot write, for as many readers as like, in this process or another."""

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True,
                                         timeout=PATIENCE, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA mmap_size=0")
            connection.execute("PRAGMA trusted_schema=OFF")
            return connection

        return _beginning(create_engine(f"sqlite:///{self.path}", creator=connect, hide_parameters=True,
                                        max_overflow=-1), "BEGIN")

    def emptied(self, writer: Engine) -> str:
        """Overwrites what is left of deleted rows in the write-ahead log; where that cannot be, a sentence.

        Outside of any transaction, with the one connection that may do it (`held`).
        """
        connection = writer.raw_connection()
        try:
            blocked = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        except sqlite3.OperationalError:
            blocked = True
        finally:
            connection.close()
        return f"{self.name}-wal has what was deleted until the store is closed." if blocked else ""

    def sizes(self, _: Connection) -> dict[str, int]:
        """Bytes of its files."""
        files = {"database": self.path, "wal": self.path.with_name(f"{self.path.name}-wal")}
        return {name: path.stat().st_size if path.exists() else 0 for name, path in files.items()}


def _beginning(engine: Engine, statement: str) -> Engine:
    """pysqlite begins transactions by guessing from the statement; with isolation_level=None we say when and how.

    Parameters are hidden, for what raters wrote must not be quoted by an error that ends in a log.
    """

    def begin(connection: Connection, *_: Any) -> None:
        connection.exec_driver_sql(statement)

    event.listen(engine, "begin", begin)
    return engine
