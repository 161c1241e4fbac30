"""Which items to look at again: trusted raters disagree, a sure reward model contradicts one, or somebody flagged it.

Only raters who can be trusted are heard: nobody who is in quarantine or proposed for it, and nobody who is known to
fail gold items. Whoever has met few of them is trusted.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, func, or_, select

from prefloop.quality.figures import wilson_of
from prefloop.records import decided
from prefloop.store.admission import is_right
from prefloop.store.schema import answers, flags, golds, items, predictions, quarantines

KINDS = ("disagreement", "model", "flag")
BAR = 0.7  # a rater whose share of gold items that were right is surely below this is not heard
SURE = 0.9  # the probability from which on a reward model is sure of a pair
SPREADS = 3  # ... whose gap must also be so many times its members' spread

Ranks = Sequence[int | None]
Pair = tuple[int, int]
Why = dict[str, Any]  # `kind`, since when (`at`), and what it is about; no names of people

COUNTS = (answers.c.retracted.is_(None), answers.c.surplus == 0, answers.c.excluded == 0)


def contested(given: Sequence[Ranks]) -> list[Pair]:
    """The pairs of answers that some decided one way and some the other."""
    ways = {pair for ranks in given for pair in decided(ranks)}
    return sorted(pair for pair in ways if pair[0] < pair[1] and pair[::-1] in ways)


def contradicted(ranks: Ranks, scores: Sequence[float], spread: float | None) -> list[Pair]:
    """The pairs, the better answer first, of which a reward model is sure that they are the other way round.

    Scores are log-odds, as a Bradley-Terry model's are: the sigmoid of their gap is the probability of the pair.
    """
    least = max(math.log(SURE / (1 - SURE)), SPREADS * (spread or 0.0))
    if max(scores) - min(scores) < least:
        return []
    return sorted((better, worse) for better, worse in decided(ranks) if scores[worse] - scores[better] >= least)


def surely_below(right: int, of: int, bar: float = BAR) -> bool:
    """Does the whole interval of a share lie below a bar? Of nothing it does not."""
    return of > 0 and wilson_of(right / of, of)[1] < bar


# -- what the store knows ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Said:
    """An answer that counts, its ranks in the stored order."""

    rater: str
    ranks: tuple[int | None, ...]
    at: int


def unheard(db: Connection) -> set[str]:
    """The raters who are not trusted now. An answer to gold is the first that was given, whatever became of it."""
    right, of = Counter[str](), Counter[str]()
    for row in db.execute(select(answers.c.rater, answers.c.ranks, answers.c.shown, answers.c.none_acceptable,
                                 golds.c.ranks.label("key"), golds.c.none_acceptable.label("key_none"))
                          .join(golds, golds.c.item == answers.c.item)
                          .where(answers.c.kind == "gold", answers.c.revision == 1)):
        of[row.rater] += 1
        right[row.rater] += is_right(row)
    suspected = db.scalars(select(quarantines.c.rater).where(quarantines.c.closed.is_(None)))
    return {rater for rater in of if surely_below(right[rater], of[rater])} | set(suspected)


def found(db: Connection) -> dict[int, list[Why]]:
    """What there is to look at now, by item: every reason of an item, in the order of KINDS."""
    made: dict[int, list[Why]] = defaultdict(list)
    models = _predicted(db)
    for item, given in _heard(db, unheard(db)).items():
        made[item] += filter(None, (_disagreement(given), _contradiction(given, models.get(item))))
    for item, why in _flagged(db).items():
        made[item].append(why)
    return {item: whys for item, whys in made.items() if whys}


def _heard(db: Connection, but: set[str]) -> dict[int, list[_Said]]:
    """What trusted raters said of the items that several answered, or a model."""
    normal = (*COUNTS, answers.c.kind == "normal")
    several = select(answers.c.item).where(*normal).group_by(answers.c.item).having(func.count() > 1)
    rows = db.execute(select(answers.c.item, answers.c.rater, answers.c.ranks, answers.c.shown, answers.c.created)
                      .where(*normal, or_(answers.c.item.in_(several), answers.c.item.in_(select(predictions.c.item))))
                      .order_by(answers.c.item, answers.c.id))
    return {item: [_Said(row.rater, stored(row.ranks, row.shown), row.created) for row in own if row.rater not in but]
            for item, own in groupby(rows, key=lambda row: row.item)}


@lru_cache(maxsize=16_384)  # many raters say the same of few answers
def stored(ranks: str, shown: str) -> tuple[int | None, ...]:
    """Ranks that were given in the order shown, in the stored order of the answers."""
    place = dict(zip(json.loads(shown), json.loads(ranks), strict=True))
    return tuple(place[i] for i in range(len(place)))


def _disagreement(given: Sequence[_Said]) -> Why | None:
    pairs = contested([one.ranks for one in given]) if len(given) > 1 else []
    if not pairs:
        return None
    either = {pair for found in pairs for pair in (found, found[::-1])}
    return {"kind": "disagreement", "pairs": pairs,
            "at": max(one.at for one in given if either & set(decided(one.ranks)))}


def _predicted(db: Connection) -> dict[int, Any]:
    """Of each item what the model said that was asked last."""
    query = select(predictions.c.item, predictions.c.model, predictions.c.scores, predictions.c.spread)
    return {row.item: row for row in db.execute(query.order_by(predictions.c.at, predictions.c.model))}


def _contradiction(given: Sequence[_Said], model: Any) -> Why | None:
    """Since when is told by the answers alone: the same scores are kept anew whenever their file is read again."""
    scores = json.loads(model.scores) if model else []
    against = [(one, pairs) for one in given if model and (pairs := contradicted(one.ranks, scores, model.spread))]
    if not against:
        return None
    return {"kind": "model", "model": model.model, "pairs": sorted({pair for _, pairs in against for pair in pairs}),
            "at": max(one.at for one, _ in against)}


def _flagged(db: Connection) -> dict[int, Why]:
    """A repeat's flags are its first item's."""
    own = func.coalesce(items.c.mirrors, items.c.id).label("of")
    made: dict[int, list[Any]] = defaultdict(list)
    for row in db.execute(select(own, flags.c.kind, flags.c.at).join(items, items.c.id == flags.c.item)):
        made[row.of].append(row)
    return {item: {"kind": "flag", "flags": sorted({row.kind for row in rows}), "at": max(row.at for row in rows)}
            for item, rows in made.items()}
