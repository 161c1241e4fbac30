"""Figures of a reward model against brute force, its calibration against chance, and the page that shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from math import log

import numpy as np
import pytest

from prefloop.records import Message, Prompt, Ranking, Response
from prefloop.reward import calibration, evaluate, report
from prefloop.reward.held_out import HeldOut, agreements, alike, null, paired
from prefloop.reward.judgements import gathered


def ranking(question: str, ranks: tuple[int | None, ...], rater: str, words: tuple[int, ...] = (),
            stratum: str = "") -> Ranking:
    texts = [f"{'word ' * (words[n] if words else 1)}{n}" for n in range(len(ranks))]
    return Ranking(Prompt((Message("user", question),), stratum), tuple(map(Response, texts)), ranks, rater)


def people(prompts: int, answers: int, raters: int, sure: float, alike: float = 0.0, seed: int = 0
           ) -> tuple[list[Ranking], list[list[float]]]:
    """Rankings by score plus noise, so that sigmoid(gap) is each pair's truth; raters share a draw now and then."""
    rng = np.random.default_rng(seed)
    rankings, scores = [], []
    for n in range(prompts):
        own, common = rng.normal(size=answers) * sure, rng.gumbel(size=answers)
        for rater in range(raters):
            felt = own + (common if rng.random() < alike else rng.gumbel(size=answers))
            ranks = tuple(int(place) + 1 for place in np.argsort(np.argsort(-felt)))
            rankings.append(ranking(f"question {n}", ranks, f"rater {(n + rater) % 5}"))
        scores.append(own.tolist())
    return rankings, scores


def held(rankings: list[Ranking], scores: list[list[float]]) -> HeldOut:
    return paired(gathered(rankings), scores)


def test_pairs_by_hand() -> None:
    got = held([ranking("a", (1, 2, None), "ann"), ranking("a", (2, 1, 1), "bob"), ranking("b", (1, 1), "bob"),
                ranking("b", (2, 1), "cat")], [[1.0, 0.5, -1.0], [0.0, 3.0]])
    assert got.gaps_P.tolist() == [0.5, 2.0, 1.5, -0.5, -2.0, 3.0]
    assert got.prompt_P.tolist() == [0, 0, 0, 0, 0, 1]
    assert [got.raters[n] for n in got.judgement_P] == ["ann", "ann", "ann", "bob", "bob", "cat"]
    prompt, agreed, pairs = agreements(got)
    assert (prompt.tolist(), agreed.tolist(), pairs.tolist()) == ([0, 0], [0, 0], [1, 1])


def test_who_is_asked_again_does_not_agree_with_themselves() -> None:
    got = held([ranking("a", (1, 2), "ann"), ranking("a", (1, 2), "ann"), ranking("a", (2, 1), "bob")], [[1.0, 0.0]])
    _, agreed, pairs = agreements(got)
    assert (agreed.tolist(), pairs.tolist()) == ([0], [1])
    assert evaluate.report(held([ranking("a", (1, 2), "ann")] * 2, [[1.0, 0.0]]), {}, frozenset())["agreement"] is None


def test_a_half_that_is_all_right_asks_for_no_certainty() -> None:
    rankings = [ranking(f"question {n}", (1, 2), "ann") for n in range(10)]
    told = evaluate.report(held(rankings, [[1.0, 0.0]] * 9 + [[0.0, 1.0]]), {}, frozenset())
    assert told["log_loss"]["value"] < 1.0


def test_figures_are_those_of_brute_force() -> None:
    rankings, scores = people(30, 4, 2, sure=1.0)
    got = held(rankings, scores)
    told = evaluate.report(got, {}, frozenset({"rater 0"}))
    place = {group.prompt.id: n for n, group in enumerate(gathered(rankings))}
    right, losses, agreed = [], [], []
    for one in rankings:
        own = dict(zip((r.text for r in one.responses), scores[place[one.prompt.id]], strict=True))
        for better, worse in one.decided():
            gap = own[one.responses[better].text] - own[one.responses[worse].text]
            right.append(1.0 if gap > 0 else 0.0)
            losses.append(log(1 + np.exp(-gap)))
    for first in rankings:
        for second in rankings:
            if first is not second and first.prompt == second.prompt:
                agreed += [pair in second.decided() for pair in first.decided()]
    assert told["accuracy"]["value"] == pytest.approx(np.mean(right))
    assert told["log_loss_before_temperature"]["value"] == pytest.approx(np.mean(losses))
    assert told["agreement"]["value"] == pytest.approx(np.mean(agreed))
    assert (told["pairs"], told["prompts"], told["raters"]) == (len(right), 30, 5)
    assert sum(one["pairs"] for one in told["slices"]["rater"]) == len(right)
    assert [one["name"] for one in told["slices"]["raters"]] == ["raters it learned from", "raters it never saw"]
    json.dumps(told, allow_nan=False)


