"""Whether two runs came to the same: every file of final/, samples, metrics, figures and checks, but for times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefloop import runs


def differences(alone: Path, path: Path) -> list[str]:
    """What differs between two runs that are done, times and their names apart."""
    found = []
    names = {p.relative_to(run) for run in (alone, path) for p in (run / "final").rglob("*") if p.is_file()}
    for name in sorted([*names, Path("samples.jsonl"), Path("resolved.json")]):
        one, two = alone / name, path / name
        same_run = [p.read_bytes().replace(p.parents[len(name.parts) - 1].name.encode(), b"RUN") if p.is_file()
                    else None for p in (one, two)]
        if same_run[0] != same_run[1]:
            found.append(str(name))
    if timeless(alone) != timeless(path):
        found.append("metrics.jsonl")
    one, two = runs.load(alone).record, runs.load(path).record
    found += [f"run.json: {key}" for key in ("status", "metrics", "checks", "rows") if differing(key, one, two)]
    return found


def differing(key: str, one: dict[str, Any], two: dict[str, Any]) -> bool:
    if key != "checks":
        return one.get(key) != two.get(key)
    # A check at every save is there for the saves that were made: more of them after kills.
    return {name: c for name, c in one["checks"].items() if not name.startswith("reload checkpoint")} != {
        name: c for name, c in two["checks"].items() if not name.startswith("reload checkpoint")}


def timeless(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.startswith("seconds") and not key.endswith(
        ("_runtime", "_per_second"))} for row in runs.read_lines(run / "metrics.jsonl")]
