"""Odd rankings are told of before anything is learned from them."""

from __future__ import annotations

import pytest

from prefloop.errors import RequestError
from prefloop.records import Message, Prompt, Ranking, Response
from prefloop.reward.examine import examine
from prefloop.reward.judgements import gathered


def rankings(prompts: int, raters: list[str], flips: bool = False, repeated: str = "") -> list[Ranking]:
    found = []
    for n in range(prompts):
        prompt = Prompt((Message("user", f"question {n}"),))
        answers = (Response(repeated or f"good {n}"), Response(f"bad {n}"))
        found += [Ranking(prompt, answers, (2, 1) if flips and m % 2 else (1, 2), name)
                  for m, name in enumerate(raters)]
    return found


def warnings(found: list[Ranking]) -> str:
    return "\n".join(examine(gathered(found), "snap"))


def test_nothing_odd() -> None:
    assert warnings(rankings(60, ["ann", "bob", "cat"])) == ""


def test_few_prompts() -> None:
    assert "only 49 prompts" in warnings(rankings(49, ["ann", "bob"]))
    assert warnings(rankings(50, ["ann", "bob"])) == ""


def test_only_contradictions_are_refused() -> None:
    with pytest.raises(RequestError, match=r"^snap: on every two answers as many .* collect rankings"):
        warnings(rankings(60, ["ann", "bob"], flips=True))
    half = rankings(60, ["ann", "bob"], flips=True)[:60] + rankings(60, ["ann", "bob"])[60:]
    assert "30 of 60 pairs that several decided on are drawn" in warnings(half)


def test_one_answer_everywhere() -> None:
    told = warnings(rankings(60, ["ann", "bob"], repeated="I\x1b[31m do not know"))
    assert "was given to 60 of 60 prompts" in told
    assert "\x1b" not in told


def test_one_rater_and_a_loud_one() -> None:
    assert "all 60 rankings are by one rater, 'ann'" in warnings(rankings(60, ["ann"]))
    loud = rankings(60, ["ann"]) + rankings(10, ["bob", "cat", "dan"])
    assert "rater 'ann' gave 67% of all rankings; raters.cap" in warnings(loud)


def test_raters_seen_once() -> None:
    found = [one for n in range(60) for one in rankings(60, [f"rater {n}"])[n:n + 1]]
    assert "60 of 60 raters ranked once" in warnings(found)
