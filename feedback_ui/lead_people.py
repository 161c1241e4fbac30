"""Who may sign in, on the lead's page: accounts, roles and invitations. For admins."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import Field
from sqlalchemy import func, select

from prefloop.errors import RequestError
from prefloop.store import Store
from prefloop.store.accounts import Accounts, named
from prefloop.store.schema import accounts, answers, sessions

from . import bodies
from .rating_web import Who
from .server import FeedbackConfig

Role = Literal["rater", "lead", "admin"]


class Change(bodies.Body):
    name: str = Field(max_length=bodies.NAME)
    action: Literal["role", "disable", "enable", "sign_out"]
    role: Role = "rater"


class Invite(bodies.Body):
    """A link by which one person makes an account (for `name`, or one of their choice), or sets a new password."""

    purpose: Literal["join", "reset"] = "join"
    role: Role = "rater"
    name: str | None = Field(None, max_length=bodies.NAME)
    hours: float = Field(72, gt=0, le=24 * 90)


def routes(app: FastAPI, store: Store, settings: FeedbackConfig, known: Accounts, admin_of: Who) -> None:
    @app.post("/api/lead/people")
    def people(request: Request, body: bodies.Nothing) -> dict[str, Any]:
        admin_of(request)
        return {"people": everybody(store)}

    @app.post("/api/lead/account")
    def account(request: Request, body: Change) -> dict[str, Any]:
        by = admin_of(request)
        if named(body.name) == by:
            raise RequestError("name: that is you; another admin can change it")  # else nobody might be left
        if body.action == "role":
            known.change_role(body.name, body.role, by=by)
        else:
            done = {"disable": known.disable, "enable": known.enable, "sign_out": known.end_all}
            done[body.action](body.name, by=by)
        return {"people": everybody(store)}

    @app.post("/api/lead/invite")
    def invite(request: Request, body: Invite) -> dict[str, Any]:
        """The link is told once: only its digest is kept."""
        token = known.invite(body.role, body.purpose, body.name or None, body.hours, by=admin_of(request))
        home = settings.origin or str(request.base_url).rstrip("/")
        return {"link": f"{home}/{body.purpose}#t={token}"}


def everybody(store: Store) -> list[dict[str, Any]]:
    """Every account, with when it was last seen and how many answers it gave that count."""
    seen = select(sessions.c.rater, func.max(sessions.c.seen).label("at")).group_by(sessions.c.rater).subquery()
    gave = (select(answers.c.rater, func.count().label("count")).where(answers.c.retracted.is_(None))
            .group_by(answers.c.rater).subquery())
    query = (select(accounts.c.name, accounts.c.role, accounts.c.state, accounts.c.created, seen.c.at, gave.c.count)
             .outerjoin(seen, seen.c.rater == accounts.c.name).outerjoin(gave, gave.c.rater == accounts.c.name)
             .order_by(accounts.c.name))
    with store.reading() as db:
        return [{"name": name, "role": role, "state": state, "created": created, "seen": at, "answers": count or 0}
                for name, role, state, created, at, count in db.execute(query)]
