"""Whether two runs came to the same: every file of final/, the state of the last checkpoint, samples, metrics, figures
and checks, but for times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from prefloop import checkpoints, runs


def differences(alone: Path, other: Path) -> list[str]:
    """What differs between two runs that are done."""
    names = {name for run in (alone, other) for name in weighed(run)}
    found = [str(name) for name in sorted(names) if content(alone / name) != content(other / name)]
    if timeless(alone) != timeless(other):
        found.append("metrics.jsonl")
    one, two = told(alone), told(other)
    return found + [f"run.json: {key}" for key in one if one[key] != two[key]]


def weighed(run: Path) -> Iterator[Path]:
    yield Path("samples.jsonl")
    yield from (file.relative_to(run) for file in (run / "final").rglob("*") if file.is_file())
    last = checkpoints.newest(run)
    assert last
    state = ("*.safetensors", "optimizer.pt", "scheduler.pt", "state.json")
    yield from (file.relative_to(run) for pattern in state for file in last.rglob(pattern))


def content(file: Path) -> Any:
    """Its bytes; of what torch saved, every number's, for equal dictionaries may be written in two ways."""
    if not file.is_file():
        return None
    return plain(torch.load(file, "cpu", weights_only=True)) if file.suffix == ".pt" else file.read_bytes()


def plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list | tuple) else value


def timeless(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.startswith("seconds") and not key.endswith(
        ("_runtime", "_per_second"))} for row in runs.read_lines(run / "metrics.jsonl")]


def told(run: Path) -> dict[str, Any]:
    """What run.json says came of it; of the checks at each save, a run that was killed may have had more."""
    record = runs.load(run).record
    checks = {name: own for name, own in record["checks"].items() if not name.startswith("reload checkpoint")}
    return {key: record.get(key) for key in ("status", "metrics", "rows")} | {"checks": checks}
