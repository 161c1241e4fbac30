"""Signing in and out: the routes that set and clear the session's cookie, and the page that stands before the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from prefloop.errors import RequestError
from prefloop.store.accounts import Account, Accounts

from .bodies import Change, Join, Reset, SignIn
from .guard import Sessions, peer

COOKIE = 365 * 86400  # seconds; the store says when a session is over
T = TypeVar("T")


class Busy(RequestError):
    """Too many passwords to check at once."""


class NotYou(RequestError):
    """A name and a password that do not belong together."""


class Turns:
    """Passwords take long and much memory to check, on purpose: two at a time, and not too many in the queue."""

    AT_ONCE, WAITING = 2, 500

    def __init__(self) -> None:
        self._limit = CapacityLimiter(self.AT_ONCE)

    async def run(self, work: Callable[[], T]) -> T:
        if self._limit.statistics().tasks_waiting >= self.WAITING:
            raise Busy("many people are signing in; try again in a moment")
        return await to_thread.run_sync(work, limiter=self._limit)


def sessions(accounts: Accounts, origin: str, port: int) -> Sessions:
    """Under https the cookie is one that only this host's own pages can set, and never goes out in the clear.

    Cookies are shared by all ports of a host, so elsewhere the port is a part of its name: that of the address that
    people type, for several servers may stand behind it.
    """
    typed = (urlsplit(origin).port or 80) if origin else port
    return Sessions("__Host-prefloop" if origin.startswith("https:") else f"prefloop-{typed}", accounts.who)


def routes(app: FastAPI, accounts: Accounts, known: Sessions, files: Mapping[str, tuple[str, str]]) -> None:
    """`files` are the page before the work: by path, its parts' kinds and texts."""
    _pages(app, files)
    turns = Turns()

    def enter(request: Request, account: Account) -> JSONResponse:
        """A new session; the one that this browser had, if it had one, is over."""
        if before := request.cookies.get(known.cookie):
            accounts.end_session(before)
        reply = JSONResponse({"rater": account.name, "role": account.role})
        reply.set_cookie(known.cookie, accounts.session(account.name), max_age=COOKIE, path="/", httponly=True,
                         secure=known.cookie.startswith("__Host-"), samesite="lax")
        return reply

    def refuse() -> NoReturn:
        raise NotYou("the name or the password is not right")

    @app.post("/api/sign_in")
    async def sign_in(request: Request, body: SignIn) -> JSONResponse:
        address = peer(request.scope)
        return await turns.run(lambda: enter(request, accounts.verify(body.name, body.password, address) or refuse()))

    @app.post("/api/join")
    async def join(request: Request, body: Join) -> JSONResponse:
        return await turns.run(lambda: enter(request, accounts.redeem(body.invitation, body.name, body.password)))

    @app.post("/api/reset")
    async def reset(request: Request, body: Reset) -> JSONResponse:
        return await turns.run(lambda: enter(request, accounts.redeem(body.invitation, None, body.password)))

    @app.post("/api/password")
    async def password(request: Request, body: Change) -> JSONResponse:
        """Whoever else is signed in under this name is signed out."""

        def change() -> JSONResponse:
            name, address = request.state.account.name, peer(request.scope)
            return enter(request, accounts.change_password(name, body.old, body.new, address) or refuse())

        return await turns.run(change)

    @app.post("/api/sign_out")
    def sign_out(request: Request) -> JSONResponse:
        accounts.end_session(request.cookies[known.cookie])
        reply = JSONResponse({})
        reply.delete_cookie(known.cookie, path="/", httponly=True, secure=known.cookie.startswith("__Host-"))
        return reply


def _pages(app: FastAPI, files: Mapping[str, tuple[str, str]]) -> None:
    """The page that asks for a name and a password. It knows by its address what it is for."""

    def serving(kind: str, text: str) -> Callable[[], Response]:
        return lambda: Response(text, media_type=kind, headers={"cache-control": "no-cache"})

    page = files["/sign-in"]
    for path, (kind, text) in {**files, "/join": page, "/reset": page}.items():
        app.add_api_route(path, serving(kind, text), methods=["GET"])
