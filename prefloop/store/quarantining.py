"""Raters whose answers do not count for a while: proposed by tests or by a lead, held, and lifted or dismissed again.

Nothing is deleted, and nothing is decided by the tests: they propose. While a rater is held their answers are
excluded, their places are open for others, and they get nothing to rate; lifted, their answers count again, as surplus
where somebody else has filled the place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, func, insert, select, update

from prefloop.errors import RequestError
from prefloop.store import events
from prefloop.store.schema import answers, items, leases, quarantines
from prefloop.store.store import Store

TESTS = "tests"  # who proposes where no lead did
NOTE = 2000
Why = Mapping[str, Any]

_open = quarantines.c.closed.is_(None)


@dataclass(frozen=True)
class Quarantine:
    """`why` are the reasons in their order: a test's name with its figures, or what a lead did and noted."""

    rater: str
    state: str
    why: tuple[Why, ...]
    by: str
    at: int
    closed_by: str
    closed: int | None


def newest(store: Store) -> dict[str, Quarantine]:
    """Of each rater who ever had one, the newest."""
    with store.reading() as db:
        return {row["rater"]: Quarantine(row["rater"], row["state"], tuple(json.loads(row["why"])), row["by"],
                                         row["at"], row["closed_by"], row["closed"])
                for row in db.execute(select(quarantines).order_by(quarantines.c.id)).mappings()}


def propose(store: Store, found: Mapping[str, Sequence[Why]], by: str = TESTS) -> list[str]:
    """For raters the reasons; who has one that is open already keeps it. Returns who is new."""
    def work(db: Connection) -> list[str]:
        known = set(db.scalars(select(quarantines.c.rater).where(_open)))
        new = [rater for rater in found if rater not in known]
        for rater in new:
            _made(db, store.clock(), rater, "proposed", found[rater], by)
        return new

    return store.write(work) if found else []


def hold(store: Store, rater: str, by: str, note: str = "") -> None:
    """Their answers count no more, and others may fill the places."""
    def work(db: Connection) -> None:
        at, row = store.clock(), _current(db, rater)
        if row is None:
            _require_known(db, rater)
            _made(db, at, rater, "held", [_noted("held", by, at, note)], by)
        elif row["state"] == "proposed":
            _changed(db, at, row, "held", by, note)
        else:
            return
        _exclude(db, at, rater, by)

    store.write(work)


def lift(store: Store, rater: str, by: str, note: str = "") -> None:
    """Their answers count again, and they may go on."""
    def work(db: Connection) -> None:
        at = store.clock()
        _changed(db, at, _required(db, rater, "held"), "lifted", by, note)
        _include(db, at, rater, by)

    store.write(work)


def dismiss(store: Store, rater: str, by: str, note: str = "") -> None:
    """A proposal that a lead looked at and does not follow."""
    store.write(lambda db: _changed(db, store.clock(), _required(db, rater, "proposed"), "dismissed", by, note))


# -- rows -------------------------------------------------------------------------------------------------------------


def _current(db: Connection, rater: str) -> RowMapping | None:
    return db.execute(select(quarantines).where(quarantines.c.rater == rater, _open)).mappings().first()


def _required(db: Connection, rater: str, state: str) -> RowMapping:
    row = _current(db, rater)
    if row is None or row["state"] != state:
        what = {"held": "is not quarantined", "proposed": "is not proposed for quarantine"}[state]
        raise RequestError(f"rater: {rater} {what}; somebody else may have decided meanwhile")
    return row


def _require_known(db: Connection, rater: str) -> None:
    if db.scalar(select(leases.c.rater).where(leases.c.rater == rater).limit(1)) is None:
        raise RequestError(f"rater: {rater!r} has never rated anything here")


def _noted(what: str, by: str, at: int, note: str) -> Why:
    if len(note) > NOTE:
        raise RequestError(f"note: longer than {NOTE} characters")
    return {"kind": what, "by": by, "at": at, "note": note}


def _made(db: Connection, at: int, rater: str, state: str, why: Sequence[Why], by: str) -> None:
    row = db.execute(insert(quarantines).values(rater=rater, state=state, why=json.dumps(list(why)), by=by, at=at,
                                                closed_by="", closed=None)).inserted_primary_key
    assert row is not None
    events.wrote(db, at, f"quarantine {state}", by, quarantines, quarantines.c.id == row[0])


def _changed(db: Connection, at: int, row: RowMapping, state: str, by: str, note: str) -> None:
    why = json.dumps([*json.loads(row["why"]), _noted(state, by, at, note)])
    over = {} if state == "held" else {"closed": at, "closed_by": by}
    db.execute(update(quarantines).where(quarantines.c.id == row["id"]).values(state=state, why=why, **over))
    events.wrote(db, at, f"quarantine {state}", by, quarantines, quarantines.c.id == row["id"])


# -- answers and places -----------------------------------------------------------------------------------------------


def _exclude(db: Connection, at: int, rater: str, by: str) -> None:
    filling = and_(answers.c.rater == rater, answers.c.kind == "normal", answers.c.retracted.is_(None),
                   answers.c.surplus == 0)
    db.execute(update(items).where(items.c.id.in_(select(answers.c.item).where(filling))).values(
        done=items.c.done - 1))
    db.execute(update(answers).where(answers.c.rater == rater).values(excluded=1))
    db.execute(update(leases).where(leases.c.rater == rater, leases.c.state == "open", leases.c.expires > at)
               .values(expires=at))
    events.wrote(db, at, "excluded", by, answers, answers.c.rater == rater)


def _include(db: Connection, at: int, rater: str, by: str) -> None:
    """An answer takes its place again where nobody has filled it, or is about to."""
    running = leases.alias("running")
    live = (select(func.count()).select_from(running).where(
        running.c.item == items.c.id, running.c.state == "open", running.c.expires > at).scalar_subquery())
    filling = and_(answers.c.rater == rater, answers.c.kind == "normal", answers.c.retracted.is_(None),
                   answers.c.surplus == 0)
    full = select(items.c.id).where(items.c.done + live >= items.c.need)
    db.execute(update(answers).where(filling, answers.c.item.in_(full)).values(surplus=1))
    db.execute(update(items).where(items.c.id.in_(select(answers.c.item).where(filling))).values(
        done=items.c.done + 1))
    db.execute(update(answers).where(answers.c.rater == rater).values(excluded=0))
    events.wrote(db, at, "included", by, answers, answers.c.rater == rater)
