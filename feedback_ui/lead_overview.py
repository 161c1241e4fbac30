"""How far campaigns are: what the lead's page shows first."""

from __future__ import annotations

import json
from typing import Any

from fastapi import FastAPI, Request
from pydantic import Field
from sqlalchemy import Connection, distinct, func, select

from prefloop.store import Store
from prefloop.store.schema import answers, campaigns, flags, items
from prefloop.store.store import DEFAULT

from . import bodies
from .rating_web import Who

DAY = 86400


class Of(bodies.Body):
    """One campaign, or all of them."""

    campaign: str | None = Field(None, max_length=bodies.NAME)


def routes(app: FastAPI, store: Store, lead_of: Who) -> None:
    @app.post("/api/lead/overview")
    def overview(request: Request, body: Of) -> dict[str, Any]:
        lead_of(request)
        with store.reading() as db:
            return {"campaigns": progress(db), "raters": raters_at_work(db, store.clock()),
                    "flags": db.scalar(select(func.count()).select_from(flags)) or 0}


def progress(db: Connection) -> list[dict[str, Any]]:
    """Of every campaign: how many normal items it has, the answers that they want, and those that are in. The one that
    every store has is told once something is in it.
    """
    normal = (items.c.campaign == campaigns.c.id) & (items.c.kind == "normal")
    rows = db.execute(select(campaigns.c.name, campaigns.c.settings, campaigns.c.state, func.count(items.c.id),
                             func.coalesce(func.sum(items.c.need), 0), func.coalesce(func.sum(items.c.done), 0))
                      .select_from(campaigns.outerjoin(items, normal)).group_by(campaigns.c.id)
                      .order_by(campaigns.c.id))
    found = [{"name": name, "title": json.loads(settings).get("title", ""), "state": state, "items": count,
              "wanted": int(wanted), "done": int(done)}
             for name, settings, state, count, wanted, done in rows]
    return [one for one in found if one["items"] or one["name"] != DEFAULT]


def raters_at_work(db: Connection, now: int) -> dict[str, int]:
    """How many people gave an answer in the last day, in the last week, and ever."""
    def since(at: int) -> int:
        return db.scalar(select(func.count(distinct(answers.c.rater))).where(answers.c.created > at)) or 0

    return {"day": since(now - DAY), "week": since(now - 7 * DAY), "ever": since(0)}
