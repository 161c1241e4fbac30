"""For tests: `prefloop arena` in a process of its own, over checkpoints of a two-layer model."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny

from prefloop.records import Message, Prompt, Ranking
from prefloop.store import Store

RUNS = ("first", "second")


def make(root: Path) -> Path:
    """Two adapters on one base, a base of its own, and a snapshot."""
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data")
    tiny.tiny_adapter(root / "first", root / "base", 1)
    tiny.tiny_adapter(root / "second", root / "base", 2)
    tiny.tiny_model(root / "whole", seed=3)
    (root / "again").symlink_to(root / "first")
    return root


@dataclass
class Served:
    port: int
    process: subprocess.Popen[str]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def child(self) -> int | None:
        """The process that answers."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == self.process.pid and state != "Z":
                return int(stat.parent.name)
        return None

    def rankings(self) -> list[Ranking]:
        with Store(f"sqlite:///{self.folder / 'votes.db'}", read_only=True) as store:
            return list(store.rankings())

    def call(self, path: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body),
                           {"content-type": "application/json", **headers})
        reply = connection.getresponse()
        content = json.loads(reply.read())
        connection.close()
        return reply.status, content

    def ask(self, text: str, **knobs: Any) -> Generator[dict[str, Any]]:
        """The lines of the reply as they come; closing it hangs up."""
        body = {"text": text, "temperature": 1.0, "max_new_tokens": 30, "seed": 5, "blind": True, **knobs}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", "/api/arena/ask", json.dumps(body), {"content-type": "application/json"})
        reply = connection.getresponse()
        try:
            assert reply.status == 200, reply.read()
            while line := reply.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def until(self, state: str, sampled: bool = False) -> dict[str, Any]:
        for _ in range(1200):
            _, status = self.call("/api/arena/status")
            if status["child"]["state"] == state and (not sampled or status["done"] == status["wanted"]):
                return status
            time.sleep(0.1)
        raise AssertionError(f"not {state}: {status}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def serve(folder: Path, *overrides: str) -> Served:
    process = subprocess.Popen(
        [sys.executable, "-m", "prefloop.cli", "arena", f"arena.folder={folder}", "arena.port=0", *overrides],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        if (at := line.find("http://127.0.0.1:")) >= 0:
            return Served(int(line[at:].split()[0].rpartition(":")[2]), process, folder)
    raise AssertionError(f"prefloop arena ended with {process.wait()}")


def runs(home: Path, *names: str) -> str:
    return f"arena.runs=[{','.join(str(home / name) for name in names)}]"


def asked_of_sample(run: Path, words: str, seed: int, tokens: int) -> tuple[str, int]:
    """What `sample` gives, in this process, on a model loaded by itself; and how many tokens that were."""
    from prefloop import generate, models
    from prefloop.passes import acting

    found = models.resolve(str(run))
    chat, settings = models.load_chat(found), models.ModelConfig(path=str(run))
    model: Any = models.load_base(found, settings)
    if found.adapter:
        model = models.add_adapter(model, "alone", found.adapter, settings)
    with acting(model.eval(), "alone" if found.adapter else None):
        (ids,) = generate.sample(model, [chat.prompt_ids(Prompt((Message("user", words),)))], [seed], tokens, 1.0,
                                 chat.end_id, chat.pad_id)
    return chat.text(ids), len(ids)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def is_gone(pid: int) -> bool:
    """Within 30 seconds."""
    for _ in range(300):
        if gone(pid):
            return True
        time.sleep(0.1)
    return False
