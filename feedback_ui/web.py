"""The routes that the page fetches from and submits to, with gradio's page mounted behind them.

The page never writes through gradio's events: they are slow, and anyone may call them.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from prefloop.errors import RequestError, RunError
from prefloop.records import digest
from prefloop.store import AlreadyAnswered, Judgement, NotLeased, Store

from . import app as page
from . import assignment
from .guard import Guard
from .server import FeedbackConfig

STATUS = {NotLeased: 403, AlreadyAnswered: 409, RequestError: 422, RunError: 503}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Next(Body):
    skipped: bool = False


class Skip(Body):
    token: str = Field(max_length=64)


class Submission(Body):
    token: str = Field(max_length=64)
    ranks: list[int | None] = Field(max_length=64)
    strength: str | None = None
    none_acceptable: bool = False
    reason: str = Field("", max_length=10_000)
    edited: str = Field("", max_length=100_000)
    seconds: float | None = None

    def judgement(self, guideline: str = "") -> Judgement:
        said = self.model_dump(exclude={"token", "ranks"})
        return Judgement(tuple(self.ranks), **said, guideline=guideline)


def build(store: Store, settings: FeedbackConfig) -> FastAPI:
    app = guarded()
    _routes(app, store, settings)
    return page.mount(app, page.rating_page())


def guarded() -> FastAPI:
    """No routes yet: who may call, and how what goes wrong is told."""
    # FastAPI's own documentation pages load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard)
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _reply(status))
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    return app


def _routes(app: FastAPI, store: Store, settings: FeedbackConfig) -> None:
    rater = settings.rater
    guideline = digest(settings.guideline) if settings.guideline else ""

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        return {"status": "ok", "done": store.progress().done}

    @app.post("/api/next")
    def next_task(body: Next) -> dict[str, Any]:
        task = assignment.next_task(store, rater, settings.lease_minutes, body.skipped)
        return {"task": task and task.to_json(), "progress": asdict(store.progress(rater)),
                "guideline": settings.guideline}

    @app.post("/api/submit")
    def submit(body: Submission) -> dict[str, Any]:
        return asdict(assignment.submit(store, rater, body.token, body.judgement(guideline)))

    @app.post("/api/skip")
    def skip(body: Skip) -> dict[str, Any]:
        assignment.skip(store, rater, body.token)
        return {}


def _reply(status: int) -> Any:
    def handler(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status)

    return handler


def _malformed(_: Request, error: Exception) -> JSONResponse:
    """What is wrong and where, without echoing what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return JSONResponse({"error": f"{where or 'request'}: {first['msg']}".encode("ascii", "replace").decode()}, 422)


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)
