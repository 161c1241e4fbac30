"""Debian's PostgreSQL for the tests: one server for a test process, a database for each store.

It syncs to disk as it does by default: a test that kills it must find what was acknowledged. It listens on a Unix
socket alone, in a temporary folder, and runs as an unprivileged user when the tests are run by root.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path

import psycopg
import pytest

USER = "postgres"  # who runs it when root may not
SETTINGS = ("-c", "listen_addresses=", "-c", "max_connections=200", "-c", "logging_collector=off")


@dataclass
class Server:
    folder: Path
    programs: Path
    process: subprocess.Popen[bytes] | None = None
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _emptied: list[str] = field(default_factory=list)

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@/{database}?host={self.folder}"

    def made(self) -> str:
        """The URL of a database with nothing in it."""
        if self._emptied:
            return self._emptied.pop()
        name = f"store_{next(self._numbers)}"
        self.sql(f"create database {name} template template0 encoding 'UTF8'")
        return self.url(name)

    def emptied(self, url: str) -> None:
        """It will be made again, which is faster than a new one."""
        name = url.partition("@/")[2].partition("?")[0]
        self.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'")
        self.sql("drop schema public cascade; create schema public", name)
        self._emptied.append(url)

    def sql(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(f"host={self.folder} user={USER} dbname={database}", autocommit=True) as db:
            db.execute(statement.encode())

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*_as_user(), str(self.programs / "postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder),
                 *SETTINGS], cwd=self.folder, stdout=log, stderr=log)
        while self.process.poll() is None:
            with suppress(psycopg.OperationalError):
                self.sql("select 1")
                return
            time.sleep(0.02)
        raise RuntimeError(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-500:]}")

    def kill(self) -> None:
        """Every process of it at once, as when the machine stops; `start` brings it back."""
        assert self.process is not None
        first = self.process.pid
        os.kill(first, signal.SIGSTOP)  # it makes no more
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        for number in (first, *map(int, children)):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.process.wait()
        while any(_alive(number) for number in children):
            time.sleep(0.01)  # until then its memory is in use, and it does not start

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)  # at once, without tidying up
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run([*_as_user(), str(self.programs / program), *words], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, cwd=self.folder, check=False)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr.strip()}")


@cache
def running() -> Server:
    """The server of this process; a test that needs it is skipped where there is none, and says so."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: int(one.parts[4]))
    if not found:
        pytest.skip("PostgreSQL is not installed (apt install postgresql)")
    server = Server(Path(tempfile.mkdtemp(prefix="prefloop-pg-")), found[-1].parent)
    if os.getuid() == 0:
        shutil.chown(server.folder, USER, USER)
    atexit.register(server.stop)
    server._run("initdb", "-D", str(server.folder / "data"), "-U", USER, "--auth=trust", "--no-locale",
                "--encoding=UTF8", "--no-instructions")
    server.start()
    return server


def _alive(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _as_user() -> list[str]:
    if os.getuid():
        return []
    try:
        known = pwd.getpwnam(USER)
    except KeyError:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user {USER}")
    return ["setpriv", f"--reuid={known.pw_uid}", f"--regid={known.pw_gid}", "--clear-groups"]
