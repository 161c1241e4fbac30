"""Whether a store is what its log says: the chain, what each event said, and every row that events tell of.

Whoever can write to the file could also write a whole new log. That is noticed by the heads that left the store: in
snapshots and exports, or kept by people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, case, func, select, true

from prefloop.errors import RequestError
from prefloop.records import digest
from prefloop.store import events, predicting
from prefloop.store.schema import answers, choices, exports, items, leases, payloads, pictures, prompts, responses

READ = 1000  # rows at once
TOLD = 10_000  # events after which the caller is told how far it is
MOST = 100  # faults that are told
SORTED = json.JSONEncoder(sort_keys=True)

Key = tuple[str, tuple[Any, ...]]  # a table's name and a row's key
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Head:
    """Where the log stood once; `where` says who remembers it."""

    where: str
    event: int
    chain: str


def head_of(text: str, where: str) -> Head:
    """Reads ID:CHAIN."""
    number, _, chain = text.partition(":")
    if not (number.isascii() and number.isdigit() and len(number) < 19 and (len(chain) == 64 or number == "0")):
        raise RequestError(f"{where}: {text[:100]!r} is not a head of the log, ID:HASH, as `prefloop feedback verify` "
                           "prints it")
    return Head(where, int(number), chain)


@dataclass(frozen=True)
class Verdict:
    """`bad` are the things that are not as they were written, the first of the log first; `erased` are events whose
    payload was deleted with a person.
    """

    events: int
    rows: int
    erased: int
    head: str
    bad: tuple[str, ...]


@dataclass
class Log:
    """What the events said, gathered as they are read."""

    heads: list[Head]
    last: int = 0
    chains: tuple[str, ...] = (events.GENESIS,)
    newest: dict[Key, tuple[int, bytes]] = field(default_factory=dict)
    predicted: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)  # by campaign and model
    silent: set[int] = field(default_factory=set)
    erased: set[int] = field(default_factory=set)
    faults: list[tuple[int, str]] = field(default_factory=list)

    def fault(self, event: int, words: str) -> None:
        self.faults.append((event, words))


def verify(db: Connection, heads: Iterable[Head] = (), tell: Tell = lambda done, of: None) -> Verdict:
    """All in one transaction of the caller's, so that nothing changes meanwhile."""
    with _any_text(db):
        return _verified(db, heads, tell)


@contextmanager
def _any_text(db: Connection) -> Iterator[None]:
    """Text that is not UTF-8, which SQLite takes, is a fault of its row and does not end the reading."""
    raw: Any = db.connection.driver_connection
    if db.dialect.name != "sqlite":
        yield
        return
    raw.text_factory = lambda text: text.decode(errors="replace")
    try:
        yield
    finally:
        raw.text_factory = str


def _verified(db: Connection, heads: Iterable[Head], tell: Tell) -> Verdict:
    log = read(db, true(), [*heads, *_exported(db)], tell)
    for number in sorted(log.silent - log.erased):
        log.fault(number, f"events:{number}: its payload is gone, and no deletion of a person says so")
    for head in log.heads:
        if head.event > log.last:
            log.fault(log.last, f"events:{log.last}: the log ends here, but {head.where} names event {head.event}: "
                                "its end was cut off")
    _contents(db, log)
    count = sum(_rows(db, log, table) for table in events.HELD)
    for (name, key), (event, _) in log.newest.items():
        log.fault(event, f"{_named(name, key)}: removed behind the log's back")
    bad = [words for _, words in sorted(log.faults, key=lambda fault: fault[0])]
    more = [f"and {len(bad) - MOST} more"] if len(bad) > MOST else []
    return Verdict(log.last, count, len(log.silent), f"{log.last}:{log.chains[0]}", (*bad[:MOST], *more))


def _exported(db: Connection) -> Iterator[Head]:
    """What exports remember. One that was altered is found as a row."""
    for row in db.execute(select(exports.c.id, exports.c.head)):
        with suppress(RequestError):
            yield head_of(row.head, f"exports:{row.id}")


# -- the log ----------------------------------------------------------------------------------------------------------


def read(db: Connection, where: ColumnElement[bool], heads: list[Head], tell: Tell = lambda done, of: None) -> Log:
    """The events that `where` chooses; a chain only makes sense of all."""
    own, log = events.events, Log([head for head in heads if head.event])
    of = db.scalar(select(func.count()).select_from(own)) or 0
    query = select(own, payloads).outerjoin(payloads, payloads.c.event == own.c.id).where(where).order_by(own.c.id)
    for row in db.execute(query.execution_options(yield_per=READ)):
        if _linked(log, row) and row.kind == "forgotten":
            log.erased |= set(events.numbers_of(row.subject))
        _said(log, row)
        if row.id % TOLD == 0:
            tell(row.id, of)
    return log


def _linked(log: Log, row: Row[Any]) -> bool:
    """Holds an event to those before it. What follows an altered one is held to what stands there and what should."""
    if row.id != log.last + 1:
        log.fault(log.last + 1, f"events:{log.last + 1}: removed from the log")
    right = {events.chained(before, row.id, row.at, row.kind, row.subject, row.digest) for before in log.chains}
    if row.id == log.last + 1 and row.chain not in right:
        log.fault(row.id, f"events:{row.id}: altered since it was written")
    for head in log.heads:
        if head.event == row.id and head.chain != row.chain:
            log.fault(row.id, f"events:{row.id}: not the one that {head.where} names; the log was written anew")
    log.last, log.chains = row.id, (row.chain, *right - {row.chain})
    return row.chain in right


