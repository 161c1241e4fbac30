"""The routes of the rating page. A rater's name comes from the session alone; what a request names must be theirs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from prefloop.errors import RequestError
from prefloop.store import Progress, Store

from . import assignment, bodies, revealing, telling
from .server import FeedbackConfig

Who = Callable[[Request], str]
HowFar = Callable[[str, str], dict[str, Any]]  # a rater's name, a campaign's
SHOWN = 20  # answers of the history at once


class NotAdmitted(RequestError):
    """A campaign that others rate."""


class Totals:
    """How far campaigns are, counted anew once a second at most: every reply tells it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[float, Progress]] = {}

    def of(self, campaign: str) -> Progress:
        at, known = self._known.get(campaign, (-math.inf, None))
        if known is None or time.monotonic() - at > 1:
            known = self._store.progress(campaign=campaign)
            self._known[campaign] = time.monotonic(), known
        return known


def routes(app: FastAPI, store: Store, settings: FeedbackConfig) -> None:
    def rater_of(request: Request) -> str:
        return request.state.account.name if settings.sign_in else settings.rater

    totals = Totals(store)

    def progress(rater: str, campaign: str) -> dict[str, Any]:
        """One person sees all of it; of many, each their own part and roughly the rest."""
        if not settings.sign_in:
            return asdict(store.progress(rater, campaign=campaign))
        mine, skipped = store.own(rater, campaign)
        return asdict(replace(telling.coarse(totals.of(campaign)), mine=mine, skipped=skipped))

    _arrive(app, store, settings, rater_of)
    _rate(app, store, settings, rater_of, progress)
    _look_back(app, store, settings, rater_of, progress)


def _arrive(app: FastAPI, store: Store, settings: FeedbackConfig, rater_of: Who) -> None:
    def admitted_to(campaign: str, rater: str) -> str:
        if store.gate(rater, campaign) == "not_admitted":
            raise NotAdmitted(f"campaign: {rater} is not one of its raters")
        return rater

    def waiting(rater: str, campaign: str) -> int:
        """Whether there is anything; how much there is would tell which items were gold."""
        return int(store.gate(rater, campaign) != "paused" and store.waiting(rater, campaign) > 0)

    @app.post("/api/hello")
    def hello(request: Request, body: bodies.Nothing) -> dict[str, Any]:
        rater = rater_of(request)
        open_to = store.open_to(rater)
        return {"rater": rater, "role": request.state.account.role if settings.sign_in else "rater",
                "sign_in": settings.sign_in, "language": settings.language,
                "campaigns": [{"name": one.name, "title": one.title, "waiting": waiting(rater, one.name)}
                              for one in open_to],
                "break_minutes": min((one.break_minutes for one in open_to if one.break_minutes), default=0)}

    @app.post("/api/acknowledge")
    def acknowledge(request: Request, body: bodies.Acknowledgement) -> dict[str, Any]:
        store.acknowledge(admitted_to(body.campaign, rater_of(request)), body.campaign, body.version)
        return {}

    @app.post("/api/warning")
    def warning(request: Request, body: bodies.Warned) -> dict[str, Any]:
        store.answer_warning(admitted_to(body.campaign, rater_of(request)), body.campaign, body.accept)
        return {}

    @app.get("/api/picture/{name}")
    def picture(name: str) -> Response:
        found = store.picture(name)
        if found is None:
            return Response(status_code=404)
        return Response(found[1], media_type=found[0], headers={
            "cache-control": "private, max-age=86400, immutable", "content-disposition": "inline"})


def _rate(app: FastAPI, store: Store, settings: FeedbackConfig, rater_of: Who, progress: HowFar) -> None:
    @app.post("/api/next")
    def next_task(request: Request, body: bodies.Next) -> dict[str, Any]:
        rater = rater_of(request)
        campaign = next((one for one in store.open_to(rater) if body.campaign in (None, one.name)), None)
        if campaign is None:
            return {"task": None, "gate": "not_admitted", "warning": "", "guideline": None, "qualification": None,
                    "standings": None, "progress": asdict(Progress(0, 0, 0, 0, 0, 0))}
        task = assignment.next_task(store, rater, settings.lease_minutes, body.skipped, campaign=campaign.name,
                                    holding=body.holding)
        return {"task": task and telling.task(task), "gate": None if task else store.gate(rater, campaign.name),
                "warning": telling.html(campaign.warning),
                "guideline": telling.guideline(store.guideline(rater, campaign.name)),
                "qualification": asdict(store.qualification(rater, campaign.name)),
                "standings": None if task else revealing.standings(store, campaign),
                "progress": progress(rater, campaign.name)}

    @app.post("/api/submit")
    def submit(request: Request, body: bodies.Submission) -> dict[str, Any]:
        rater = rater_of(request)
        receipt = assignment.submit(store, rater, body.token, body.judgement(), body.key)
        return {**telling.receipt(receipt), "progress": progress(rater, receipt.campaign),
                "lesson": telling.lesson(store.lesson(receipt.answer, rater))}

    @app.post("/api/skip")
    def skip(request: Request, body: bodies.Token) -> dict[str, Any]:
        store.release(body.token, rater_of(request))
        return {}

    @app.post("/api/flag")
    def flag(request: Request, body: bodies.Flag) -> dict[str, Any]:
        store.flag(body.token, rater_of(request), body.kind, body.note)
        return {}

    @app.post("/api/renew")
    def renew(request: Request, body: bodies.Token) -> dict[str, Any]:
        return {"expires": store.renew(body.token, rater_of(request), int(settings.lease_minutes * 60))}


def _look_back(app: FastAPI, store: Store, settings: FeedbackConfig, rater_of: Who, progress: HowFar) -> None:
    @app.post("/api/history")
    def history(request: Request, body: bodies.History) -> dict[str, Any]:
        rater = rater_of(request)
        return {"answers": [telling.past(one) for one in store.history(rater, body.campaign, body.before, SHOWN)]}

    @app.post("/api/reopen")
    def reopen(request: Request, body: bodies.Answer) -> dict[str, Any]:
        task, said = assignment.reopened(store, rater_of(request), body.answer)
        return {"task": telling.task(task), "said": telling.said(said)}

    @app.post("/api/revise")
    def revise(request: Request, body: bodies.Revision) -> dict[str, Any]:
        rater = rater_of(request)
        receipt = store.revise(body.answer, rater, body.judgement(), body.key)
        return {**telling.receipt(receipt), "progress": progress(rater, receipt.campaign), "lesson": None}

    @app.post("/api/withdraw")
    def withdraw(request: Request, body: bodies.Answer) -> dict[str, Any]:
        store.withdraw(body.answer, rater_of(request), int(settings.lease_minutes * 60))
        return {}
