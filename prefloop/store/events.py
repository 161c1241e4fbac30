"""The log of every change: rows that are only added, each bound to all before it by a hash.

What is personal of an event is its payload. The log holds a digest of the payload and a random salt, so the payload
can be deleted with its salt: nobody can then find out by guessing what it said, and the chain is as it was.

Of the tables in HELD every row is recorded whole, each time that it is written, so that what stands there can be held
to what was said last (verifying.py).
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Float, Integer, Table, insert, or_, select, true

from prefloop.store import schema
from prefloop.store.schema import events, payloads

COMMAND = "command line"  # who did what a command did
GENESIS = ""  # the chain before the first event
PART = 500  # rows that one event tells of

# Whose rows are recorded, and the columns that are not: what is counted again, what a model says, what a digest names.
HELD: dict[Table, tuple[str, ...]] = {
    schema.campaigns: (), schema.items: ("done", "uncertainty"), schema.pictures: ("data",), schema.illustrations: (),
    schema.golds: (), schema.guidelines: (), schema.answers: (), schema.flags: (), schema.acknowledgements: (),
    schema.warnings: (), schema.verdicts: (), schema.reviews: (), schema.quarantines: (), schema.accounts: (),
    schema.invitations: (), schema.exports: (), schema.exports_of: (),
    # Told with the answer: how its item came to the rater is exported with it.
    schema.leases: ("token", "state", "issued", "expires", "informed")}
PERSON = {schema.accounts: "name", schema.invitations: "name"}  # elsewhere the person that a row is about is its rater


# Made once: every change executes these, and to make them takes longer than to execute them.
LAST = select(events.c.id, events.c.chain).order_by(events.c.id.desc()).limit(1)
EVENT, PAYLOAD = insert(events), insert(payloads)


# -- adding -----------------------------------------------------------------------------------------------------------


def record(db: Connection, at: int, kind: str, actor: str, subject: str, payload: Mapping[str, Any],
           about: str = "") -> int:
    """Appends an event in the transaction of the change that it tells of; its id.

    `subject` names what was changed, such as answers:12, and no person; `about` is the person that it is about.
    """
    last = db.execute(LAST).first()
    number, before = (last.id + 1, last.chain) if last else (1, GENESIS)
    said = json.dumps({"actor": actor, "about": about, **payload}, sort_keys=True)
    salt = secrets.token_hex(16)
    sealed = digest_of(salt, said)
    db.execute(EVENT, {"id": number, "at": at, "kind": kind, "subject": subject, "digest": sealed,
                       "chain": chained(before, number, at, kind, subject, sealed)})
    db.execute(PAYLOAD, {"event": number, "actor": actor, "about": about, "salt": salt, "payload": said})
    return number


def wrote(db: Connection, at: int, kind: str, actor: str, table: Table, where: ColumnElement[bool]) -> None:
    """Records rows of one of the HELD tables as they now stand; called after they were written.

    Each event is about one person at most, so that what it says can go with them.
    """
    kept(db, at, kind, actor, table, db.execute(select(*held(table)).where(where)).mappings().all())


def kept(db: Connection, at: int, kind: str, actor: str, table: Table, rows: Iterable[Mapping[Any, Any]]) -> None:
    """As `wrote`, of rows that the caller knows."""
    def order(row: Mapping[Any, Any]) -> tuple[Any, ...]:
        return person_of(table, row), *key_of(table, row)

    for about, own in groupby(sorted(rows, key=order), lambda row: person_of(table, row)):
        for part in _parts(list(own)):
            record(db, at, kind, actor, subject_of(table, part),
                   {"rows": {table.name: [told(table, row) for row in part]}}, about)


def adopt(db: Connection, at: int) -> None:
    """Records all there is in a store that had no log, so that every later change is noticed."""
    for table in HELD:
        wrote(db, at, "adopted", COMMAND, table, true())


def told(table: Table, row: Mapping[Any, Any]) -> dict[str, Any]:
    """What the log says of a row. Of a password's hash it says but a digest."""
    return {column.name: _plain(column.name, row[column.name], isinstance(column.type, Float))
            for column in held(table)}


@cache
def held(table: Table) -> tuple[Column[Any], ...]:
    return tuple(column for column in table.c if column.name not in HELD[table])


def _plain(name: str, value: Any, real: bool) -> Any:
    if name == "password":
        return hashlib.sha256(value.encode()).hexdigest()
    # -0.0 comes back from SQLite as 0.0.
    return float(value) + 0.0 if real and value is not None else value


def key_of(table: Table, row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.primary_key)


def person_of(table: Table, row: Mapping[Any, Any]) -> str:
    return row.get(PERSON.get(table, "rater")) or ""


def subject_of(table: Table, rows: Sequence[Mapping[Any, Any]]) -> str:
    """Such as answers:12, flags:7 or items:1-500. Only the numbers of a key are told, for a text may be a name."""
    numbers = [column.name for column in table.primary_key if isinstance(column.type, Integer)]
    first, last = ("/".join(str(row[name]) for name in numbers) for row in (rows[0], rows[-1]))
    which = first if first == last else f"{first}-{last}"
    return f"{table.name}:{which}" if which else table.name


def spans(numbers: Iterable[int]) -> str:
    """Such as 1-3,7."""
    ordered = sorted(numbers)
    runs = [[number for _, number in run] for _, run in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def numbers_of(subject: str) -> Iterator[int]:
    """The numbers that a subject such as payloads:1-3,7 names."""
    for span in filter(None, subject.partition(":")[2].split(",")):
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)


def _parts(rows: Sequence[Mapping[Any, Any]]) -> Iterator[Sequence[Mapping[Any, Any]]]:
    return (rows[start:start + PART] for start in range(0, len(rows), PART))


# -- hashing ----------------------------------------------------------------------------------------------------------


def digest_of(salt: str, payload: str) -> str:
    return hashlib.sha256(f"{salt}{payload}".encode()).hexdigest()


def chained(before: str, number: int, at: int, kind: str, subject: str, sealed: str) -> str:
    """sha256 of the chain before and of all that the event's row says."""
    return hashlib.sha256(json.dumps([before, number, at, kind, subject, sealed]).encode()).hexdigest()


def head(db: Connection) -> str:
    """The last event, as ID:CHAIN; "0:" of an empty log."""
    last = db.execute(LAST).first()
    return f"{last.id}:{last.chain}" if last else f"0:{GENESIS}"


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """An event as people read it; without a payload where that was deleted."""

    id: int
    at: int
    kind: str
    subject: str
    actor: str
    about: str
    payload: dict[str, Any] | None


def latest(db: Connection, before: int | None = None, about: str = "", limit: int = 50) -> list[Event]:
    """The newest events first: those with ids below `before`, and those that are by or about a person."""
    query = select(events, payloads).outerjoin(payloads, payloads.c.event == events.c.id)
    query = query if before is None else query.where(events.c.id < before)
    query = query.where(or_(payloads.c.actor == about, payloads.c.about == about)) if about else query
    return [Event(row.id, row.at, row.kind, row.subject, row.actor or "", row.about or "",
                  None if row.payload is None else json.loads(row.payload))
            for row in db.execute(query.order_by(events.c.id.desc()).limit(limit))]
