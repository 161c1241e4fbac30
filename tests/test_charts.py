"""The lead's charts: where things stand, that they are XML whatever they name, and the same numbers as CSV."""

from __future__ import annotations

import csv
import io
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from prefloop.feedback_ui import charts
from prefloop.feedback_ui.charts import Chart

START = 1_780_012_800  # a day's first second
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ('<script>alert("x")</script>', "=1+1", "a\x00b\x0b\u202e", "]]>&amp;", "\uffff", "long " * 60, "", "日本語",
           "'\"")


def estimate(value: float, half: float = 0.1) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": 50}


def went(values: list[float]) -> Chart:
    made = charts.over_time("gold", "Gold", "", "share", [{"at": START + n * charts.DAY, "gold": estimate(value)}
                                                          for n, value in enumerate(values)], "gold", hold=(0, 1))
    assert made is not None
    return made


def drawn(chart: Chart, **how: Any) -> ElementTree.Element:
    return ElementTree.fromstring(charts.svg(chart, **how))


def dots(chart: Chart, width: int = 760) -> list[tuple[float, float]]:
    return [(float(one.get("cx", "")), float(one.get("cy", "")))
            for one in drawn(chart, width=width).iter(f"{SVG}circle") if one.get("class") == "ch-dot"]


def test_a_higher_value_stands_higher_and_a_later_one_further_right() -> None:
    (x0, low), (x1, high), (x2, middle) = dots(went([0.2, 0.8, 0.5]))
    assert x0 < x1 < x2
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert high < middle < low
    assert middle == pytest.approx((low + high) / 2, abs=0.2)


@pytest.mark.parametrize("width", [260, 390, 760, 1600])
def test_all_that_is_drawn_stands_within_its_width(width: int) -> None:
    for chart in (went([0.2, 0.8, 0.5]), charts.answers_a_day([(START + n * charts.DAY, n * 997) for n in range(90)]),
                  charts.by_stratum([{"stratum": "a stratum's name " * 4, "items": 3, "alpha": estimate(0.4)}])):
        assert chart is not None
        page = drawn(chart, width=width)
        assert page.get("width") == str(width)
        places = [float(one.get(name, "")) for one in page.iter() for name in ("cx", "x1", "x2", "x") if one.get(name)]
        assert len(places) > 5
        assert all(0 <= place <= width for place in places)


def test_a_tick_is_named_only_where_its_name_has_room() -> None:
    months = went([0.5] * 60)
    words = {width: len([one for one in drawn(months, width=width).iter(f"{SVG}text")
                         if re.fullmatch(r"\d\d \w\w\w", one.text or "")]) for width in (260, 1200)}
    assert 1 <= words[260] <= words[1200]


def test_the_days_between_are_drawn_too() -> None:
    chart = charts.answers_a_day([(START, 5), (START + 3 * charts.DAY, 10)])
    assert chart is not None
    assert [count for _, count in chart.rows] == [5, 0, 0, 10]
    heights = [float(one.get("height", "")) for one in drawn(chart).iter(f"{SVG}rect") if one.get("class") == "ch-bar"]
    assert heights == [pytest.approx(heights[3] / 2, abs=0.2), 0, 0, heights[3]]


def test_what_is_not_known_is_not_drawn() -> None:
    assert charts.answers_a_day([]) is None
    assert charts.by_stratum([{"stratum": "a", "items": 0, "alpha": None}]) is None
    facts = [{"at": START, "gold": estimate(0.5)}, {"at": START + 9, "gold": None}]
    assert charts.over_time("gold", "", "", "", facts, "gold") is None, "one point is no course"


def test_hostile_names_are_text_in_the_picture_and_no_formula_in_the_table() -> None:
    chart = charts.by_stratum([{"stratum": name, "items": 3, "alpha": estimate(0.4)} for name in HOSTILE])
    assert chart is not None
    for alone in (True, False):
        page = drawn(chart, alone=alone)
        assert {one.tag for one in page.iter()} <= {f"{SVG}{tag}" for tag in (
            "svg", "style", "rect", "text", "line", "g", "title", "circle")}
        said = [one.text or "" for one in page.iter(f"{SVG}title")]
        assert said[0].startswith(HOSTILE[0])
        assert "U+202E" in said[2]
    rows = list(csv.reader(io.StringIO(charts.table(chart), newline="")))
    assert rows[0] == ["name", "value", "low", "high", "n"]
    assert len(rows) == len(HOSTILE) + 1
    assert [row[0] for row in rows if row[0].startswith("=")] == []
    assert "'=1+1" in [row[0] for row in rows]


def test_a_file_has_colours_of_its_own_for_light_and_dark_and_a_drawing_in_the_page_none() -> None:
    chart = went([0.2, 0.8])
    assert "prefers-color-scheme: dark" in charts.svg(chart)
    assert "<style" not in charts.svg(chart, alone=False), "the page forbids styles that stand in it"
    assert "Gold" in "".join(one.text or "" for one in drawn(chart).iter(f"{SVG}text"))
