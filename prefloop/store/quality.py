"""Raters' votes read from a store as arrays, fast: what was read once is kept, for answers are only added.

What changes of an answer later, whether it counts, is read again each time: few are anything but in force.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from sqlalchemy import Connection, exists, func, or_, select

from prefloop.quality.votes import KINDS, Array, Signs, Votes, Whole, compared, signs
from prefloop.records import decided
from prefloop.store.admission import ALIKE
from prefloop.store.items import campaign_id
from prefloop.store.schema import answers, events, flags, golds, items, quarantines
from prefloop.store.store import Store


@dataclass
class Columns:
    """What never changes of the answers read so far, oldest first."""

    id_A: Whole
    item_A: Whole
    campaign_A: Whole
    rater_A: Whole
    kind_A: Whole
    stratum_A: Whole
    guideline_A: Whole
    mirrors_A: Whole
    created_A: Whole
    none_A: Whole
    places_A: Whole
    seconds_A: Array
    said_AP: Signs
    first_AP: Signs


class Reader:
    """The votes of a store; what it read before is not read again."""

    def __init__(self, store: Store) -> None:
        self._store, self._turn = store, threading.Lock()
        self._event = 0  # the log's last, when it was read
        self.readings = 0  # how often all was read anew
        self._forget()

    def _forget(self) -> None:
        self._known: Columns | None = None
        self._names: dict[str, dict[str, int]] = {"rater": {}, "stratum": {}, "guideline": {}}

    def votes(self, campaign: str | None = None) -> Votes:
        """All answers, or those of a campaign; of qualification rounds too."""
        with self._turn, self._store.reading() as db:
            found = self._read(db)
            names = tuple(tuple(self._names[name]) for name in ("rater", "stratum", "guideline"))
            votes = _votes(db, found, names)
            own = None if campaign is None else campaign_id(db, campaign)
        return votes if own is None else votes.where(votes.campaign_A == own)

    def cleared(self) -> dict[str, int]:
        """When a lead last cleared a rater: what they did before is no reason to propose a quarantine again."""
        with self._store.reading() as db:
            return {row.rater: row.at for row in db.execute(
                select(quarantines.c.rater, func.max(quarantines.c.closed).label("at"))
                .where(quarantines.c.state.in_(("lifted", "dismissed"))).group_by(quarantines.c.rater))}

    def _read(self, db: Connection) -> Columns:
        gone = exists().where(events.c.id > self._event, events.c.kind == "forgotten")
        if db.scalar(select(gone)):
            self._forget()  # a rater was deleted, and the numbers of their answers may be others' by now
            self.readings += 1
        self._event = db.scalar(select(func.max(events.c.id))) or 0
        last = int(self._known.id_A[-1]) if self._known is not None and len(self._known.id_A) else 0
        new = self._columns(db, last)
        self._known = new if self._known is None else _joined(self._known, new)
        return self._known

    def _columns(self, db: Connection, last: int) -> Columns:
        wanted = (answers.c.id, answers.c.item, items.c.campaign, answers.c.rater, answers.c.kind, items.c.stratum,
                  answers.c.guideline, items.c.mirrors, answers.c.created, answers.c.none_acceptable,
                  answers.c.seconds, answers.c.ranks, answers.c.shown)
        rows = db.execute(select(*wanted).join(items, items.c.id == answers.c.item).where(answers.c.id > last)
                          .order_by(answers.c.id)).all()
        (ids, item, campaign, rater, kind, stratum, guideline, mirrors, created, none, seconds, ranks,
         shown) = zip(*rows, strict=True) if rows else ((),) * len(wanted)
        said_AP, first_AP, places_A = compared(ranks, shown)
        return Columns(_whole(ids), _whole(item), _whole(campaign), self._numbered("rater", rater),
                       _whole(map(KINDS.index, kind)), self._numbered("stratum", stratum),
                       self._numbered("guideline", guideline), _whole(-1 if of is None else of for of in mirrors),
                       _whole(created), _whole(none), places_A, np.array(seconds, dtype=np.float64), said_AP, first_AP)

    def _numbered(self, name: str, texts: Iterable[str]) -> Whole:
        known = self._names[name]
        return _whole(known.setdefault(text, len(known)) for text in texts)


def _whole(numbers: Iterable[int]) -> Whole:
    return np.fromiter(numbers, np.int64)


def _joined(one: Columns, other: Columns) -> Columns:
    if not len(other.id_A):
        return one
    width = max(one.said_AP.shape[1], other.said_AP.shape[1])

    def both(name: str) -> Any:
        parts = getattr(one, name), getattr(other, name)
        if name.endswith("P"):
            parts = tuple(np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts)
        return np.concatenate(parts)

    return Columns(**{own.name: both(own.name) for own in fields(Columns)})


def _votes(db: Connection, of: Columns, names: Sequence[tuple[str, ...]]) -> Votes:
    """With what may have changed: whether an answer counts, and what its key says."""
    states = db.execute(select(answers.c.id, answers.c.retracted, answers.c.surplus, answers.c.excluded).where(or_(
        answers.c.retracted.is_not(None), answers.c.surplus == 1, answers.c.excluded == 1))).all()
    stands_A, counts_A = np.ones(len(of.id_A), bool), np.ones(len(of.id_A), bool)
    counts_A[np.searchsorted(of.id_A, [row.id for row in states])] = False
    stands_A[np.searchsorted(of.id_A, [row.id for row in states if row.retracted is not None])] = False
    key_AP, right_A = _keys(db, of)
    newest_A, first_A, gold_A = _newest(of), _first(of), of.kind_A == KINDS.index("gold")
    for own_A in (stands_A, newest_A):  # what a page tells afterwards may tell gold from the rest
        own_A[gold_A] = first_A[gold_A]
    return Votes(of.id_A, of.item_A, of.campaign_A, of.rater_A, of.kind_A, of.stratum_A, of.guideline_A, of.mirrors_A,
                 of.created_A, of.seconds_A, of.places_A, of.said_AP, of.first_AP, key_AP, right_A, counts_A, stands_A,
                 counts_A & (of.none_A == 0) & ~_flagged(db, of, names[0]), newest_A, *names)


def _newest(of: Columns) -> np.ndarray:
    """The last row of each rater and item."""
    pair = _pairs(of)
    newest = np.zeros(len(pair), bool)
    newest[len(pair) - 1 - np.unique(pair[::-1], return_index=True)[1]] = True
    return newest


def _first(of: Columns) -> np.ndarray:
    """The first row of each rater and item."""
    pair = _pairs(of)
    first = np.zeros(len(pair), bool)
    first[np.unique(pair, return_index=True)[1]] = True
    return first


def _pairs(of: Columns) -> Whole:
    """A number for each rater and item."""
    return of.item_A * (int(of.rater_A.max(initial=0)) + 1) + of.rater_A


def _flagged(db: Connection, of: Columns, raters: tuple[str, ...]) -> np.ndarray:
    number = {name: n for n, name in enumerate(raters)}
    pairs = {(row.item, number[row.rater]) for row in db.execute(select(flags.c.item, flags.c.rater))
             if row.rater in number}
    found = np.zeros(len(of.id_A), bool)
    for row in np.flatnonzero(np.isin(of.item_A, [item for item, _ in pairs])):
        found[row] = (of.item_A[row], of.rater_A[row]) in pairs
    return found


def _keys(db: Connection, of: Columns) -> tuple[Signs, Array]:
    """`key_AP` and `right_A`: right is what decides ALIKE of the key's pairs as it does, a tie being half."""
    key_AP, right_A = np.zeros_like(of.said_AP), np.full(len(of.id_A), np.nan)
    rows = np.flatnonzero(of.kind_A == KINDS.index("gold"))
    for key in db.execute(select(golds).where(golds.c.item.in_(
            select(items.c.id).where(items.c.kind == "gold")))) if len(rows) else ():
        own = rows[of.item_A[rows] == key.item]
        ranks = json.loads(key.ranks)
        decides = signs(np.array([[np.inf if rank is None else rank for rank in ranks]], dtype=np.float64))[0]
        key_AP[own, :len(decides)] = decides
        count = len(decided(ranks))
        if count:
            alike = (1 - np.abs(of.said_AP[own, :len(decides)] - decides) / 2) @ (decides != 0) / count
            right_A[own] = alike >= ALIKE - 1e-9
        else:
            right_A[own] = of.none_A[own] == key.none_acceptable
    return key_AP, right_A
