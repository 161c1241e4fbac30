"""What left the store: snapshots and files, whose answers went with each, and where the log stood then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, union

from prefloop.store import events
from prefloop.store.items import storable
from prefloop.store.schema import accounts, exports, exports_of, leases, reviews
from prefloop.store.store import Store

GONE = "forgotten"  # whoever was deleted while the file with their answers was being written


@dataclass(frozen=True)
class Export:
    """`answers` are how many of one rater's are in it; `checksum` names a snapshot's or a file's content."""

    id: int
    at: int
    kind: str
    place: str
    checksum: str
    answers: int


def head(store: Store) -> str:
    """The log's last event, as ID:CHAIN: taken before what is exported is read, and written beside it."""
    with store.reading() as db:
        return events.head(db)


def exported(store: Store, kind: str, place: str, checksum: str, raters: Mapping[str, int], head: str,
             by: str = events.COMMAND) -> None:
    """Keeps that a snapshot or a file was made of so many answers of each of `raters`."""
    for name, text in (("kind", kind), ("place", place), ("by", by), *(("rater", rater) for rater in raters)):
        storable(text, name)

    def work(db: Connection) -> None:
        at = store.clock()
        made = db.execute(insert(exports).values(at=at, kind=kind, place=place, checksum=checksum, head=head, by=by,
                                                 rows=sum(raters.values()))).inserted_primary_key
        assert made is not None
        events.wrote(db, at, "exported", by, exports, exports.c.id == made[0])
        if raters:
            db.execute(insert(exports_of), [{"export": made[0], "rater": rater, "answers": count}
                                            for rater, count in _still_here(db, raters).items()])
            events.wrote(db, at, "exported", by, exports_of, exports_of.c.export == made[0])

    store.write(work)


def _still_here(db: Connection, raters: Mapping[str, int]) -> Counter[str]:
    known = set(db.scalars(union(*(select(column).where(column.in_(raters))
                                   for column in (leases.c.rater, accounts.c.name, reviews.c.reviewer)))))
    named: Counter[str] = Counter()
    for rater, count in raters.items():
        named[rater if rater in known else GONE] += count
    return named


def with_answers_of(db: Connection, rater: str) -> list[Export]:
    """The exports that a rater's answers went into, oldest first."""
    rows = db.execute(select(exports, exports_of.c.answers).join(exports_of, exports_of.c.export == exports.c.id)
                      .where(exports_of.c.rater == rater).order_by(exports.c.id))
    return [Export(row.id, row.at, row.kind, row.place, row.checksum, row.answers) for row in rows]
