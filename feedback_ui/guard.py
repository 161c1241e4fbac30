"""What stands before every route, ours and gradio's: who may call, how much they may send, what a browser may do.

The page is for one person on this machine, yet any page open in their browser can send requests here. So the Host must
be this machine's own name (a foreign name that resolves to 127.0.0.1 is refused), and what changes anything must come
from our own page.
"""

from __future__ import annotations

import json

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 256 * 1024
HOSTS = ("127.0.0.1", "localhost", "[::1]")

# Gradio runs inline scripts, and compiles a component's template and script with `new Function`.
POLICY = ("default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
          "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
          "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'")
HEADERS = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "x-frame-options": "DENY",
           "referrer-policy": "same-origin", "cross-origin-opener-policy": "same-origin",
           "cross-origin-resource-policy": "same-origin"}

# Gradio serves files, fetches addresses and runs events for whoever asks; our page needs none of that.
CLOSED = ("/gradio_api", "/monitoring", "/file", "/proxy")
OPEN = ("/gradio_api/heartbeat/", "/gradio_api/info", "/gradio_api/app_id", "/gradio_api/startup-events")


class Guard:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

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
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/api/"):
                    headers["cache-control"] = "no-store"
            await send(message)

        refused = refusal(scope["method"], scope["path"], Headers(scope=scope))
        if refused is None:
            await self.app(scope, receive, send_guarded)
        else:
            status, why = refused
            await send_guarded({"type": "http.response.start", "status": status,
                                "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": json.dumps({"error": why}).encode()})


def refusal(method: str, path: str, headers: Headers) -> tuple[int, str] | None:
    """Why a request may not pass, with its status; None if it may."""
    host = headers.get("host", "")
    if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
        return 421, "this page answers only to this machine's own address"
    if method in ("GET", "HEAD"):
        return (404, "there is nothing here") if path.startswith(CLOSED) and not path.startswith(OPEN) else None
    if method != "POST" or not path.startswith("/api/"):
        return 405, "only /api/ takes requests that change something"
    return _foreign(host, headers) or _oversized(headers)


def _foreign(host: str, headers: Headers) -> tuple[int, str] | None:
    """A browser always says where a POST comes from, and no page can forge it; other programs need not say."""
    origin = headers.get("origin")
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return 403, "this request came from another page"
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "this request came from another page"
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return 415, "send JSON"
    return None


def _oversized(headers: Headers) -> tuple[int, str] | None:
    """The length must be declared: the server then reads no more than that."""
    length = headers.get("content-length", "")
    if not (length.isascii() and length.isdigit()):
        return 411, "say how long the request is"
    if int(length[:20]) > LARGEST_BODY:
        return 413, f"more than {LARGEST_BODY // 1024} KiB"
    return None
