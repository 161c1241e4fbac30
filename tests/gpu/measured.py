"""A prefloop command on a GPU; its last line is a JSON object of what it took, by phase.

usage: python tests/gpu/measured.py COMMAND [CONFIG] [section.key=value ...]

Phases nest: what the inner one takes is not the outer's. Peaks are of memory that torch allocated and reserved.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import Trainer

import prefloop.ppo.trainer as ppo
from prefloop import generate, models
from prefloop.cli import main
from prefloop.ppo.update import Learner

GB = 1e9


class Watch:
    """Seconds and peaks by phase, in calls of the functions that are watched."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, float] = {}
        self.highest = 0.0  # reserved, over everything
        self.inner = [0.0]

    def note(self, phase: str) -> None:
        """What was allocated and reserved at most since the last note was `phase`'s."""
        self.peaks[phase] = max(self.peaks.get(phase, 0.0), torch.cuda.max_memory_allocated() / GB)
        self.highest = max(self.highest, torch.cuda.max_memory_reserved() / GB)
        torch.cuda.reset_peak_memory_stats()

    def watch(self, owner: Any, name: str, phase: str) -> None:
        work: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **named: Any) -> Any:
            self.note("before")
            self.inner.append(0.0)
            began = time.monotonic()
            try:
                return work(*args, **named)
            finally:
                torch.cuda.synchronize()
                whole = time.monotonic() - began
                self.seconds.setdefault(phase, []).append(whole - self.inner.pop())
                self.inner[-1] += whole
                self.note(phase)

        setattr(owner, name, watched)


def watched() -> Watch:
    watch = Watch()
    for owner, name, phase in ((models, "load_base", "loading"), (generate, "sample", "sampling"),
                               (ppo, "collect", "scoring"), (Learner, "update", "updating"),
                               (Trainer, "training_step", "updating"), (models, "check_reload", "saving")):
        watch.watch(owner, name, phase)
    return watch


if __name__ == "__main__":
    watch, began = watched(), time.monotonic()
    code = main(sys.argv[1:])
    watch.note("after")
    spent = {phase: sum(own) for phase, own in watch.seconds.items() if phase in ("sampling", "scoring", "updating")}
    print(json.dumps({
        "command": sys.argv[1], "seconds": round(time.monotonic() - began, 1),
        "peak_allocated_gb": round(max(watch.peaks.values()), 2), "peak_reserved_gb": round(watch.highest, 2),
        "peaks_gb": {phase: round(peak, 2) for phase, peak in watch.peaks.items()},
        "share_of_time": {phase: round(own / sum(spent.values()), 3) for phase, own in spent.items()},
        "updating_seconds": round(statistics.median(watch.seconds.get("updating", [0.0])), 3)}), flush=True)
    sys.exit(code)
