"""Whom to believe: by hand, by brute force, and on made-up raters whose reliability is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import beta

from prefloop.records import Message, Prompt
from prefloop.reward import reliability, worth
from prefloop.reward.comparisons import compared
from prefloop.reward.judgements import Group, Judgement


def group(number: int, answers: int, *judgements: Judgement) -> Group:
    return Group(Prompt((Message("user", f"question {number}"),)), tuple(f"answer {n}" for n in range(answers)),
                 judgements)


def vote(rater: str, first: int, second: int, shown: tuple[int, ...] = ()) -> Judgement:
    """The first was put above the second."""
    return Judgement((first, second), (1, 2), rater, shown)


def made_up(etas: list[float], prompts: int, answers: int, judges: int, seed: int = 0,
            gamma: float = 0.0) -> tuple[list[Group], np.ndarray]:
    """Groups in which each judge, drawn at random, decides on one pair; and what the answers are worth."""
    rng = np.random.default_rng(seed)
    groups, worth = [], []
    for number in range(prompts):
        theta = rng.normal(0, 1.5, answers)
        own = []
        for rater in rng.choice(len(etas), judges, replace=False):
            i, j = rng.choice(answers, 2, replace=False)
            left = rng.choice([-1, 1])
            says = rng.random() < expit(theta[i] - theta[j] + gamma * left)
            if rng.random() >= etas[rater]:
                says = not says
            shown = (0, 1) if left == 1 else (1, 0)
            own.append(Judgement((int(i), int(j)), (1, 2) if says else (2, 1), f"rater {rater}", shown))
        groups.append(group(number, answers, *own))
        worth.append(theta)
    return groups, np.concatenate(worth)


def named(fit: reliability.Fit, groups: list[Group]) -> dict[str, float]:
    return dict(zip(compared(groups).raters, fit.eta_R, strict=True))


def test_a_ranking_of_three_says_two_things_and_counts_once() -> None:
    votes = compared([group(0, 3, Judgement((2, 0, 1), (1, 2, 2), "ann", shown=(1, 0, 2)))])
    pairs = list(zip(votes.first_P, votes.second_P, votes.outcome_P, strict=True))
    assert pairs == [(2, 0, 1), (2, 1, 1), (0, 1, 0.5)]
    assert votes.weight_P.tolist() == pytest.approx([1 / 3] * 3)
    assert votes.said_P.tolist() == pytest.approx([2 / 3] * 3)
    assert votes.left_P.tolist() == [-1, 1, 2]  # shown second, first and third
    best_of_three = compared([group(0, 3, Judgement((0, 1, 2), (1, None, None), "ann"))])
    assert list(zip(best_of_three.first_P, best_of_three.second_P, strict=True)) == [(0, 1), (0, 2)]


def test_the_likelihood_by_hand() -> None:
    outcomes, etas = np.array([1, 1, 0.5, 1]), np.array([1, 0.8, 1, 0.5])
    told, by_gap = worth.log_likelihood(np.full(4, np.log(3)), outcomes, etas)
    # sigmoid(log 3) = 3/4; 0.8 * 3/4 + 0.2 * 1/4 = 0.65; half of 3/4 and of 1/4; a coin.
    assert told == pytest.approx([np.log(0.75), np.log(0.65), np.log(0.75 * 0.25) / 2, np.log(0.5)])
    # 1 - 3/4; 0.6 * 3/16 / 0.65; 1/2 - 3/4; nothing.
    assert by_gap == pytest.approx([0.25, 0.6 * 3 / 16 / 0.65, -0.25, 0], abs=1e-9)


@pytest.mark.parametrize("eta", [0.3, 0.9, 1.0])
def test_the_slope_is_that_of_the_likelihood(eta: float) -> None:
    gaps, outcomes, etas = np.array([-2.0, 0.3, 40.0]), np.array([1.0, 0.5, 1.0]), np.full(3, eta)
    above, below = (worth.log_likelihood(gaps + step, outcomes, etas)[0] for step in (1e-6, -1e-6))
    assert worth.log_likelihood(gaps, outcomes, etas)[1] == pytest.approx((above - below) / 2e-6, abs=1e-6)


def test_against_sure_answers_the_posterior_is_beta() -> None:
    """Nine votes with, one against, of pairs that all others are sure of: Beta(8.5 + 9, 1.5 + 1)."""
    votes = compared([group(n, 2, vote("ann", 0, 1)) for n in range(10)])
    told = reliability.likelihoods(votes, np.array([1 - 1e-12] * 9 + [1e-12]))
    mean, low, high = reliability.posteriors(told, reliability.Beta(0.85, 10))
    exact = beta(17.5, 2.5)
    assert mean[0] == pytest.approx(exact.mean(), abs=0.005)
    assert (low[0], high[0]) == pytest.approx((exact.ppf(0.025), min(exact.ppf(0.975), 0.98)), abs=0.015)


def test_nobody_vouches_for_themselves() -> None:
    """One rater, a pair of each prompt again and again, always the same way: nothing is learned of them."""
    groups = [group(n, 2, *[vote("ann", 0, 1)] * 5) for n in range(20)]
    fit = reliability.fitted(compared(groups), np.zeros(40))
    assert fit.others_P == pytest.approx(np.full(100, 0.5))
    assert fit.eta_R[0] == pytest.approx(fit.prior.mean, abs=0.03)
    assert fit.high_R[0] - fit.low_R[0] > 0.15


def test_the_cavity_is_what_the_others_alone_say() -> None:
    """Against plain sampling of the model without the rater, by whose votes the fit itself would be swayed."""
    judges = [vote("ann", 0, 1), vote("ann", 0, 2), vote("bob", 0, 1), vote("bob", 1, 2), vote("cy", 2, 0)]
    whole, alone = (compared([group(0, 3, *own)]) for own in (judges, judges[2:]))
    prior = np.array([0.4, 0.0, -0.2])
    found = worth.inferred(whole, prior, np.full(3, 0.9), 1.0)
    ours = worth.cavities(whole, found)[0]
    others, _ = sampled(alone, found.beta * prior, 0.9)
    assert ours == pytest.approx(others, abs=0.02)
    with_ann, _ = sampled(whole, found.beta * prior, 0.9)
    assert with_ann - ours > 0.06


def test_evidence_and_worth_against_sampling() -> None:
    judges = [vote("ann", 0, 1), vote("bob", 0, 1), vote("bob", 1, 2), Judgement((0, 2), (1, 1), "cy")]
    votes = compared([group(0, 3, *judges), group(1, 2, vote("ann", 1, 0))])
    found = worth.inferred(votes, np.zeros(5), np.full(3, 0.8), 1.0)
    seen, evidence = sampled(votes, np.zeros(5), 0.8)
    parts = list(worth.stacks(votes, votes.group_A[votes.first_P]))
    gap, spread, _ = worth.marginals(parts, found.pull_P, found.hold_P, 1.0, np.zeros((5, 2)))
    assert float(worth.seen(gap, spread)[0]) == pytest.approx(seen, abs=0.01)
    assert found.evidence == pytest.approx(evidence, abs=0.02)


def sampled(votes: worth.Comparisons, prior: np.ndarray, eta: float) -> tuple[float, float]:
    """By 300,000 draws of what the answers are worth: how probably the first comparison's first answer is seen to be
    the better one, and the log probability of all outcomes; tau is 1."""
    theta = np.random.default_rng(0).normal(0, 1, (300_000, len(prior))) + prior
    gaps = theta[:, votes.first_P] - theta[:, votes.second_P]
    told = worth.log_likelihood(gaps, votes.outcome_P, np.full(len(votes.first_P), eta))[0]
    weights = np.exp((votes.said_P * told).sum(axis=1))
    return float(np.average(expit(theta[:, 0] - theta[:, 1]), weights=weights)), float(np.log(weights.mean()))


def test_spammers_are_found_and_intervals_hold_the_truth() -> None:
    etas = [0.5] * 5 + [0.95] * 15
    groups, _ = made_up(etas, prompts=500, answers=2, judges=4)
    votes = compared(groups)
    fit = reliability.fitted(votes, np.zeros(len(votes.group_A)))
    truth = np.array([etas[int(name.split()[1])] for name in votes.raters])
    assert np.corrcoef(fit.eta_R, truth)[0, 1] > 0.9
    assert fit.eta_R[truth == 0.5].max() < fit.eta_R[truth == 0.95].min()
    assert np.mean((fit.low_R <= truth) & (truth <= fit.high_R)) >= 0.85


def test_one_rater_per_item_is_enough_with_scores_that_they_did_not_shape() -> None:
    etas = [0.5] * 5 + [0.95] * 15
    groups, truth = made_up(etas, prompts=1200, answers=2, judges=1)
    votes = compared(groups)
    noisy = truth + np.random.default_rng(1).normal(0, 0.7, len(truth))
    fit = reliability.fitted(votes, noisy)
    known = np.array([etas[int(name.split()[1])] for name in votes.raters])
    assert np.corrcoef(fit.eta_R, known)[0, 1] > 0.8
    assert reliability.fitted(votes, np.zeros_like(truth)).eta_R.std() < 0.02  # with neither, nothing can be known


def test_a_minority_that_says_the_opposite_is_below_a_half() -> None:
    groups, _ = made_up([0.05] * 4 + [0.95] * 11, prompts=300, answers=3, judges=3)
    found = named(reliability.fitted(compared(groups), np.zeros(900)), groups)
    assert all((eta < 0.5) == (int(name.split()[1]) < 4) for name, eta in found.items())


def test_trusted_raters_decide_which_way_is_up() -> None:
    """Where most raters say the opposite, one who is trusted turns everybody's sign."""
    groups, _ = made_up([0.05] * 8 + [0.95] * 4, prompts=300, answers=3, judges=4)
    assert named(reliability.fitted(compared(groups), np.zeros(900)), groups)["rater 0"] > 0.5
    fit = reliability.fitted(compared(groups), np.zeros(900), trusted={"rater 8", "rater 9"})
    found = named(fit, groups)
    assert found["rater 8"] == reliability.TRUSTED
    assert max(found[f"rater {n}"] for n in range(8)) < 0.5 < min(found[f"rater {n}"] for n in range(8, 12))


