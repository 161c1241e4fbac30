"""A stand-in for an OpenAI-compatible server whose model judges answers."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FENCED = re.compile(r"=== (\w{16}) the conversation ===\n(.*)\n=== \1 answer A ===\n(.*)\n=== \1 answer B ===\n(.*)"
                    r"\n=== \1 end of what others wrote ===", re.DOTALL)


def shown(text: str) -> tuple[str, str]:
    """The two answers in a request, in the order they are shown."""
    found = FENCED.search(text)
    assert found
    return found[3], found[4]


def longer_wins(text: str) -> str:
    first, second = map(len, map(str.strip, shown(text)))
    return f"By length.\n[[{'A' if first > second else 'B' if second > first else 'C'}]]"


@dataclass
class StandIn:
    """`says` makes the reply's content of a request's text; `answers` makes the whole reply of a request's body."""

    says: Callable[[str], Any] = longer_wins
    answers: Callable[[dict[str, Any]], tuple[int, Any]] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            self.asked.append(body)
            self.headers.append(headers)
            self.paths.add(path)
        if self.answers:
            return self.answers(body)
        return 200, {"choices": [{"message": {"content": self.says(text_of(body))}}]}


def text_of(body: dict[str, Any]) -> str:
    (message,) = body["messages"]
    return message["content"]


@contextmanager
def serving(standing: StandIn) -> Iterator[StandIn]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, told = standing.reply(self.path, dict(self.headers.items()), body)
            content = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        standing.url = f"http://127.0.0.1:{server.server_port}/v1"
        try:
            yield standing
        finally:
            server.shutdown()
