"""Reviews: a lead looks at an item once more, decides, and says why raters, or a model, saw it otherwise.

A review is opened for what disputing.py finds. Deciding it changes no rater's answer: the decision stands beside them,
and can be what is right of a gold item.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, func, insert, select, update

from prefloop.errors import RequestError
from prefloop.records import Answers, Prompt, Ranking, Response, digest
from prefloop.store import cases, disputing, events
from prefloop.store.cases import Case, Decision, Review
from prefloop.store.dialects import upsert
from prefloop.store.disputing import Why
from prefloop.store.items import add, campaign_of, contents_of, illustrated, ready, storable
from prefloop.store.pseudonyms import REVIEW
from prefloop.store.schema import answers, campaigns, golds, guidelines, items, reviews
from prefloop.store.store import Store

# What disagreement comes of: a prompt that can be read in several ways; a guideline that says nothing of it, or the
# wrong thing; somebody who did not look; a rare case; people may well differ.
CAUSES = ("ambiguous", "guideline", "mistake", "edge", "taste")
STATES = ("open", "decided", "dismissed")
BY_ITSELF = ""  # the reviewer of what was closed because nothing was left to look at
QUEUE = "review queue"  # who opens reviews, in the log
NOTE = 2000  # characters
PART = 50  # reviews of a list at once
EVENT = 500  # reviews that are opened at once, and told in one event

Content = tuple[Prompt, tuple[Response, ...]]


class Closed(RequestError):
    """Somebody was faster."""


@dataclass(frozen=True)
class Caused:
    """How many decided reviews came of a cause; of a gap in the guideline, by the number of its version."""

    cause: str
    reviews: int
    guideline: int | None = None


class Reviews:
    def __init__(self, store: Store) -> None:
        self._store = store

    # -- what is to be looked at -------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Opens reviews for what is found, and closes those of which nothing is left; how many it changed.

        Finding reads all answers, and so it does not happen while others wait to write.
        """
        with self._store.reading() as db:
            found, known = disputing.found(db), _newest(db)
        stale = [item for item in sorted({*found, *known}) if not _as_it_should(known.get(item), found.get(item, []))]
        parts = (stale[start:start + EVENT] for start in range(0, len(stale), EVENT))
        return sum(self._store.write(partial(_bring, at=self._store.clock(), found=found, wanted=part))
                   for part in parts)

    def listed(self, state: str = "open", campaign: str | None = None, why: str | None = None,
               after: int | None = None, limit: int = PART) -> list[Review]:
        """Open ones the oldest first, closed ones the newest first; `after` is the last id of the part before."""
        query = _within(_everything(), campaign).where(reviews.c.state == state).limit(limit)
        if why is not None:
            query = query.where(reviews.c.why.contains(f'"kind": "{why}"', autoescape=True))
        if state == "open":
            query = query.where(reviews.c.id > (after or 0)).order_by(reviews.c.id)
        else:
            query = query.where(reviews.c.reviewer != BY_ITSELF).order_by(reviews.c.id.desc())
            query = query if after is None else query.where(reviews.c.id < after)
        with self._store.reading() as db:
            rows = db.execute(query).all()
            of = contents_of(db, [row.item for row in rows])
            return [_review(row, of[row.item]) for row in rows]

    def waiting(self, campaign: str | None = None) -> dict[str, int]:
        """How many are open in `all`, and for each kind of reason; one item may have several."""
        with self._store.reading() as db:
            rows = db.scalars(_within(select(reviews.c.why), campaign).where(reviews.c.state == "open"))
            kinds = [{why["kind"] for why in json.loads(row)} for row in rows]
        return {"all": len(kinds), **{kind: sum(kind in own for own in kinds) for kind in disputing.KINDS}}

    def case(self, review: int) -> Case:
        with self._store.reading() as db:
            row = _known(db, review)
            of = contents_of(db, [row.item])[row.item]
            return Case(_review(row, of), illustrated(db, row.item), self._order(row.item, len(of[1])),
                        cases.opinions(db, row.item), cases.remarks(db, row.item), cases.predicted(db, row.item))

    def case_of(self, item: int) -> Case:
        """By the newest review of an item."""
        with self._store.reading() as db:
            found = db.scalar(select(func.max(reviews.c.id)).where(reviews.c.item == item))
        if found is None:
            raise RequestError(f"item: nobody asked for a review of item {item}")
        return self.case(found)

    def order(self, review: int) -> tuple[int, ...]:
        """The answers as every reviewer sees them."""
        with self._store.reading() as db:
            item = _known(db, review).item
            return self._order(item, len(contents_of(db, [item])[item][1]))

    def _order(self, item: int, count: int) -> tuple[int, ...]:
        """Drawn for the item: its stored order often tells who wrote what."""
        return tuple(Random(digest(str(self._store.seed), "review", str(item))).sample(range(count), count))

    # -- deciding ----------------------------------------------------------------------------------------------------

    def decide(self, review: int, reviewer: str, said: Decision, again: bool = False) -> int | None:
        """Keeps a decision; the number of the gold item that came of it. `again`: in the place of an earlier one."""
        def work(db: Connection) -> int | None:
            at, row = self._store.clock(), _known(db, review)
            of = contents_of(db, [row.item])[row.item]
            _check(of, said, reviewer)
            if row.state == "decided" and row.reviewer == reviewer and _decision(row) == said:
                return row.gold  # it was only sent twice
            _require_open(db, row, again)
            gold = _keep_gold(db, at, row, of, said, reviewer) if said.gold else _retire(
                db, at, reviews.c.item == row.item, reviewer)
            _close(db, at, row.id, reviewer, "decided", ranks=json.dumps(said.ranks), cause=said.cause,
                   none_acceptable=int(said.none_acceptable), note=said.note, gold=gold)
            return gold

        return self._store.write(work)

    def dismiss(self, review: int, reviewer: str, note: str = "", again: bool = False) -> None:
        """There is nothing to decide. The item comes back for what happens after this."""
        def work(db: Connection) -> None:
            at, row = self._store.clock(), _known(db, review)
            _check_note(note)
            if row.state == "dismissed" and (row.reviewer, row.note) == (reviewer, note):
                return
            _require_open(db, row, again)
            _retire(db, at, reviews.c.id == row.id, reviewer)
            _close(db, at, row.id, reviewer, "dismissed", note=note)

        self._store.write(work)

    # -- what came of it ---------------------------------------------------------------------------------------------

    def causes(self, campaign: str | None = None) -> list[Caused]:
        """Of decided reviews, the most frequent first."""
        query = _within(select(reviews, items.c.campaign), campaign).where(reviews.c.state == "decided")
        with self._store.reading() as db:
            found = Counter((row.cause, _worked_by(db, row) if row.cause == "guideline" else None)
                            for row in db.execute(query).all())
        return [Caused(cause, number, version) for (cause, version), number in found.most_common()]

    def decisions(self, campaign: str | None = None) -> Iterator[Ranking]:
        """The newest on each item as a ranking by "review:NAME", with the note as its reason, oldest first."""
        newest = select(func.max(reviews.c.id)).where(reviews.c.state == "decided").group_by(reviews.c.item)
        query = _within(_everything(), campaign).where(reviews.c.id.in_(newest), items.c.kind != "qualification")
        with self._store.reading() as db:
            for rows in db.execute(query.order_by(reviews.c.id)).partitions(PART):
                of = contents_of(db, [row.item for row in rows])
                for row in rows:
                    order = self._order(row.item, len(of[row.item][1]))
                    yield _ranking(of[row.item], _decision(row), row.reviewer, row.kind, order,
                                   _in_force(db, row.campaign, row.closed).version)


