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
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@/{database}?host={self.folder}"

    def made(self) -> str:
        """The URL of a new database with nothing in it."""
        name = f"store_{next(self._numbers)}"
        self.sql(f"create database {name} template template0 encoding 'UTF8'")
        return self.url(name)

    def dropped(self, url: str) -> None:
        self.sql(f"drop database if exists {url.partition('@/')[2].partition('?')[0]} with (force)")

    def sql(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(f"host={self.folder} user={USER} dbname={database}", autocommit=True) as db:
            db.execute(statement.encode())

    def start(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-l", str(self.folder / "log"), "-w", "-o",
                  " ".join((*SETTINGS, "-k", str(self.folder))), "start")

    def kill(self) -> None:
        """As a power cut would: every process of it at once, and it is started again by `start`."""
        number = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(number, signal.SIGKILL)
        while Path(f"/proc/{number}").exists() and "Z" not in Path(f"/proc/{number}/stat").read_text().split()[2:3]:
            os.sched_yield()

    def stop(self) -> None:
        subprocess.run([*_as_user(), str(self.programs / "pg_ctl"), "-D", str(self.folder / "data"), "-m", "immediate",
                        "stop"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
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


def _as_user() -> list[str]:
    if os.getuid():
        return []
    try:
        known = pwd.getpwnam(USER)
    except KeyError:
        pytest.skip(f"PostgreSQL does not run as root, and there is no user {USER}")
    return ["setpriv", f"--reuid={known.pw_uid}", f"--regid={known.pw_gid}", "--clear-groups"]
