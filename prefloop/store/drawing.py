"""Which of the items that a rater can have comes next: as queued, by chance, to quotas, or where models disagree.

With each item goes its propensity: the chance with which the campaign's rule chose it, of all that this rater could
have had at that moment. Where items are chosen by what they are, the mean over those that were answered is not that
over all items; weights from propensities make it so again (Farquhar, Gal and Rainforth 2021, equation 7).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from prefloop.store.records import Campaign
from prefloop.store.schema import items

CIRCLE = 2**31  # places of items by chance
WINDOW = 128  # items that one draw is among


@dataclass(frozen=True)
class Drawn:
    """An item, the rule that chose it, and its propensity; None where no chance was in it."""

    item: int
    policy: str = "queued"
    propensity: float | None = None


def drawn(db: Connection, able: ColumnElement[bool], settings: Campaign | None, dice: Random) -> Drawn | None:
    """One of the items of which `able` is true, by the campaign's rule."""
    match settings.ask if settings else "queued":
        case "random":
            return at_random(db, able, dice)
        case "stratified":
            return to_quota(db, able, dict(settings.quotas) if settings else {}, dice)
        case "uncertainty":
            return disputed(db, able, settings.random_share if settings else 1.0, dice)
        case _:
            return as_queued(db, able)


def as_queued(db: Connection, able: ColumnElement[bool]) -> Drawn | None:
    """The first in the queue."""
    found = db.scalar(select(items.c.id).where(able).order_by(items.c.priority.desc(), items.c.id).limit(1))
    return None if found is None else Drawn(found)


def at_random(db: Connection, able: ColumnElement[bool], dice: Random) -> Drawn | None:
    """Items stand on a circle, each where the store's seed put it. A point on it is drawn, and then one of the first
    WINDOW items from there on.

    So a draw reads few items, however many there are. One of few is as likely as any other; of many, almost.
    """
    start = dice.randrange(CIRCLE)
    found = _along(db, able, items.c.chance >= start, WINDOW)
    found += _along(db, able, items.c.chance < start, WINDOW - len(found))
    return Drawn(one := dice.choice(found), "random", likely(db, able, one)) if found else None


def likely(db: Connection, able: ColumnElement[bool], item: int) -> float:
    """The chance with which `at_random` draws this item.

    It is in the window of every point after the WINDOWth item before it, so that gap is how likely it is to be among
    those that the draw is from.
    """
    place = db.scalars(select(items.c.chance).where(items.c.id == item)).one()
    chance = items.c.chance
    before = and_(chance <= place, or_(chance < place, items.c.id < item))
    behind = and_(chance >= place, or_(chance > place, items.c.id > item))
    places = _places(db, able, before, WINDOW)
    places += [one - CIRCLE for one in _places(db, able, behind, WINDOW - len(places))]
    if len(places) < WINDOW:
        return 1 / (len(places) + 1)
    return (place - places[-1]) / CIRCLE / WINDOW


def _along(db: Connection, able: ColumnElement[bool], part: ColumnElement[bool], most: int) -> list[int]:
    if not most:
        return []
    return list(db.scalars(select(items.c.id).where(able, part).order_by(items.c.chance, items.c.id).limit(most)))


def _places(db: Connection, able: ColumnElement[bool], part: ColumnElement[bool], most: int) -> list[int]:
    """Of the items nearest to the end of this part, the nearest first."""
    if not most:
        return []
    return list(db.scalars(select(items.c.chance).where(able, part)
                           .order_by(items.c.chance.desc(), items.c.id.desc()).limit(most)))


def to_quota(db: Connection, able: ColumnElement[bool], quotas: dict[str, float], dice: Random) -> Drawn | None:
    """A stratum is drawn by its share among those that have an item left, and then one of its items by chance.

    Strata without a share come when all others are done.
    """
    left = {stratum: share for stratum, share in quotas.items() if _any(db, and_(able, items.c.stratum == stratum))}
    if not left:
        found = at_random(db, able, dice)
        return found and replace(found, policy="stratified")
    stratum, = dice.choices(list(left), list(left.values()))
    found = at_random(db, and_(able, items.c.stratum == stratum), dice)
    assert found is not None
    assert found.propensity is not None
    return Drawn(found.item, "stratified", found.propensity * left[stratum] / sum(left.values()))


def _any(db: Connection, able: ColumnElement[bool]) -> bool:
    return db.scalar(select(items.c.id).where(able).limit(1)) is not None


def disputed(db: Connection, able: ColumnElement[bool], share: float, dice: Random) -> Drawn | None:
    """The item on which an ensemble is furthest apart; in a `share` of turns any, by chance.

    Disagreement, and not closeness to 50/50: two answers of like worth teach little, whoever ranks them. The share
    keeps every item's propensity above 0.
    """
    furthest = db.scalar(select(items.c.id).where(able, items.c.uncertainty.is_not(None))
                         .order_by(items.c.uncertainty.desc(), items.c.id).limit(1))
    if furthest is None:
        return at_random(db, able, dice)
    by_chance = dice.random() < share
    found = at_random(db, able, dice) if by_chance else Drawn(furthest, "uncertainty", likely(db, able, furthest))
    assert found is not None
    assert found.propensity is not None
    return replace(found, propensity=min(1.0, share * found.propensity + (1 - share) * (found.item == furthest)))
