"""What got worse, by hand: in votes, in rewards beyond their noise, and against answers that must be matched again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop.compare import question_sets, regressions
from prefloop.compare.records import HELD_OUT, Answer, Contestant, Contests, Judge, Question, Rewards
from prefloop.compare.regressions import Loss
from prefloop.records import Message, Prompt


def question(number: int, kind: str = HELD_OUT, **facts: Any) -> Question:
    return Question(Prompt((Message("user", f"Tell me about number {number}"),)), kind, **facts)


def contestant(name: str, *texts: str) -> Contestant:
    return Contestant(name, name, tuple((Answer(one, len(one), ended=True),) for one in texts))


def contests(*rows: tuple[int, int, int, float]) -> Contests:
    """(question, first, second, won), each by a rater of its own."""
    prompt, first, second, won = (np.array(one) for one in zip(*rows, strict=True))
    return Contests(("a", "b", "c"), tuple(f"r{n}" for n in range(len(rows))), prompt, np.arange(len(rows)), first,
                    second, won.astype(float), np.zeros(len(rows)))


def test_lost_votes_in_either_order() -> None:
    found = regressions.by_votes(contests((0, 0, 1, 1.0), (0, 1, 0, 0.0), (0, 0, 1, 0.0), (1, 1, 0, 0.5),
                                          (1, 2, 1, 1.0)), one=1, other=0)
    assert {n: loss.amount for n, loss in found.items()} == {0: pytest.approx(2 / 3), 1: 0.5}
    assert [loss.worse for loss in found.values()] == [True, False]  # a tie is no majority


def test_a_reward_falls_by_more_than_half_its_spread_over_questions() -> None:
    before, after = ((0.0,), (2.0,), (4.0,), ()), ((0.0,), (1.1,), (3.1,), (1.0,))  # spread over them 1.63
    found = regressions.by_reward(Rewards("r", "", (before, after)), one=1, other=0)
    assert {n: loss.amount for n, loss in found.items()} == pytest.approx({0: 0.0, 1: 0.9, 2: 0.9})
    assert [loss.worse for loss in found.values()] == [False, True, True]
    slight = regressions.by_reward(Rewards("r", "", (before, ((0.0,), (1.3,), (4.0,), ()))), one=1, other=0)
    assert not any(loss.worse for loss in slight.values())


def test_a_reward_falls_by_more_than_the_members_disagree() -> None:
    scores = (((2.0, 2.0),), ((1.5, 0.5),))
    unsure, sure = (((0.8, 0.8),), ((0.8, 0.8),)), (((0.5, 0.5),), ((0.5, 0.5),))
    (loss,) = regressions.by_reward(Rewards("r", "", scores, unsure), one=1, other=0).values()
    assert (loss.amount, loss.noise) == pytest.approx((1.0, 0.8 * 2**0.5))
    assert loss.sample == 1  # which fell most
    assert not loss.worse
    (loss,) = regressions.by_reward(Rewards("r", "", scores, sure), one=1, other=0).values()
    assert loss.worse


def test_the_worst_come_first_and_variants_do_not_count() -> None:
    questions = [question(0), question(1), question(2, "typos", of=0), question(3, "far"), question(4, "must pass"),
                 question(5), question(6)]
    before = contestant("a", *"abcdefg")
    after = contestant("b", "A", "B", "C", "D", "E", "", "g")
    losses = {0: Loss(0.6, 0.5), 1: Loss(0.5, 0.5), 2: Loss(1, 0.5), 3: Loss(0.9, 0.5), 4: Loss(1, 0.5),
              5: Loss(0.1, 0.5), 6: Loss(0.8, 0.5)}
    found = regressions.regressed(losses, questions, before, after)
    # 5 became empty and 6 stayed as it was, whatever was voted
    assert [(one.number, one.loss.amount) for one in found] == [(5, 1.0), (3, 0.9), (0, 0.6)]
    assert found[1].to_json() == {"prompt": questions[3].prompt.id, "number": 3, "set": "far", "loss": 0.9,
                                  "emptied": False, "title": "Tell me about number 3", "before": "d", "after": "D"}


def test_an_answer_that_became_empty_stands_before_any_fall_of_a_reward() -> None:
    questions, before = [question(0), question(1)], contestant("a", "x", "y")
    found = regressions.regressed({0: Loss(7.5, 0.5)}, questions, before, contestant("b", "X", " "))
    assert [(one.number, one.to_json()["emptied"]) for one in found] == [(1, True), (0, False)]
    asked = [replace(one, set="must pass", reference="good") for one in questions]
    passing = regressions.must_passed({0: Loss(7.5, 0.5)}, asked, contestant("b", "X", ""))
    assert passing is not None
    assert [(one["number"], one["emptied"]) for one in passing["failed"]] == [(1, True), (0, False)]


def test_only_held_out_prompts_count_and_those_of_other_sets_stand_beside() -> None:
    questions = [question(0), question(1, "near"), question(2, "far"), question(3)]
    players = [contestant("a", *"abcd"), contestant("b", *"ABCD")]
    scores = tuple(((value,), (value,), (value,), (1.0,)) for value in (2.0, 0.0))
    judge = Judge("r", "reward", contests((0, 0, 1, 1.0)))
    told = regressions.told_by(judge, [Rewards("r", "", scores)], players, questions, {})
    assert [one.number for one in told.found[1]] == [0, 1, 2]
    found = regressions.figures(told, players)
    assert (found["counts"], found["elsewhere"]) == ({"b": 1}, {"b": 2})


def test_what_is_written_can_be_asked_again(tmp_path: Path) -> None:
    asked = [question(0), question(1)]
    found = regressions.regressed({0: Loss(0.6, 0.5), 1: Loss(0.9, 0.5)}, asked, contestant("a", "good", "fine"),
                                  contestant("b", "bad", "poor"))
    path = tmp_path / "regressions.jsonl"
    regressions.write(path, found, "a", "b", Judge("people", "people", contests((0, 0, 1, 1.0))))
    row = json.loads(path.read_text().splitlines()[0])
    assert [row[key] for key in ("baseline", "run", "by", "before", "after")] == ["a", "b", "people", "fine", "poor"]
    again = question_sets.must_pass(path)
    assert [(one.prompt, one.reference, one.set) for one in again] == [
        (asked[1].prompt, "fine", "must pass"), (asked[0].prompt, "good", "must pass")]


def test_what_must_pass() -> None:
    questions = [question(9), *(question(n, "must pass", reference=f"good {n}") for n in range(1, 6))]
    after = contestant("b", "x", "good 1", "", "worse", "as good", "nobody knows")
    losses = {0: Loss(1, 0.5), 1: Loss(1, 0.5), 3: Loss(0.7, 0.5), 4: Loss(0.2, 0.5)}
    found = regressions.must_passed(losses, questions, after)
    assert found is not None
    assert {key: found[key] for key in ("asked", "passed", "unjudged")} == {"asked": 5, "passed": 2, "unjudged": 1}
    assert [(one["number"], one["before"], one["after"]) for one in found["failed"]] == [
        (2, "good 2", ""), (3, "good 3", "worse")]
    assert regressions.must_passed(losses, [question(0)], after) is None


def test_the_recorded_answer_by_reward_and_in_votes() -> None:
    questions = [question(0), *(question(n, "must pass", reference="good") for n in (1, 2, 3))]
    scores = ((3.0,), (1.0,), (2.0,), ()), ((3.0,), (1.0,), (2.0,), ())  # the baseline's spread is 0.82
    found = regressions.by_recorded_reward(Rewards("r", "", scores, recorded={1: 1.5, 2: 2.1, 3: 9.0}), 1)
    assert {n: loss.worse for n, loss in found.items()} == {1: True, 2: False}
    players = [contestant("a", "x", "good", "other", "good"), contestant("b", "y", "1", "2", "3")]
    judge = Judge("people", "people", contests((1, 0, 1, 1.0), (2, 0, 1, 1.0), (0, 0, 1, 1.0)))
    assert regressions.by_recorded_votes(judge, 1, players, questions) == {1: Loss(1.0, 0.5)}
