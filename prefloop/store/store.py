"""Items to rate, leases on them, and the answers: a change is one transaction, acknowledged once it is on disk.

A rater works on an item under a lease. Counted answers and live leases of an item never exceed the raters it needs; an
answer that comes after its lease ran out is kept all the same, as surplus when its place has been given away.
"""

from __future__ import annotations

import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, exists, func, insert, inspect, select, true, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import DatabaseError, OperationalError

from prefloop.errors import RequestError, RunError
from prefloop.records import KINDS, Answers, Prompt, Ranking, Response, digest
from prefloop.store import opening
from prefloop.store.schema import VERSION, answers, choices, items, leases, meta, prompts, responses, tables


class NotLeased(RequestError):
    """An answer without a lease, or under somebody else's."""


class AlreadyAnswered(RequestError):
    """A second, different answer under one lease."""


@dataclass(frozen=True)
class Lease:
    """One rater's turn at one item. `shown` lists indices into `responses` in the order this rater sees them."""

    token: str
    rater: str
    prompt: Prompt
    responses: tuple[Response, ...]
    shown: tuple[int, ...]
    expires: int


@dataclass(frozen=True)
class Judgement:
    """What a rater says of one item; `ranks` in the order the answers were shown."""

    ranks: tuple[int | None, ...]
    strength: str | None = None
    none_acceptable: bool = False
    reason: str = ""
    edited: str = ""
    seconds: float | None = None
    guideline: str = ""


@dataclass(frozen=True)
class Receipt:
    """An answer is on disk. `surplus`: the item had all the raters it needs."""

    answer: int
    surplus: bool


@dataclass(frozen=True)
class Progress:
    """`wanted` answers over all items, of which `done` are in; `mine` and `skipped` are one rater's own."""

    items: int
    wanted: int
    done: int
    surplus: int
    mine: int
    skipped: int


def as_stored(item: int, count: int) -> Sequence[int]:
    return range(count)


def now() -> int:
    return int(time.time())