def _said(log: Log, row: Row[Any]) -> None:
    if row.payload is None:
        log.silent.add(row.id)
        return
    try:
        said = json.loads(row.payload)
        right = (row.digest == events.digest_of(row.salt, row.payload)
                 and (row.actor, row.about) == (said["actor"], said["about"]))
        found = {(name, events.key_of(events.events.metadata.tables[name], one)): (row.id, summed(one))
                 for name, rows in said.get("rows", {}).items() for one in rows}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):  # with a digest that fits, it may be
        right, found = False, {}  # of any shape
    if right:
        log.newest |= found
        if row.kind == "predicted":
            log.predicted[row.subject, str(said.get("model"))] = row.id, said.get("digest")
    else:
        log.fault(row.id, f"events:{row.id}: what it said was altered")


def summed(row: Mapping[Any, Any]) -> bytes:
    """A short digest of all that a row says."""
    return hashlib.blake2b(SORTED.encode(row).encode(), digest_size=16).digest()


# -- the rows ---------------------------------------------------------------------------------------------------------


def _rows(db: Connection, log: Log, table: Table) -> int:
    count = 0
    answered = {tuple(row) for row in db.execute(select(answers.c.item, answers.c.rater))} if table is leases else ()
    for row in db.execute(select(*events.held(table)).order_by(*table.primary_key)
                          .execution_options(yield_per=READ)).mappings():
        count += 1
        key = events.key_of(table, row)
        event, right = log.newest.pop((table.name, key), (0, b""))
        told = events.told(table, row)
        if not event and table is leases and key not in answered:
            continue  # nothing came of it so far, and nothing was told
        if not event:
            log.fault(log.last + 1, f"{_named(table.name, key)}: added behind the log's back")
        elif summed(told) != right:
            log.fault(event, f"{_named(table.name, key)}: {_changed(db, table, key, told, event)} changed behind the "
                             "log's back")
    return count


def _named(table: str, key: tuple[Any, ...]) -> str:
    return f"{table}:{'/'.join(map(str, key))}"


def _changed(db: Connection, table: Table, key: tuple[Any, ...], told: Mapping[Any, Any], event: int) -> str:
    """Which columns were changed."""
    said = json.loads(db.scalars(select(payloads.c.payload).where(payloads.c.event == event)).one())
    before = next(row for row in said["rows"][table.name] if events.key_of(table, row) == key)
    return ", ".join(name for name, value in told.items() if before.get(name) != value)


# -- what rows refer to -----------------------------------------------------------------------------------------------


def _contents(db: Connection, log: Log) -> None:
    """Texts and pictures are kept under digests of what they say, and items under digests of their texts."""
    beyond = log.last + 1
    for table in (prompts, responses):
        for row in db.execute(select(table).execution_options(yield_per=READ)):
            if digest(row.record) != row.digest or json.loads(row.record)["id"] != row.id:
                log.fault(beyond, f"{table.name}:{row.digest[:12]}: its text was altered")
    for row in db.execute(select(pictures).execution_options(yield_per=10)):
        if hashlib.sha256(row.data).hexdigest() != row.digest:
            log.fault(beyond, f"pictures:{row.digest[:12]}: altered")
    for number, group in groupby(_chosen(db), lambda row: row.id):
        if not _as_named(list(group)):
            log.fault(beyond, f"items:{number}: its answers are others than it was queued with")
    _counts(db, log)
    for (subject, model), (event, right) in log.predicted.items():
        if predicting.summed(db, next(events.numbers_of(subject), 0), model) != right:
            log.fault(event, f"predictions: of {subject}, by {model[:100]!r}: altered")
    if db.dialect.name == "sqlite":  # others never let go of what is referred to
        for table, row, *_ in db.exec_driver_sql("pragma foreign_key_check"):
            log.fault(beyond, f"{table}: row {row} refers to what is not there")


def _chosen(db: Connection) -> Iterator[Any]:
    """The answers of all items, in order."""
    own = items.alias("mirrored")
    yield from db.execute(
        select(items.c.id, items.c.kind, items.c.digest, items.c.prompt, items.c.rater, own.c.digest.label("source"),
               choices.c.place, choices.c.response)
        .outerjoin(choices, choices.c.item == items.c.id).outerjoin(own, own.c.id == items.c.mirrors)
        .order_by(items.c.id, choices.c.place).execution_options(yield_per=READ))


def _as_named(rows: list[Any]) -> bool:
    """Whether an item is the one that its digest names; a repeat is named after a normal item, and says the same."""
    first, repeat = rows[0], rows[0].kind == "repeat"
    if [row.place for row in rows] != list(range(len(rows))):
        return False
    own = digest(first.prompt, *(row.response for row in rows), "normal" if repeat else first.kind)
    if not repeat:
        return own == first.digest
    return own == first.source and first.digest == digest(own, "repeat", first.rater)


def _counts(db: Connection, log: Log) -> None:
    """Of normal items alone the answers are counted."""
    counts = answers.c.retracted.is_(None) & (answers.c.surplus == 0) & (answers.c.excluded == 0)
    counted = case((counts & (items.c.kind == "normal"), 1), else_=0)
    rows = db.execute(select(items.c.id).outerjoin(answers, answers.c.item == items.c.id)
                      .group_by(items.c.id, items.c.done)
                      .having(func.coalesce(func.sum(counted), 0) != items.c.done).order_by(items.c.id))
    for row in rows:
        log.fault(log.last + 1, f"items:{row.id}: the number of its answers was altered")
