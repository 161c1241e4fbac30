"""What stands before every route, ours and gradio's: who may call, how much they may send, what a browser may do.

Any page open in a rater's browser can send requests here. So the Host must be this server's own name (a foreign name
that resolves to this machine is refused), and what changes anything must come from our own page. With sign-in, nothing
but the way in is reached without a session: a new route is closed until it is named here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefloop.errors import RunError

from .pace import Pace

if TYPE_CHECKING:
    from prefloop.store.accounts import Account

LARGEST_BODY = 256 * 1024
UPLOADS = {"/api/lead/upload": 32 * 1024 * 1024}  # files, the body as it is, up to so many bytes
HOSTS = ("127.0.0.1", "localhost", "[::1]")

# Gradio runs inline scripts, and compiles a component's template and script with `new Function`.
POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
          "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
          "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'")
STRICT = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
          "base-uri 'none'; form-action 'self'; frame-ancestors 'none'")  # of pages without gradio
HEADERS = {"x-content-type-options": "nosniff", "x-frame-options": "DENY",
           "referrer-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
           "cross-origin-resource-policy": "same-origin"}
SECURE = {"strict-transport-security": "max-age=31536000"}  # once the address is https

# Gradio serves files, fetches addresses and runs events for whoever asks; our page needs none of that.
CLOSED = ("/gradio_api", "/monitoring", "/file", "/proxy")
OPEN = ("/gradio_api/heartbeat/", "/gradio_api/info", "/gradio_api/app_id", "/gradio_api/startup-events")

# The way in. Watchers ask on this machine; /metrics looks for itself at who is asking.
WAY_IN = frozenset(("/sign-in", "/join", "/reset", "/sign_in.css", "/sign_in.js", "/api/sign_in", "/api/join",
                    "/api/reset"))
WATCHED = frozenset(("/healthz", "/metrics"))
PLAIN = WAY_IN | {"/lead", "/lead.css", "/lead.js"}  # pages without gradio
FOR_LEADS = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>prefloop</title><link rel="icon" href="data:,"><link rel="stylesheet" href="/sign_in.css">
<main><div class="pl-door"><div class="pl-brand">prefloop</div><h1>This page is for leads</h1>
<p class="pl-hint"><a href="/">To what you rate</a></p></div></main></html>
"""
FORWARDED = ("x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via")


@dataclass(frozen=True)
class Refusal:
    status: int
    why: str
    headers: tuple[tuple[str, str], ...] = ()
    page: str = ""  # for who came by a link; scripts read JSON


@dataclass(frozen=True)
class Sessions:
    """With sign-in: the cookie that names a session, and whose session that is."""

    cookie: str
    whose: Callable[[str], Account | None]


