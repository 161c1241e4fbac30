"""The page of those who answer for the labels: who may open it, its files, and the routes of its views.

Leads and admins alone, which the guard sees to for every path that begins with /lead or /api/lead; `lead_of` and
`admin_of` say it once more, and whose doing it is. Without sign-in the one person of this machine may do all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from prefloop.errors import RequestError
from prefloop.store import Store
from prefloop.store.accounts import Accounts

from . import (
    bodies,
    lead_audit,
    lead_campaigns,
    lead_charts,
    lead_data,
    lead_overview,
    lead_people,
    lead_quality,
    lead_review,
    model_agreement,
)
from .app import joined
from .server import FeedbackConfig

STYLES = ("base.css", "text.css", "lead.css", "lead_views.css", "lead_review.css")
SCRIPTS = ("shared.js", "lead_parts.js", "lead_charts.js", "lead_overview.js", "lead_campaigns.js", "lead_quality.js",
           "ranking_said.js", "lead_review_case.js", "lead_review.js", "lead_data.js", "lead_people.js", "lead_log.js",
           "lead.js")


class NotLead(RequestError):
    """What leads may do, and raters not; or admins, and leads not."""


def routes(app: FastAPI, store: Store, settings: FeedbackConfig, accounts: Accounts | None,
           known: lead_quality.Facts) -> None:
    """`accounts` is None where nobody signs in."""
    def lead_of(request: Request) -> str:
        return _named(request, settings, ("lead", "admin"), "this is for leads")

    def admin_of(request: Request) -> str:
        return _named(request, settings, ("admin",), "this is for admins")

    _pages(app)

    @app.post("/api/lead/hello")
    def hello(request: Request, body: bodies.Nothing) -> dict[str, Any]:
        role = request.state.account.role if settings.sign_in else "admin"
        with store.reading() as db:
            found = [{"name": one["name"], "title": one["title"]} for one in lead_overview.progress(db)]
        return {"lead": lead_of(request), "role": role, "sign_in": settings.sign_in, "campaigns": found}

    lead_overview.routes(app, store, lead_of)
    lead_audit.routes(app, store, lead_of, admin_of)
    lead_data.routes(app, store, lead_of)
    lead_campaigns.routes(app, store, settings, lead_of, known)
    lead_charts.routes(app, lead_of, known, lambda campaign: model_agreement.facts(store, campaign))
    lead_quality.routes(app, store, lead_of, known)
    lead_review.routes(app, store, lead_of)
    if accounts is not None:
        lead_people.routes(app, store, settings, accounts, admin_of)


def _named(request: Request, settings: FeedbackConfig, roles: tuple[str, ...], why: str) -> str:
    if not settings.sign_in:
        return settings.rater
    if request.state.account.role not in roles:
        raise NotLead(why)
    return request.state.account.name


def _pages(app: FastAPI) -> None:
    """Read when the server starts, as all pages are."""
    style = f"body {{ {joined('.css', *STYLES)} }}"
    script = f"(() => {{\nconst element = document.body;\n{joined('.js', *SCRIPTS)}}})();"
    for path, (kind, text) in {"/lead": ("text/html", joined(".html", "lead.html")), "/lead.css": ("text/css", style),
                               "/lead.js": ("text/javascript", script)}.items():
        app.add_api_route(path, _serving(kind, text), methods=["GET"])


def _serving(kind: str, text: str) -> Callable[[], Response]:
    return lambda: Response(text, media_type=kind, headers={"cache-control": "no-cache"})
