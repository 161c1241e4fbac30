"""Everything that the store knows of one person: told to them, or taken out of it.

The log stays whole: of events that a person is in, the payload is deleted with its salt, and the digest that is left
says nothing. Rows that stay, such as a campaign that names them, bear another name from then on.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Column, Connection, Table, delete, exists, false, func, or_, select, update

from prefloop.errors import RequestError
from prefloop.store import events, exports, verifying
from prefloop.store.items import contents_of
from prefloop.store.records import folded
from prefloop.store.schema import (
    accounts,
    acknowledgements,
    answers,
    campaigns,
    choices,
    exports_of,
    failures,
    flags,
    invitations,
    items,
    leases,
    payloads,
    predictions,
    quarantines,
    reviews,
    sessions,
    tables,
    verdicts,
    warnings,
)
from prefloop.store.schema import exports as left
from prefloop.store.store import Store
from prefloop.store.verifying import Key

PART = 500
# Rows that are a person's own and go with them, in an order in which nothing is left that refers to what is gone.
OWN: tuple[Column[Any], ...] = (
    answers.c.rater, flags.c.rater, leases.c.rater, acknowledgements.c.rater, warnings.c.rater, verdicts.c.rater,
    quarantines.c.rater, sessions.c.rater, failures.c.name, invitations.c.name, accounts.c.name)
# Rows that stay and name people: in a column, or in JSON under one of the KEYS.
NAMING: tuple[Column[Any], ...] = (campaigns.c.settings, reviews.c.why, reviews.c.reviewer, quarantines.c.why,
                                   quarantines.c.by, quarantines.c.closed_by, left.c.by, exports_of.c.rater)
IN_JSON = ("settings", "why")
KEYS = ("rater", "raters", "by")
SECRET = ("password", "digest", "token")  # what would open a door is told to nobody


@dataclass(frozen=True)
class Forgotten:
    """How many answers were deleted, items are open again, and events say no more what they were about; `left` says
    where the database itself still has what was deleted.
    """

    answers: int
    items: int
    events: int
    left: str = ""


def name_in(db: Connection, name: str) -> str:
    """The name as the store has it: a rater's as it was given, or an account's, whose letters are small."""
    named = [column for column in NAMING if column.name not in IN_JSON]
    for known in (name, folded(name)):
        if db.scalar(select(or_(*(exists().where(column == known)
                                  for column in (*OWN, *named, payloads.c.actor, payloads.c.about))))):
            return known
    raise RequestError(f"rater: nobody here is known by the name {name!r}")


# -- telling ----------------------------------------------------------------------------------------------------------


def told(store: Store, name: str) -> dict[str, Any]:
    """All that is kept of a person, in one moment of the store; times are seconds since 1970, UTC."""
    with store.reading() as db:
        known = name_in(db, name)
        rows = {column.table.name: [_open(row) for row in db.execute(
            select(column.table).where(column == known).order_by(*column.table.primary_key)).mappings()]
            for column in OWN}
        wanted = {row["item"] for own in ("answers", "leases", "flags") for row in rows[own]}
        log, said = events.events, payloads
        done = db.execute(select(log.c.id, log.c.at, log.c.kind, log.c.subject).join(said, said.c.event == log.c.id)
                          .where(or_(said.c.actor == known, said.c.about == known)).order_by(log.c.id)).mappings()
        return {"name": known, **rows, "items": _read(db, wanted), "named_in": _named_in(db, known),
                "events": [dict(row) for row in done],
                "exports": [asdict(one) for one in exports.with_answers_of(db, known)]}


def _open(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in SECRET}


def _read(db: Connection, wanted: Collection[int]) -> list[dict[str, Any]]:
    """What the person was shown; the answers in the stored order, to which `shown` of an answer's row refers."""
    return [{"item": item, "messages": prompt.chat(), "answers": [one.text for one in responses]}
            for part in _parts(sorted(wanted)) for item, (prompt, responses) in contents_of(db, part).items()]


def _named_in(db: Connection, name: str) -> list[str]:
    """Rows that are not theirs and name them, such as campaigns:1."""
    tables_naming = dict.fromkeys(column.table for column in NAMING if column.table is not exports_of)
    return [events.subject_of(table, [row]) for table in tables_naming
            for row in db.execute(select(table).order_by(*table.primary_key)).mappings() if _without(table, row, name)]


# -- forgetting -------------------------------------------------------------------------------------------------------


def forget(store: Store, name: str, by: str = events.COMMAND) -> Forgotten:
    """Deletes what is a person's own. Items that they filled are open again for others."""
    done = store.write(lambda db: _forget(db, store.clock(), name_in(db, name), by))
    return replace(done, left=store.emptied())