@pytest.mark.parametrize("gamma", [0.0, 0.8])
def test_the_position_bias_is_found(gamma: float) -> None:
    groups, truth = made_up([0.95] * 10, prompts=600, answers=3, judges=2, gamma=gamma)
    scores = truth + np.random.default_rng(1).normal(0, 0.7, len(truth))
    interval = reliability.fitted(compared(groups), scores).worth.gamma_interval
    assert interval is not None
    assert interval[0] <= gamma <= interval[1]
    assert interval[1] - interval[0] < 0.5
    unknown = [replace(one, judgements=tuple(replace(own, shown=()) for own in one.judgements)) for one in groups]
    assert reliability.fitted(compared(unknown), scores).worth.gamma_interval is None


@pytest.mark.parametrize("known", [False, True])
def test_who_always_picks_the_left_does_not_pass_for_reliable(known: bool) -> None:
    """One rater a prompt: without scores nothing tells who is careless, and nobody must come to seem so."""
    groups, truth = made_up([0.95] * 20, prompts=1000, answers=2, judges=1)
    leftmost = {f"rater {n}" for n in range(5)}
    groups = [replace(one, judgements=tuple(
        replace(own, ranks=(1, 2) if own.shown == (0, 1) else (2, 1)) if own.rater in leftmost else own
        for own in one.judgements)) for one in groups]
    scores = truth + np.random.default_rng(1).normal(0, 1.0, len(truth))
    fit = reliability.fitted(compared(groups), scores if known else np.zeros(len(truth)))
    found = named(fit, groups)
    honest = min(own for name, own in found.items() if name not in leftmost)
    assert honest > 0.75
    if known:
        assert np.mean([found[name] for name in leftmost]) < 0.7


def test_the_order_of_answers_and_of_judgements_changes_nothing() -> None:
    groups, _ = made_up([0.5, 0.9, 0.9, 0.9], prompts=60, answers=3, judges=3)
    turned = [replace(one, texts=one.texts[::-1], judgements=tuple(
        replace(own, places=tuple(2 - n for n in own.places)) for own in one.judgements[::-1]))
        for one in groups[::-1]]
    one, other = (named(reliability.fitted(compared(own), np.zeros(180)), own) for own in (groups, turned))
    assert one == pytest.approx(other, abs=2e-3)


def test_ties_on_clear_pairs_are_no_good_judgement() -> None:
    etas = [0.95] * 10
    groups, _ = made_up(etas, prompts=300, answers=3, judges=3)
    lazy = [replace(one, judgements=(*one.judgements, Judgement((0, 1, 2), (1, 1, 1), "lazy"))) for one in groups]
    found = named(reliability.fitted(compared(lazy), np.zeros(900)), lazy)
    assert found["lazy"] < min(eta for name, eta in found.items() if name != "lazy")
