"""Intervals, win rates and strengths from comparisons: pure functions of numbers.

Dimensions: N prompts (one number each: average a prompt's own samples first, they are not independent),
K players, R resamples, M tests. Intervals are two-sided.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from prefloop.errors import RequestError

Array = NDArray[np.float64]


class Interval(NamedTuple):
    low: float
    high: float


class Estimate(NamedTuple):
    value: float
    low: float
    high: float


def bootstrap_interval(values_per_prompt: ArrayLike, seed: int = 0, resamples: int = 2000,
                       level: float = 0.95) -> Interval:
    """Percentile bootstrap of the mean of `values_N`, in their unit (Efron and Tibshirani 1993, chapter 13).

    It knows nothing of values it has not seen: when all N are equal its width is 0 (for wins and losses use `wilson`).
    """
    values_N = _numbers(values_per_prompt)
    draw = np.random.default_rng(seed)
    means_R = [values_N[draw.integers(0, values_N.size, values_N.size)].mean() for _ in range(resamples)]
    tail = (1 - _between_0_and_1(level)) / 2
    low, high = np.quantile(means_R, [tail, 1 - tail])
    return Interval(float(low), float(high))


def wilson(wins: float, trials: int, level: float = 0.95) -> Interval:
    """The score interval of a share of `trials` (Wilson 1927): inside 0..1, and honest at 0 and at `trials` wins."""
    _require_share(wins, trials)
    z = NormalDist().inv_cdf(0.5 + _between_0_and_1(level) / 2)
    share, spread = wins / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / trials + spread / (4 * trials)) ** 0.5
    return Interval(max(0.0, centre - half) if wins else 0.0, min(1.0, centre + half) if wins < trials else 1.0)


def paired_difference(a_per_prompt: ArrayLike, b_per_prompt: ArrayLike, seed: int = 0, resamples: int = 2000,
                      level: float = 0.95) -> Estimate:
    """Mean of a - b over the same N prompts, in their unit, with a bootstrap interval over prompts.

    Pairing removes what the prompts have in common, which is most of the spread of rewards.
    """
    a_N, b_N = _numbers(a_per_prompt), _numbers(b_per_prompt)
    if a_N.size != b_N.size:
        raise RequestError(f"a paired difference needs the same prompts on both sides, got {a_N.size} and {b_N.size}")
    return Estimate(float((a_N - b_N).mean()), *bootstrap_interval(a_N - b_N, seed, resamples, level))


def win_rate(wins: ArrayLike, level: float = 0.95) -> Estimate:
    """Share won over N prompts, from `wins_N` in 0..1: 1 won, 0 lost, 0.5 a tie (half to each side).

    The interval is Wilson's on the sum; values between 0 and 1 vary less than wins and losses of the same mean, so
    with ties it is wider than it need be, never narrower.
    """
    wins_N = _numbers(wins)
    if wins_N.min() < 0 or wins_N.max() > 1:
        raise RequestError("wins: each is 1 (won), 0.5 (tie) or 0 (lost)")
    # Rounding may carry the sum of N ones a hair over N.
    return Estimate(float(wins_N.mean()), *wilson(min(float(wins_N.sum()), wins_N.size), wins_N.size, level))


def exact(wins: float, trials: int, level: float = 0.95) -> Interval:
    """Clopper and Pearson's interval of a share of `trials` (1934): it holds however few they are, at a little width.

    With `wins` in fractions, from ties, it is the same formula.
    """
    _require_share(wins, trials)
    tail = (1 - _between_0_and_1(level)) / 2
    low = special.betaincinv(wins, trials - wins + 1, tail) if wins > 0 else 0.0
    high = special.betaincinv(wins + 1, trials - wins, 1 - tail) if wins < trials else 1.0
    return Interval(float(low), float(high))


def exact_p(wins: float, trials: int) -> float:
    """How probable a share at least so far from one half is where it is one half: the binomial test, two-sided."""
    _require_share(wins, trials)
    most = max(wins, trials - wins)
    return float(min(1.0, 2 * special.betainc(most, trials - most + 1, 0.5)))


def adjusted(p_values: ArrayLike) -> Array:
    """Benjamini and Hochberg's (1995): calling all below a level lets that share of the calls be false."""
    p_M = _numbers(p_values)
    order_M = np.argsort(p_M)
    scaled_M = p_M[order_M] * p_M.size / np.arange(1, p_M.size + 1)
    adjusted_M = np.empty_like(p_M)
    adjusted_M[order_M] = np.minimum(1.0, np.minimum.accumulate(scaled_M[::-1])[::-1])
    return adjusted_M


