"""People's votes as contests: matched by checksum and text, out of stores and snapshots."""

from __future__ import annotations

import json
import math
from pathlib import Path

import explored
import numpy as np
import pytest

from prefloop import cli
from prefloop.compare import people, statistics
from prefloop.compare.records import Answer, Contestant, Contests, Judge, Question, by_rule, length_gap
from prefloop.errors import RequestError
from prefloop.feedback_ui import campaigns
from prefloop.feedback_ui.campaigns import CampaignConfig
from prefloop.formats import snapshot
from prefloop.records import Answers, Message, Prompt, Ranking, Response
from prefloop.store import Judgement, Store

NAMES = ("sft", "dpo", "ppo")
TEXTS = (("one two", "three", "four five six"), ("same", "same", "other"), ("", "full", ""), ("a b", "c d", "e f"))


def prompt(number: int) -> Prompt:
    return Prompt((Message("user", f"question {number}"),))


def contestants(*texts: tuple[str, ...]) -> list[Contestant]:
    """By name, the answers of each question."""
    return [Contestant(name, f"sum-{name}", tuple((Answer(own[number], len(own[number].split()), True),)
                                                  for own in texts)) for number, name in enumerate(NAMES)]


ALL = contestants(*TEXTS)
QUESTIONS = [Question(prompt(number)) for number in range(len(TEXTS))]


def response(number: int, who: int, checksum: str | None = None) -> Response:
    return Response(TEXTS[number][who], NAMES[who], f"sum-{NAMES[who]}" if checksum is None else checksum)


def vote(number: int, *ranks: int | None, rater: str = "ann", whose: tuple[int, ...] = (0, 1, 2),
         **more: object) -> Ranking:
    return Ranking(prompt(number), tuple(response(number, who) for who in whose), ranks, rater,
                   **more)  # type: ignore[arg-type]


def said(found: list[people.Contest]) -> list[tuple[int, str, float]]:
    return [(one.prompt, f"{NAMES[one.first]}-{NAMES[one.second]}", one.won) for one in found]


def voted(*given: Ranking) -> tuple[list[people.Contest], dict[str, int]]:
    return people.voted([(one, "") for one in given], ALL, QUESTIONS)


def all_of(found: Contests) -> set[tuple[int, int, int, int, float]]:
    return set(zip(*(column.tolist() for column in (found.prompt_D, found.rater_D, found.first_D, found.second_D,
                                                    found.won_D)), strict=True))


def test_what_needs_nobody() -> None:
    full, other, empty = Answer("a", 1, True), Answer("b", 1, True), Answer(" ", 1, True)
    pairs = ((full, full), (full, other), (full, empty), (empty, full), (empty, empty))
    assert [by_rule(*pair) for pair in pairs] == [0.5, None, 1.0, 0.0, 0.5]
    assert by_rule(empty, Answer("", 0, True)) == 0.5
    assert length_gap(Answer("a b", 2, True), full) == pytest.approx(math.log(2))
    assert length_gap(full, empty) == 0.0


def test_a_ranking_is_a_contest_of_each_two() -> None:
    found, counted = voted(vote(0, 2, 1, 2), vote(3, 1, None, None))
    assert said(found) == [(0, "sft-dpo", 0.0), (0, "sft-ppo", 0.5), (0, "dpo-ppo", 1.0),
                           (3, "sft-dpo", 1.0), (3, "sft-ppo", 1.0), (3, "dpo-ppo", 0.5)]
    assert found[0].gap == pytest.approx(math.log(2)), "two tokens against one"
    assert counted == {people.COUNTED: 2}
    bad, _ = voted(vote(0, None, None, None, none_acceptable=True))
    assert [one.won for one in bad] == [0.5] * 3, "none is acceptable, and none was put above another"
    ranked, _ = voted(vote(0, 1, 2, 3, none_acceptable=True))
    assert [one.won for one in ranked] == [1.0] * 3


def test_two_wrote_the_text_that_lost() -> None:
    shared = Ranking(prompt(1), (Response("same", "sft, dpo", "sum-sft, sum-dpo"), response(1, 2)), (2, 1), "ann")
    found, _ = voted(shared)
    assert said(found) == [(1, "sft-ppo", 0.0), (1, "dpo-ppo", 0.0)]


