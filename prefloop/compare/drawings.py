"""The plots of a report, from what report.json holds. Each is None where the report has nothing for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefloop import plots
from prefloop.compare.screen import counted
from prefloop.compare.verdict import interval_to_decide
from prefloop.pages import between, number, share
from prefloop.plots import Axis, Lane, Plot, Series

FEW = 30  # prompts, under which a figure is grey
FEW_RUNS = 4
SAME = 1e-9  # an interval that is no wider has no width but what rounding leaves
LABELLED = 8  # points, over which their names would cover each other
KINDS = {"people": "people", "ai": "AI judge", "reward": "reward model"}


@dataclass(frozen=True)
class Lanes:
    """Rows of intervals on one axis."""

    axis: Axis
    lanes: tuple[Lane, ...]
    level: float | None = None


@dataclass(frozen=True)
class Block:
    """A bar of a histogram, in per cent of the plot's width and height."""

    left: float
    width: float
    height: float


@dataclass(frozen=True)
class Shape:
    """How the rewards of one run are spread: a histogram, and the 5th, 25th, 50th, 75th and 95th percentile."""

    lane: Lane
    blocks: tuple[Block, ...]
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Shapes:
    axis: Axis
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Row:
    """A win rate with a name, before it has a place on an axis."""

    name: str
    estimate: dict[str, float]
    note: str = ""
    tone: str = ""


def win_rates(rows: list[Row], axis: Axis | None = None) -> Lanes | None:
    """Win rates in lanes, around 50%."""
    if not rows:
        return None
    axis = axis or around_half(rows)
    return Lanes(axis, tuple(Lane(row.name, row.note, plots.span_of(axis, row.estimate), share(row.estimate["value"]),
                                  between(row.estimate, percent=True), row.tone) for row in rows), 0.5)


def around_half(rows: list[Row]) -> Axis:
    return plots.numbers(plots.ends(row.estimate for row in rows), share=True, hold=(0.5,), span=0.2)


def side_by_side(judges: Mapping[str, Mapping[str, Any]], by: str | None,
                 runs: Iterable[str]) -> list[tuple[str, Lanes]]:
    """Win rates against the baseline, all on one axis: of a few runs each by all judges, of many (a sweep) by each
    judge all runs."""
    of_runs = {run: own for run in runs if (own := list(of_judges(judges, by, run)))}
    of_each = {name: [Row(run, own["win_rate"], counted(own["prompts"], "prompt"))
                      for run, own in judged["runs"].items()] for name, judged in judges.items()}
    axis = around_half([row for own in of_runs.values() for row in own])
    shown = of_runs if len(of_runs) <= FEW_RUNS else of_each
    return [(title, drawn) for title, rows in shown.items() if (drawn := win_rates(rows, axis))]


def of_judges(judges: Mapping[str, Mapping[str, Any]], by: str | None, run: str) -> Iterator[Row]:
    """A run's win rates; below that of the verdict's judge the interval that it goes by, where that is another."""
    for name, judged in judges.items():
        own = (judged.get("runs") or {}).get(run) or {}
        if not own.get("win_rate"):
            continue
        kind = KINDS.get(judged["kind"], judged["kind"])
        yield Row(name, own["win_rate"], f"{kind}, {counted(own['prompts'], 'prompt')}")
        if name == by and (why := wider(own)):
            yield Row("what the verdict goes by", dict(interval_to_decide(own)), why, "plain")


def wider(own: Mapping[str, Any]) -> str:
    """Why the interval that decides is another than the usual one; nothing where it is not."""
    if interval_to_decide(own) == own["win_rate"]:
        return ""
    return "may be looked at at any time" if own.get("anytime") else "wider, for several candidates"


def by_length(own: Mapping[str, Any]) -> Lanes | None:
    """A run's win rate in fifths of how long its answer is beside the baseline's, over all, and at equal length."""
    fifths = [Row(" to ".join(dict.fromkeys((number(one["low"]), number(one["high"])))) + " times as long",
                  one["win_rate"], counted(one["prompts"], "prompt"), "faint" if one["prompts"] < FEW else "")
              for one in own.get("quintiles") or () if one.get("win_rate")]
    if not fifths:
        return None
    ends = [Row(name, own[key]) for name, key in (("all", "win_rate"), ("at equal length", "length_controlled"))
            if own.get(key)]
    return win_rates([*fifths, *ends])


def by_slice(own: Mapping[str, Any]) -> list[tuple[str, Lanes | None, Lanes | None]]:
    """A run's win rate in slices of the prompts, by what they are sliced by: the coloured first, then the large; and
    apart those of under FEW prompts."""
    ordered = sorted(own.get("slices") or (), key=lambda one: (not one.get("coloured"), -one["prompts"]))
    drawn = []
    for by in dict.fromkeys(one["by"] for one in own.get("slices") or ()):
        large, small = ([Row(one["name"], one["win_rate"], slice_note(one), tone_of(one)) for one in ordered
                         if one["by"] == by and (one["prompts"] < FEW) is few] for few in (False, True))
        drawn.append((by, win_rates(large), win_rates(small)))
    return drawn


