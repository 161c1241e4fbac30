"""What a reviewer gets to see of an item: everything that raters said of it, and reward models."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select

from prefloop.records import Prompt, Response
from prefloop.store.disputing import Ranks, Why, stored, unheard
from prefloop.store.records import Campaign
from prefloop.store.schema import answers, flags, guidelines, items, predictions


@dataclass(frozen=True)
class Decision:
    """`ranks` in the stored order of the answers. `gold`: it is what is right of a gold item."""

    ranks: tuple[int | None, ...]
    cause: str
    none_acceptable: bool = False
    note: str = ""
    gold: bool = False


@dataclass(frozen=True)
class Review:
    """`kind` is the item's. `decision` is what `reviewer` decided; None of one that is open or was dismissed."""

    id: int
    item: int
    kind: str
    campaign: Campaign
    state: str
    why: tuple[Why, ...]
    prompt: Prompt
    responses: tuple[Response, ...]
    opened: int
    closed: int | None
    reviewer: str
    note: str
    decision: Decision | None


@dataclass(frozen=True)
class Opinion:
    """What one rater said, `ranks` in the stored order. `guideline` is the number of the version they worked by."""

    rater: str
    at: int
    kind: str
    ranks: Ranks
    none_acceptable: bool
    strength: str | None
    reason: str
    edited: str
    seconds: float | None
    guideline: int | None
    counts: bool
    trusted: bool
    informed: bool


@dataclass(frozen=True)
class Remark:
    """A rater's flag."""

    rater: str
    kind: str
    note: str
    at: int


@dataclass(frozen=True)
class Predicted:
    """What a reward model gave the answers, in the stored order, and how far its members were apart."""

    model: str
    scores: tuple[float, ...]
    spread: float | None


@dataclass(frozen=True)
class Case:
    """All there is to a review. `order` lists the answers as every reviewer sees them."""

    review: Review
    pictures: dict[str, str]
    order: tuple[int, ...]
    opinions: tuple[Opinion, ...]
    remarks: tuple[Remark, ...]
    models: tuple[Predicted, ...]


def opinions(db: Connection, item: int) -> tuple[Opinion, ...]:
    """What raters say of it now, also in repeats, oldest first; what they changed or withdrew is left out."""
    number = (select(func.max(guidelines.c.number)).where(guidelines.c.campaign == items.c.campaign,
                                                          guidelines.c.version == answers.c.guideline,
                                                          guidelines.c.version != "").scalar_subquery())
    silent = unheard(db)
    rows = db.execute(select(answers, number.label("number")).join(items, items.c.id == answers.c.item)
                      .where(or_(items.c.id == item, items.c.mirrors == item), answers.c.retracted.is_(None))
                      .order_by(answers.c.id))
    return tuple(Opinion(row.rater, row.created, row.kind, stored(row.ranks, row.shown), bool(row.none_acceptable),
                         row.strength, row.reason, row.edited, row.seconds, row.number,
                         not (row.surplus or row.excluded), row.rater not in silent, bool(row.informed))
                 for row in rows)


def remarks(db: Connection, item: int) -> tuple[Remark, ...]:
    rows = db.execute(select(flags).join(items, items.c.id == flags.c.item)
                      .where(or_(items.c.id == item, items.c.mirrors == item))
                      .order_by(flags.c.at, flags.c.rater, flags.c.kind))
    return tuple(Remark(row.rater, row.kind, row.note, row.at) for row in rows)


def predicted(db: Connection, item: int) -> tuple[Predicted, ...]:
    rows = db.execute(select(predictions).where(predictions.c.item == item).order_by(predictions.c.model))
    return tuple(Predicted(row.model, tuple(json.loads(row.scores)), row.spread) for row in rows)