# -- which reviews there should be ------------------------------------------------------------------------------------


def _wanted(known: Row[Any] | None, whys: list[Why]) -> list[Why]:
    """The reasons for which an item's review should be open.

    What somebody closed comes back for what came later; once it is decided, for a flag alone.
    """
    if known is None or known.state == "open" or known.reviewer == BY_ITSELF:
        return whys
    return [why for why in whys
            if why["at"] > known.closed and (known.state == "dismissed" or why["kind"] == "flag")]


def _as_it_should(known: Row[Any] | None, whys: list[Why]) -> bool:
    wanted = _wanted(known, whys)
    return known.why == json.dumps(wanted) if known is not None and known.state == "open" else not wanted


def _bring(db: Connection, at: int, found: Mapping[int, list[Why]], wanted: Sequence[int]) -> int:
    """These items' reviews to what they should be; how many that changed. Somebody may have decided meanwhile."""
    newest = _newest(db, wanted)
    due = {item: _wanted(newest.get(item), found.get(item, [])) for item in wanted
           if not _as_it_should(newest.get(item), found.get(item, []))}
    is_open = {item: known for item, known in newest.items() if known.state == "open"}
    opened = {item: whys for item, whys in due.items() if item not in is_open}
    changed = {is_open[item].id: whys for item, whys in due.items() if item in is_open and whys}
    settled = [is_open[item].id for item, whys in due.items() if item in is_open and not whys]
    first = (db.scalar(select(func.max(reviews.c.id))) or 0) + 1
    rows = [{"id": first + n, "item": item, "why": json.dumps(whys), "state": "open", "none_acceptable": 0, "note": "",
             "reviewer": BY_ITSELF, "opened": at} for n, (item, whys) in enumerate(opened.items())]
    if rows:
        db.execute(insert(reviews), rows)
        events.wrote(db, at, "reviews opened", QUEUE, reviews, reviews.c.id >= first)
    if changed:
        db.execute(update(reviews).where(reviews.c.id == bindparam("review")).values(why=bindparam("reason")),
                   [{"review": review, "reason": json.dumps(whys)} for review, whys in changed.items()])
        events.wrote(db, at, "reviews changed", QUEUE, reviews, reviews.c.id.in_(changed))
    if settled:
        db.execute(update(reviews).where(reviews.c.id.in_(settled)).values(state="dismissed", closed=at))
        events.wrote(db, at, "reviews settled", QUEUE, reviews, reviews.c.id.in_(settled))
    return len(due)


