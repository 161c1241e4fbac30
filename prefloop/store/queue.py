"""Which item a rater gets next.

Counted answers and live leases of a normal item never exceed the raters it needs. Gold items and repeats come in
between, by draws that the store's seed decides: which turn brings one cannot be told from outside, and can be told
again from the store.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    and_,
    exists,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from prefloop.records import digest
from prefloop.store import drawing, events
from prefloop.store.admission import quarantined
from prefloop.store.drawing import Drawn
from prefloop.store.records import Campaign
from prefloop.store.schema import answers, choices, golds, items, leases, reviews

MOST_OPEN = 3  # items that a rater holds at once: the one in front of them and those fetched ahead
APART = 5  # a repeat is of an item that the rater has answered so many answers ago

Order = Callable[[int, int], Sequence[int]]

# Leases beside those that a query is about.
running, own = leases.alias("running"), leases.alias("own")


@dataclass(frozen=True)
class Turn:
    """Who asks for an item, when, and of what: `campaign` is its id, None all; `among` are names of items."""

    rater: str
    at: int
    seconds: int
    seed: int
    skipped: bool
    campaign: int | None
    among: Collection[str] | None
    doubted: bool = False  # more gold would tell whether this rater reads

    @property
    def within(self) -> Any:
        return and_(true() if self.campaign is None else items.c.campaign == self.campaign,
                    true() if self.among is None else items.c.digest.in_(self.among))

    def dice(self, *what: object) -> Random:
        return Random(digest(str(self.seed), self.rater, *map(str, what)))


def live(at: int) -> Any:
    """How many leases on an item are running, as a part of a query over items."""
    return (select(func.count()).select_from(running).where(running.c.item == items.c.id, running.c.state == "open",
                                                            running.c.expires > at).scalar_subquery())


def room(at: int) -> Any:
    """Whether an item takes one more rater."""
    return or_(items.c.kind != "normal", items.c.done + live(at) < items.c.need)


def held(db: Connection, turn: Turn, holding: Collection[str]) -> tuple[int | None, int]:
    """The item this rater has had open the longest, but for those in `holding`, and how many they have open.

    After a lease ran out, its item is still the rater's while nobody else has taken the place.
    """
    mine = (leases.c.rater == turn.rater) & (leases.c.state == "open")
    still = or_(leases.c.expires > turn.at, room(turn.at))
    rows = db.execute(select(items.c.id, leases.c.token).join(leases, leases.c.item == items.c.id)
                      .where(mine, still, turn.within).order_by(leases.c.issued, items.c.id)).all()
    return next((row.id for row in rows if row.token not in holding), None), len(rows)


def drawn(db: Connection, turn: Turn, settings: Campaign | None) -> Drawn | None:
    """An item that this rater has not had: normal, or in its place gold or a repeat; None when the work is done."""
    had = db.scalar(select(func.count()).select_from(leases).where(leases.c.rater == turn.rater)) or 0
    name = settings.name if settings else ""
    found = drawing.drawn(db, able(turn), settings, turn.dice("ask", name, had))
    if turn.skipped:
        return found or put_aside(db, turn)
    if found is None or settings is None:
        return found
    dice = turn.dice(name, had)
    number = dice.random()
    other = None
    gold_share = max(settings.gold_share, settings.probation if turn.doubted else 0)
    if number < gold_share:
        other = of_kind(db, turn, "gold", dice)
    elif number < gold_share + settings.repeats:
        other = mirrored(db, turn, dice)
    return other or found


def able(turn: Turn) -> ColumnElement[bool]:
    """Whether a normal item has room, and this rater has not had it."""
    had = exists().where(own.c.item == items.c.id, own.c.rater == turn.rater)
    return and_(items.c.done < items.c.need, items.c.kind == "normal", ~had, turn.within, room(turn.at),
                items.c.id.not_in(had_as_gold(turn.rater)))


def had_as_gold(rater: str) -> Select[tuple[int]]:
    """The reviewed items of which this rater had the decision as gold: who meets one twice can tell it was special."""
    return (select(reviews.c.item).join(leases, leases.c.item == reviews.c.gold)
            .where(reviews.c.gold.is_not(None), leases.c.rater == rater))


def put_aside(db: Connection, turn: Turn) -> Drawn | None:
    """What this rater skipped longest ago, of whatever kind, if it is still to be had; it stays chosen as it was."""
    retired = exists().where(golds.c.item == items.c.id, golds.c.retired == 1)
    found = db.scalar(select(items.c.id).join(leases, leases.c.item == items.c.id).where(
        leases.c.rater == turn.rater, leases.c.state == "skipped", items.c.done < items.c.need, turn.within, ~retired,
        room(turn.at)).order_by(leases.c.issued, items.c.id).limit(1))
    return None if found is None else Drawn(found)


def trial(db: Connection, turn: Turn) -> Drawn | None:
    """The next item of the qualification round; one that was skipped comes back at its end."""
    dice = turn.dice("qualification")
    return of_kind(db, turn, "qualification", dice) or of_kind(db, turn, "qualification", dice, ("done", "open"))


def of_kind(db: Connection, turn: Turn, kind: str, dice: Random,
            but: Collection[str] = ("done", "open", "skipped")) -> Drawn | None:
    """One of the gold or qualification items, but for those that this rater has had, in these states.

    Nor one of a prompt that they had in another item: who sees a prompt twice can tell that one of them is special.
    """
    had = select(leases.c.item).where(leases.c.rater == turn.rater, leases.c.state.in_(but))
    other = items.alias("other")
    met = select(other.c.prompt).join(leases, leases.c.item == other.c.id).where(
        leases.c.rater == turn.rater, other.c.campaign == items.c.campaign, other.c.id != items.c.id,
        other.c.prompt == items.c.prompt)
    left = db.scalars(select(items.c.id).join(golds, golds.c.item == items.c.id)
                      .where(turn.within, items.c.kind == kind, golds.c.retired == 0, items.c.id.not_in(had),
                             ~met.exists() if kind == "gold" else true())
                      .order_by(items.c.id)).all()
    return Drawn(dice.choice(left), kind) if left else None


def mirrored(db: Connection, turn: Turn, dice: Random) -> Drawn | None:
    """A new item for this rater alone: one that they answered some time ago, and will see in the opposite order.

    Not one of which they know a model's order: they would be held against that, and not against themselves.
    """
    informed = select(leases.c.item).where(leases.c.rater == turn.rater, leases.c.informed == 1)
    given = select(answers.c.item, answers.c.kind).where(answers.c.rater == turn.rater, answers.c.retracted.is_(None))
    past = given.order_by(answers.c.id.desc()).offset(APART).subquery()
    twice = select(items.c.mirrors).where(items.c.rater == turn.rater, items.c.kind == "repeat")
    left = db.scalars(select(past.c.item).join(items, items.c.id == past.c.item)
                      .where(past.c.kind == "normal", turn.within, items.c.id.not_in(twice),
                             items.c.id.not_in(informed))
                      .order_by(past.c.item)).all()
    if not left:
        return None
    source = db.execute(select(items).where(items.c.id == dice.choice(left))).one()
    chosen = db.scalars(select(choices.c.response).where(choices.c.item == source.id).order_by(choices.c.place)).all()
    made = db.execute(insert(items).values(
        digest=digest(source.digest, "repeat", turn.rater), campaign=source.campaign, prompt=source.prompt, need=1,
        kind="repeat", rater=turn.rater, mirrors=source.id, priority=0, stratum=source.stratum,
        created=turn.at)).inserted_primary_key
    assert made is not None
    db.execute(insert(choices), [{"item": made[0], "place": place, "response": response}
                                 for place, response in enumerate(chosen)])
    events.wrote(db, turn.at, "repeat made", turn.rater, items, items.c.id == made[0])
    return Drawn(made[0], "repeat")


def lent(db: Connection, turn: Turn, drawn: Drawn, order: Order) -> str:
    """Opens the rater's lease on an item, or prolongs it; its token. How it was chosen first stays."""
    item = drawn.item
    again = {"state": "open", "expires": turn.at + turn.seconds}
    known = db.execute(select(leases.c.token, leases.c.state).where(leases.c.item == item,
                                                                    leases.c.rater == turn.rater)).first()
    if known is not None:
        again |= {} if known.state == "open" else {"issued": turn.at}
        db.execute(update(leases).where(leases.c.token == known.token).values(**again))
        return known.token
    token = secrets.token_urlsafe(18)
    db.execute(insert(leases).values(item=item, rater=turn.rater, token=token, issued=turn.at,
                                     shown=json.dumps(list(_order(db, turn, item, order))), policy=drawn.policy,
                                     propensity=drawn.propensity, **again))
    return token


def _order(db: Connection, turn: Turn, item: int, order: Order) -> Sequence[int]:
    """A repeat has the opposite of the order in which the rater saw it first."""
    first = db.scalar(select(leases.c.shown).join(items, items.c.mirrors == leases.c.item)
                      .where(items.c.id == item, leases.c.rater == turn.rater))
    if first is not None:
        return json.loads(first)[::-1]
    return order(item, db.scalar(select(func.count()).select_from(choices).where(choices.c.item == item)) or 0)


def waiting(db: Connection, turn: Turn) -> int:
    had = exists().where(own.c.item == items.c.id, own.c.rater == turn.rater, own.c.state != "open")
    return db.scalar(select(func.count()).select_from(items).where(
        items.c.kind == "normal", items.c.done < items.c.need, ~had, turn.within)) or 0


def renewed(db: Connection, lease: RowMapping, at: int, seconds: int) -> int:
    free = lease["expires"] > at or db.scalar(select(items.c.id).where(items.c.id == lease["item"], room(at)))
    if lease["state"] != "open" or not free or quarantined(db, lease["rater"]):
        return lease["expires"]
    expires = max(lease["expires"], at + seconds)
    db.execute(update(leases).where(leases.c.token == lease["token"]).values(expires=expires))
    return expires
