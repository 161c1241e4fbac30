"""How fast one sender may send: a burst, and then so many requests a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

REMEMBERED = 10_000  # senders


class Pace:
    """Used by one thread: the server's loop."""

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._kept: dict[str, tuple[float, float]] = {}  # what each may still send, and when that was so

    def wait(self, sender: str) -> int:
        """0 if this sender may send now; else after how many seconds."""
        now = self._clock()
        left, at = self._kept.pop(sender, (float(self._burst), now))
        left = min(self._burst, left + (now - at) * self._per_second)
        allowed = left >= 1
        self._kept[sender] = (left - allowed, now)
        if len(self._kept) > REMEMBERED:
            del self._kept[next(iter(self._kept))]  # who has not sent for longest
        return 0 if allowed else math.ceil((1 - left) / self._per_second)