class Store:
    def __init__(self, url: str, clock: Callable[[], int] = now, read_only: bool = False,
                 seed: int | None = None) -> None:
        """Opens the store, and makes it if it is new; `seed` is then kept and decides how answers are shuffled."""
        self.path = opening.path_of(url)
        self._clock = clock
        self._turn = threading.Lock()
        if self.path.is_dir():
            raise RequestError(f"{self.path}: a folder; name a file, such as sqlite:///feedback.db")
        if read_only and not self.path.is_file():
            raise RequestError(f"{self.path}: there is no store here; `prefloop feedback` makes one")
        self._lock = None if read_only else opening.locked(self.path)
        self._reader = opening.reader(self.path)
        self._writer = None if read_only else opening.writer(self.path)
        try:
            self.seed = self._prepare(secrets.randbits(48) if seed is None else seed)
        except OperationalError as error:
            self.close()
            raise RequestError(f"{self.path}: this store cannot be opened: {error.orig}") from None
        except DatabaseError as error:
            self.close()
            raise RequestError(f"{self.path}: this file is not a prefloop store: {error.orig}") from None
        except (RequestError, RunError):
            self.close()
            raise

    def _prepare(self, seed: int) -> int:
        """Makes the tables in a new file; looks before it writes, so that a foreign database stays as it is."""
        if self._writer is not None and not self._tables():
            with self._writing() as db:
                tables.create_all(db)
                db.execute(insert(meta), [{"name": "schema", "value": VERSION}, {"name": "seed", "value": str(seed)}])
        if "leases" not in self._tables():
            raise RequestError(f"{self.path}: this database is not a prefloop store; name another file")
        with self._reading() as db:
            known = {row.name: row.value for row in db.execute(select(meta))}
        if known.get("schema") != VERSION or "seed" not in known:
            raise RequestError(f"{self.path}: its schema is version {known.get('schema')}; this prefloop reads "
                               f"{VERSION}")
        return int(known["seed"])

    def _tables(self) -> list[str]:
        if not self.path.exists():
            return []
        with self._reading() as db:
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

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if self._writer is None:
            raise RequestError(f"{self.path}: this store was opened for reading only")
        try:
            with self._turn, self._writer.begin() as db:
                yield db
        except OperationalError as error:
            raise RunError(f"{self.path}: nothing was saved, for it cannot be written: {error.orig}") from None

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._reader.begin() as db:
            yield db

    # -- the queue ---------------------------------------------------------------------------------------------------

    def add_items(self, rows: Iterable[Answers], need: int = 1, kind: str = "normal", priority: int = 0) -> int:
        """Queues every row, or none; returns how many are new. An item queued before only has its need raised."""
        if need < 1:
            raise RequestError(f"need: {need} is not a number of raters")
        if kind not in KINDS:
            raise RequestError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
        with self._writing() as db:
            return sum(self._add(db, row, need, kind, priority) for row in rows)

    def _add(self, db: Connection, row: Answers, need: int, kind: str, priority: int) -> bool:
        Ranking(row.prompt, row.responses, (1,) * len(row.responses), rater="any")  # can it be ranked at all?
        _storable(json.dumps(row.to_json(), ensure_ascii=False), "text")
        prompt = _keep(db, prompts, row.prompt)
        chosen = [_keep(db, responses, response) for response in row.responses]
        name = item_name(row, kind)
        known = db.scalar(select(items.c.id).where(items.c.digest == name))
        if known is not None:
            db.execute(update(items).where(items.c.id == known, items.c.need < need).values(need=need))
            return False
        item = db.execute(insert(items).values(digest=name, prompt=prompt, need=need, kind=kind, priority=priority,
                                               stratum=row.prompt.stratum, created=self._clock())).inserted_primary_key
        assert item is not None
        db.execute(insert(choices), [{"item": item[0], "place": place, "response": response}
                                     for place, response in enumerate(chosen)])
        return True

    def lease(self, rater: str, seconds: int, order: Callable[[int, int], Sequence[int]] = as_stored,
              skipped: bool = False, among: Collection[str] | None = None) -> Lease | None:
        """The rater's open item again, or the next one that still needs a rater; None when nothing is left.

        `order(item, count)` decides in which order a new item's answers are shown. Items that the rater skipped do
        not come back unless `skipped`, and then the one skipped longest ago comes first. `among` are the names
        (`item_name`) of the items to choose from; None is all.
        """
        if not rater.strip():
            raise RequestError("rater: it is empty")
        _storable(rater, "rater")
        with self._writing() as db:
            found = self._open_item(db, rater, among) or self._next_item(db, rater, skipped, among)
            if found is None:
                return None
            at = self._clock()
            again = {"state": "open", "issued": at, "expires": at + seconds}
            shown = json.dumps(list(order(found, self._count(db, found))))
            new = {"item": found, "rater": rater, "token": secrets.token_urlsafe(18), "shown": shown}
            db.execute(upsert(leases).values(**new, **again)
                       .on_conflict_do_update(index_elements=["item", "rater"], set_=again))
            row = db.execute(select(leases).where(leases.c.item == found, leases.c.rater == rater)).mappings().one()
            return Lease(row["token"], rater, *_contents(db, found), tuple(json.loads(row["shown"])), row["expires"])

    def _open_item(self, db: Connection, rater: str, among: Collection[str] | None) -> int | None:
        """The item that this rater is at; after the lease ran out, only while nobody else has taken the place."""
        own = (leases.c.rater == rater) & (leases.c.state == "open")
        held = (leases.c.expires > self._clock()) | (items.c.done + self._live() < items.c.need)
        return db.scalar(select(items.c.id).join(leases, leases.c.item == items.c.id).where(own, held, _named(among))
                         .order_by(leases.c.issued.desc(), items.c.id).limit(1))

    def _next_item(self, db: Connection, rater: str, skipped: bool,
                   among: Collection[str] | None) -> int | None:
        own = leases.alias()
        seen = (own.c.item == items.c.id) & (own.c.rater == rater)
        barred = exists().where(seen, own.c.state.in_(["done"] if skipped else ["done", "skipped"]))
        since = select(own.c.issued).where(seen).scalar_subquery()
        return db.scalar(select(items.c.id).where(items.c.done < items.c.need, ~barred, _named(among))
                         .where(items.c.done + self._live() < items.c.need)
                         .order_by(*([since.nulls_first()] if skipped else []), items.c.priority.desc(), items.c.id)
                         .limit(1))

    def _live(self) -> Any:
        """How many leases on an item are running, as a part of a query over items."""
        running = leases.alias()
        return (select(func.count()).select_from(running).where(running.c.item == items.c.id,
                running.c.state == "open", running.c.expires > self._clock()).scalar_subquery())

    def _count(self, db: Connection, item: int) -> int:
        return db.scalar(select(func.count()).select_from(choices).where(choices.c.item == item)) or 0

    def release(self, token: str, rater: str) -> None:
        """The rater would rather not: the item goes to somebody else. An answered item stays answered."""
        with self._writing() as db:
            self._leased(db, token, rater)
            db.execute(update(leases).where(leases.c.token == token, leases.c.state == "open")
                       .values(state="skipped", issued=self._clock()))

    def _leased(self, db: Connection, token: str, rater: str) -> RowMapping:
        row = db.execute(select(leases, items.c.need, items.c.done, items.c.kind)
                         .join(items, items.c.id == leases.c.item).where(leases.c.token == token)).mappings().first()
        if row is None or row["rater"] != rater:
            raise NotLeased("token: you hold no lease by this name; fetch an item first")
        return row

    # -- the answers -------------------------------------------------------------------------------------------------

    def submit(self, token: str, rater: str, judgement: Judgement) -> Receipt:
        """Keeps an answer given under a lease. The same answer twice is one answer; a different one is refused."""
        with self._writing() as db:
            lease = self._leased(db, token, rater)
            shown = tuple(json.loads(lease["shown"]))
            _check(_ranking(*_contents(db, lease["item"]), shown, rater, lease["kind"], judgement))
            earlier = db.execute(select(answers).where(answers.c.token == token)).mappings().first()
            if earlier is not None:
                if _said(_judgement(earlier)) != _said(judgement):
                    raise AlreadyAnswered("token: this item was already answered, and differently")
                return Receipt(earlier["id"], bool(earlier["surplus"]))
            return self._keep_answer(db, lease, judgement)

    def _keep_answer(self, db: Connection, lease: RowMapping, judgement: Judgement) -> Receipt:
        at, item = self._clock(), lease["item"]
        live = db.scalar(select(self._live()).where(items.c.id == item)) or 0
        in_time = lease["state"] == "open" and lease["expires"] > at
        surplus = not in_time and lease["done"] + live >= lease["need"]
        row = db.execute(insert(answers).values(
            token=lease["token"], item=item, rater=lease["rater"], ranks=json.dumps(judgement.ranks),
            shown=lease["shown"], strength=judgement.strength, none_acceptable=int(judgement.none_acceptable),
            reason=judgement.reason, edited=judgement.edited, seconds=judgement.seconds, guideline=judgement.guideline,
            kind=lease["kind"], surplus=int(surplus), created=at)).inserted_primary_key
        assert row is not None
        db.execute(update(leases).where(leases.c.token == lease["token"]).values(state="done"))
        if not surplus:
            db.execute(update(items).where(items.c.id == item).values(done=items.c.done + 1))
        return Receipt(row[0], surplus)

    def rankings(self, surplus: bool = False) -> Iterator[Ranking]:
        """Every counted answer as a ranking of the stored order, oldest first; with `surplus`, the others too."""
        query = select(answers).order_by(answers.c.id)
        with self._reading() as db:
            for row in db.execute(query if surplus else query.where(answers.c.surplus == 0)).mappings():
                yield _ranking(*_contents(db, row["item"]), tuple(json.loads(row["shown"])), row["rater"], row["kind"],
                               _judgement(row))

    def progress(self, rater: str = "", among: Collection[str] | None = None) -> Progress:
        """How far all items are, or those that `among` names."""

        def count(table: Any, *where: Any) -> Any:
            of = table if among is None else table.join(items, items.c.id == table.c.item)
            return select(func.count()).select_from(of).where(*where, _named(among)).scalar_subquery()

        with self._reading() as db:
            row = db.execute(select(
                func.count(), func.coalesce(func.sum(items.c.need), 0), func.coalesce(func.sum(items.c.done), 0),
                count(answers, answers.c.surplus == 1), count(answers, answers.c.rater == rater),
                count(leases, leases.c.rater == rater, leases.c.state == "skipped")).select_from(items)
                .where(_named(among))).one()
        return Progress(*row)


