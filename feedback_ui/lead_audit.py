"""What leads see of the log, and what admins do about one person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from prefloop.errors import RequestError
from prefloop.store import Store, events, forgetting

from . import auditing, bodies, persons, uploads

Who = Callable[[Request], str]
AT_ONCE = 50  # events of a page
ROWS = 3  # of an event's rows are shown


class Before(bodies.Body):
    before: int | None = Field(None, ge=1, lt=2**53)
    about: str = Field("", max_length=bodies.NAME)


class Leaving(bodies.Body):
    name: str = Field(max_length=bodies.NAME)
    confirm: str = Field("", max_length=bodies.NAME)


def routes(app: FastAPI, store: Store, lead_of: Who, admin_of: Who) -> None:
    _log(app, store, lead_of)
    _person(app, store, admin_of)


def _log(app: FastAPI, store: Store, lead_of: Who) -> None:
    at_it = Lock()

    @app.post("/api/lead/events")
    def log(request: Request, body: Before) -> dict[str, Any]:
        lead_of(request)
        with store.reading() as db:
            found = events.latest(db, body.before, body.about, AT_ONCE + 1)
        return {"events": [{**asdict(one), "payload": shown(one.payload)} for one in found[:AT_ONCE]],
                "more": len(found) > AT_ONCE}

    @app.post("/api/lead/verify")
    def verify(request: Request, body: bodies.Nothing) -> dict[str, Any]:
        """Reads the whole log, so one at a time."""
        lead_of(request)
        if not at_it.acquire(blocking=False):
            raise RequestError("the store is being verified; wait for that")
        try:
            found = auditing.verified(store)
        finally:
            at_it.release()
        return {"ok": not found.bad, "events": found.events, "rows": found.rows, "erased": found.erased,
                "head": found.head, "first_bad": found.bad[0] if found.bad else None, "bad": found.bad}


def shown(payload: dict[str, Any] | None) -> dict[str, Any] | None:
    """What an event says beside who did it; of many rows the first."""
    if payload is None:
        return None
    rows = {name: own[:ROWS] for name, own in payload.get("rows", {}).items()}
    more = sum(len(own) for own in payload.get("rows", {}).values()) - sum(map(len, rows.values()))
    rest = {name: value for name, value in payload.items() if name not in ("actor", "about", "rows")}
    return {**rest, **({"rows": rows} if rows else {}), **({"more": more} if more else {})}


def _person(app: FastAPI, store: Store, admin_of: Who) -> None:
    @app.get("/api/lead/rater_data")
    def rater_data(request: Request, name: str) -> JSONResponse:
        admin_of(request)
        return JSONResponse(forgetting.told(store, name), headers={
            "content-disposition": 'attachment; filename="rater.json"'})

    @app.post("/api/lead/forget")
    def forget(request: Request, body: Leaving) -> dict[str, Any]:
        """Without the name a second time it tells what would not be undone; with it, it is done."""
        admin = admin_of(request)
        trace = persons.traced(store, body.name, Path(persons.RaterConfig.runs))
        if trace.name == admin and hasattr(request.state, "account"):
            raise RequestError("name: you are signed in by this name; another admin has to do it")
        if body.confirm != body.name:
            return {**trace.to_json(), "forgotten": None}
        done = asdict(forgetting.forget(store, body.name, admin))
        uploads.sweep(uploads.folder(store), 0)  # they may hold what was deleted
        return {**trace.to_json(), "forgotten": done}