def _close(db: Connection, at: int, review: int, reviewer: str, state: str, **decided: Any) -> None:
    nothing = {"ranks": None, "cause": None, "none_acceptable": 0, "note": "", "gold": None}
    db.execute(update(reviews).where(reviews.c.id == review)
               .values(state=state, reviewer=reviewer, closed=at, **{**nothing, **decided}))
    events.wrote(db, at, f"review {state}", reviewer, reviews, reviews.c.id == review)


# -- what a decision must be ------------------------------------------------------------------------------------------


def _check(of: Content, said: Decision, reviewer: str) -> None:
    """A ranking's own rules, and what a key must have to tell who ranks well."""
    made = _ranking(of, said, reviewer, "normal", (), "")
    beyond = [rank for rank in made.ranks if rank is not None and rank > len(made.ranks)]
    if beyond:
        raise RequestError(f"ranks: {beyond[0]} is beyond the {len(made.ranks)} answers; 1 is best")
    if said.cause not in CAUSES:
        raise RequestError(f"cause: {said.cause!r} is not one of {', '.join(CAUSES)}")
    if said.gold and not made.decided() and not said.none_acceptable:
        raise RequestError("ranks: they put no answer above another, so as gold they could not tell who ranks well")
    _check_note(said.note)


def _check_note(note: str) -> None:
    if len(note) > NOTE:
        raise RequestError(f"note: longer than {NOTE} characters")
    storable(note, "note")


def _require_open(db: Connection, row: Row[Any], again: bool) -> None:
    newest = db.scalar(select(func.max(reviews.c.id)).where(reviews.c.item == row.item))
    if row.id != newest:
        raise Closed("review: the item has come back since; look at its newest review")
    if row.state != "open" and not again:
        whose = f"{row.reviewer} {row.state} it" if row.reviewer else "nothing is left to look at"
        raise Closed(f"review: {whose} meanwhile; look at it again")


# -- gold items that come of it ---------------------------------------------------------------------------------------


