"""Ctrl-C and SIGTERM while a run lasts: they stop it at once, or once what must not be cut off is whole."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
ONE = 1.0  # seconds within which signals are one: launchers hand on the Ctrl-C that the terminal sent already


class Stop:
    """What the signals have asked for. A stop raises KeyboardInterrupt in the main thread."""

    def __init__(self) -> None:
        self.reason = ""
        self._first = 0.0
        self._finishing = ""
        self._ended = False
        self._process = os.getpid()

    @property
    def asked(self) -> bool:
        return bool(self.reason)

    @contextmanager
    def finishing(self, what: str) -> Iterator[None]:
        """Inside, the first signal waits until `what` is whole, and stops then; a second one stops at once."""
        self._finishing = what
        try:
            yield
        finally:
            self._finishing = ""
        if self.asked:
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, though something is being finished around it, the first signal stops at once."""
        finishing, self._finishing = self._finishing, ""
        if self.asked:
            raise KeyboardInterrupt
        try:
            yield
        finally:
            self._finishing = finishing

    def end(self) -> None:
        """From here on nothing can stop what little is left: saying how the run ended."""
        self._ended = True

    def heard(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a worker forked from us: it ends when we do, or when we end it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self._ended:
            return
        again = self.asked and time.monotonic() - self._first >= ONE
        if not self.asked:
            self.reason, self._first = f"stopped by {SIGNALS[signal.Signals(number)]}", time.monotonic()
            if self._finishing:
                self._say(f"{self.reason.removeprefix('stopped by ')}: {self._finishing} is finished and saved first; "
                          f"Ctrl-C again stops at once")
        if again or not self._finishing:
            raise KeyboardInterrupt

    def _say(self, line: str) -> None:
        with suppress(OSError):  # not by print: the signal may have come in the middle of one
            os.write(2, f"\n{line}\n".encode())


class Unbroken:
    """Standard output or error that goes on when its reader is gone: Ctrl-C ends the `tee` behind a pipe too, and what
    is being saved must not fail for that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._heedless(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._heedless(self._stream.flush)

    def _heedless(self, act: Callable[[], object]) -> None:
        try:
            act()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def listening() -> Iterator[Stop]:
    """Signals go to the Stop inside, and afterwards to whom they went before. One that is ignored stays so: a shell
    gives Ctrl-C to the job in front only."""
    stop, streams = Stop(), (sys.stdout, sys.stderr)
    sys.stdout, sys.stderr = Unbroken(sys.stdout), Unbroken(sys.stderr)  # type: ignore[assignment]
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop.heard) for number in SIGNALS
                  if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.stdout, sys.stderr = streams
