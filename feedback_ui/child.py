"""The process that answers (prefloop.serving), from this side: started, listened to, and started again if it dies."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefloop import wire
from prefloop.errors import RequestError, RunError

Hear = Callable[[Any], None]
DEATHS = 2  # in a row, with nothing finished between them, before the held-out prompts are given up


@dataclass(frozen=True)
class Health:
    """How it is, for the page."""

    state: Literal["starting", "loading", "ready", "down"]
    words: str = ""


class Child:
    """One at a time; `log` is where its stderr goes."""

    def __init__(self, setup: wire.Setup, log: Path) -> None:
        self._setup, self._log = setup, log
        self._answered: Callable[[wire.Answered], None] | None = None
        self._owed: Callable[[], list[wire.HeldOut]] | None = None
        self._turn = threading.RLock()
        self._asked: dict[str, Hear] = {}
        self._told = threading.Event()  # Found or Failed has come
        self._deaths = 0
        self._closed = False
        self._failed: wire.Failed | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.found: wire.Found | None = None
        self.health = Health("starting")
        self.gave_up = ""

    def start(self) -> None:
        with self._turn, self._log.open("ab") as log:
            self.health, self._failed = Health("starting"), None
            self._process = subprocess.Popen([sys.executable, "-P", "-m", "prefloop.serving"], stdin=subprocess.PIPE,
                                             stdout=subprocess.PIPE, stderr=log)
            self._say(self._setup)
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def wait_until_found(self) -> wire.Found:
        """The runs' checksums and the prompts; what is wrong with the request is raised here."""
        self._told.wait()
        if self.found is None:
            failed = self._failed or wire.Failed(self.health.words, request=False)
            raise (RequestError if failed.request else RunError)(failed.why)
        return self.found

    def sample(self, answered: Callable[[wire.Answered], None], owed: Callable[[], list[wire.HeldOut]]) -> None:
        """From now on the held-out prompts are answered too: those that `owed` names, also after each new start."""
        with self._turn:
            self._answered, self._owed = answered, owed
            for request in owed():
                self._say(request)

    def ask(self, request: wire.Ask, hear: Hear) -> None:
        """`hear` is called from another thread, until every place has Ended or the prompt is Declined."""
        with self._turn:
            self._asked[request.ask] = hear
            if self.health.state == "down":
                self.start()
            self._say(request)

    def stop(self, ask: str) -> None:
        with self._turn:
            if self._asked.pop(ask, None):
                self._say(wire.Stop(ask))

    def close(self) -> None:
        """Its stdin is closed, and so it ends."""
        with self._turn:
            self._closed = True
            process = self._process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def __enter__(self) -> Child:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _say(self, request: wire.Request) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(wire.encode(request))
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it is dead or being closed, which the listener tells everyone

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._take(wire.decode(line))
        self._died(process.wait())

    def _take(self, reply: wire.Reply) -> None:
        with self._turn:
            if isinstance(reply, wire.Found):
                self._found(reply)
            elif isinstance(reply, wire.Ready):
                self.health = Health("ready")
            elif isinstance(reply, wire.Failed):
                self._failed = reply
            elif isinstance(reply, wire.Answered):
                assert self._answered is not None
                self._deaths = 0
                self._answered(reply)
            elif reply.ask:  # type: ignore[union-attr]
                self._heard(reply)
            else:
                self.gave_up = reply.why  # type: ignore[union-attr]

    def _found(self, reply: wire.Found) -> None:
        """What the runs hold must not change under the page: votes are kept under these checksums."""
        if self.found not in (None, reply):
            self._failed = wire.Failed("the runs or the prompts on disk have changed; start again", request=True)
            assert self._process is not None
            self._process.kill()
            return
        self.found, self.health = reply, Health("loading")
        self._told.set()
        if self._owed is not None and not self.gave_up:
            for request in self._owed():
                self._say(request)

    def _heard(self, reply: Any) -> None:
        hear = self._asked.get(reply.ask)
        if isinstance(reply, wire.Ended):
            self._deaths = 0
        if isinstance(reply, wire.Declined):
            self._asked.pop(reply.ask, None)
        if hear is not None:
            hear(reply)

    def _died(self, code: int) -> None:
        with self._turn:
            if self._closed:
                return
            ready, self._deaths = self.health.state == "ready", self._deaths + 1
            why = self._failed.why if self._failed else f"{_ended(code)}; its last words are in {self._log}"
            again = ready and self._failed is None
            if self._deaths >= DEATHS and not self.gave_up:
                self.gave_up = f"given up after {self._deaths} deaths of the process that answers: {why}"
            self.health = Health("down", f"The process that answers {why}" if self._failed is None else why)
            waiting, self._asked = self._asked, {}
            for ask, hear in waiting.items():
                hear(wire.Declined(ask, f"the process that answers {why}"
                                        + ("; it has been started again, so send the prompt again" if again else "")))
            self._told.set()
            if again:
                self.start()


def _ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed (by hand, or because memory ran out)"
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
