"""A judge's figures against numbers worked by hand, brute-force twins, scikit-learn, and their own mirror image."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from prefloop import stats
from prefloop.compare import lengths, statistics
from prefloop.compare.clusters import Spread, spread
from prefloop.compare.records import Contests, Judge


def contests(rows: Sequence[Sequence[float]], players: tuple[str, ...] = ("old", "new"), asked: int = 0) -> Contests:
    """Of rows (prompt, rater, first, second, won, gap)."""
    table = np.array(rows, dtype=float).reshape(-1, 6)
    prompt_D, rater_D, first_D, second_D = (table[:, column].astype(np.int64) for column in range(4))
    raters = tuple(f"rater {n}" for n in range(50))
    return Contests(players, raters, prompt_D, rater_D, first_D, second_D, table[:, 4], table[:, 5], asked)


def drawn(seed: int, prompts: int = 60, votes: int = 3, crew: int = 8, players: int = 2) -> Contests:
    """Rankings of a crew with tastes, ties and lengths."""
    draw, rows = np.random.default_rng(seed), []
    taste = draw.normal(0, 0.5, (crew, players))
    for prompt in range(prompts):
        good, tokens = draw.normal(0.3 * np.arange(players), 0.5), draw.integers(5, 60, players)
        for rater in draw.choice(crew, votes, replace=False):
            felt = good + taste[rater] + 0.01 * tokens + draw.gumbel(size=players)
            for i in range(players):
                for j in range(i):
                    won = 0.5 if draw.random() < 0.15 else float(felt[i] > felt[j])
                    rows.append((prompt, rater, i, j, won, np.log(tokens[i] / tokens[j])))
    return contests(rows, ("old", "new", "other")[:players])


def judged(one: Contests, baseline: int = 0, kind: str = "people", planned: int | None = None,
           slices: dict[str, list[str]] | None = None) -> dict[str, Any]:
    return statistics.judged(Judge("they", kind, one), baseline, 0.95, 0.55, slices or {}, planned)


def turned(one: Contests) -> Contests:
    """The same, with the two sides of every contest exchanged."""
    return Contests(one.players, one.raters, one.prompt_D, one.rater_D, one.second_D, one.first_D, 1 - one.won_D,
                    -one.gap_D, one.asked)


def numbers(told: Any) -> list[float]:
    """All that are in a report, in order."""
    if isinstance(told, dict):
        return [number for one in told.values() for number in numbers(one)]
    if isinstance(told, list):
        return [number for one in told for number in numbers(one)]
    return [] if isinstance(told, str) else [float("nan") if told is None else float(told)]


def test_a_tie_counts_half_and_every_prompt_carries_all_its_votes() -> None:
    rows = [(0, 0, 1, 0, 1, 0), (0, 1, 0, 1, 0, 0), (1, 0, 1, 0, 0.5, 0), (2, 2, 0, 1, 1, 0)]
    told = judged(contests(rows, asked=2))
    run = told["runs"]["new"]
    assert run["win_rate"]["value"] == 2.5 / 4
    assert (run["wins"], run["ties"], run["losses"], run["prompts"]) == (2, 1, 1, 3)
    assert (told["votes"], told["raters"], told["contests"], told["missing"]) == (4, 3, 4, 2)
    assert told["table"] == {"old": {"new": 0.375}, "new": {"old": 0.625}}


def test_where_all_votes_are_independent_the_interval_is_the_bootstrap_s() -> None:
    won_N = np.random.default_rng(5).integers(0, 2, 400).astype(float)
    run = judged(contests([(n, n, 1, 0, won, 0) for n, won in enumerate(won_N)]))["runs"]["new"]["win_rate"]
    assert run["value"] == won_N.mean()
    assert (run["low"], run["high"]) == pytest.approx(stats.bootstrap_interval(won_N), abs=0.003)


def test_votes_that_copy_one_another_say_no_more_than_one() -> None:
    draw = np.random.default_rng(6)
    rows = [(n, 0, 1, 0, float(draw.random() < 0.6), 0) for n in range(100)]
    once, copied = judged(contests(rows)), judged(contests([(n, r, *rest) for n, _, *rest in rows for r in range(5)]))
    assert copied["runs"]["new"]["win_rate"] == pytest.approx(once["runs"]["new"]["win_rate"])
    assert copied["runs"]["new"]["power"]["design_effect"] == pytest.approx(5, rel=0.02)


def test_clustered_variance_counts_pairs_of_votes_that_share_a_prompt_or_a_rater() -> None:
    # Many clusters, so that corrections for few of them vanish: then it is this double sum.
    draw = np.random.default_rng(7)
    prompt_D, rater_D = np.repeat(np.arange(300), 2), draw.integers(0, 150, 600)
    influence_D = draw.normal(size=600) + 0.7 * draw.normal(size=150)[rater_D] + 0.5 * draw.normal(size=300)[prompt_D]
    alike_DD = (prompt_D[:, None] == prompt_D) | (rater_D[:, None] == rater_D)
    found = spread(influence_D, prompt_D, rater_D)
    assert found.clustered == pytest.approx(float((alike_DD * np.outer(influence_D, influence_D)).sum()), rel=0.01)
    assert found.prompts < found.clustered


def test_a_few_raters_of_different_tastes_are_a_few_clusters() -> None:
    rows = [(5 * rater + n, rater, 1, 0, float(rater < 2), 0) for rater in range(4) for n in range(5)]
    alone = [(prompt, prompt, *rest) for prompt, _, *rest in rows]
    shared = judged(contests(rows))["runs"]["new"]["win_rate"]
    independent = judged(contests(alone))["runs"]["new"]["win_rate"]
    assert shared["high"] - shared["low"] > 1.8 * (independent["high"] - independent["low"])
    assert Spread(1.0, 1.0, 1.0, 3.0).student(0.95) == pytest.approx(3.182446 / 1.959964, abs=1e-5)


def test_what_a_rule_decided_has_no_rater() -> None:
    rows = [(n, -1, 1, 0, 0.5, 0) for n in range(40)] + [(n, 0, 1, 0, n % 2, 0) for n in range(40, 60)]
    told = judged(contests(rows))
    assert (told["raters"], told["votes"], told["contests"]) == (1, 20, 60)
    apart = [(n, n, *rest) for n, _, *rest in rows]
    assert told["runs"]["new"]["win_rate"] == pytest.approx(judged(contests(apart))["runs"]["new"]["win_rate"])


def test_one_judge_and_many_ties_by_rule_are_no_sample_of_raters() -> None:
    draw = np.random.default_rng(18)
    won = (draw.random(100) < 0.8).tolist()
    rows = [(n, -1, 1, 0, 0.5, 0) for n in range(100)] + [(100 + n, 0, 1, 0, one, 0) for n, one in enumerate(won)]
    found = judged(contests(rows), kind="ai")["runs"]["new"]
    apart = judged(contests([(n, n, *rest) for n, _, *rest in rows]))["runs"]["new"]
    assert found["win_rate"] == pytest.approx(apart["win_rate"])
    assert found["win_rate"]["high"] - found["win_rate"]["low"] < 0.12


def test_swapping_candidate_and_baseline_mirrors_every_figure() -> None:
    one = drawn(8, prompts=90)
    slices = {"stratum": [f"s{n % 2}" for n in range(90)]}
    ahead = judged(one, 0, slices=slices)["runs"]["new"]
    behind = judged(one, 1, slices=slices)["runs"]["old"]

    def mirrors(a: dict[str, float], b: dict[str, float]) -> bool:
        return [a["value"], a["low"], a["high"]] == pytest.approx([1 - b["value"], 1 - b["high"], 1 - b["low"]],
                                                                  abs=1e-9)

    for figure in ("win_rate", "decide", "length_controlled", "anytime"):
        assert mirrors(ahead[figure], behind[figure]), figure
    assert ahead["p"] == pytest.approx(behind["p"])
    assert (ahead["wins"], ahead["ties"]) == (behind["losses"], behind["ties"])
    assert ahead["power"] == pytest.approx(behind["power"])
    assert len(ahead["quintiles"]) == 5
    for own, other in zip(ahead["quintiles"], reversed(behind["quintiles"]), strict=True):
        assert mirrors(own["win_rate"], other["win_rate"])
        assert (own["low"], own["prompts"]) == (pytest.approx(1 / other["high"]), other["prompts"])
    for own, other in zip(ahead["slices"], behind["slices"], strict=True):
        assert mirrors(own["win_rate"], other["win_rate"])
        assert own["adjusted"] == pytest.approx(other["adjusted"])


def test_it_does_not_matter_which_side_is_first() -> None:
    one = drawn(9, players=3)
    assert numbers(judged(one)) == pytest.approx(numbers(judged(turned(one))), abs=1e-9)


def test_a_contestant_against_itself_has_exactly_one_half() -> None:
    told = judged(contests([(n, -1, 1, 0, 0.5, 0) for n in range(50)]))
    run = told["runs"]["new"]
    assert run["win_rate"]["value"] == run["length_controlled"]["value"] == run["decide"]["value"] == 0.5
    assert run["win_rate"]["low"] == pytest.approx(1 - run["win_rate"]["high"])
    assert run["p"] == 1
    assert told["strengths"]["old"]["value"] == told["strengths"]["new"]["value"] == 0
    assert told["strengths"]["old"]["rank"] == told["strengths"]["new"]["rank"] == 1


def test_five_wins_of_five_are_not_enough_and_six_are() -> None:
    # By chance alone five of five, either way, come once in 16 times, six of six once in 32.
    for wins, decided in ((5, False), (6, True)):
        run = judged(contests([(n, 0, 1, 0, 1, 0) for n in range(wins)]))["runs"]["new"]
        assert (run["win_rate"]["low"] > 0.5) == (run["p"] < 0.05) == decided
        assert run["anytime"]["low"] < 0.5


def test_several_candidates_are_decided_at_a_stricter_level() -> None:
    told = judged(drawn(10, players=3))["runs"]
    for run in told.values():
        assert run["decide"]["low"] < run["win_rate"]["low"] < run["win_rate"]["high"] < run["decide"]["high"]
    alone = judged(drawn(10))["runs"]["new"]
    assert alone["decide"] == alone["win_rate"]


def test_length_control_is_a_logistic_regression() -> None:
    draw = np.random.default_rng(11)
    gap_D, prompt_D = draw.normal(0.3, 0.6, 300), np.arange(300) // 2
    regressor_D1 = np.tanh(gap_D / (gap_D**2).mean() ** 0.5)[:, None]
    won_D = (draw.random(300) < expit(0.4 + regressor_D1[:, 0])).astype(float)
    weights_RN = stats.resample_weights(150, resamples=3)
    found = lengths.fitted(won_D, gap_D, prompt_D, weights_RN)
    plain = LogisticRegression(C=np.inf, tol=1e-10)
    assert logit(found.value) == pytest.approx(np.ravel(plain.fit(regressor_D1, won_D).intercept_)[0], abs=1e-3)
    for value, weight_N in zip(found.values_R, weights_RN, strict=True):
        plain.fit(regressor_D1, won_D, sample_weight=weight_N[prompt_D])
        assert logit(value) == pytest.approx(np.ravel(plain.intercept_)[0], abs=1e-3)


def test_length_control_takes_away_what_only_length_won() -> None:
    draw, rows = np.random.default_rng(12), []
    for n in range(1500):
        gap = draw.normal(0.5, 0.5)
        rows.append((n, n, 1, 0, float(draw.random() < expit(2 * np.tanh(gap / 0.5))), gap))
    run = judged(contests(rows))["runs"]["new"]
    assert run["win_rate"]["low"] > 0.65
    assert run["length_controlled"]["low"] < 0.5 < run["length_controlled"]["high"]
    assert [one["win_rate"]["value"] for one in run["quintiles"]] == sorted(
        one["win_rate"]["value"] for one in run["quintiles"])


def test_length_control_knows_when_it_cannot_tell() -> None:
    rows = [(n, n, 1, 0, n % 3 > 0, 0.2) for n in range(60)]
    assert judged(contests(rows))["runs"]["new"]["length_controlled"] is None
    level = [(n, n, 1, 0, n % 3 > 0, 0.0) for n in range(60)]
    run = judged(contests(level))["runs"]["new"]
    assert run["length_controlled"] == run["win_rate"]
    # The longer one always won: any slope fits, with any intercept.
    for shorter in (30, 10):
        apart = [(n, n, 1, 0, n >= shorter, 0.3 if n >= shorter else -0.3) for n in range(60)]
        assert judged(contests(apart))["runs"]["new"]["length_controlled"] is None


def test_length_control_does_not_tell_of_lengths_that_were_not_there() -> None:
    """A candidate that is three times as long throughout, and as good as the baseline: the longer wins by length."""
    draw, gap_N = np.random.default_rng(21), np.random.default_rng(22).normal(1.1, 0.1, 400)
    long = [(n, n, 1, 0, float(draw.random() < expit(1.2 * gap)), gap) for n, gap in enumerate(gap_N)]
    always = [(n, n, 1, 0, 1.0, gap_N[n]) for n in range(100)]
    nearly = [(n, n, 1, 0, float(n > 0), gap_N[n]) for n in range(100)]
    # Now and then it is the shorter, by under 5% of prompts.
    seldom = [(n, n, 1, 0, won, -gap if n < 19 else gap) for n, _, _, _, won, gap in long]
    for rows in (long, always, nearly, seldom):
        run = judged(contests(rows))["runs"]["new"]
        assert run["win_rate"]["low"] > 0.7
        assert run["length_controlled"] is None


def test_length_control_of_few_prompts_is_no_surer_than_these() -> None:
    # As often the longer as not, and always won: six prompts, and not twelve, are what tells.
    rows = [(n, n, 1, 0, 1.0, 0.3 if n % 2 else -0.3) for n in range(12)]
    run = judged(contests(rows))["runs"]["new"]
    assert run["length_controlled"]["low"] == stats.exact(6, 6).low < run["win_rate"]["low"]


def test_fifths_keep_the_same_gaps_together_and_turn_with_the_sides() -> None:
    assert lengths.fifths(np.arange(10.0)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    for gap_D in (np.array([0.0, 0, 0, 0, 1]), np.random.default_rng(3).integers(-4, 5, 37) / 1.0, np.zeros(4)):
        assert lengths.fifths(-gap_D).tolist() == (4 - lengths.fifths(gap_D)).tolist()
        assert len({(gap, one) for gap, one in zip(gap_D, lengths.fifths(gap_D), strict=True)}) == len(set(gap_D))


def test_slices_are_tested_together_and_small_ones_not_at_all() -> None:
    draw = np.random.default_rng(13)
    names = ["good"] * 40 + ["even"] * 40 + ["small"] * 29 + [""] * 9
    chance = {"good": 0.9, "even": 0.5, "small": 1.0, "": 0.0}
    rows = [(n, n, 1, 0, float(draw.random() < chance[name]), 0) for n, name in enumerate(names)]
    found = {one["name"]: one for one in judged(contests(rows), slices={"stratum": names})["runs"]["new"]["slices"]}
    assert {name: one["coloured"] for name, one in found.items()} == {"good": True, "even": False, "small": False}
    assert found["small"]["adjusted"] is None
    assert found["small"]["p"] < 1e-6
    assert found["good"]["adjusted"] == pytest.approx(min(1, 2 * found["good"]["p"]))
    assert {one["prompts"] for one in found.values()} == {40, 29}


def test_the_power_meter_says_784_votes_for_55_percent() -> None:
    rows = [(n, n, 1, 0, [1, 0, 0.5][n % 3], 0) for n in range(300)]
    run = judged(contests(rows), planned=1)["runs"]["new"]["power"]
    assert run["decisive"] == 200
    assert run["design_effect"] == pytest.approx(1)
    independent = statistics.power(784, 1.0, 0.95, 0.55)
    assert (independent["needed"], independent["more"]) == (784, 0)
    assert independent["detectable"] == pytest.approx(0.55, abs=1e-4)
    assert run["more"] == run["needed"] - 200 > 0


def test_without_a_plan_the_power_meter_is_of_the_interval_to_look_at_any_time() -> None:
    """Until that interval finds 55%, more votes are asked for; and with so many it finds it 80% of the time."""
    meter = statistics.power(784, 1.0, 0.95, 0.55, sequence=True)
    votes = meter["needed"]
    assert meter["more"] == votes - 784 > 0
    assert meter["detectable"] > 0.55
    assert statistics.power(votes, 1.0, 0.95, 0.55, sequence=True)["detectable"] == pytest.approx(0.55, abs=1e-4)
    wins = np.random.default_rng(24).binomial(votes, 0.55, 4000)
    half = statistics.sequence_errors(votes / 784.9, 0.05) * (wins * (votes - wins) / votes**3) ** 0.5
    assert (wins / votes - half > 0.5).mean() == pytest.approx(0.8, abs=0.02)

    rows = [(n, n, 1, 0, n % 2, 0) for n in range(900)]
    needed = {planned: judged(contests(rows), planned=planned)["runs"]["new"]["power"]["needed"]
              for planned in (None, 800, 850, 1000)}
    assert needed[None] == needed[800] == pytest.approx(votes, rel=0.01)
    assert needed[850] == needed[1000] == pytest.approx(784, rel=0.01)


def test_a_reward_model_s_votes_are_prompts() -> None:
    draw = np.random.default_rng(25)
    won_N = (draw.random(200) < 0.5).astype(float)
    of_four = judged(contests([(n, 0, 1, 0, won_N[n], 0) for n in range(200) for k in range(4)]), kind="reward")
    of_one = judged(contests([(n, 0, 1, 0, won_N[n], 0) for n in range(200)]), kind="reward")
    four, one = (told["runs"]["new"] for told in (of_four, of_one))
    assert (four["wins"], four["votes"], four["power"]["decisive"]) == (4 * one["wins"], 200, 200)
    assert four["power"]["needed"] == pytest.approx(one["power"]["needed"], rel=0.01)
    assert four["power"]["detectable"] == pytest.approx(one["power"]["detectable"], abs=0.001)
    people = judged(contests([(n, k, 1, 0, won_N[n], 0) for n in range(200) for k in range(4)]))["runs"]["new"]
    assert (people["votes"], people["power"]["decisive"]) == (800, 800)
    # Four answers of their own say more than one, up to four times as much.
    apart = contests([(n, 0, 1, 0, float(draw.random() < 0.5), 0) for n in range(200) for k in range(4)])
    assert judged(apart, kind="reward")["runs"]["new"]["power"]["needed"] == pytest.approx(784 / 4, rel=0.2)


def test_the_interval_to_look_at_any_time_is_there_but_at_the_plan() -> None:
    one = drawn(14)  # 180 votes
    for kind, planned, there in (("people", None, True), ("people", 181, True), ("people", 180, False),
                                 ("people", 164, False), ("people", 163, True), ("reward", None, False)):
        run = judged(one, kind=kind, planned=planned)["runs"]["new"]
        assert ("anytime" in run) == there
        if there:
            assert run["anytime"]["low"] < run["decide"]["low"] < run["decide"]["high"] < run["anytime"]["high"]


def test_a_plan_is_for_the_votes_of_each_candidate_and_the_baseline() -> None:
    rows = [(n, n % 5, 1, 0, n % 2, 0) for n in range(40)] + [(n, n % 5, 2, 1, n % 2, 0) for n in range(40)]
    rows += [(n, n % 5, 2, 0, n % 2, 0) for n in range(25)] + [(n, -1, 2, 0, 0.5, 0) for n in range(40, 60)]
    told = judged(contests(rows, ("old", "new", "other")), planned=40)["runs"]
    assert {name: (run["votes"], "anytime" in run) for name, run in told.items()} == {
        "new": (40, False), "other": (25, True)}


def test_the_interval_to_look_at_any_time_by_hand() -> None:
    # 784 independent votes, at which it is narrowest: t rho^2 is c = 2 ln 20 + ln(1 + 2 ln 20) = 7.936 there, and the
    # half width sqrt(2 (c + 1) / c * ln(sqrt(c + 1) / 0.05)) = 3.035 standard errors.
    won = statistics.Resampled(0.5, np.array([0.5]), Spread(1e-4, 1e-4, 1e-4, 1e9), 784)
    assert statistics.anytime(won, 784, 0.95, 0.55).high == pytest.approx(0.5 + 3.035 * 0.01, abs=1e-5)


def test_bradley_terry_is_scikit_learn_s() -> None:
    one = drawn(15, prompts=80, players=3)
    sides_D3 = np.eye(3)[one.first_D] - np.eye(3)[one.second_D]
    both = LogisticRegression(C=1e8, fit_intercept=False, tol=1e-12, max_iter=1000).fit(
        np.concatenate([sides_D3, sides_D3]), np.repeat([1, 0], len(one)),
        sample_weight=np.concatenate([one.won_D, 1 - one.won_D]))
    theirs = both.coef_[0] - both.coef_[0].mean()
    strengths = judged(one)["strengths"]
    assert [strengths[name]["value"] for name in one.players] == pytest.approx(theirs, abs=1e-3)
    for own in strengths.values():
        assert own["low"] < own["value"] < own["high"]
        assert 1 <= own["rank_low"] <= own["rank"] <= own["rank_high"] <= 3


def test_ranks_are_sure_where_strengths_are_far_apart_and_unsure_where_not() -> None:
    draw, rows = np.random.default_rng(16), []
    for n in range(200):
        rows += [(n, 0, 1, 0, float(draw.random() < 0.9), 0), (n, 0, 2, 0, float(draw.random() < 0.9), 0),
                 (n, 0, 2, 1, float(draw.random() < 0.5), 0)]
    found = judged(contests(rows, ("old", "new", "other")))["strengths"]
    assert (found["old"]["rank_low"], found["old"]["rank_high"]) == (3, 3)
    assert {(found[name]["rank_low"], found[name]["rank_high"]) for name in ("new", "other")} == {(1, 2)}


def test_who_never_lost_has_a_finite_strength_and_who_never_met_anyone_has_none() -> None:
    told = judged(contests([(n, n, 1, 0, 1, 0) for n in range(8)], ("old", "new", "other")))
    assert told["strengths"]["new"]["value"] == pytest.approx(np.log(8.5 / 0.5) / 2)
    assert set(told["strengths"]) == set(told["table"]) == {"old", "new"}
    assert set(told["runs"]) == {"new"}


def test_one_prompt_says_next_to_nothing() -> None:
    run = judged(contests([(0, n, 1, 0, n > 0, 0.1) for n in range(5)]))["runs"]["new"]
    assert run["win_rate"]["value"] == 0.8
    assert run["win_rate"]["low"] < 0.1
    assert run["p"] > 0.5
    assert run["power"]["design_effect"] == 1
    assert run["anytime"]["low"] == 0


def test_nobody_said_anything() -> None:
    told = judged(contests([], asked=7))
    assert (told["contests"], told["missing"], told["runs"], told["strengths"]) == (0, 7, {}, {})


def test_it_is_json_and_loads_no_torch() -> None:
    json.dumps(judged(drawn(17, players=3), slices={"all": ["one"] * 60}), allow_nan=False)
    code = "import sys, prefloop.compare.statistics, prefloop.agreement; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
