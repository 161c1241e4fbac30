"""How far a reward model agrees with people, over time and by how sure it was.

Held against it are answers that count, to normal items, given once its scores were stored (a later model may have
learnt from them) and before their rater was told the model's order. A pair is
one that the rater decided; where the model's scores are equal it is half right. Answers to one item say much the same,
so the item is the unit: each has one share of its pairs, and Wilson's interval is over items.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, select

from prefloop import stats
from prefloop.records import decided
from prefloop.store import Store
from prefloop.store.items import campaign_id
from prefloop.store.schema import answers, items, predictions

WINDOWS, LEAST = 20, 50  # parts of the time at most, and answers in each at least
BOUNDS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Pair:
    """A pair that a rater decided: `right` is 1, 0 or 1/2, `sure` the model's probability of its own choice."""

    at: int
    item: int
    right: float
    sure: float


def facts(store: Store, campaign: str | None) -> dict[str, Any]:
    """`over_time`: {at, agree}, equally many answers each; `by_confidence`: {least, most, agree}."""
    with store.reading() as db:
        found = pairs(db, None if campaign is None else campaign_id(db, campaign))
    size = max(LEAST, -(-len(found) // WINDOWS))
    windows = [[pair for own in found[start:start + size] for pair in own] for start in range(0, len(found), size)]
    sure = [pair for own in found for pair in own]
    return {"over_time": [{"at": window[0].at, "agree": agreement(window)} for window in windows],
            "by_confidence": [{"least": least, "most": most, "agree": agreement(
                pair for pair in sure if least <= pair.sure < most or pair.sure == most == 1)}
                for least, most in pairwise(BOUNDS)]}


def agreement(found: Iterable[Pair]) -> dict[str, float] | None:
    """The share of pairs that the model has right; None of no pairs."""
    of_item: dict[int, list[float]] = defaultdict(list)
    for one in found:
        of_item[one.item].append(one.right)
    if not of_item:
        return None
    shares = [sum(own) / len(own) for own in of_item.values()]
    return {**stats.win_rate(shares)._asdict(), "n": len(shares)}


def pairs(db: Connection, campaign: int | None) -> list[list[Pair]]:
    """The pairs of every answer that decides any, oldest answer first."""
    of = items.c.campaign == campaign if campaign is not None else items.c.id.is_not(None)
    opinions: dict[int, list[tuple[int, tuple[float, ...]]]] = defaultdict(list)
    for row in db.execute(select(predictions.c.item, predictions.c.scores, predictions.c.at)
                          .join(items, items.c.id == predictions.c.item).where(of)
                          .order_by(predictions.c.at, predictions.c.model)):
        opinions[row.item].append((row.at, tuple(json.loads(row.scores))))
    if not opinions:
        return []
    rows = db.execute(select(answers.c.created, answers.c.item, answers.c.ranks, answers.c.shown)
                      .join(items, items.c.id == answers.c.item)
                      .where(of, answers.c.kind == "normal", answers.c.informed == 0, answers.c.retracted.is_(None),
                             answers.c.surplus == 0, answers.c.excluded == 0).order_by(answers.c.id))
    known = ((row, beforehand(opinions.get(row.item, ()), row.created)) for row in rows)
    found = (compared(row.created, row.item, json.loads(row.ranks), json.loads(row.shown), scores)
             for row, scores in known if scores is not None)
    return [own for own in found if own]


def beforehand(opinions: Sequence[tuple[int, tuple[float, ...]]], at: int) -> tuple[float, ...] | None:
    """The newest scores that were there when an answer was given: a model may have learnt from those before it."""
    return next((scores for stored, scores in reversed(opinions) if stored <= at), None)


def compared(at: int, item: int, ranks: Sequence[int | None], shown: Sequence[int],
             scores: Sequence[float]) -> list[Pair]:
    """`ranks` in the order of `shown`, `scores` in the stored order and in nats (Bradley and Terry 1952)."""
    worth = [scores[place] for place in shown]
    gaps = [worth[better] - worth[worse] for better, worse in decided(ranks)]
    return [Pair(at, item, 0.5 if gap == 0 else float(gap > 0), 1 / (1 + math.exp(-min(abs(gap), 700.0))))
            for gap in gaps]
