"""The charts of the lead's page, from facts that others worked out: SVG made here, and the same numbers as CSV.

A chart is drawn for a width, so that its words keep their size on a phone. By itself, as a file, it carries its own
colours, for light and dark; in the page it takes the page's. An estimate is {"value", "low", "high", "n"}, or None.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prefloop import pages, plots
from prefloop.formats.guarding import guarded
from prefloop.plots import Axis, Lane, Plot, Point, Series

HERE = Path(__file__).parent
DAY = 86400
LETTER = 6.7  # px that a letter of 12 px is wide, about
LANE = 30  # px
NARROWEST, WIDEST = 260, 1600  # px
Facts = Mapping[str, Any]
ALPHA = "1 is agreement, 0 what chance would give."


@dataclass(frozen=True)
class Lanes:
    """Intervals below each other on one axis, each with its name."""

    axis: Axis
    unit: str
    lanes: tuple[Lane, ...]
    level: float | None = None


@dataclass(frozen=True)
class Chart:
    """`note` says how it is read; `head` and `rows` are its numbers. With `bars` a point is the top of a bar."""

    name: str
    title: str
    note: str
    drawn: Plot | Lanes
    head: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    bars: bool = False


@dataclass(frozen=True)
class Frame:
    """Where the axes stand, in px: `left` and `top` are the margins, `across` and `down` the room between them."""

    width: int
    height: int
    left: float
    top: float
    across: float
    down: float

    def x(self, place: float) -> float:
        """From per cent of the axis."""
        return round(self.left + self.across * place / 100, 1)

    def y(self, place: float) -> float:
        return round(self.top + self.down * place / 100, 1)


# -- what is drawn ----------------------------------------------------------------------------------------------------


def over_time(name: str, title: str, note: str, unit: str, facts: Sequence[Facts], key: str, share: bool = True,
              hold: Sequence[float] = (), level: float | None = None) -> Chart | None:
    """One figure as it went; None where it is not known at two times at least."""
    known = [one for one in facts if one.get(key)]
    if len(known) < 2:
        return None
    x, y = plots.times([one["at"] for one in known]), plots.numbers(plots.ends(one[key] for one in known), share, hold)
    points = tuple(plots.point(x, y, one["at"], one[key], f"{_day(one['at'])}: {told(one[key], share)}")
                   for one in known)
    return Chart(name, title, note, Plot(x, y, "date (UTC)", unit, (Series("", 0, points),), level),
                 ("date", key, "low", "high", "n"), tuple((_day(one["at"]), *_columns(one[key])) for one in known))


def by_name(name: str, title: str, note: str, unit: str, facts: Iterable[tuple[str, str, Mapping[str, Any] | None]],
            share: bool = True, hold: Sequence[float] = (), level: float | None = None) -> Chart | None:
    """The same figure of several things: a name, a note beside it, an estimate. None where none is known."""
    found = [(who, beside, estimate) for who, beside, estimate in facts if estimate]
    if not found:
        return None
    axis = plots.numbers(plots.ends(estimate for *_, estimate in found), share, hold)
    lanes = tuple(Lane(who, beside, plots.span_of(axis, dict(estimate)), told(estimate, share))
                  for who, beside, estimate in found)
    return Chart(name, title, note, Lanes(axis, unit, lanes, level), ("name", "value", "low", "high", "n"),
                 tuple((who, *_columns(estimate)) for who, _, estimate in found))


def answers_a_day(days: Sequence[tuple[int, int]]) -> Chart | None:
    """`days` are (the day's first second, answers), days without any left out."""
    if not days:
        return None
    counts = dict(days)
    first, last = min(counts), max(counts)
    filled = [(at, counts.get(at, 0)) for at in range(first, last + 1, DAY)]
    x = plots.times([first - DAY / 2, last + DAY / 2])
    y = plots.numbers([count for _, count in filled], hold=(0, 1))
    points = tuple(Point(x.at(at + DAY / 2), 100 - y.at(count), 0, 0, f"{_day(at)}: {count:,} answers")
                   for at, count in filled)
    return Chart("answers", "Answers a day", "All that count today.", Plot(x, y, "date (UTC)", "answers", (
                     Series("", 0, points),)), ("date", "answers"),
                 tuple((_day(at), count) for at, count in filled), bars=True)


def by_stratum(facts: Iterable[Facts]) -> Chart | None:
    return by_name("strata", "Agreement by stratum", ALPHA, "Krippendorff's alpha",
                   [(one["stratum"] or "no stratum", f"{one['items']:,} items", one["alpha"]) for one in facts],
                   share=False, hold=(0, 1), level=0.0)


def by_guideline(facts: Iterable[Facts]) -> Chart | None:
    return by_name("guidelines", "Agreement by guideline version", ALPHA, "Krippendorff's alpha",
                   [(one["name"], f"{one['items']:,} items", one["alpha"])
                    for one in facts], share=False, hold=(0, 1), level=0.0)


def by_confidence(facts: Iterable[Facts]) -> Chart | None:
    """How often people agree with the model, by how sure it was: the line of a half is chance."""
    return by_name("confidence", "Model and people agree, by the model's confidence",
                   "A model that knows what it knows agrees more where it is surer.", "share of pairs",
                   [(f"{100 * one['least']:.0f} to {100 * one['most']:.0f}%", "", one["agree"]) for one in facts],
                   hold=(0.5, 1), level=0.5)


def told(estimate: Mapping[str, Any], share: bool) -> str:
    said = pages.between(estimate, percent=True) if share else pages.between(estimate)
    value = pages.share(estimate["value"]) if share else pages.number(estimate["value"])
    return f"{value} ({said})"


# -- how it looks -----------------------------------------------------------------------------------------------------


def svg(chart: Chart, width: int = 760, alone: bool = True) -> str:
    """The chart as a picture so many px wide; `alone` is a file, with title and colours of its own."""
    width = min(max(width, NARROWEST), WIDEST)
    frame = _frame(chart, width, 40 if alone else 12)
    made = pages.rendered(HERE / "chart.svg", chart=chart, drawn=chart.drawn, frame=frame, alone=alone,
                          lanes=isinstance(chart.drawn, Lanes), lane=LANE, brief=brief,
                          room=int((frame.left - 12) / LETTER), thin=_thin(chart, frame),
                          look=Markup((HERE / "chart.css").read_text(encoding="utf-8")))
    return "\n".join(line.strip() for line in made.splitlines() if line.strip())


def _frame(chart: Chart, width: int, top: int) -> Frame:
    drawn, below, right = chart.drawn, 46, 18
    if isinstance(drawn, Lanes):
        longest = max(len(one.name) for one in drawn.lanes)
        left = min(max(70.0, longest * LETTER + 14), 0.34 * width)
        height = top + LANE * len(drawn.lanes) + below
    else:
        left, height = max(len(word) for _, word in drawn.y.ticks) * LETTER + 18, top + 236
        top += 14  # the y axis's name stands above it
    return Frame(width, height, left, top, width - left - right, height - top - below)


def _thin(chart: Chart, frame: Frame) -> int:
    """Every how many ticks of the x axis are named: as many as have room."""
    axis = chart.drawn.axis if isinstance(chart.drawn, Lanes) else chart.drawn.x
    needed = sum(len(word) * LETTER + 10 for _, word in axis.ticks)
    return max(1, -int(-needed // frame.across))


def brief(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[:max(1, room - 1)]}…"


def table(chart: Chart) -> str:
    """As CSV, in which no cell can start a formula."""
    kept = io.StringIO()
    writer = csv.writer(kept, lineterminator="\n")
    writer.writerow(chart.head)
    writer.writerows([guarded(cell) if isinstance(cell, str) else cell for cell in row] for row in chart.rows)
    return kept.getvalue()


def _columns(estimate: Mapping[str, Any]) -> tuple[Any, ...]:
    return estimate["value"], estimate["low"], estimate["high"], estimate.get("n", "")


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