def resample_weights(units: int, seed: int = 0, resamples: int = 2000) -> Array:
    """How often each of N units stands in each of R resamples, `weights_RN`: every row sums to N."""
    draw = np.random.default_rng(seed)
    counts = [np.bincount(draw.integers(0, units, units), minlength=units) for _ in range(resamples)]
    return np.array(counts, dtype=np.float64)


def bradley_terry(wins: ArrayLike, smoothing: float = 0.0) -> Array:
    """Scores_K with P(i beats j) = sigmoid(score_i - score_j), in nats, mean 0: maximum likelihood.

    `wins_KK[i, j]` is how often i beat j, a tie counting half in both directions. A finite answer exists only if every
    split of the players in two has wins in both directions (Hunter 2004, assumption 1); `smoothing` adds that many
    wins to every direction of every pair, which makes it so.
    """
    wins_KK = np.array(wins, dtype=np.float64)
    if wins_KK.ndim != 2 or wins_KK.shape[0] != wins_KK.shape[1] or wins_KK.shape[0] < 2:
        raise RequestError(f"wins: expected a square table of at least two players, got the shape {wins_KK.shape}")
    if not np.isfinite(wins_KK).all() or (wins_KK < 0).any():
        raise RequestError("wins: each is a number from 0")
    wins_KK += smoothing
    if not comparable(wins_KK[None])[0]:
        raise RequestError("wins: some players never lost to, or never met, the others, so their scores have no "
                           "finite value; compare more, or use smoothing")
    return strengths(wins_KK[None])[0]


def strengths(wins_RKK: Array, tolerance: float = 1e-10, rounds: int = 200) -> Array:
    """Bradley and Terry's scores_RK of many comparable tables at once, by Newton's method."""
    wins_RKK = wins_RKK * (1 - np.eye(wins_RKK.shape[1]))
    games_RKK, won_RK = wins_RKK + wins_RKK.swapaxes(1, 2), wins_RKK.sum(axis=2)
    scores_RK = np.zeros_like(won_RK)
    for _ in range(rounds):
        chance_RKK = special.expit(scores_RK[:, :, None] - scores_RK[:, None, :])
        gradient_RK = won_RK - (games_RKK * chance_RKK).sum(axis=2)
        step_RK = np.linalg.solve(_information(games_RKK * chance_RKK * (1 - chance_RKK)), gradient_RK[..., None])
        step_RK = step_RK[..., 0] / np.maximum(1.0, np.abs(step_RK).max(axis=1))  # a nat at most: it may not overshoot
        scores_RK = scores_RK + step_RK
        if np.abs(step_RK).max() < tolerance:
            break
    return scores_RK - scores_RK.mean(axis=1, keepdims=True)


def _information(curvature_RKK: Array) -> Array:
    """Minus the second derivative of the likelihood. It says nothing of a shift of all scores: that is held still."""
    total_RK1 = curvature_RKK.sum(axis=2, keepdims=True)
    return total_RK1 * np.eye(curvature_RKK.shape[1]) - curvature_RKK + total_RK1.mean(axis=1, keepdims=True)


def comparable(wins_RKK: Array) -> NDArray[np.bool_]:
    """Of which tables a chain of wins leads from every player to every other."""
    players = wins_RKK.shape[1]
    reach_RKK = (wins_RKK > 0) | np.eye(players, dtype=bool)
    for _ in range(players.bit_length()):
        reach_RKK = reach_RKK @ reach_RKK
    return np.asarray(reach_RKK.all(axis=(1, 2)))


def _numbers(values: ArrayLike) -> Array:
    numbers_N = np.asarray(values, dtype=np.float64)
    if numbers_N.ndim != 1 or numbers_N.size == 0:
        raise RequestError(f"expected one number per prompt, at least one, got the shape {numbers_N.shape}")
    if not np.isfinite(numbers_N).all():
        raise RequestError("expected finite numbers, got NaN or infinity among them")
    return numbers_N


def _require_share(wins: float, trials: int) -> None:
    if not 0 <= wins <= trials or trials < 1:
        raise RequestError(f"{wins} wins of {trials} trials: expected 0 to all of at least one")


def _between_0_and_1(level: float) -> float:
    if not 0 < level < 1:
        raise RequestError(f"level: {level} is not between 0 and 1")
    return level
