"""report.html: a comparison for a person to read. One file without scripts, which fetches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.pages import rendered

TEMPLATE = Path(__file__).with_name("report.html")
SHOWN = 5  # prompts on either side


@dataclass(frozen=True)
class Contrast:
    """One prompt on which a run and the baseline were judged furthest apart: their answers of the same seed."""

    conversation: list[dict[str, str]]
    before: str
    after: str
    gain: float


def page(report: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The HTML of a report (as report.json holds it) and its answers (the rows of answers.jsonl)."""
    best = best_of(report)
    ordered = contrasts(report["baseline"], best, rows) if best else []
    losses = [one for one in ordered[:SHOWN] if one.gain < 0]
    gains = [one for one in reversed(ordered[-SHOWN:]) if one.gain > 0]
    return rendered(TEMPLATE, report=report, best=best, reward_axis=reward_axis(report), sides=(
        ("Got worse", "the reward fell most", losses), ("Got better", "the reward rose most", gains)))


def best_of(report: dict[str, Any]) -> str | None:
    """The run that the verdict speaks of: that with the highest lower bound of its win rate."""
    wins = {name: own["win_rate"]["low"] for name, own in report["runs"].items() if "win_rate" in own}
    return max(wins, key=lambda name: wins[name]) if wins else None


def contrasts(baseline: str, best: str, rows: list[dict[str, Any]]) -> list[Contrast]:
    """Every prompt's first answers, from the largest loss of reward to the largest gain."""
    found = [Contrast(row["prompt"]["messages"], row["answers"][baseline][0], row["answers"][best][0],
                      row["rewards"][best][0] - row["rewards"][baseline][0])
             for row in rows if "rewards" in row]
    return sorted(found, key=lambda one: one.gain)


def reward_axis(report: dict[str, Any]) -> tuple[float, float] | None:
    """An axis that holds the reward intervals of all runs."""
    ends = [own["reward"][end] for own in report["runs"].values() if "reward" in own for end in ("low", "high")]
    return (min(ends), max(ends)) if ends and min(ends) < max(ends) else None
