"""For the load bench and the soak: `prefloop feedback` with sign-in in a process of its own, and its books."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import raters_at_work

from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Store
from prefloop.store.accounts import Accounts

WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "nobody", "looks", "rests")


@dataclass
class House:
    """A store with accounts and items; the server in front of it can be killed and started again at its port."""

    root: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def store(self) -> Path:
        return self.root / "feedback.db"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "prefloop.cli", "feedback", f"feedback.store=sqlite:///{self.store}",
             f"feedback.port={self.port}", "feedback.sign_in=true"], stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"})
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5):
                    return
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError(f"the server ended with {self.process.returncode}") from None
                time.sleep(0.1)
        raise RuntimeError("the server does not answer")

    def kill(self, how: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait()


def built(root: Path, raters: int, items: int) -> House:
    """Each item has four answers of some length, in Markdown."""
    with Store(f"sqlite:///{root / 'feedback.db'}", seed=1) as store:
        store.add_items([item(number) for number in range(items)])
        accounts = Accounts(store)
        for number in range(raters):
            accounts.add(raters_at_work.name_of(number), raters_at_work.PASSWORD.format(n=number), "rater")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return House(root, free.getsockname()[1])


def item(number: int) -> Answers:
    def text(n: int) -> str:
        words = " ".join(WORDS[(number + n * k) % len(WORDS)] for k in range(150))
        return f"## Answer {n} of {number}\n\n{words}\n\n- one\n- **two**\n\n```python\nprint({number})\n```\n"

    return Answers(Prompt((Message("user", f"Question {number}: {' '.join(WORDS)}?"),)),
                   tuple(Response(text(n), "runs/some-policy") for n in range(1, 5)))


def compared(house: House, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What was acknowledged against what is in the store, read as a file by SQLite itself."""
    told = {row["ack"]: row for row in rows if "ack" in row}
    with closing(sqlite3.connect(f"file:{house.store}?mode=ro", uri=True)) as db:
        kept = {row[0]: row[1:] for row in db.execute(
            "select id, rater, token, ranks from answers where retracted is null")}
        twice = db.execute("select count(*) from (select 1 from answers where retracted is null "
                           "group by item, rater having count(*) > 1)").fetchone()[0]
        over = db.execute("select count(*) from items where kind = 'normal' and done != (select count(*) from answers "
                          "where answers.item = items.id and surplus = 0 and retracted is null)").fetchone()[0]
        integrity = db.execute("pragma integrity_check").fetchone()[0]
    lost = [n for n, row in told.items() if n not in kept or kept[n] != (
        row["rater"], row["token"], json.dumps(row["ranks"]))]
    again = Counter(row["ack"] for row in rows if "ack" in row)
    return {"acknowledged": len(told), "kept": len(kept), "lost": len(lost), "miscounted": over,
            "duplicated": twice + sum(count - 1 for count in again.values()), "integrity": integrity,
            "signed_out": sum(row.get("status") == 401 for row in rows),
            "gave_up": sum("gave_up" in row for row in rows)}
