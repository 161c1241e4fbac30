"""Servers that are slow, silent or away, asked by one thread and by several; and addresses that are none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from prefloop.errors import RunError
from prefloop.remote import Calls, Remote, require_url

DRIP = 0.02  # seconds
LONG = 60.0  # until which a test's server drips or is silent


@contextmanager
def server(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """Answers each connection in a thread of its own, until the event says that the test is over. Yields host:port."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:

        def talk(line: socket.socket) -> None:
            with line, suppress(ConnectionError):  # whoever asked hangs up
                answer(line, over)

        def listen() -> None:
            while not over.is_set():
                try:
                    threading.Thread(target=talk, args=[listening.accept()[0]], daemon=True).start()
                except OSError:
                    return

        threading.Thread(target=listen, daemon=True).start()
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()


@pytest.mark.parametrize(("scheme", "at_once", "dripping"), [
    ("http", b"", b"HTTP/1.0 200 OK" + b" " * 1000 + b"\r\n\r\n{}"),
    ("http", b"HTTP/1.0 200 OK\r\n", b"x: " + b"y" * 1000 + b"\r\n\r\n{}"),
    ("http", b"HTTP/1.0 200 OK\r\ncontent-length: 1002\r\n\r\n", b"{" + b" " * 1000 + b"}"),
    ("http", b"HTTP/1.0 200 OK\r\n\r\n", b"1" * 1000),  # cut short it would be a number too
    ("https", b"\x16\x03\x03\x3f\xff", b"\x02" * 1000)], ids=["status", "header", "body", "endless", "TLS"])
def test_a_reply_that_drips_is_no_answer(scheme: str, at_once: bytes, dripping: bytes) -> None:
    to_the_end = threading.Event()

    def drip(line: socket.socket, over: threading.Event) -> None:
        if scheme == "http":
            line.recv(2**16)
        line.sendall(at_once)
        for one in dripping:
            if over.wait(DRIP):
                return
            line.sendall(bytes([one]))
        to_the_end.set()

    with server(drip) as address, pytest.raises(RunError, match=r"its reply took more than 0\.5 seconds"):
        Remote(f"{scheme}://{address}", "reward", timeout=0.5, patience=0.0).patiently("/score", {})
    assert not to_the_end.is_set()


def silent(line: socket.socket, over: threading.Event) -> None:
    over.wait(LONG)


@pytest.mark.parametrize("answer", [silent, lambda line, over: None], ids=["silent", "away"])
def test_threads_that_ask_or_wait_are_stopped_at_once(answer: Callable[[socket.socket, threading.Event], None],
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    begun, pool = threading.Barrier(5), ThreadPoolExecutor(4)
    with server(answer) as address:
        there = Remote(f"http://{address}", "sampler", timeout=LONG, patience=LONG)

        def ask() -> None:
            begun.wait()
            there.patiently("/v1/completions", {})

        asked = [pool.submit(ask) for _ in range(4)]
        begun.wait()
        while answer is silent and len(there.calls.lines) < 4:
            threading.Event().wait(DRIP)
        while answer is not silent and there.calls.waiting < 4:
            threading.Event().wait(DRIP)
        capsys.readouterr()
        there.calls.end()
        assert all(isinstance(one.exception(LONG / 2), CancelledError) for one in asked)
    assert capsys.readouterr().out == ""
    with pytest.raises(CancelledError):
        there.once("/v1/models")


def test_an_outage_is_told_once_for_all_threads(capsys: pytest.CaptureFixture[str]) -> None:
    away, all_wait = threading.Event(), threading.Event()

    class Counted(Calls):
        """No thread asks again before all of them wait."""

        def pause(self, seconds: float) -> None:
            if self.waiting == 8:
                away.clear()
                all_wait.set()
            assert all_wait.wait(LONG)

    def busy_or_not(line: socket.socket, over: threading.Event) -> None:
        line.recv(2**16)
        line.sendall(b"HTTP/1.0 503 Busy\r\n\r\n" if away.is_set() else b"HTTP/1.0 200 OK\r\n\r\n{}")

    with server(busy_or_not) as address, ThreadPoolExecutor(8) as pool:
        there = Remote(f"http://{address}", "sampler", calls=Counted())
        for _ in range(2):
            away.set()
            all_wait.clear()
            assert list(pool.map(there.patiently, ["/"] * 8)) == [{}] * 8
            assert capsys.readouterr().out == (f"http://{address}: status 503, no JSON with an error; asking again "
                                               "for 300 seconds\n")


@pytest.mark.parametrize("url", [
    "http://reward..example:80", f"http://{'a' * 64}.example", "http://b\u00fccher..example", "http://x/\u00fc",
    "http://x/a b", "http://x/a\tb", "http://x\n", "http://x/\x7f", "http://", "http:///path", "x:80", "http://x:0"])
def test_an_address_that_cannot_be_asked_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^reward.url is such as http://HOST:PORT, not "):
        require_url(url, "reward.url")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "https://reward.example/v1/", "http://[::1]:80",
                                 "http://b\u00fccher.example", "http://localhost."])
def test_an_address_that_can_be_asked_is_taken(url: str) -> None:
    require_url(url, "reward.url")
