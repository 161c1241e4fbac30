"""What Prometheus reads: how fast requests are, what is waiting, how large the store is. No names and no texts.

A label is one of our own routes, a status or a state: nothing that a rater or a model wrote can become one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from sqlalchemy import func, select
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefloop.doors import loopback
from prefloop.quality.drift import WATCHED
from prefloop.store import Store, schema

from .guard import FORWARDED, here, peer

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Measured:
    """Times every request; what was refused at the door has no route."""

    def __init__(self, app: ASGIApp, seconds: Histogram) -> None:
        self.app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def send_measured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_measured)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._seconds.labels(route, str(status)).observe(time.perf_counter() - began)


class StoreCollector:
    """Read when Prometheus asks."""

    def __init__(self, store: Store, quality: Callable[[], Mapping[str, Any]]) -> None:
        self._store, self._quality = store, quality

    def collect(self) -> Iterator[GaugeMetricFamily]:
        progress = self._store.progress()
        answers = GaugeMetricFamily("prefloop_answers", "Answers in the store", labels=["state"])
        answers.add_metric(["wanted"], progress.wanted)
        answers.add_metric(["done"], progress.done)
        answers.add_metric(["surplus"], progress.surplus)
        yield answers
        yield GaugeMetricFamily("prefloop_items", "Items to rate", value=progress.items)
        yield from self._counted()
        yield from self._judged()
        size = GaugeMetricFamily("prefloop_store_bytes", "Size of the store's files", labels=["file"])
        with self._store.reading() as db:
            for name, value in self._store.place.sizes(db).items():
                size.add_metric([name], value)
        yield size

    def _judged(self) -> Iterator[GaugeMetricFamily]:
        """How good raters' work is; what cannot be told yet is left out."""
        known = self._quality()
        agreement = GaugeMetricFamily("prefloop_agreement", "Between raters of one item", labels=["figure"])
        for figure in ("alpha", "percent", "tau_b"):
            if (told := known["agreement"]["overall"][figure]) is not None:
                agreement.add_metric([figure], told["value"])
        yield agreement
        alarms = GaugeMetricFamily("prefloop_alarms", "Of campaigns' newest answers", labels=["what"])
        for what in WATCHED:
            alarms.add_metric([what], sum(one["what"] == what for one in known["alarms"]))
        yield alarms
        quarantines = GaugeMetricFamily("prefloop_quarantines", "Raters", labels=["state"])
        for state in ("proposed", "held"):
            quarantines.add_metric([state], sum(one["state"] == state for one in known["raters"]))
        yield quarantines

    def _counted(self) -> Iterator[GaugeMetricFamily]:
        now = self._store.clock()
        counted = {"prefloop_leases": ("Items that raters hold now", schema.leases, (
                       schema.leases.c.state == "open", schema.leases.c.expires > now)),
                   "prefloop_sessions": ("Who is signed in", schema.sessions, (schema.sessions.c.expires > now,)),
                   "prefloop_wrong_passwords": ("In the last quarter of an hour", schema.failures, (
                       schema.failures.c.at > now - 900,)),
                   "prefloop_flags": ("Items that a rater pointed at", schema.flags, ())}
        with self._store.reading() as db:
            for name, (what, table, where) in counted.items():
                value = db.scalar(select(func.count()).select_from(table).where(*where))
                yield GaugeMetricFamily(name, what, value=value or 0)


def routes(app: FastAPI, store: Store, quality: Callable[[], Mapping[str, Any]]) -> None:
    registry = CollectorRegistry()
    seconds = Histogram("prefloop_request_seconds", "Time from a request to its reply", ["route", "status"],
                        buckets=SECONDS, registry=registry)
    registry.register(StoreCollector(store, quality))
    ProcessCollector(registry=registry)
    app.add_middleware(Measured, seconds=seconds)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        store.answers()
        return {"status": "ok"}

    @app.get("/metrics")
    def metrics(request: Request) -> Response:
        if not _may_read(request):
            raise HTTPException(403, "metrics are for this machine, or for a lead who is signed in")
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _may_read(request: Request) -> bool:
    """A proxy on this machine is not this machine's own request: it says for whom it asks."""
    account = getattr(request.state, "account", None)
    local = (loopback(peer(request.scope)) and here(request.headers.get("host", ""))
             and not any(name in request.headers for name in FORWARDED))
    return local or (account is not None and account.role in ("lead", "admin"))
