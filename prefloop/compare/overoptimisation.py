"""Whether the reward that a policy was trained to raise still means what people mean.

Far enough from where it began, a policy's proxy reward goes on rising while what it stands for falls: against
d = sqrt(KL) the gold reward is d(a - b d) for best-of-n and d(a - b log d) for RL (Gao, Schulman and Hilton 2022,
"Scaling laws for reward model overoptimization", equations 1 and 2). Here another judge stands for the gold reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.stats import Estimate

HALF = 0.5


@dataclass(frozen=True)
class Point:
    """A candidate: its KL from the baseline in nats, how much its proxy reward gained on the baseline's, and the share
    that the other judge lets it win against the baseline."""

    run: str
    kl: float | None
    proxy: Estimate
    other: Estimate

    @property
    def root_kl(self) -> float | None:
        return None if self.kl is None else math.sqrt(max(self.kl, 0.0))

    @property
    def rises(self) -> bool:
        return self.proxy.low > 0

    def parted(self, effect: float, earlier: Sequence[Point]) -> bool:
        """The proxy rose, and the other judge says that it is no better, by any margin that matters; or of a sweep,
        that it is worse than an earlier checkpoint with less proxy reward was."""
        return self.rises and (self.other.high < effect or bool(self.peaks(earlier)))

    def peaks(self, earlier: Sequence[Point]) -> list[Point]:
        """Those before it from which the other judge fell while the proxy went on rising."""
        return [one for one in earlier
                if one.proxy.value < self.proxy.value and self.other.high < one.other.low]


def of_report(runs: Mapping[str, Mapping[str, Any]], judges: Mapping[str, Mapping[str, Any]], effect: float,
              swept: bool) -> dict[str, Any] | None:
    """From the figures of a report: the proxy against people if they voted, else a second reward model, else an AI
    judge. None where there is no proxy, or nobody to hold it against."""
    proxy = next((name for name, one in judges.items() if one["proxy"] and one.get("gain")), None)
    others = [name for kind in ("people", "reward", "ai") for name, one in judges.items()
              if one["kind"] == kind and not one["proxy"] and one["runs"]]
    if proxy is None or not others:
        return None
    gains, wins = judges[proxy]["gain"], judges[others[0]]["runs"]
    points = [Point(name, own["kl"]["value"] if own.get("kl") else None, _estimate(gains[name]),
                    _estimate(wins[name]["win_rate"]))
              for name, own in runs.items() if name in gains and name in wins]
    return overoptimisation(points, proxy, others[0], effect, swept) if points else None


def _estimate(told: Mapping[str, float]) -> Estimate:
    return Estimate(told["value"], told["low"], told["high"])


def overoptimisation(points: Sequence[Point], proxy: str, other: str, effect: float, swept: bool) -> dict[str, Any]:
    """The points in the order of training (`swept`), or else of their KL; which of them parted, and in words.

    `effect` is the win rate that the comparison is meant to find: a judge whose interval reaches it says nothing yet.
    """
    ordered = list(points) if swept else sorted(points, key=lambda one: (one.kl is None, one.kl))
    flags = [one.parted(effect, ordered[:n] if swept else ()) for n, one in enumerate(ordered)]
    told = [{"run": one.run, "kl": one.kl, "root_kl": one.root_kl, "proxy": one.proxy._asdict(),
             "other": one.other._asdict(), "flagged": flag} for one, flag in zip(ordered, flags, strict=True)]
    return {"proxy": proxy, "other": other, "points": told, "flagged": any(flags),
            "words": words(ordered, flags, proxy, other, swept)}


def words(points: Sequence[Point], flags: Sequence[bool], proxy: str, other: str, swept: bool) -> str:
    first = next((n for n, flag in enumerate(flags) if flag), None)
    if first is not None:
        one, more = points[first], sum(flags) - 1
        rest = f" So it is with {more} more." if more else ""
        peaks = one.peaks(points[:first]) if swept else []
        if peaks:
            best = max(peaks, key=lambda peak: peak.other.low)
            return (f"Over-optimised: from {best.run} to {one.run} the reward of {proxy} rose from "
                    f"{best.proxy.value:+.2f} to {one.proxy.value:+.2f}, while the win rate by {other} fell from "
                    f"{_share(best.other)} to {_share(one.other)}.{rest}")
        return (f"Over-optimised: the reward of {proxy} rose by {_gain(one.proxy)} for {one.run}, while by {other} it "
                f"wins only {_share(one.other)}.{rest}")
    if not any(one.rises for one in points):
        return f"The reward of {proxy} rose for none of them, so there is nothing to hold against {other}."
    waiting = [one for one in points if one.rises and one.other.low <= HALF]
    if waiting:
        return (f"Not known yet: the reward of {proxy} rose by {_gain(waiting[0].proxy)} for {waiting[0].run}, and by "
                f"{other} it wins {_share(waiting[0].other)}, which may be better or not; judge more prompts.")
    return f"Where the reward of {proxy} rose, {other} says that the answers are better too."


def _gain(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"


def _share(one: Estimate) -> str:
    return f"{one.value:.1%} [{one.low:.1%}, {one.high:.1%}]"
