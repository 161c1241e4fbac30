"""Items to rate, leases on them, and the answers: a change is one transaction, acknowledged once it is on disk.

A rater works on an item under a lease. Counted answers and live leases of an item never exceed the raters it needs; an
answer that comes after its lease ran out is kept all the same, as surplus when its place has been given away.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, exists, func, insert, inspect, select, true
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from prefloop.errors import RequestError, RunError
from prefloop.records import Answers, Ranking
from prefloop.store import admission, answering, events, items, migrating, opening, predicting, queue, schema
from prefloop.store.drawing import Drawn
from prefloop.store.items import Picture, Pictured
from prefloop.store.postgres import said
from prefloop.store.predicting import Scores
from prefloop.store.records import (
    Applied,
    Campaign,
    Flagged,
    Guideline,
    Judgement,
    Lease,
    Lesson,
    Past,
    Progress,
    Qualification,
    Receipt,
)
from prefloop.store.writing import Writer

T = TypeVar("T")
DEFAULT = "default"  # the campaign of items that were given no other


def as_stored(item: int, count: int) -> Sequence[int]:
    return range(count)


def now() -> int:
    return int(time.time())


class Store:
    def __init__(self, url: str, clock: Callable[[], int] = now, read_only: bool = False,
                 seed: int | None = None) -> None:
        """Opens the store, and makes it if it is new; `seed` is then kept and decides what is shown to whom, and when.

        A store of an earlier schema is brought to today's, and says so in a line.
        """
        self.place = opening.place_of(url)
        self.clock = clock
        self.doubted: Collection[str] = ()  # raters who get more gold: kept by who watches their work
        if not self.place.exists() and read_only:
            raise RequestError(f"{self.place}: there is no store here; `prefloop feedback` or `prefloop feedback "
                               "campaign` makes one")
        self._reader, self._writer = self.place.reader(), None
        self._lock = None if read_only else self.place.held()
        try:
            migrating.look(self.place, self._reader, alone=self._lock is not None)
            if not read_only:
                self._writer = self.place.writer()
                self._writes = Writer(self._writer)
            self.seed = self._prepare(secrets.randbits(48) if seed is None else seed)
        except OperationalError as error:
            self.close()
            raise RequestError(f"{self.place}: this store cannot be opened: {said(error)}") from None
        except DatabaseError as error:
            self.close()
            raise RequestError(f"{self.place}: this is not a prefloop store: {error.orig}") from None
        except (RequestError, RunError):
            self.close()
            raise

    def _prepare(self, seed: int) -> int:
        if self._writer is not None and not self._tables():
            self.write(lambda db: self._make(db, seed))
        with self._reader.begin() as db:
            known = {row.name: row.value for row in db.execute(select(schema.meta))}
        if "seed" not in known:
            raise RequestError(f"{self.place}: this database is not a prefloop store; name another")
        return int(known["seed"])

    def _make(self, db: Connection, seed: int) -> None:
        if inspect(db).get_table_names():
            return  # another process was first
        schema.tables.create_all(db, checkfirst=False)
        db.execute(insert(schema.meta), [{"name": "schema", "value": schema.VERSION},
                                         {"name": "seed", "value": str(seed)}])
        db.execute(insert(schema.alembic_version).values(version_num=schema.VERSION))
        items.keep_campaign(db, self.clock(), events.COMMAND, Campaign(DEFAULT), "")

    def _tables(self) -> list[str]:
        if not self.place.exists():
            return []
        with self._reader.begin() as db:
            return inspect(db).get_table_names()

    def close(self) -> None:
        self._reader.dispose()
        if self._writer is not None:
            self._writer.dispose()
        if self._lock is not None:
            self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once all that it wrote is on disk; if it raises, nothing of it was written."""
        if self._writer is None:
            raise RequestError(f"{self.place}: this store was opened for reading only")
        try:
            return self._writes.do(work)
        except OperationalError as error:
            raise RunError(f"{self.place}: nothing was saved, for it cannot be written: {said(error)}") from None
        except DataError as error:
            raise RequestError(f"{self.place}: this cannot be kept: {said(error)}") from None
        except IntegrityError as error:
            raise RunError(f"{self.place}: nothing was saved, for it would contradict what is there: "
                           f"{said(error)}") from None

    def emptied(self) -> str:
        """Overwrites what was deleted, and says in a sentence where it is still found; "" is nowhere."""
        if (writer := self._writer) is None:
            raise RequestError(f"{self.place}: this store was opened for reading only")
        return self._writes.between(lambda: self.place.emptied(writer))

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        try:
            with self._reader.begin() as db:
                yield db
        except OperationalError as error:
            raise RunError(f"{self.place}: it cannot be read: {said(error)}") from None
        except DataError as error:  # a NUL, say, in what is looked for
            raise RequestError(f"{self.place}: there is nothing of the kind: {said(error)}") from None
        except PoolTimeout:
            raise RunError(f"{self.place}: too many read it at once; try again") from None

    # -- campaigns ---------------------------------------------------------------------------------------------------

    def apply(self, campaign: Campaign, guideline: str | None = "", gold: Iterable[Ranking] | None = None,
              qualification: Iterable[Ranking] | None = None, rows: Iterable[Answers] = (),
              need: int | Callable[[Answers], int] = 1, pictured: Pictured | None = None,
              by: str = events.COMMAND, state: str | None = None, scores: Scores | None = None,
              fit: Callable[[Connection, int], None] | None = None) -> Applied:
        """Makes a campaign or changes its settings, and queues every row, or none.

        `gold` and `qualification` are rankings that are right, with the explanation as their reason; these and the
        guideline stay as they are where None is given. `need` is how many raters an item needs. `fit` is asked at the
        end, with the campaign's id: what it raises undoes everything.
        """
        new = items.ready(rows, need, pictured=pictured)
        keys = {kind: list(given) for kind, given in (("gold", gold), ("qualification", qualification))
                if given is not None}
        asked = {kind: items.ready((Answers(row.prompt, row.responses) for row in own), kind=kind, pictured=pictured)
                 for kind, own in keys.items()}

        def work(db: Connection) -> Applied:
            at = self.clock()
            own = items.keep_campaign(db, at, by, campaign, guideline, state)
            retired = sum(items.keep_golds(db, at, by, own, given, asked[kind], kind) for kind, given in keys.items())
            met = items.prompts_of(db, own)
            _, names = items.add(db, at, by, own, new)
            if scores is not None:
                predicting.keep(db, at, by, own, scores)
            if fit is not None:
                fit(db, own)
            return Applied(len(names), len(met & {one.prompt["id"] for one in new if one.name in names}), retired)

        return self.write(work)

    def add_items(self, rows: Iterable[Answers], need: int | Callable[[Answers], int] = 1, priority: int = 0,
                  campaign: str = DEFAULT, by: str = events.COMMAND) -> int:
        """Queues every row, or none; returns how many are new. An item queued before only has its need raised."""
        new = items.ready(rows, need, priority=priority)
        return len(self.write(lambda db: items.add(db, self.clock(), by, items.campaign_id(db, campaign), new)[1]))

    def campaigns(self) -> list[Campaign]:
        with self.reading() as db:
            return [items.campaign_of(row) for row in db.execute(select(schema.campaigns)
                                                                 .order_by(schema.campaigns.c.id))]

    def open_to(self, rater: str) -> list[Campaign]:
        """The campaigns that have items, and that this rater may rate."""
        own, of = schema.campaigns, schema.items
        some = exists().where(of.c.campaign == own.c.id, of.c.kind == "normal") & (own.c.state != "draft")
        with self.reading() as db:
            found = map(items.campaign_of, db.execute(select(own).where(some).order_by(own.c.id)))
            return [one for one in found if one.admits(rater)]

    def gate(self, rater: str, campaign: str) -> str | None:
        """What stands between this rater and the items, such as "paused" or "warning"; None if nothing does."""
        with self.reading() as db:
            own = items.campaign_id(db, campaign)
            return admission.gate(db, rater, own, items.settings_of(db, own))

    def guideline(self, rater: str, campaign: str) -> Guideline | None:
        """The guideline in force, and whether this rater acknowledged it."""
        with self.reading() as db:
            return admission.guideline(db, rater, items.campaign_id(db, campaign))

    def acknowledge(self, rater: str, campaign: str, version: str) -> None:
        self.write(lambda db: admission.acknowledge(db, self.clock(), rater, items.campaign_id(db, campaign), version))

    def answer_warning(self, rater: str, campaign: str, accepted: bool) -> None:
        """Whether the rater wants to go on after the campaign's warning."""
        self.write(lambda db: admission.answer_warning(db, self.clock(), rater, items.campaign_id(db, campaign),
                                                       accepted))

    def qualification(self, rater: str, campaign: str) -> Qualification:
        with self.reading() as db:
            own = items.campaign_id(db, campaign)
            return admission.qualification(db, rater, own, items.settings_of(db, own))

    def lesson(self, answer: int, rater: str) -> Lesson | None:
        """What there is to learn from an answer of the qualification round; None of any other."""
        with self.reading() as db:
            return admission.lesson(db, answer, rater)

    def picture(self, name: str) -> Picture | None:
        """A picture's kind, such as image/png, and its bytes."""
        with self.reading() as db:
            row = db.execute(select(schema.pictures).where(schema.pictures.c.digest == name)).first()
        return None if row is None else (row.kind, row.data)

    # -- the queue ---------------------------------------------------------------------------------------------------

    def lease(self, rater: str, seconds: int, order: queue.Order = as_stored, skipped: bool = False,
              among: Collection[str] | None = None, campaign: str | None = None,
              holding: Collection[str] = ()) -> Lease | None:
        """An item that this rater holds, or the next one for them; None when there is nothing, or they may not.

        Held items come first, the oldest before the others, but for those whose tokens are in `holding`.
        `order(item, count)` decides in which order a new item's answers are shown. Items that the rater skipped do
        not come back unless `skipped`, and then the one skipped longest ago comes first. `among` are the names
        (`item_name`) of the items to choose from; None is all. Without a `campaign`, its name, normal items of any
        are given and nothing stands in the way: that is for programs that rate.
        """
        if not rater.strip():
            raise RequestError("rater: it is empty")
        items.storable(rater, "rater")

        def work(db: Connection) -> Lease | None:
            own = None if campaign is None else items.campaign_id(db, campaign)
            turn = queue.Turn(rater, self.clock(), seconds, self.seed, skipped, own, among, rater in self.doubted)
            found = self._choose(db, turn, holding)
            return None if found is None else self._lease(db, queue.lent(db, turn, found, order), rater)

        return self.write(work)

    def _choose(self, db: Connection, turn: queue.Turn, holding: Collection[str]) -> Drawn | None:
        settings = None
        if turn.campaign is not None:
            row = db.execute(select(schema.campaigns).where(schema.campaigns.c.id == turn.campaign)).one()
            settings = items.campaign_of(row)
            if row.state != "open" or admission.gate(db, turn.rater, turn.campaign, settings):
                return None
        found, count = queue.held(db, turn, holding)
        if found is not None or count >= queue.MOST_OPEN:
            return None if found is None else Drawn(found)
        if settings is not None and turn.campaign is not None and admission.qualification(
                db, turn.rater, turn.campaign, settings).state == "open":
            return queue.trial(db, turn)
        return queue.drawn(db, turn, settings)

    def _lease(self, db: Connection, token: str, rater: str) -> Lease:
        row = answering.leased(db, token, rater)
        settings = items.settings_of(db, row["campaign"])
        practice = None
        if row["kind"] == "qualification":
            round_ = admission.qualification(db, rater, row["campaign"], settings)
            practice = (min(round_.done + 1, round_.needed), round_.needed)
        return Lease(token, rater, *items.contents(db, row["item"]), tuple(json.loads(row["shown"])), row["expires"],
                     settings, answering.reason_required(self.seed, row, settings), practice,
                     items.illustrated(db, row["item"]))

    def waiting(self, rater: str, campaign: str) -> int:
        """How many items of a campaign this rater could be given."""
        with self.reading() as db:
            own = items.campaign_id(db, campaign)
            return queue.waiting(db, queue.Turn(rater, self.clock(), 0, self.seed, False, own, None))

    def renew(self, token: str, rater: str, seconds: int) -> int:
        """The rater is still at it; returns when the lease now runs out. One that ran out is renewed if its place is
        still free.
        """
        return self.write(lambda db: queue.renewed(db, answering.leased(db, token, rater), self.clock(), seconds))

    def release(self, token: str, rater: str) -> None:
        """The rater would rather not: the item goes to somebody else. An answered item stays answered."""
        self.write(lambda db: answering.skip(db, self.clock(), answering.leased(db, token, rater)))

    def flag(self, token: str, rater: str, kind: str, note: str = "") -> None:
        """The rater points at something: unsafe, personal, broken or other. The item stays theirs."""
        self.write(lambda db: answering.flag(db, self.clock(), answering.leased(db, token, rater), kind, note))

    def flagged(self) -> list[Flagged]:
        with self.reading() as db:
            return answering.flagged(db)

    # -- the answers -------------------------------------------------------------------------------------------------

    def submit(self, token: str, rater: str, judgement: Judgement, key: str = "") -> Receipt:
        """Keeps an answer given under a lease. The same answer twice is one answer; a different one is refused.

        `key` is the caller's name for this submission: with it, a retry is known even after the answer was revised.
        """
        return self.write(lambda db: answering.submit(db, self.clock(), self.seed, answering.leased(db, token, rater),
                                                      judgement, key))

    def revise(self, answer: int, rater: str, judgement: Judgement, key: str = "") -> Receipt:
        """Another judgement in the place of one of the rater's last answers."""
        return self.write(lambda db: answering.revise(db, self.clock(), self.seed, answer, rater, judgement, key))

    def withdraw(self, answer: int, rater: str, seconds: int = 1800) -> None:
        """One of the rater's last answers counts no more, and its item is open again under the same lease."""
        self.write(lambda db: answering.withdraw(db, self.clock(), seconds, answer, rater))

    def reopen(self, answer: int, rater: str) -> tuple[Lease, Judgement]:
        """One of the rater's last answers as it was given, to be revised."""
        with self.reading() as db:
            row, said = answering.given(db, answer, rater)
            return self._lease(db, row["token"], rater), said

    def history(self, rater: str, campaign: str | None = None, before: int | None = None,
                limit: int = 20) -> list[Past]:
        """The rater's own answers, newest first; those with ids below `before`."""
        with self.reading() as db:
            own = None if campaign is None else items.campaign_id(db, campaign)
            return answering.history(db, rater, own, before, limit)

    def revealed(self, campaign: str) -> bool:
        """May this campaign's raters know who wrote what? From then on no answer is changed."""
        with self.reading() as db:
            return answering.revealed(db, items.campaign_id(db, campaign))

    def rankings(self, surplus: bool = False, campaign: str | None = None) -> Iterator[Ranking]:
        """Every answer that counts as a ranking of the stored order, oldest first; with `surplus`, the others too.

        They are those of one campaign, or all. Gold and repeats are among them and bear their kind; answers of a
        qualification round are not.
        """
        with self.reading() as db:
            yield from answering.counting(db, surplus, None if campaign is None else items.campaign_id(db, campaign))

    def set_aside(self) -> Iterator[tuple[str, Ranking]]:
        """Every answer that does not count, and why: it was "changed" or withdrawn, its rater is "excluded" for now,
        or it is "surplus".
        """
        with self.reading() as db:
            yield from answering.set_aside(db)

    def progress(self, rater: str = "", among: Collection[str] | None = None,
                 campaign: str | None = None) -> Progress:
        """How far all normal items are, or those that `among` names, or those of a campaign."""
        own, given, lent = schema.items, schema.answers, schema.leases
        with self.reading() as db:
            within = [true() if among is None else own.c.digest.in_(among),
                      true() if campaign is None else own.c.campaign == items.campaign_id(db, campaign)]

            def count(table: Any, *where: Any) -> Any:
                of = table if among is campaign is None else table.join(own, own.c.id == table.c.item)
                return select(func.count()).select_from(of).where(*where, *within).scalar_subquery()

            counting = given.c.retracted.is_(None)
            row = db.execute(select(
                func.count(), func.coalesce(func.sum(own.c.need), 0), func.coalesce(func.sum(own.c.done), 0),
                count(given, given.c.surplus == 1, counting),
                count(given, given.c.rater == rater, counting, given.c.kind != "qualification"),
                count(lent, lent.c.rater == rater, lent.c.state == "skipped"))
                .select_from(own).where(own.c.kind == "normal", *within)).one()
        return Progress(*row)

    def own(self, rater: str, campaign: str) -> tuple[int, int]:
        """How many items of a campaign this rater has answered, and how many put aside."""
        own, given, lent = schema.items, schema.answers, schema.leases

        def count(table: Any, *where: Any) -> Any:
            return (select(func.count()).select_from(table.join(own, own.c.id == table.c.item))
                    .where(table.c.rater == rater, own.c.campaign == found, own.c.kind != "qualification", *where)
                    .scalar_subquery())

        with self.reading() as db:
            found = items.campaign_id(db, campaign)
            row = db.execute(select(count(given, given.c.retracted.is_(None)), count(lent, lent.c.state == "skipped")))
            answered, skipped = row.one()
        return answered, skipped

    def answers(self) -> None:
        """Raises RunError if the database does not answer."""
        with self.reading() as db:
            db.scalar(select(1))
