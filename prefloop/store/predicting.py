"""What a reward model says of items: kept before anybody rates them, and told to no rater before they have answered.

Who sees a machine's answer first tends to give it. So its order is told only after a rater gave theirs, and only of
half of the items, drawn for each rater: of the others a repeat can still show whether they agree with themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, update

from prefloop.records import digest
from prefloop.store import events
from prefloop.store.records import Campaign
from prefloop.store.schema import choices, items, leases, predictions, prompts, responses

TOLD = 0.5  # the share of a rater's items of which they are told the model's order
TOLD_OF = ("normal", "gold")  # alike, or its order would tell which items are gold


@dataclass(frozen=True)
class Scores:
    """A reward model's scores, and how far its members are apart (None: it has one), by prompt and answer (ids)."""

    model: str
    by_answer: Mapping[tuple[str, str], tuple[float | None, float | None]]


def keep(db: Connection, at: int, by: str, campaign: int, scores: Scores) -> int:
    """Keeps what a model says of those of a campaign's items whose answers it has all scored; how many these are."""
    found = []
    of_campaign = predictions.c.item.in_(select(items.c.id).where(items.c.campaign == campaign))
    holding = {row.item: row for row in db.execute(
        select(predictions.c.item, predictions.c.model, predictions.c.at).where(of_campaign)
        .order_by(predictions.c.at, predictions.c.model))}
    query = (select(choices.c.item, prompts.c.id.label("prompt"), responses.c.id.label("response"))
             .join(items, items.c.id == choices.c.item).join(prompts, prompts.c.digest == items.c.prompt)
             .join(responses, responses.c.digest == choices.c.response)
             .where(items.c.campaign == campaign, items.c.kind.in_(TOLD_OF)).order_by(choices.c.item, choices.c.place))
    for item, own in groupby(db.execute(query), lambda row: row.item):
        said = [scores.by_answer.get((row.prompt, row.response), (None, None)) for row in own]
        worth = [score for score, _ in said if score is not None]
        apart = [spread for _, spread in said if spread is not None]
        if len(worth) == len(said):
            spread = sum(apart) / len(apart) if len(apart) == len(said) else None
            before = holding.get(item)  # applied again, they are as old as they were
            since = before.at if before is not None and before.model == scores.model else at
            found.append({"item": item, "model": scores.model, "scores": json.dumps(worth), "spread": spread,
                          "at": since})
    db.execute(delete(predictions).where(predictions.c.model == scores.model, of_campaign))
    if found:
        db.execute(insert(predictions), found)
        db.execute(update(items).where(items.c.id == bindparam("own")).values(uncertainty=bindparam("apart")),
                   [{"own": row["item"], "apart": row["spread"]} for row in found])
    events.record(db, at, "predicted", by, f"campaigns:{campaign}", {
        "model": scores.model, "items": len(found), "digest": summed(db, campaign, scores.model)})
    return len(found)


def summed(db: Connection, campaign: int, model: str) -> str:
    """A digest of all that a model says of a campaign's items."""
    said = hashlib.sha256()
    for row in db.execute(select(predictions).join(items, items.c.id == predictions.c.item)
                          .where(items.c.campaign == campaign, predictions.c.model == model)
                          .order_by(predictions.c.item)):
        said.update(json.dumps([row.item, row.scores, row.spread, row.at]).encode())
    return said.hexdigest()


def newest(db: Connection, wanted: Collection[int]) -> dict[int, tuple[float, ...]]:
    """The scores of items, in the stored order of their answers, by the model that was asked last."""
    rows = db.execute(select(predictions.c.item, predictions.c.scores).where(predictions.c.item.in_(wanted))
                      .order_by(predictions.c.at, predictions.c.model))
    return {row.item: tuple(json.loads(row.scores)) for row in rows}


def inform(db: Connection, seed: int, lease: RowMapping, settings: Campaign) -> tuple[int, ...] | None:
    """The model's ranks of what a rater was shown, in that order, if they are told them: they have just answered."""
    if not lease["informed"]:
        drawn = int(digest(str(seed), "model", str(lease["item"]), lease["rater"]), 16) / 16**16 < TOLD
        if not (settings.show_model and drawn and lease["kind"] in TOLD_OF):
            return None
    found = as_shown(newest(db, [lease["item"]]).get(lease["item"]), lease["shown"])
    if found is not None and not lease["informed"]:
        db.execute(update(leases).where(leases.c.token == lease["token"]).values(informed=1))
    return found


def as_shown(scores: Sequence[float] | None, shown: str) -> tuple[int, ...] | None:
    """Scores in the stored order as ranks in the order that a rater saw."""
    return None if scores is None else ranks([scores[place] for place in json.loads(shown)])


def ranks(scores: Sequence[float]) -> tuple[int, ...]:
    """1 is the best; equal scores share a rank."""
    return tuple(1 + sum(other > own for other in scores) for own in scores)
