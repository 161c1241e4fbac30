"""Statistics against numbers worked by hand and brute-force twins."""

from itertools import product
from math import comb, log

import numpy as np
import pytest

from prefloop import stats
from prefloop.errors import RequestError


def test_bootstrap_of_two_values_has_the_quantiles_of_all_resamples() -> None:
    # Of 0 and 1, all resamples of two have means 0, 1/2, 1/2, 1: so 80% of them lie from 0 to 1, and 40% at 1/2.
    assert stats.bootstrap_interval([0, 1], level=0.8) == (0.0, 1.0)
    assert stats.bootstrap_interval([0, 1], level=0.4) == (0.5, 0.5)


def test_bootstrap_agrees_with_every_resample_of_five() -> None:
    values = [0.3, -1.0, 2.5, 0.9, 4.0]
    means = [np.mean(chosen) for chosen in product(values, repeat=5)]
    low, high = stats.bootstrap_interval(values, seed=3, resamples=20_000, level=0.9)
    assert (low, high) == pytest.approx(np.quantile(means, [0.05, 0.95]), abs=0.04)


def test_bootstrap_is_the_seed_s_and_shrinks_with_more_prompts() -> None:
    values = np.random.default_rng(0).normal(size=50)
    first, other = stats.bootstrap_interval(values, seed=1), stats.bootstrap_interval(values, seed=2)
    assert first == stats.bootstrap_interval(values, seed=1) != other
    few, many = stats.bootstrap_interval(values), stats.bootstrap_interval(np.tile(values, 16))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(4, rel=0.15)


def test_wilson_solves_its_own_equation() -> None:
    # The bounds are the shares p at which the 7 wins of 20 lie exactly z standard errors away.
    for bound in stats.wilson(7, 20):
        assert abs(7 / 20 - bound) / (bound * (1 - bound) / 20) ** 0.5 == pytest.approx(1.959964, abs=1e-5)


def test_wilson_at_the_ends() -> None:
    z2 = 1.959964**2
    assert stats.wilson(0, 10) == pytest.approx((0, z2 / (10 + z2)), abs=1e-6)
    assert stats.wilson(10, 10) == pytest.approx((10 / (10 + z2), 1), abs=1e-6)
    assert all((stats.wilson(0, n).low, stats.wilson(n, n).high) == (0, 1) for n in range(1, 99))


def test_paired_difference_forgets_what_prompts_share() -> None:
    hard = np.linspace(-100, 100, 40)
    gain = np.resize([0.9, 1.1], 40)
    found = stats.paired_difference(hard + gain, hard)
    assert found.value == pytest.approx(1)
    assert 0.95 < found.low < 1 < found.high < 1.05


def test_win_rate_counts_a_tie_half_to_each_side() -> None:
    found = stats.win_rate([1, 1, 0, 0.5])
    assert found.value == 0.625
    assert (found.low, found.high) == stats.wilson(2.5, 4)
    turned = stats.win_rate([0, 0, 1, 0.5])
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_bradley_terry_of_two_is_the_log_odds() -> None:
    assert stats.bradley_terry([[0, 3], [1, 0]]) == pytest.approx([log(3) / 2, -log(3) / 2])


def test_bradley_terry_is_where_the_gradient_of_the_likelihood_is_zero() -> None:
    wins_KK = np.array([[0, 5, 2, 1], [3, 0, 4, 0], [1, 2, 0, 6], [0, 1, 3, 0]], dtype=float)
    scores_K = stats.bradley_terry(wins_KK)
    chance_KK = 1 / (1 + np.exp(scores_K[None, :] - scores_K[:, None]))
    expected_K = ((wins_KK + wins_KK.T) * chance_KK).sum(axis=1)
    assert expected_K == pytest.approx(wins_KK.sum(axis=1), abs=1e-6)
    assert scores_K.mean() == pytest.approx(0)


def test_bradley_terry_finds_the_strengths_that_made_the_games() -> None:
    true_K = np.array([1.0, 0.2, -0.3, -0.9])
    games_KK = 100 / (1 + np.exp(true_K[None, :] - true_K[:, None]))
    np.fill_diagonal(games_KK, 7)  # nobody plays alone
    assert stats.bradley_terry(games_KK) == pytest.approx(true_K, abs=1e-6)