def _forget(db: Connection, at: int, name: str, by: str) -> Forgotten:
    if db.dialect.name == "sqlite":
        db.exec_driver_sql("pragma secure_delete = on")  # what is deleted is overwritten, too
    actor = by if folded(by) != folded(name) else ""
    went = [one.id for one in exports.with_answers_of(db, name)]
    repeats = set(db.scalars(select(items.c.id).where(items.c.rater == name, items.c.kind == "repeat")))
    silenced, staying = _silenced(db, name)
    true_ones = _as_recorded(db, staying)
    reopened = _reopen(db, name)
    count = db.scalar(select(func.count()).select_from(answers).where(answers.c.rater == name)) or 0
    for column in OWN:
        db.execute(delete(column.table).where(column == name))
    _remove(db, repeats)
    renamed = _rename(db, name, f"forgotten-{secrets.token_hex(4)}")
    for part in _parts(sorted(silenced)):
        db.execute(delete(payloads).where(payloads.c.event.in_(part)))
    for table, rows in _rows(db, {renamed.get(key, key) for key in true_ones}):
        events.kept(db, at, "adopted", actor, table, rows)
    events.record(db, at, "forgotten", actor, f"payloads:{events.spans(silenced)}",
                  {"answers": count, "items": reopened, "exports": went})
    return Forgotten(count, reopened, len(silenced))


def _silenced(db: Connection, name: str) -> tuple[set[int], set[Key]]:
    """The events that the person is in, and the rows that stay of which these tell."""
    log, found, staying = events.events, set(), set()
    theirs = or_(payloads.c.actor == name, payloads.c.about == name)
    naming = (log.c.subject.startswith(f"{table}:") for table in sorted({column.table.name for column in NAMING}))
    for row in db.execute(select(payloads, log.c.id, theirs.label("theirs"))
                          .join(log, log.c.id == payloads.c.event).where(or_(theirs, *naming))):
        rows = [(tables.tables[table], one) for table, own in json.loads(row.payload).get("rows", {}).items()
                for one in own]
        if row.theirs or any(_without(*one, name) for one in rows):
            found.add(row.event)
            staying |= {(table.name, events.key_of(table, one)) for table, one in rows if not _goes(table, one, name)}
    return found, staying


def _goes(table: Table, row: Mapping[Any, Any], name: str) -> bool:
    own = {column.table for column in OWN} | {items}
    return table in own and events.person_of(table, row) == name


def _as_recorded(db: Connection, staying: set[Key]) -> set[Key]:
    """Those of these rows that are what the log says of them: what was altered is not to be taken for right now."""
    subjects = (events.events.c.subject.startswith(table) for table in sorted({table for table, _ in staying}))
    said = verifying.read(db, or_(false(), *subjects), []).newest
    return {(table.name, key) for table, rows in _rows(db, staying) for row in rows
            if said.get((table.name, key := events.key_of(table, row)), (0, b""))[1]
            == verifying.summed(events.told(table, row))}


def _rows(db: Connection, wanted: set[Key]) -> Iterator[tuple[Table, list[Mapping[Any, Any]]]]:
    """Rows by their keys, a table at a time."""
    for name in sorted({name for name, _ in wanted}):
        table = tables.tables[name]
        rows = db.execute(select(table).order_by(*table.primary_key)).mappings()
        yield table, [row for row in rows if (name, events.key_of(table, row)) in wanted]


def _reopen(db: Connection, name: str) -> int:
    filled = select(answers.c.item).where(answers.c.rater == name, answers.c.kind == "normal", answers.c.surplus == 0,
                                          answers.c.excluded == 0, answers.c.retracted.is_(None))
    return db.execute(update(items).where(items.c.id.in_(filled)).values(done=items.c.done - 1)).rowcount


def _remove(db: Connection, repeats: Collection[int]) -> None:
    """Items that were made for this person alone, and what leans on them."""
    for part in _parts(sorted(repeats)):
        for column in (predictions.c.item, choices.c.item, items.c.id):
            db.execute(delete(column.table).where(column.in_(part)))


def _rename(db: Connection, name: str, to: str) -> dict[Key, Key]:
    """Puts another name where rows that stay name the person; the keys that changed."""
    changed: dict[Key, Key] = {}
    for table in dict.fromkeys(column.table for column in NAMING):
        for row in db.execute(select(table)).mappings().all():
            new = _without(table, row, name, to)
            if new:
                key, own = events.key_of(table, row), [column == row[column.name] for column in table.primary_key]
                db.execute(update(table).where(*own).values(**new))
                changed[table.name, key] = table.name, events.key_of(table, {**row, **new})
    return changed


def _without(table: Table, row: Mapping[Any, Any], name: str, to: str = "") -> dict[str, Any]:
    """The columns of a row that name the person, with `to` in the name's place."""
    new = {}
    for column in NAMING:
        if column.table is not table:
            continue
        before = row[column.name]
        if column.name in IN_JSON:
            said = json.loads(before)
            if (after := _replaced(said, name, to)) != said:
                new[column.name] = json.dumps(after, ensure_ascii=False)
        elif before == name:
            new[column.name] = to
    return new


def _replaced(value: Any, name: str, to: str, named: bool = False) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(one, name, to, key in KEYS) for key, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, name, to, named) for one in value]
    return to if named and isinstance(value, str) and name in (value, folded(value)) else value


def _parts(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[start:start + PART] for start in range(0, len(numbers), PART))
