"""Ctrl-C and SIGTERM while a run lasts: they stop it at once, or once what must not be cut off is whole."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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
            if self._finishing:  # not by print: the signal may have come in the middle of one
                os.write(2, f"\n{self.reason.removeprefix('stopped by ')}: {self._finishing} is finished and saved "
                            f"first; Ctrl-C again stops at once\n".encode())
        if again or not self._finishing:
            raise KeyboardInterrupt


@contextmanager
def listening() -> Iterator[Stop]:
    """Signals go to the Stop inside, and afterwards to whom they went before."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.heard) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