def _keep_gold(db: Connection, at: int, row: Row[Any], of: Content, said: Decision, by: str) -> int:
    """The decision as what is right of a gold item: of a new one, or of the reviewed item if that is one."""
    gold = row.item
    if row.kind == "normal":
        made = ready([Answers(*of)], kind="gold")
        gold = add(db, at, by, row.campaign, made)[0][made[0].name]
    right = {"ranks": json.dumps(said.ranks), "none_acceptable": int(said.none_acceptable), "explanation": said.note,
             "retired": 0}
    db.execute(upsert(db, golds).values(item=gold, **right).on_conflict_do_update(index_elements=["item"], set_=right))
    events.wrote(db, at, "gold decided", by, golds, golds.c.item == gold)
    return gold


def _retire(db: Connection, at: int, decided: ColumnElement[bool], by: str) -> None:
    """What these reviews made gold is given out no more; an item that was gold before keeps its key."""
    for gold in db.scalars(select(reviews.c.gold).distinct().where(decided, reviews.c.gold != reviews.c.item)).all():
        db.execute(update(golds).where(golds.c.item == gold).values(retired=1))
        events.wrote(db, at, "gold retired", by, golds, golds.c.item == gold)


# -- reading ----------------------------------------------------------------------------------------------------------

Q = TypeVar("Q", bound=Select[Any])


def _everything() -> Select[Any]:
    return select(reviews, items.c.kind, items.c.campaign, campaigns.c.name, campaigns.c.settings)


def _within(query: Q, campaign: str | None) -> Q:
    joined = (query.join(items, items.c.id == reviews.c.item)
              .join(campaigns, campaigns.c.id == items.c.campaign))
    return joined if campaign is None else joined.where(campaigns.c.name == campaign)


def _newest(db: Connection, of: Sequence[int] | None = None) -> dict[int, Row[Any]]:
    """The newest review of each item, or of these."""
    query = select(reviews).order_by(reviews.c.id)
    return {row.item: row for row in db.execute(query if of is None else query.where(reviews.c.item.in_(of)))}


def _known(db: Connection, review: int) -> Row[Any]:
    found = db.execute(_within(_everything(), None).where(reviews.c.id == review)).first()
    if found is None:
        raise RequestError(f"id: there is no review {review}")
    return found


def _review(row: Row[Any], of: Content) -> Review:
    return Review(row.id, row.item, row.kind, campaign_of(row), row.state, tuple(json.loads(row.why)), *of, row.opened,
                  row.closed, row.reviewer, row.note, _decision(row) if row.state == "decided" else None)


def _decision(row: Row[Any]) -> Decision:
    return Decision(tuple(json.loads(row.ranks)), row.cause, bool(row.none_acceptable), row.note,
                    row.gold is not None)


def _ranking(of: Content, said: Decision, reviewer: str, kind: str, order: Sequence[int], version: str) -> Ranking:
    if len(said.ranks) != len(of[1]):
        raise RequestError(f"ranks: {len(said.ranks)} ranks for {len(of[1])} answers")
    return Ranking(*of, said.ranks, REVIEW + reviewer, None, said.none_acceptable, said.note, shown=tuple(order),
                   guideline=version, kind=kind)


def _worked_by(db: Connection, row: Row[Any]) -> int:
    """The number of the newest guideline by which raters answered a reviewed item; of none, the one in force."""
    found = db.scalar(select(func.max(guidelines.c.number)).join(answers, answers.c.guideline == guidelines.c.version)
                      .where(answers.c.item == row.item, guidelines.c.campaign == row.campaign,
                             guidelines.c.version != ""))
    return found or _in_force(db, row.campaign, row.opened).number


@dataclass(frozen=True)
class _Guideline:
    number: int = 0
    version: str = ""


def _in_force(db: Connection, campaign: int, at: int) -> _Guideline:
    row = db.execute(select(guidelines.c.number, guidelines.c.version)
                     .where(guidelines.c.campaign == campaign, guidelines.c.created <= at)
                     .order_by(guidelines.c.number.desc()).limit(1)).first()
    return _Guideline(row.number, row.version) if row else _Guideline()
