"""A JSON server that a run depends on: asked with patience while it is away, and never believed.

What comes back is limited in size and time; what it says in an error is cut to a line that a terminal can show.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefloop.errors import RequestError, RunError

BUSY = (429, 502, 503, 504)  # which pass
MOST = 2**24  # bytes of a reply
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds


class Away(Exception):
    """The server did not answer this time."""


@dataclass(frozen=True)
class Remote:
    """Each request takes at most `timeout` seconds; the server may be away for `patience`. `section` is its config's.

    `token` goes along as a bearer's, if it is not empty.
    """

    url: str
    section: str
    token: str = ""
    timeout: float = 60.0
    patience: float = 300.0
    sleep: Callable[[float], None] = time.sleep

    def patiently(self, path: str, body: Any = None) -> Any:
        """The reply to one request, asked again while the server is away. RunError: for too long, or it refuses."""
        until, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            try:
                return self.once(path, body)
            except Away as away:
                if time.monotonic() + pause > until:
                    raise RunError(f"{self.url}: {away}; it was asked for {self.patience:g} seconds "
                                   f"({self.section}.patience); start it again, and resume this run") from None
                print(f"{self.url}: {away}; asking again in {pause:g} seconds", flush=True)
            self.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def once(self, path: str, body: Any = None) -> Any:
        """One request (GET without a body) and its reply, read as JSON where it is. Away: it may do better later.
        RunError: it would not."""
        where = urlsplit(self.url)
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {self.token}"} if self.token else {})
        sent = None if body is None else json.dumps(body).encode()
        try:
            connection = kind(where.hostname or "", where.port, timeout=self.timeout)
            try:
                connection.request("POST" if sent is not None else "GET", where.path + path, sent, headers)
                reply = connection.getresponse()
                content = self._whole(reply)
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise Away(f"no answer ({type(error).__name__}: {shortened(error)})") from None
        told, readable = read(content)
        if reply.status == 200:
            return told if readable else content.decode("utf-8", "replace")
        if reply.status in BUSY:
            raise Away(f"status {reply.status}, {complaint(told)}")
        raise RunError(f"{self.url}: {path} was answered with status {reply.status}, {complaint(told)}")

    def _whole(self, reply: http.client.HTTPResponse) -> bytes:
        """The body of a reply, within a time and a size, however slowly it drips."""
        until, content = time.monotonic() + self.timeout, bytearray()
        while piece := reply.read1(2**16):
            content += piece
            if len(content) > MOST:
                raise RunError(f"{self.url}: its reply is longer than {MOST >> 20} MiB")
            if time.monotonic() > until:
                raise TimeoutError(f"its reply took more than {self.timeout:g} seconds")
        if reply.length:
            raise http.client.IncompleteRead(bytes(content[:100]), reply.length)
        return bytes(content)


def read(content: bytes) -> tuple[Any, bool]:
    """What JSON says, and whether it is some."""
    try:
        return json.loads(content), True
    except (ValueError, RecursionError):
        return None, False


def complaint(told: Any) -> str:
    """The error in a refusal: {"error": text}, {"error": {"message": text}} or {"message": text}."""
    said = told.get("error", told.get("message")) if isinstance(told, dict) else None
    said = said.get("message") if isinstance(said, dict) else said
    return shortened(said) if said else "no JSON with an error"


def shortened(said: object) -> str:
    """What a stranger said, in a line that a terminal can show."""
    text = " ".join(str(said).split())
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def require_url(url: str, key: str) -> None:
    """ValueError unless `url` is a plain http address; `key` is the config's."""
    try:
        where = urlsplit(url)
        usable = where.scheme in ("http", "https") and where.hostname and not (
            where.query or where.fragment or where.username or where.password) and where.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{key} is such as http://127.0.0.1:8000, not {url!r}")


def token_of(path: str | None, key: str) -> str:
    """The secret in a file, which `key` names; none is empty."""
    if path is None:
        return ""
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{key}: {path}: {getattr(error, 'strerror', None) or 'not plain text'}") from None
    if not token.isprintable() or not token or " " in token:
        raise RequestError(f"{key}: {path}: expected one line of plain characters, the server's secret")
    return token