class Guard:
    """`origin` is the public address behind a proxy; without one, this machine's own names are answered to."""

    def __init__(self, app: ASGIApp, origin: str = "", sessions: Sessions | None = None) -> None:
        self.app, self._origin, self._sessions = app, origin, sessions
        self._headers = {**HEADERS, **(SECURE if origin.startswith("https:") else {})}
        self._raters, self._strangers = Pace(burst=40, per_second=4), Pace(burst=200, per_second=2)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = STRICT if scope["path"] in PLAIN else POLICY
                for name, value in self._headers.items():
                    headers[name] = value
                if scope["path"].startswith("/api/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        refused = refusal(scope["method"], scope["path"], headers, self._origin) or await self._admit(scope, headers)
        if refused is None:
            await self.app(scope, receive, send_guarded)
            return
        kind = b"text/html; charset=utf-8" if refused.page else b"application/json"
        body = refused.page or json.dumps({"error": refused.why})
        said = [(b"content-type", kind), *((k.encode(), v.encode()) for k, v in refused.headers)]
        await send_guarded({"type": "http.response.start", "status": refused.status, "headers": said})
        await send({"type": "http.response.body", "body": body.encode()})

    async def _admit(self, scope: Scope, headers: Headers) -> Refusal | None:
        """Finds out whose session this is, and leaves the account in the request's state."""
        if self._sessions is None:
            return None
        path, changes = scope["path"], scope["method"] == "POST"
        token = cookie_parser(headers.get("cookie", "")).get(self._sessions.cookie, "")
        try:
            account = await run_in_threadpool(self._sessions.whose, token) if token else None
        except RunError as error:  # that somebody was seen could not be written down
            return Refusal(503, unsaved(error))
        scope.setdefault("state", {})["account"] = account
        if account is not None and account.role == "rater" and leads_only(path):
            return Refusal(403, "this is for leads", page=FOR_LEADS if path == "/lead" else "")
        if account is not None:
            return _hasty(self._raters, account.name) if changes else None
        if path in WAY_IN:
            return _hasty(self._strangers, peer(scope)) if changes else None
        if path in WATCHED:
            return None
        if path in ("/", "/lead") and not changes:
            way = "/sign-in?to=lead" if path == "/lead" else "/sign-in"  # what is after # the browser carries along
            return Refusal(303, "sign in first", (("location", way), ("cache-control", "no-store")))
        return Refusal(401, "you are signed out; sign in again")


def refusal(method: str, path: str, headers: Headers, origin: str = "") -> Refusal | None:
    """Why nobody may send such a request; None if somebody may."""
    host = headers.get("host", "")
    local = here(host)
    if origin and host != urlsplit(origin).netloc and not (local and path in WATCHED):
        return Refusal(421, "this page answers only to its own address; a proxy must pass the Host header on")
    if not origin and not local:
        return Refusal(421, "this page answers only to this machine's own address")
    if method in ("GET", "HEAD"):
        closed = path.startswith(CLOSED) and not path.startswith(OPEN)
        return Refusal(404, "there is nothing here") if closed else None
    if method != "POST" or not path.startswith("/api/"):
        return Refusal(405, "only /api/ takes requests that change something")
    own = (origin,) if origin else (f"http://{host}", f"https://{host}")
    return _foreign(path, headers, own) or _oversized(path, headers)


def leads_only(path: str) -> bool:
    return path.startswith(("/lead", "/api/lead"))


def here(host: str) -> bool:
    """Whether a Host header is one of this machine's own names."""
    return host.rpartition(":")[0] in HOSTS or host in HOSTS


def _foreign(path: str, headers: Headers, own: tuple[str, ...]) -> Refusal | None:
    """A browser always says where a POST comes from, and no page can forge it; other programs need not say."""
    if headers.get("origin") not in (None, *own):
        return Refusal(403, "this request came from another page")
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return Refusal(403, "this request came from another page")
    kind = "application/octet-stream" if path in UPLOADS else "application/json"  # no form of another page sends these
    if headers.get("content-type", "").partition(";")[0].strip() != kind:
        return Refusal(415, "send JSON" if path not in UPLOADS else f"send {kind}")
    return None


def _oversized(path: str, headers: Headers) -> Refusal | None:
    """The length must be declared: the server then reads no more than that."""
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        return Refusal(411, "say how long the request is")
    most = UPLOADS.get(path, LARGEST_BODY)
    if int(length[:20]) > most:
        return Refusal(413, f"more than {most // 1024} KiB")
    return None


def unsaved(error: Exception) -> str:
    """What a rater is told when the store cannot be written; whoever looks after the server is told why."""
    print(f"prefloop feedback: {error}", file=sys.stderr, flush=True)
    return "nothing could be saved just now; keep this page open, and it tries again"


def _hasty(pace: Pace, sender: str) -> Refusal | None:
    wait = pace.wait(sender)
    return Refusal(429, f"too many requests; try again in {wait} s", (("retry-after", str(wait)),)) if wait else None


def peer(scope: Scope) -> str:
    """The address that a request comes from; a proxy on this machine has said it (uvicorn reads that)."""
    return (scope.get("client") or ("", 0))[0]
