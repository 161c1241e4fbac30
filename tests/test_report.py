"""The report that a person reads: what it shows, in which order, and that hostile answers stay text."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest

from prefloop.compare import report
from prefloop.pages import Bar

HOSTILE = '<script>alert(1)</script><img src="http://example.com/x.png" onerror=alert(1)>{{ 7 * 7 }}'


def estimate(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": value, "low": low, "high": high}


def run(**figures: Any) -> dict[str, Any]:
    return {"checksum": "c" * 64, "mean_length": 30.0, "ended": 1.0, **figures}


def told(**more: Any) -> dict[str, Any]:
    runs = {"runs/sft": run(reward=estimate(0.0, -0.2, 0.2)),
            "runs/ppo": run(reward=estimate(1.0, 0.8, 1.2), kl=estimate(3.0, 2.5, 3.5),
                            win_rate=estimate(0.75, 0.6, 0.8)),
            "runs/dpo": run(reward=estimate(0.3, 0.1, 0.5), kl=estimate(0.3, 0.2, 0.4),
                            win_rate=estimate(0.8, 0.55, 0.9))}
    return {"prompts": 3, "over_length": 0, "unread": 0, "split": "test", "level": 0.95, "reward": "runs/reward",
            "sampling": {"answers": 1, "temperature": 1.0}, "baseline": "runs/sft", "verdict": "ship",
            "line": "ship runs/ppo", "runs": runs, **more}


def row(number: int, before: float, after: float, text: str = "fine") -> dict[str, Any]:
    return {"prompt": {"messages": [{"role": "user", "content": f"question {number}"}]},
            "answers": {"runs/sft": ["old"], "runs/ppo": [text], "runs/dpo": ["other"]},
            "rewards": {"runs/sft": [before], "runs/ppo": [after], "runs/dpo": [0.0]}}


ROWS = [row(1, 0.0, 1.0), row(2, 0.5, -1.5, HOSTILE), row(3, 0.0, 0.25)]


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def seen(html: str) -> Seen:
    parser = Seen()
    parser.feed(html)
    return parser


def test_the_run_of_the_verdict_has_the_highest_lower_bound() -> None:
    assert report.best_of(told()) == "runs/ppo"
    assert report.best_of(told(runs={"runs/sft": run()})) is None


def test_contrasts_go_from_the_largest_loss_to_the_largest_gain() -> None:
    found = report.contrasts("runs/sft", "runs/ppo", ROWS)
    assert [(one.conversation[0]["content"], one.gain) for one in found] == [
        ("question 2", -2.0), ("question 3", 0.25), ("question 1", 1.0)]


def test_bars_stand_where_the_numbers_say() -> None:
    assert Bar.of(estimate(0.75, 0.5, 1.0)) == Bar(50.0, 75.0, 100.0)
    assert Bar.of(estimate(1.0, 0.0, 2.0), -1.0, 3.0) == Bar(25.0, 50.0, 75.0)
    assert report.reward_axis(told()) == (-0.2, 1.2)


def test_the_page_says_what_the_report_says() -> None:
    page = seen(report.page(told(), ROWS))
    for words in ("ship runs/ppo", "75.0%", "60.0 to 80.0", "3.00", "question 2", "Got worse", "Got better", "-2.00"):
        assert words in page.text
    assert page.text.index("Got worse") < page.text.index("question 2") < page.text.index("Got better")
    assert page.text.index("Got better") < page.text.index("question 1") < page.text.index("question 3")


def test_answers_cannot_become_markup() -> None:
    page = seen(report.page(told(line=HOSTILE), ROWS))
    assert HOSTILE in page.text
    assert not {"script", "img", "iframe", "link", "a"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on") or name in ("src", "href")]


@pytest.mark.parametrize("rows", [[], [{"prompt": {"messages": []}, "answers": {"runs/sft": ["x"]}}]])
def test_without_a_reward_model_there_is_a_table_and_no_contrast(rows: list[dict[str, Any]]) -> None:
    page = seen(report.page(told(reward="", verdict="undecided", runs={"runs/sft": run(), "runs/b": run()}), rows))
    assert "undecided" in page.text
    assert "Got worse" not in page.text
