"""For the load bench and the soak: `prefloop feedback` with sign-in in processes of its own, and its books."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import raters_at_work

from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Store
from prefloop.store.accounts import Accounts
from prefloop.store.sqlite import SqliteFile

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "nobody", "looks", "rests")
NOT_ASKED = "PostgreSQL's own affair"


@dataclass
class House:
    """A store with accounts and items; the servers in front of it, one for each port, can be killed and started again.

    All of them answer to the address of the first, as they would behind a proxy.
    """

    store: str
    ports: list[int]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> None:
        self.processes = [subprocess.Popen(
            [sys.executable, "-m", "prefloop.cli", "feedback", f"feedback.store={self.store}", f"feedback.port={port}",
             f"feedback.origin=http://127.0.0.1:{self.ports[0]}", "feedback.sign_in=true"], stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"}) for port in self.ports]
        for port, process in zip(self.ports, self.processes, strict=True):
            self._wait(port, process)

    def _wait(self, port: int, process: subprocess.Popen[bytes]) -> None:
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/healthz",
                                       headers={"host": f"127.0.0.1:{self.ports[0]}"})
        for _ in range(600):
            try:
                with urllib.request.urlopen(asked, timeout=5):
                    return
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"the server ended with {process.returncode}") from None
                time.sleep(0.1)
        raise RuntimeError("the server does not answer")

    def kill(self, how: int = signal.SIGKILL) -> None:
        for process in self.processes:
            process.send_signal(how)
        for process in self.processes:
            process.wait()


def built(store: str, raters: int, items: int, servers: int = 1) -> House:
    """Each item has four answers of some length, in Markdown."""
    with Store(store, seed=1) as opened:
        opened.add_items([item(number) for number in range(items)])
        accounts = Accounts(opened)
        for number in range(raters):
            accounts.add(raters_at_work.name_of(number), raters_at_work.PASSWORD.format(n=number), "rater")
    with ExitStack() as taken:
        doors = [taken.enter_context(closing(socket.socket())) for _ in range(servers)]
        for door in doors:
            door.bind(("127.0.0.1", 0))
        return House(store, [door.getsockname()[1] for door in doors])


def item(number: int) -> Answers:
    def text(n: int) -> str:
        words = " ".join(WORDS[(number + n * k) % len(WORDS)] for k in range(150))
        return f"## Answer {n} of {number}\n\n{words}\n\n- one\n- **two**\n\n```python\nprint({number})\n```\n"

    return Answers(Prompt((Message("user", f"Question {number}: {' '.join(WORDS)}?"),)),
                   tuple(Response(text(n), "runs/some-policy") for n in range(1, 5)))


def compared(house: House, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was acknowledged against what is in the store."""
    told = {row["ack"]: row for row in rows if "ack" in row}
    with Store(house.store, read_only=True) as store, store.reading() as db:
        kept = {row[0]: tuple(row[1:]) for row in db.exec_driver_sql(
            "select id, rater, token, ranks from answers where retracted is null")}
        twice = db.exec_driver_sql("select count(*) from (select 1 from answers where retracted is null "
                                   "group by item, rater having count(*) > 1) as again").scalar_one()
        over = db.exec_driver_sql(
            "select count(*) from items where kind = 'normal' and done != (select count(*) from answers where "
            "answers.item = items.id and surplus = 0 and excluded = 0 and retracted is null)").scalar_one()
        file = isinstance(store.place, SqliteFile)
        integrity = db.exec_driver_sql("pragma integrity_check").scalar_one() if file else NOT_ASKED
    lost = [n for n, row in told.items() if n not in kept or kept[n] != (
        row["rater"], row["token"], json.dumps(row["ranks"]))]
    again = Counter(row["ack"] for row in rows if "ack" in row)
    return {"acknowledged": len(told), "kept": len(kept), "lost": len(lost), "miscounted": over,
            "duplicated": twice + sum(count - 1 for count in again.values()), "integrity": integrity,
            "signed_out": sum(row.get("status") == 401 for row in rows),
            "gave_up": sum("gave_up" in row for row in rows)}
