"""The log of every change: rows that are only added, each bound to all before it by a hash.

What is personal of an event is its payload. The log holds a digest of the payload and a random salt, so the payload
can be deleted with its salt: nobody can then find out by guessing what it said, and the chain is as it was.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any

from sqlalchemy import Connection, insert, select

from prefloop.store.schema import events, payloads

COMMAND = "command line"  # who did what a command did
GENESIS = ""  # the chain before the first event


def record(db: Connection, at: int, kind: str, actor: str, subject: str, payload: dict[str, Any],
           about: str = "") -> int:
    """Appends an event in the transaction of the change that it tells of; its id.

    `subject` names what was changed, such as answers:12, and no person; `about` is the person that it is about, where
    that is not the actor.
    """
    last = db.execute(select(events.c.id, events.c.chain).order_by(events.c.id.desc()).limit(1)).first()
    number, before = (last.id + 1, last.chain) if last else (1, GENESIS)
    said = json.dumps({"actor": actor, "about": about, **payload}, sort_keys=True)
    salt = secrets.token_hex(16)
    sealed = digest_of(salt, said)
    db.execute(insert(events).values(id=number, at=at, kind=kind, subject=subject, digest=sealed,
                                     chain=chained(before, number, at, kind, subject, sealed)))
    db.execute(insert(payloads).values(event=number, actor=actor, about=about, salt=salt, payload=said))
    return number


def digest_of(salt: str, payload: str) -> str:
    return hashlib.sha256(f"{salt}{payload}".encode()).hexdigest()


def chained(before: str, number: int, at: int, kind: str, subject: str, sealed: str) -> str:
    """sha256 of the chain before and of all that the event's row says."""
    return hashlib.sha256(json.dumps([before, number, at, kind, subject, sealed]).encode()).hexdigest()


def head(db: Connection) -> str:
    """The last event, as ID:CHAIN; "0:" of an empty log."""
    last = db.execute(select(events.c.id, events.c.chain).order_by(events.c.id.desc()).limit(1)).first()
    return f"{last.id}:{last.chain}" if last else f"0:{GENESIS}"
