"""A JSON server that a run depends on: asked with patience while it is away, and never believed.

What comes back is limited in size and time; what it says in an error is cut to a line that a terminal can show.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from prefloop.errors import RequestError, RunError

BUSY = (429, 502, 503, 504)  # which pass
MOST = 2**24  # bytes of a reply
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds
CONNECTING = 10.0  # seconds at most, in which nothing can cut a line


class Away(Exception):
    """The server did not answer this time."""


class Refused(RunError):
    """The server answered, and asking again would not help."""

    def __init__(self, told: str, status: int) -> None:
        super().__init__(told)
        self.status = status


@dataclass
class Calls:
    """What threads are at with one server: all of it ends when it is `over`, and an outage is told once for all."""

    over: threading.Event = field(default_factory=threading.Event)
    waiting: int = 0
    lines: set[socket.socket] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def end(self) -> None:
        """From now on every thread that asks or waits is stopped by CancelledError, and says nothing."""
        with self.lock:
            self.over.set()
            for line in self.lines:
                cut(line)

    def require_going(self) -> None:
        if self.over.is_set():
            raise CancelledError

    def pause(self, seconds: float) -> None:
        self.over.wait(seconds)
        self.require_going()

    @contextmanager
    def cut_in(self, seconds: float, line: socket.socket) -> Iterator[None]:
        """Whatever is done over `line` fails after so many seconds, or once it is over."""
        held = line.dup()  # TLS takes `line` itself
        timer = threading.Timer(max(seconds, 0.0), self._cut_late, [held])
        timer.daemon = True
        with self.lock:
            self.lines.add(held)
        try:
            self.require_going()
            timer.start()
            yield
        finally:
            timer.cancel()
            with self.lock:
                self.lines.remove(held)
            held.close()

    def _cut_late(self, line: socket.socket) -> None:
        with self.lock:
            if line in self.lines:
                cut(line)

    def begins_to_wait(self) -> bool:
        """Whether this thread is the first to wait for the server, which then tells of it."""
        with self.lock:
            self.waiting += 1
            return self.waiting == 1

    def waits_no_more(self) -> None:
        with self.lock:
            self.waiting -= 1


@dataclass(frozen=True)
class Remote:
    """Each request takes at most `timeout` seconds; the server may be away for `patience`. `section` is its config's.

    `token` goes along as a bearer's, if it is not empty. Threads that share `calls` tell of an outage once.
    """

    url: str
    section: str
    token: str = ""
    timeout: float = 60.0
    patience: float = 300.0
    calls: Calls = field(default_factory=Calls)

    def patiently(self, path: str, body: Any = None) -> Any:
        """The reply to one request, asked again while the server is away. RunError: for too long, or it refuses."""
        until = time.monotonic() + self.patience
        try:
            return self.once(path, body)
        except Away as away:
            if self.calls.begins_to_wait():
                print(f"{self.url}: {away}; asking again for {self.patience:g} seconds", flush=True)
            try:
                return self._again(path, body, away, until)
            finally:
                self.calls.waits_no_more()

    def _again(self, path: str, body: Any, away: Away, until: float) -> Any:
        pause = FIRST_PAUSE
        while time.monotonic() + pause <= until:
            self.calls.pause(pause)
            try:
                return self.once(path, body)
            except Away as still:
                away, pause = still, min(2 * pause, LONGEST_PAUSE)
        raise RunError(f"{self.url}: {away}; it was asked for {self.patience:g} seconds ({self.section}.patience); "
                       "start it again, and resume this run") from None

    def once(self, path: str, body: Any = None) -> Any:
        """One request (GET without a body) and its reply, read as JSON where it is. Away: it may do better later.
        RunError: it would not. CancelledError: the calls are over."""
        self.calls.require_going()
        until = time.monotonic() + self.timeout
        try:
            status, content = self._exchanged(path, None if body is None else json.dumps(body).encode(), until)
        except (OSError, http.client.HTTPException) as error:
            self.calls.require_going()
            raise Away(f"its reply took more than {self.timeout:g} seconds" if time.monotonic() >= until else
                       f"no answer ({type(error).__name__}: {shortened(error)})") from None
        told, readable = read(content)
        if status == 200:
            return told if readable else content.decode("utf-8", "replace")
        if status in BUSY:
            raise Away(f"status {status}, {complaint(told)}")
        raise Refused(f"{self.url}: {path} was answered with status {status}, {complaint(told)}", status)

    def _exchanged(self, path: str, sent: bytes | None, until: float) -> tuple[int, bytes]:
        """The status and the body, by `until`, however slowly any part of the reply drips."""
        where = urlsplit(self.url)
        kind = http.client.HTTPSConnection if where.scheme == "https" else http.client.HTTPConnection
        headers = {"content-type": "application/json"} | (
            {"authorization": f"Bearer {self.token}"} if self.token else {})
        connection = kind(where.hostname or "", where.port)
        line = socket.create_connection((connection.host, connection.port), min(self.timeout, CONNECTING))
        with closing(line), self.calls.cut_in(until - time.monotonic(), line), closing(connection):
            line.settimeout(self.timeout)
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sock = line if where.scheme == "http" else ssl.create_default_context().wrap_socket(
                line, server_hostname=where.hostname)
            connection.request("POST" if sent is not None else "GET", where.path + path, sent, headers)
            reply = connection.getresponse()
            content = self._whole(reply)
        if time.monotonic() >= until:  # what was cut may look like an end
            raise TimeoutError
        return reply.status, content

    def _whole(self, reply: http.client.HTTPResponse) -> bytes:
        content = bytearray()
        while piece := reply.read1(2**16):
            content += piece
            if len(content) > MOST:
                raise RunError(f"{self.url}: its reply is longer than {MOST >> 20} MiB")
        if reply.length:
            raise http.client.IncompleteRead(bytes(content[:100]), reply.length)
        return bytes(content)


def cut(line: socket.socket) -> None:
    """A thread that reads from it or writes to it goes on at once, with an end or an error."""
    with suppress(OSError):  # the other side was first
        line.shutdown(socket.SHUT_RDWR)


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
        usable = where.scheme in ("http", "https") and (where.hostname or "").encode("idna") and not (
            where.query or where.fragment or where.username or where.password) and where.port != 0 and (
            where.path.isascii() and url.isprintable() and " " not in url)
    except ValueError:  # so is UnicodeError, of a name that is none
        usable = False
    if not usable:
        raise ValueError(f"{key} is such as http://HOST:PORT, not {url!r}")


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
