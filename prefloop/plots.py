"""Where things stand on a plot: in per cent of its width or height, so that it is sharp and readable at any size.

plots.html draws them as SVG. Nothing here knows what is plotted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil, floor, isfinite, log10
from typing import Any

SHAPES = ("circle", "square", "diamond", "triangle")
COLOURS = 6
FURTHEST = 1e300  # that an axis reaches: its length is a number too
SPANS = (60, 300, 900, 3600, 3 * 3600, 12 * 3600, *(days * 86400 for days in (1, 2, 7, 14, 30, 90, 365)))  # seconds


@dataclass(frozen=True)
class Axis:
    """A line of numbers from `least` to `most`. A tick is a place on it, in per cent, and its words."""

    least: float
    most: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Where a value stands, in per cent; what lies outside stands at the end."""
        return 100 * (min(max(value, self.least), self.most) - self.least) / (self.most - self.least)

    def holds(self, value: float) -> bool:
        return self.least <= value <= self.most


@dataclass(frozen=True)
class Lane:
    """One row of a plot of intervals: a name, an interval in per cent of the axis, and the figures in words."""

    name: str
    note: str
    span: tuple[float, float, float] | None  # low, value, high
    figure: str
    interval: str = ""
    tone: str = ""  # a class of report.css: ship, reject, faint


@dataclass(frozen=True)
class Point:
    """A place in a plot of two axes, in per cent from the left and from the top, with an interval along the second."""

    x: float
    y: float
    low: float
    high: float
    told: str
    label: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one kind, from left to right, joined by a line."""

    name: str
    number: int
    points: tuple[Point, ...]

    @property
    def shape(self) -> str:
        return SHAPES[self.number % len(SHAPES)]

    @property
    def colour(self) -> int:
        return self.number % COLOURS


@dataclass(frozen=True)
class Plot:
    """Series on two axes, and a level that divides them, such as 50%."""

    x: Axis
    y: Axis
    x_name: str
    y_name: str
    series: tuple[Series, ...]
    level: float | None = None


def numbers(values: Iterable[float], share: bool = False, hold: Sequence[float] = (), span: float = 0.0) -> Axis:
    """An axis with round ticks that holds all values and those of `hold`, and is at least `span` long.

    With `share` the values are parts of 1, and are told in per cent.
    """
    kept = [min(max(one, -FURTHEST), FURTHEST) for one in (*values, *hold) if isfinite(one)] or [0.0]
    least, most = min(kept), max(kept)
    short = max(span, 1e-6 * max(abs(least), abs(most)), 1e-9) - (most - least)
    if short > 0:
        least, most = least - short / 2, most + short / 2
    if share:
        least, most = max(least, 0.0), min(most, 1.0)
    step = _round_step((most - least) / 5)
    low, high = floor(least / step + 1e-9), ceil(most / step - 1e-9)
    high = max(high, low + 1)
    marks = [step * n for n in range(low, high + 1)]
    places = max(0, -floor(log10(step * (100 if share else 1)) + 1e-9))
    size = max(map(abs, marks))
    form = f".{places}f" if size < 1e7 else f".{floor(log10(size)) - floor(log10(step)) + 1}g"  # enough to differ
    words = [f"{100 * mark:.{places}f}%" if share else f"{mark + 0.0:{form}}" for mark in marks]
    return Axis(marks[0], marks[-1], tuple((100 * n / (len(marks) - 1), word) for n, word in enumerate(words)))


def _round_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** floor(log10(rough))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= rough * (1 - 1e-9))


def times(moments: Sequence[float]) -> Axis:
    """An axis of seconds since 1970, with ticks at whole minutes, hours or days (UTC); of midnight the date."""
    first, last = min(moments), max(moments)
    room = max((last - first) / 20, 30.0)
    least, most = first - room, last + room
    step = next((one for one in SPANS if (most - least) / one <= 5), SPANS[-1] * ceil((most - least) / SPANS[-1] / 5))
    years = {datetime.fromtimestamp(one, UTC).year for one in (first, last)}
    day = "%d %b %Y" if len(years) > 1 and step >= 86400 else "%d %b"
    marks = [step * n for n in range(ceil(least / step), floor(most / step) + 1)]
    return Axis(least, most, tuple((100 * (mark - least) / (most - least),
                                    datetime.fromtimestamp(mark, UTC).strftime("%H:%M" if mark % 86400 else day))
                                   for mark in marks))


def span_of(axis: Axis, estimate: dict[str, Any]) -> tuple[float, float, float]:
    low, value, high = (axis.at(estimate[end]) for end in ("low", "value", "high"))
    return low, value, high


def point(x: Axis, y: Axis, place: float, estimate: dict[str, Any], told: str, label: str = "",
          tone: str = "") -> Point:
    low, value, high = span_of(y, estimate)
    return Point(x.at(place), 100 - value, 100 - low, 100 - high, told, label, tone)


def ends(estimates: Iterable[Mapping[str, Any] | None]) -> list[float]:
    """Both ends of every interval."""
    return [one[end] for one in estimates if one for end in ("low", "high")]
