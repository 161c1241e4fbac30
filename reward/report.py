"""report.json and report.html of a reward model: how good it is, how far to believe it, and who taught it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefloop import checkpoints, pages, runs

TEMPLATE = Path(__file__).with_name("report.html")
SIDE = 220.0  # of a square plot, in CSS pixels
CURVE = (1040.0, 130.0)
POINTS = 200  # of a curve
TITLES = {"confidence": "By how sure it is", "length": "By the length of the answer that won", "stratum": "By stratum",
          "strength": "By strength of the preference", "disagreement": "By how far the ensemble disagrees",
          "raters": "Raters it learned from, and others", "rater": "By rater"}


def write(run: runs.Run, facts: dict[str, Any]) -> None:
    """Both files, from the same facts."""
    checkpoints.write_json(run.path / "report.json", facts)
    losses = [(row["step"], row["loss"]) for row in runs.read_lines(run.path / "metrics.jsonl") if "loss" in row]
    with checkpoints.replacing(run.path / "report.html") as file:
        file.write(page(facts, losses))


def page(facts: dict[str, Any], losses: Sequence[tuple[float, float]] = ()) -> str:
    return pages.rendered(TEMPLATE, facts=facts, line=line(facts), titles=TITLES, side=SIDE, curve=CURVE,
                           losses=drawn(losses), step=losses[-1][0] if losses else 0,
                           bars=histogram_bars(facts.get("scores", {}).get("histogram", [])))


def line(facts: dict[str, Any]) -> str:
    """What it comes to, in a sentence or three."""
    held = facts.get("held_out")
    if not held:
        return "There were no held-out rankings, so nothing is known of how good it is."
    said = [f"It orders {percent(held['accuracy'])} of {held['pairs']} pairs as people did, on {held['prompts']} "
            f"prompts that it did not learn from."]
    if held["accuracy"]["low"] <= 0.5:
        said.append("A coin may do as well: so many pairs do not tell them apart.")
        return " ".join(said)
    if held["agreement"]:
        said.append(f"Two people agree on {percent(held['agreement'])} of pairs.")
    said.append("Its probabilities can be believed, as far as so many pairs can tell."
                if held["ece"]["value"] <= held["ece"]["chance_95"] else
                "Its probabilities are further off than chance explains: rely on its order, not on how sure it is.")
    return " ".join(said)


def percent(figure: dict[str, float]) -> str:
    return f"{figure['value']:.1%} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"


def histogram(scores: Sequence[float], bins: int = 40) -> dict[str, Any]:
    """How scores are spread: their quantiles, and counts between the 0.5th and the 99.5th percentile."""
    values = np.asarray(scores, dtype=np.float64)
    low, high = np.quantile(values, [0.005, 0.995])
    counts, _ = np.histogram(values, bins, (low, max(high, low + 1e-6)))
    middle = {f"p{round(100 * q)}": float(np.quantile(values, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95)}
    return {"answers": int(values.size), "low": float(low), "high": float(high), **middle,
            "histogram": [int(count) for count in counts]}


def histogram_bars(counts: Sequence[int]) -> list[tuple[float, float, float]]:
    """x, height and width of each bar, on a plot of CURVE's size."""
    width, height = CURVE
    most = max(counts, default=0) or 1
    return [(width * n / len(counts), height * count / most, width / len(counts)) for n, count in enumerate(counts)]


def drawn(losses: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    """A curve as SVG's points, and its ends in words."""
    if len(losses) < 2:
        return None
    kept = losses[:: max(1, len(losses) // POINTS)]
    steps, values = np.array([step for step, _ in kept]), np.array([loss for _, loss in kept])
    x = CURVE[0] * (steps - steps[0]) / max(steps[-1] - steps[0], 1)
    least, most = float(values.min()), float(values.max())
    y = CURVE[1] * (1 - (values - least) / max(most - least, 1e-9))
    return {"points": " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True)), "least": least, "most": most}