def item_name(row: Answers, kind: str = "normal") -> str:
    """What an item is known by: a digest of all that it says."""
    return digest(*(digest(_text(record)) for record in (row.prompt, *row.responses)), kind)


def _named(among: Collection[str] | None) -> Any:
    return true() if among is None else items.c.digest.in_(among)


def _text(record: Prompt | Response) -> str:
    return json.dumps(record.to_json(), sort_keys=True)


def _keep(db: Connection, table: Any, record: Prompt | Response) -> str:
    """Stores a record under the digest of all it says (its id does not cover everything); returns the digest."""
    text = _text(record)
    name = digest(text)
    db.execute(upsert(table).values(digest=name, id=record.id, record=text).on_conflict_do_nothing())
    return name


def _contents(db: Connection, item: int) -> tuple[Prompt, tuple[Response, ...]]:
    prompt = db.scalar(select(prompts.c.record).join(items, items.c.prompt == prompts.c.digest)
                       .where(items.c.id == item))
    ordered = db.scalars(select(responses.c.record).join(choices, choices.c.response == responses.c.digest)
                         .where(choices.c.item == item).order_by(choices.c.place))
    return Prompt.from_json(json.loads(prompt or "null")), tuple(Response.from_json(json.loads(r)) for r in ordered)


def _ranking(prompt: Prompt, of: tuple[Response, ...], shown: tuple[int, ...], rater: str, kind: str,
             said: Judgement) -> Ranking:
    """The judgement in the stored order of the answers."""
    if len(said.ranks) != len(shown):
        raise RequestError(f"ranks: {len(said.ranks)} ranks for {len(shown)} answers")
    place = dict(zip(shown, said.ranks, strict=True))
    return Ranking(prompt, of, tuple(place[i] for i in range(len(of))), rater, said.strength, said.none_acceptable,
                   said.reason, said.edited, shown, said.seconds, said.guideline, kind)


def _judgement(row: RowMapping) -> Judgement:
    return Judgement(tuple(json.loads(row["ranks"])), row["strength"], bool(row["none_acceptable"]), row["reason"],
                     row["edited"], row["seconds"], row["guideline"])


def _said(judgement: Judgement) -> tuple[Any, ...]:
    """What makes two answers the same: a retry may have taken a second longer."""
    return judgement.ranks, judgement.strength, judgement.none_acceptable, judgement.reason, judgement.edited


def _check(ranking: Ranking) -> None:
    """What a ranking's own rules do not cover, because only raters' input needs it."""
    for rank in ranking.ranks:
        if rank is not None and rank > len(ranking.ranks):
            raise RequestError(f"ranks: {rank} is beyond the {len(ranking.ranks)} answers")
    if ranking.seconds is not None and not (math.isfinite(ranking.seconds) and ranking.seconds >= 0):
        raise RequestError(f"seconds: {ranking.seconds} is not a time")
    for name in ("reason", "edited", "guideline"):
        _storable(getattr(ranking, name), name)


def _storable(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{name}: it holds half of a surrogate pair (such as \\ud800), which is not text") from None