def test_votes_that_do_not_count_are_told() -> None:
    elsewhere = Ranking(prompt(9), (Response("x"), Response("y")), (1, 2), "ann")
    old = Ranking(prompt(0), (response(0, 0), response(0, 1, "sum-old")), (1, 2), "ann")
    reworded = Ranking(prompt(0), (response(0, 0), Response("3", "dpo", "sum-dpo")), (1, 2), "ann")
    given = [vote(0, 1, 2, whose=(0, 1)), vote(0, 2, 1, whose=(0, 1), rater="bea"),
             vote(3, 1, 2, 3, kind="gold"), vote(3, 1, 2, 3, kind="repeat"), elsewhere, old, reworded]
    found, counted = voted(*given)
    assert counted == {people.COUNTED: 2, people.KEYS: 2, people.PROMPTS: 1, people.CHECKPOINTS: 1, people.TEXTS: 1}
    assert said(found) == [(0, "sft-dpo", 1.0), (0, "sft-dpo", 0.0)]


def test_by_name_only_where_a_vote_has_no_checksum() -> None:
    unsummed = Ranking(prompt(0), (response(0, 0, ""), response(0, 1, "")), (1, 2), "ann")
    assert said(voted(unsummed)[0]) == [(0, "sft-dpo", 1.0)]
    renamed = Ranking(prompt(0), (Response("one two", "moved", "sum-sft"), response(0, 1)), (1, 2), "ann")
    assert said(voted(renamed)[0]) == [(0, "sft-dpo", 1.0)]


def stored(path: Path) -> str:
    """Ann changes her mind on question 0 and withdraws question 3; Bea votes on question 0."""
    url = f"sqlite:///{path}"
    with Store(url) as store:
        store.add_items([Answers(prompt(number), tuple(response(number, who) for who in range(3)))
                         for number in (0, 3)], need=2)
        receipts = [store.submit(lease.token, "ann", Judgement((1, 2, 3)))
                    for _ in range(2) if (lease := store.lease("ann", 60))]
        store.revise(receipts[0].answer, "ann", Judgement((3, 2, 1)))
        store.withdraw(receipts[1].answer, "ann")
        lease = store.lease("bea", 60)
        assert lease
        store.submit(lease.token, "bea", Judgement((1, 1, 2)))
    return url


def test_out_of_a_store_and_its_snapshot(tmp_path: Path) -> None:
    url = stored(tmp_path / "votes.db")
    found, counted = people.contests([url], ALL, QUESTIONS)
    assert counted == {people.COUNTED: 2}
    assert found.raters == ("ann", "bea")
    assert found.players == NAMES
    votes = {(0, 0, 0, 1, 0.0), (0, 0, 0, 2, 0.0), (0, 0, 1, 2, 0.0), (0, 1, 0, 1, 0.5), (0, 1, 0, 2, 1.0),
             (0, 1, 1, 2, 1.0)}
    rules = {(1, -1, 0, 1, 0.5), (2, -1, 0, 1, 0.0), (2, -1, 0, 2, 0.5), (2, -1, 1, 2, 1.0)}
    assert votes <= all_of(found) <= votes | rules
    rows = list(zip(found.prompt_D.tolist(), found.first_D.tolist(), found.second_D.tolist(), strict=True))
    assert rows.count((1, 0, 1)) == rows.count((2, 0, 1)) == 1, "two votes on two questions are one on each"
    assert found.asked == 5, "two pairs of question 1, three of question 3"
    with Store(url, read_only=True) as store:
        snapshot.write(tmp_path / "votes", list(store.rankings()))
    both, counted = people.contests([url, str(tmp_path / "votes")], ALL, QUESTIONS)
    assert all_of(both) == all_of(found)
    assert counted == {people.COUNTED: 2, people.TWICE: 2}
    alone, _ = people.contests([str(tmp_path / "votes")], ALL, QUESTIONS)
    assert all_of(alone) == all_of(found)


def test_where_nobody_voted_nothing_is_decided(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'empty.db'}"):
        pass
    none, counted = people.contests([f"sqlite:///{tmp_path / 'empty.db'}"], ALL, QUESTIONS)
    assert (len(none), none.asked, counted) == (0, 8, {people.COUNTED: 0})
    itself = contestants(("a", "a", "a"), ("", "", ""))
    twins, _ = people.contests([], itself, QUESTIONS[:2])
    assert (twins.won_D.tolist(), twins.asked) == ([0.5] * 6, 0), "where nothing is left to ask, that is the answer"