def test_intervals_are_over_prompts_and_not_over_pairs() -> None:
    # Ten raters say the same of each prompt: a hundred pairs, and ten facts.
    rankings = [ranking(f"question {n}", (1, 2), f"rater {m}") for n in range(10) for m in range(10)]
    got = evaluate.report(held(rankings, [[1.0, 0.0]] * 6 + [[0.0, 1.0]] * 4), {}, frozenset())["accuracy"]
    assert got["value"] == pytest.approx(0.6)
    assert got["high"] - got["low"] > 0.5


def test_longer_won_by_hand() -> None:
    rankings = [ranking("a", (1, 2), "ann", (9, 3)), ranking("b", (1, 2), "ann", (3, 9)),
                ranking("c", (2, 1), "ann", (9, 9))]
    told = evaluate.report(held(rankings, [[1.0, 0.0]] * 3), {}, frozenset({"ann"}))
    assert told["baselines"]["longer is better"]["accuracy"]["value"] == pytest.approx(0.5)
    assert {one["name"]: one["accuracy"]["value"] for one in told["slices"]["length"]} == {
        "much longer won": 1.0, "much shorter won": 1.0, "about as long": 0.0}


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_what_is_calibrated_is_found_so_and_what_is_not_is_not(shared: float) -> None:
    within, found_out = 0, 0
    for seed in range(20):
        rankings, scores = people(150, 4, 3, sure=1.5, alike=shared, seed=seed)
        good = evaluate.report(held(rankings, [[3 * one for one in own] for own in scores]), {}, frozenset())
        # Sure of everything alike: no temperature makes that right.
        places = [np.argsort(np.argsort(own)) for own in scores]
        stepped = [[20.0 * (one > 1) + float(one) for one in own] for own in places]
        bad = evaluate.report(held(rankings, stepped), {}, frozenset())
        within += good["ece"]["value"] <= good["ece"]["chance_95"]
        found_out += bad["ece"]["value"] > bad["ece"]["chance_95"]
        assert good["temperature"] == pytest.approx(3.0, rel=0.35)
    assert within >= 17
    assert found_out >= 15


def test_a_model_is_not_blamed_for_who_does_not_say_what_they_see() -> None:
    rng = np.random.default_rng(0)
    eta = {f"rater {n}": 0.5 if n < 2 else 0.95 for n in range(5)}
    within = {True: 0, False: 0}
    for seed in range(10):
        rankings, scores = people(150, 4, 3, sure=2.0, seed=seed)
        said = [replace(one, ranks=tuple(5 - (rank or 0) for rank in one.ranks)) if rng.random() > eta[one.rater]
                else one for one in rankings]
        for known in (True, False):
            groups = [replace(group, judgements=tuple(replace(one, reliability=eta[one.rater] if known else 1.0)
                                                      for one in group.judgements)) for group in gathered(said)]
            told = evaluate.report(paired(groups, scores), {}, frozenset())
            within[known] += told["ece"]["value"] <= told["ece"]["chance_95"]
            if known:
                assert told["temperature"] == pytest.approx(1.0, abs=0.25)
    assert within[True] >= 8
    assert within[False] <= 4


def test_raters_who_share_their_draws_are_seen_to() -> None:
    for shared in (0.0, 0.5, 1.0):
        got = held(*people(400, 3, 3, sure=1.0, alike=shared))
        assert alike(got, np.ones(got.gaps_P.size)) == pytest.approx(shared, abs=0.2 if shared == 0 else 0.08)


def test_chance_alone_is_right_as_often_as_it_says() -> None:
    got = held(*people(200, 4, 1, sure=1.0))
    ones = np.ones(got.gaps_P.size)
    gaps = null(got, ones, lambda confidence, correct: float((confidence - correct).mean()), draws=200)
    assert abs(gaps.mean()) < 0.003
    sure, _ = calibration.confidence(got.gaps_P)
    right = null(got, ones, lambda _, correct: float(correct.mean()), draws=200)
    assert right.mean() == pytest.approx(sure.mean(), abs=0.003)


def test_the_page_shows_the_figures_and_runs_nothing() -> None:
    rankings, scores = people(40, 3, 2, sure=1.0)
    hostile = "<script>alert(1)</script>"
    told = evaluate.report(held([*rankings, ranking("q", (1, 2), hostile, stratum=hostile)], [*scores, [1.0, 0.0]]),
                           {hostile: np.zeros(40 * 2 * 3 + 2)}, frozenset())
    page = report.page({"run": hostile, "kind": "adapter", "warnings": [hostile], "held_out": told,
                        "parents": {hostile: {"path": hostile, "checksum": None}},
                        "scores": report.histogram([0.1, 0.2, 5.0])}, [(n, 1.0 / n) for n in range(1, 9)])
    assert "<script" not in page
    assert "src=" not in page
    assert report.percent(told["accuracy"]) in page
    assert "polyline" in page
    assert "no held-out rankings" in report.page({"run": "r", "kind": "linear", "warnings": [], "parents": {}})
