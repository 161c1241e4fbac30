"""From figures to a word: every gate, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prefloop.compare import verdict
from prefloop.compare.records import Contests, Judge
from prefloop.compare.settings import CompareConfig

SETTINGS = CompareConfig(runs=["base", "a"])


def estimate(low: float, high: float) -> dict[str, float]:
    return {"value": (low + high) / 2, "low": low, "high": high}


def report(*intervals: tuple[float, float], equal: tuple[float, float] | None = (0.51, 0.8), kind: str = "reward",
           **more: Any) -> dict[str, Any]:
    own = {f"run{n}": {"win_rate": estimate(*one), "decide": estimate(*one), "prompts": 100, "votes": 100,
                       "length_controlled": equal and estimate(*equal), "power": {"more": 420}}
           for n, one in enumerate(intervals)}
    runs = {name: {"mean_length": 30.0} for name in ["base", *own]}
    return {"by": "judge", "baseline": "base", "effect": 0.55, "runs": runs,
            "votes": {}, "judges": {"judge": {"kind": kind, "runs": own}}, **more}


@pytest.mark.parametrize(("intervals", "said"), [
    ([(0.51, 0.7)], "ship"),
    ([(0.2, 0.4), (0.51, 0.7)], "ship"),
    ([(0.2, 0.4), (0.3, 0.49)], "reject"),
    ([(0.2, 0.4), (0.4, 0.6)], "undecided"),
    ([(0.5, 0.7)], "undecided"),
])
def test_the_word(intervals: list[tuple[float, float]], said: str) -> None:
    found = verdict.decided(report(*intervals), SETTINGS)
    assert found.word == said
    assert found.line.startswith(said)
    assert found.best == f"run{len(intervals) - 1}"  # the best of each list is its last
    assert f"run{len(intervals) - 1}" in found.line


@pytest.mark.parametrize(("equal", "said", "words"), [
    ((0.52, 0.7), "ship", "at equal length"), ((0.4, 0.6), "undecided", "may win by length alone"),
    ((0.3, 0.4), "reject", "wins by length alone")])
def test_what_wins_by_length_alone_does_not_ship(equal: tuple[float, float], said: str, words: str) -> None:
    found = verdict.decided(report((0.55, 0.65), equal=equal), SETTINGS)
    assert found.word == said
    assert words in found.line
    assert verdict.decided(report((0.55, 0.65), equal=equal),
                           CompareConfig(runs=["a", "b"], length_gate=False)).word == "ship"


def test_undecided_says_how_many_more_are_needed() -> None:
    assert "about 420 more prompts would find a win rate of 55%" in verdict.decided(report((0.45, 0.6)), SETTINGS).line
    assert "420 more votes" in verdict.decided(report((0.45, 0.6), kind="people"), SETTINGS).line


def test_peeking_before_the_plan_decides_nothing() -> None:
    planned = CompareConfig(runs=["a", "b"], planned_votes=200)
    found = verdict.decided(report((0.6, 0.8), kind="people"), planned)
    assert found.word == "undecided"
    assert "100 of the 200 votes" in found.line
    losing = verdict.decided(report((0.2, 0.4), kind="people"), planned)
    assert losing.word == "undecided"
    assert losing.line.startswith("undecided")
    done = CompareConfig(runs=["a", "b"], planned_votes=100)
    assert verdict.decided(report((0.6, 0.8), kind="people"), done).word == "ship"
    assert verdict.decided(report((0.2, 0.4), kind="people"), done).word == "reject"


def test_without_a_plan_the_wider_interval_decides() -> None:
    told = report((0.52, 0.7), kind="people")
    told["judges"]["judge"]["runs"]["run0"]["anytime"] = estimate(0.48, 0.74)
    found = verdict.decided(told, SETTINGS)
    assert found.word == "undecided"
    assert "[48.0%, 74.0%]" in found.line


def test_what_decides_at_equal_length_is_as_much_wider() -> None:
    """Half the distance to the end becomes twice as far, on either side by itself."""
    own = {"win_rate": {"value": 0.6, "low": 0.5, "high": 0.7}, "decide": {"value": 0.6, "low": 0.4, "high": 0.75}}
    found = verdict.widened({"value": 0.55, "low": 0.51, "high": 0.65}, own)
    assert found == pytest.approx({"value": 0.55, "low": 0.47, "high": 0.70})
    told = report((0.55, 0.65), equal=(0.51, 0.61), kind="people")
    told["judges"]["judge"]["runs"]["run0"]["anytime"] = estimate(0.51, 0.69)
    assert verdict.decided(told, SETTINGS).word == "undecided"


@pytest.mark.parametrize(("settings", "facts", "said"), [
    ({"max_kl": 5.0}, {"kl": estimate(6.0, 8.0)}, "reject"), ({"max_kl": 8.0}, {"kl": estimate(6.0, 8.0)}, "ship"),
    ({"max_kl": 5.0}, {}, "undecided"),
    ({"max_tokens_ratio": 1.2}, {"mean_length": 40.0}, "reject"),
    ({"max_tokens_ratio": 1.5}, {"mean_length": 40.0}, "ship")])
def test_the_price_has_limits(settings: dict[str, float], facts: dict[str, Any], said: str) -> None:
    told = report((0.55, 0.65))
    told["runs"]["run0"] |= facts
    assert verdict.decided(told, CompareConfig(runs=["a", "b"], **settings)).word == said  # type: ignore[arg-type]


def test_what_must_pass_and_did_not_is_rejected() -> None:
    passing = {"asked": 4, "failed": [{"run": "run0", "title": "x"}], "unjudged": {"run0": 0}}
    failed = {"must_pass": passing, "counts": {"run0": 2}}
    found = verdict.decided(report((0.55, 0.65), regressions=failed), SETTINGS)
    assert found.word == "reject"
    assert "1 of 4 questions that must not get worse" in found.line
    assert "2 regressions" in found.line


def test_a_rise_that_nobody_else_sees_is_not_shipped() -> None:
    hacked = {"proxy": "judge", "other": "second", "points": [{"run": "run0", "flagged": True}]}
    found = verdict.decided(report((0.55, 0.65), overoptimisation=hacked), SETTINGS)
    assert found.word == "undecided"
    assert "second does not see it" in found.line


def test_one_judge_is_believed_and_never_a_mix() -> None:
    def judge(name: str, kind: str, count: int, proxy: bool = False) -> Judge:
        whole, real = np.zeros(count, dtype=np.int64), np.zeros(count)
        return Judge(name, kind, Contests(("a", "b"), ("r",), whole, whole, whole, whole + 1, real, real), proxy)

    everyone = [judge("people", "people", 3), judge("gpt", "ai", 3), judge("reward", "reward", 3, True),
                judge("other", "reward", 3)]
    named = {by: verdict.presiding(everyone, by) for by in ("auto", "people", "ai", "reward", "second")}
    assert {by: one and one.name for by, one in named.items()} == {
        "auto": "people", "people": "people", "ai": "gpt", "reward": "reward", "second": "other"}
    nobody = [judge("people", "people", 0), judge("reward", "reward", 3, True)]
    assert verdict.presiding(nobody, "auto") is None  # people were asked: nobody takes their place in silence
    assert verdict.presiding(nobody, "reward") == nobody[1]
    assert verdict.presiding(nobody, "people") is None
    apart = replace(everyone[0], contests=replace(everyone[0].contests, first_D=everyone[0].contests.first_D + 2))
    assert verdict.presiding([apart], "people") is None  # on candidates alone


def test_a_candidate_that_nobody_judged_keeps_it_open() -> None:
    told = report((0.2, 0.4))
    told["runs"]["unjudged"] = {"mean_length": 30.0}
    found = verdict.decided(told, SETTINGS)
    assert found.word == "undecided"
    assert found.gates["unjudged"]["win rate"].passed is None


def test_what_must_pass_is_open_until_it_was_judged() -> None:
    passing = {"must_pass": {"asked": 4, "failed": [], "unjudged": {"run0": 4}}, "counts": {}}
    found = verdict.decided(report((0.55, 0.65), regressions=passing), SETTINGS)
    assert found.word == "undecided"
    assert "4 were not judged" in found.line


def test_votes_on_other_answers_are_no_verdict() -> None:
    told = report((0.55, 0.65)) | {"by": None, "votes": {"counted": 0, "on other prompts": 2850}}
    found = verdict.decided(told, SETTINGS)
    assert found.word == "undecided"
    assert "2850 on other prompts" in found.line