def slice_note(one: Mapping[str, Any]) -> str:
    """Its size, and its p after the correction for so many slices."""
    size = counted(one["prompts"], "prompt")
    if one.get("adjusted") is None:
        return size
    return f"{size}, q " + (f"{one['adjusted']:.3f}" if one["adjusted"] >= 0.001 else "< 0.001")


def tone_of(one: Mapping[str, Any]) -> str:
    """Grey under FEW prompts; coloured only where the difference stands after Benjamini and Hochberg."""
    if one["prompts"] < FEW:
        return "faint"
    return ("ship" if one["win_rate"]["value"] > 0.5 else "reject") if one.get("coloured") else "plain"


def strengths(judged: Mapping[str, Any]) -> Lanes | None:
    """Bradley-Terry strengths of all runs, the strongest first, with the places that they may have."""
    found = judged.get("strengths") or {}
    if len(found) < 3:
        return None
    ordered = sorted(found.items(), key=lambda one: (one[1]["rank"], one[0]))
    axis = plots.numbers(plots.ends(own for _, own in ordered), hold=(0.0,))
    return Lanes(axis, tuple(
        Lane(name, rank_of(own), plots.span_of(axis, own), f"{own['value']:+.2f}", between(own))
        for name, own in ordered), 0.0)


def rank_of(own: Mapping[str, Any]) -> str:
    low, high = own["rank_low"], own["rank_high"]
    return f"place {own['rank']:g}" + (f" ({low:g} to {high:g})" if low != high else "")


def rewards(judged: Mapping[str, Any]) -> Shapes | None:
    """How one reward model's rewards of every run are spread."""
    means, quantiles = judged.get("reward") or {}, judged.get("quantiles") or {}
    histogram = judged.get("histogram") or {"edges": [], "counts": {}}
    edges = histogram["edges"]
    if not means:
        return None
    axis = plots.numbers([*edges, *(one for own in quantiles.values() for one in own)] or plots.ends(means.values()))
    most = max((count / (sum(own) or 1) for own in histogram["counts"].values() for count in own), default=0) or 1
    return Shapes(axis, tuple(
        Shape(Lane(name, reward_note(judged, name), None, number(mean["value"], signed=True), between(mean)),
              blocks(axis, edges, histogram["counts"].get(name, []), most),
              tuple(axis.at(one) for one in quantiles.get(name, ())))
        for name, mean in means.items()))


def blocks(axis: Axis, edges: list[float], counts: list[int], most: float) -> tuple[Block, ...]:
    """Bars as high as their share of the answers, `most` being the full height."""
    places = [axis.at(edge) for edge in edges]
    every = sum(counts) or 1
    return tuple(Block(left, right - left, 100 * count / every / most)
                 for left, right, count in zip(places, places[1:], counts, strict=False) if count)


def reward_note(judged: Mapping[str, Any], name: str) -> str:
    said = []
    if gain := (judged.get("gain") or {}).get(name):
        said.append(f"gain {number(gain['value'], signed=True)} ({reach(gain)})")
    if (extreme := (judged.get("extreme") or {}).get(name)) is not None:
        said.append(f"{share(extreme)} above the baseline's top 1%")
    if apart := (judged.get("disagreement") or {}).get(name):
        said.append(f"members {number(apart['value'])} apart")
    return "; ".join(said)


def reach(estimate: Mapping[str, float], prompts: int | None = None, at_nought: str = "no difference seen") -> str:
    """Its interval in words; where all prompts are alike a bootstrap has none to tell."""
    if estimate["high"] - estimate["low"] > SAME:
        return between(estimate)
    alike = "the same" if abs(estimate["value"]) > SAME else at_nought
    return alike + (f" in {prompts}" if prompts else "")


def overoptimisation(found: Mapping[str, Any] | None) -> list[Plot]:
    """Against the root of the KL: what the proxy gives, and below it how often another judge prefers the run."""
    points = (found or {}).get("points") or []
    if not found or not points:
        return []
    x, few = plots.numbers([one["root_kl"] for one in points], hold=(0.0,)), len(points) <= LABELLED
    drawn = []
    for key, name, share_of in (("proxy", f"reward over the baseline's, by {found['proxy']}", False),
                                ("other", f"win rate, by {found['other']}", True)):
        told = [one for one in sorted(points, key=lambda one: one["root_kl"]) if one.get(key)]
        if not told:
            continue
        level = 0.5 if share_of else 0.0
        y = plots.numbers(plots.ends(one[key] for one in told), share_of, (level,), 0.2 if share_of else 0.0)
        drawn.append(Plot(x, y, "√KL from the baseline (KL in nats)", name, (Series("", 0, tuple(
            plots.point(x, y, one["root_kl"], one[key], said(one, key, share_of), label(one) if few else "",
                        "flagged" if one.get("flagged") else "") for one in told)),), level))
    return drawn


def label(one: Mapping[str, Any]) -> str:
    """The last part of a path, and of a checkpoint only its step."""
    return str(one["run"]).rstrip("/").rpartition("/")[2].removeprefix("checkpoint-")


def said(one: Mapping[str, Any], key: str, share_of: bool) -> str:
    value = one[key]["value"]
    return f"{one['run']}: {share(value) if share_of else number(value, signed=True)} at √KL {number(one['root_kl'])}"