def test_a_store_has_the_last_word_on_what_stands_in_a_snapshot(tmp_path: Path) -> None:
    """Ann changes one vote and withdraws another after the snapshot; Bea's was changed before, and is the same."""
    url = f"sqlite:///{tmp_path / 'votes.db'}"
    with Store(url) as store:
        store.add_items([Answers(prompt(number), tuple(response(number, who) for who in range(3)))
                         for number in (0, 3)], need=2)
        given = {rater: [store.submit(lease.token, rater, Judgement((1, 2, 3)))
                         for _ in range(2) if (lease := store.lease(rater, 60))] for rater in ("ann", "bea")}
        store.revise(given["bea"][0].answer, "bea", Judgement((2, 1, 3)))
        before = str(snapshot.write(tmp_path / "before", list(store.rankings())))
        store.revise(given["ann"][0].answer, "ann", Judgement((3, 2, 1)))
        store.withdraw(given["ann"][1].answer, "ann")
    alone, counted = people.contests([url], ALL, QUESTIONS)
    assert counted == {people.COUNTED: 3}
    for sources in ([url, before], [before, url]):
        found, counted = people.contests(sources, ALL, QUESTIONS)
        assert counted == {people.COUNTED: 3, people.CHANGED: 2, people.TWICE: 2}
        assert all_of(found) == all_of(alone)
        assert len(found) == len(alone)


def test_a_vote_twice_in_one_snapshot_and_two_that_differ(tmp_path: Path) -> None:
    """In one source a rater may say two things of the same answers: two campaigns asked."""
    place = snapshot.write(tmp_path / "votes", [vote(0, 1, 2, 3), vote(0, 1, 2, 3), vote(0, 3, 2, 1)])
    assert people.contests([str(place)], ALL, QUESTIONS)[1] == {people.COUNTED: 2, people.TWICE: 1}


def test_surplus_votes_are_told(tmp_path: Path) -> None:
    now = [1000]
    url = f"sqlite:///{tmp_path / 'votes.db'}"
    with Store(url, clock=lambda: now[0]) as store:
        store.add_items([Answers(prompt(0), tuple(response(0, who) for who in range(3)))], need=1)
        slow = store.lease("ann", 60)
        now[0] += 61
        quick = store.lease("bea", 60)
        assert slow
        assert quick
        store.submit(quick.token, "bea", Judgement((1, 2, 3)))
        assert store.submit(slow.token, "ann", Judgement((1, 2, 3))).surplus
        both = str(snapshot.write(tmp_path / "both", list(store.rankings(surplus=True))))
    assert people.contests([url], ALL, QUESTIONS)[1] == {people.COUNTED: 1, people.SURPLUS: 1}
    assert people.contests([both, url], ALL, QUESTIONS)[1] == {people.COUNTED: 1, people.SURPLUS: 1, people.TWICE: 2}


def halfway(votes_a_question: list[int], empty: int) -> Contests:
    """The candidate wins every vote, and left its last answers empty."""
    asked = [Question(prompt(number)) for number in range(len(votes_a_question) + empty)]
    players = [Contestant(name, name, tuple((Answer(text(number), 1, True),) for number, _ in enumerate(asked)))
               for name, text in (("sft", lambda n: f"sft {n}"),
                                  ("dpo", lambda n: f"dpo {n}" if n < len(votes_a_question) else ""))]
    said = [people.Contest(number, f"rater {one}", 0, 1, 0.0, 0.0) for number, votes in enumerate(votes_a_question)
            for one in range(votes)]
    left = {(number, 0, 1) for number, _ in enumerate(votes_a_question)}
    return people.with_rules(players, asked, [*said, *people.by_rules(players, asked)], left)


