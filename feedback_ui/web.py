"""The app: what every page of ours has in common, and what goes wrong as a status and a line in the caller's words.

The page never writes through gradio's events: they are slow, and anyone may call them.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from prefloop.errors import RequestError, RunError
from prefloop.store import AlreadyAnswered, NotLeased, Store
from prefloop.store.accounts import Accounts, Locked
from prefloop.store.reviewing import Closed
from prefloop.store.watching import Watch

from . import app as page
from . import auth, lead_quality, lead_web, metrics, rating_web, watching
from .guard import HEADERS, Guard, Sessions, unsaved
from .server import FeedbackConfig

STATUS = {NotLeased: 403, auth.NotYou: 403, rating_web.NotAdmitted: 403, lead_web.NotLead: 403,
          AlreadyAnswered: 409, Closed: 409, RequestError: 422}


def build(store: Store, settings: FeedbackConfig) -> FastAPI:
    accounts = Accounts(store) if settings.sign_in else None
    watch = Watch(store)
    facts = lead_quality.Facts(store, watch)
    watched = watching.while_served(watch, facts)
    if accounts is None:
        app = guarded(lifespan=watched)
    else:
        known = auth.sessions(accounts, settings.origin, settings.port)
        app = guarded(settings.origin, known, watched)
        auth.routes(app, accounts, known, page.sign_in_files())
    metrics.routes(app, store, facts.of)
    rating_web.routes(app, store, settings)
    lead_web.routes(app, store, settings, accounts, facts)
    return page.mount(app, page.rating_page())


def guarded(origin: str = "", sessions: Sessions | None = None, lifespan: Any = None) -> FastAPI:
    """No routes yet: who may call, and how what goes wrong is told."""
    # FastAPI's own documentation pages load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(Guard, origin=origin, sessions=sessions)
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _reply(status))
    app.add_exception_handler(RunError, _unsaved)
    app.add_exception_handler(Exception, _unexpected)
    app.add_exception_handler(Locked, _locked)
    app.add_exception_handler(auth.Busy, _busy)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _http)
    return app


def _reply(status: int) -> Any:
    def handler(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, status)

    return handler


def _unsaved(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": unsaved(error)}, 503)


def _unexpected(*_: Any) -> JSONResponse:
    """The server's own log has the traceback."""
    return JSONResponse({"error": "something went wrong on the server; your work is kept on this page"}, 500, HEADERS)


def _locked(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Locked)
    return JSONResponse({"error": str(error)}, 429, {"retry-after": str(error.seconds)})


def _busy(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 429, {"retry-after": "3"})


def _malformed(_: Request, error: Exception) -> JSONResponse:
    """What is wrong and where, without echoing what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return JSONResponse({"error": f"{where or 'request'}: {first['msg']}".encode("ascii", "replace").decode()}, 422)


def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)