def test_a_player_who_never_lost_has_no_finite_score_unless_smoothed() -> None:
    unbeaten = [[0, 2, 2], [0, 0, 1], [0, 1, 0]]
    with pytest.raises(RequestError, match="smoothing"):
        stats.bradley_terry(unbeaten)
    scores = stats.bradley_terry(unbeaten, smoothing=0.5)
    assert scores[0] > scores[1] == pytest.approx(scores[2])
    chain = np.roll(np.eye(5), 1, axis=1)  # each beat the next, the last the first: joined, if only just
    assert stats.bradley_terry(chain) == pytest.approx(np.zeros(5))


def test_bradley_terry_of_many_tables_is_that_of_each() -> None:
    wins_RKK = np.random.default_rng(1).integers(1, 9, (6, 4, 4)).astype(float)
    for own_K, wins_KK in zip(stats.strengths(wins_RKK), wins_RKK, strict=True):
        assert own_K == pytest.approx(stats.bradley_terry(wins_KK), abs=1e-8)
    assert stats.comparable(np.array([[[0, 1], [1, 0]], [[0, 3], [0, 0]]])).tolist() == [True, False]


def test_bradley_terry_of_very_uneven_games() -> None:
    assert stats.bradley_terry([[0, 1e6], [1, 0]]) == pytest.approx([log(1e6) / 2, -log(1e6) / 2])


def test_exact_interval_solves_its_own_equation() -> None:
    # The bounds are the shares under which so many wins or more, or so few or fewer, come in a fortieth of all cases.
    low, high = stats.exact(3, 9)
    assert sum(comb(9, k) * low**k * (1 - low) ** (9 - k) for k in range(3, 10)) == pytest.approx(0.025)
    assert sum(comb(9, k) * high**k * (1 - high) ** (9 - k) for k in range(4)) == pytest.approx(0.025)
    assert stats.exact(5, 5) == pytest.approx((0.025**0.2, 1))
    assert stats.exact(0, 5) == pytest.approx((0, 1 - 0.025**0.2))


def test_exact_p_is_the_binomial_test_s() -> None:
    assert stats.exact_p(6, 6) == stats.exact_p(0, 6) == pytest.approx(2 / 2**6)
    assert stats.exact_p(7, 10) == pytest.approx(2 * sum(comb(10, k) for k in range(7, 11)) / 2**10)
    assert stats.exact_p(5, 10) == 1


def test_benjamini_and_hochberg_by_hand() -> None:
    # By rank: 0.01 * 4 / 1, 0.03 * 4 / 2, 0.04 * 4 / 3, 0.5; each no more than those after it.
    assert stats.adjusted([0.04, 0.01, 0.5, 0.03]) == pytest.approx([0.16 / 3, 0.04, 0.5, 0.16 / 3])


def test_resample_weights_are_as_many_as_there_are_units() -> None:
    weights_RN = stats.resample_weights(7, seed=1, resamples=500)
    assert weights_RN.shape == (500, 7)
    assert (weights_RN.sum(axis=1) == 7).all()
    assert weights_RN.mean(axis=0) == pytest.approx(np.ones(7), abs=0.2)
    assert not (weights_RN == stats.resample_weights(7, seed=2, resamples=500)).all()


@pytest.mark.parametrize("call", [
    lambda: stats.bootstrap_interval([]),
    lambda: stats.bootstrap_interval([1.0, float("nan")]),
    lambda: stats.bootstrap_interval([[1.0], [2.0]]),
    lambda: stats.bootstrap_interval([1.0], level=95),
    lambda: stats.paired_difference([1.0, 2.0], [1.0]),
    lambda: stats.win_rate([1, 2]),
    lambda: stats.wilson(3, 2),
    lambda: stats.wilson(0, 0),
    lambda: stats.exact(3, 2),
    lambda: stats.exact_p(0, 0),
    lambda: stats.bradley_terry([[0, 1, 2], [1, 0, 2]]),
    lambda: stats.bradley_terry([[0, -1], [1, 0]]),
])
def test_what_has_no_answer_is_refused(call) -> None:
    with pytest.raises(RequestError):
        call()