@pytest.mark.parametrize("voted", [3, 9, 30, 90, 180, 270])
def test_rules_do_not_drown_the_first_votes(voted: int) -> None:
    """270 answers are better and 30 are empty: whoever looks before all votes are in sees nothing else."""
    found = halfway([1] * voted + [0] * (270 - voted), 30)
    own = statistics.judged(Judge("people", "people", found), 0, 0.95, 0.55, {}, None)["runs"]["dpo"]
    assert own["win_rate"]["low"] <= 0.9 <= own["win_rate"]["high"]
    assert own["anytime"]["high"] > 0.5, "this is nothing to reject"
    assert found.asked == 270 - voted
    assert voted < 270 or (own["win_rate"]["value"], own["anytime"]["low"] > 0.5) == (0.9, True)


@pytest.mark.parametrize(("votes", "mean"), [([1] * 200 + [0] * 1800, 0.1), ([2] * 1000 + [1] * 1000, 1.5),
                                             ([3] * 200 + [0] * 1800, 0.3), ([2] * 2000, 2.0), ([0] * 2000, 0.0)])
def test_rules_come_in_as_votes_do(votes: list[int], mean: float) -> None:
    found = halfway(votes, 2000)
    times = np.bincount(found.prompt_D[found.rater_D < 0], minlength=4000)[2000:]
    assert set(times.tolist()) <= {math.floor(mean), math.ceil(mean)}
    assert times.mean() == pytest.approx(mean, abs=4 * (mean % 1 * (1 - mean % 1) / 2000) ** 0.5)


def test_what_came_in_by_rule_stays_in() -> None:
    shares = [halfway([1] * voted + [0] * (100 - voted), 100) for voted in (10, 40, 70, 100)]
    ruled = [set(one.prompt_D[one.rater_D < 0].tolist()) for one in shares]
    assert ruled[0] < ruled[1] < ruled[2] < ruled[3] == set(range(100, 200))


def test_two_that_nobody_voted_on_have_no_rules_either() -> None:
    """Votes on sft and dpo alone: that ppo left one answer empty says little while nobody read its others."""
    asked = [Question(prompt(number)) for number in range(2)]
    players = contestants(("a", "b", "c"), ("d", "e", ""))
    said = [people.Contest(number, "ann", 0, 1, 1.0, 0.0) for number in range(2)]
    left = {(0, 0, 1), (0, 0, 2), (0, 1, 2), (1, 0, 1)}
    found = people.with_rules(players, asked, [*said, *people.by_rules(players, asked)], left)
    assert set(found.second_D.tolist()) == {1}
    assert found.asked == 2


def test_a_source_that_is_none_is_named(tmp_path: Path) -> None:
    stored(tmp_path / "votes.db")
    for source, words in ((str(tmp_path / "votes.db"), f"named as sqlite:///{tmp_path / 'votes.db'}"),
                          (f"sqlite:///{tmp_path / 'gone.db'}", "there is no store here"),
                          (str(tmp_path / "gone"), "not a snapshot")):
        with pytest.raises(RequestError, match=words):
            people.contests([source], ALL, QUESTIONS)


def test_from_a_comparison_over_raters_to_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = explored.comparison(tmp_path / "compare-0001", 60, variants=20)
    votes = f"sqlite:///{tmp_path / 'feedback.db'}"
    with Store(votes, seed=1) as store:
        told = campaigns.apply(store, CampaignConfig(answers=str(place), raters_per_item=2), several=True)
        assert "40 items queued" in told, "of the held-out prompts alone"
        for rater in ("ann", "bea"):
            while lease := store.lease(rater, 60, campaign="default"):
                best = ["dpo" in lease.responses[n].policy for n in lease.shown]
                store.submit(lease.token, rater, Judgement(tuple(1 if own else 2 for own in best)))
    asked = ["compare", f"compare.answers=[{place}]", f"compare.votes=[{votes}]", "compare.planned_votes=80",
             f"run.root={tmp_path / 'runs'}"]
    assert cli.main(asked) == 0
    report = json.loads((tmp_path / "runs" / "compare-0001" / "report.json").read_text())
    assert (report["verdict"], report["by"], report["best"]) == ("ship", "people", explored.RUNS[1])
    assert report["votes"][people.COUNTED] == 80
    own = report["judges"]["people"]["runs"]
    assert own[explored.RUNS[1]]["win_rate"]["value"] == 1.0
    # Raters tied the others, and once in forty the last one wrote nothing, and lost.
    assert own[explored.RUNS[2]]["win_rate"]["value"] == pytest.approx((39 * 0.5) / 40)
    assert report["line"] in capsys.readouterr().out
