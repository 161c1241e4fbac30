"""Intervals, win rates and strengths from comparisons: pure functions of numbers.

Dimensions: N prompts (one number each: average a prompt's own samples first, they are not independent),
K players, R resamples. Intervals are two-sided.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    if not 0 <= wins <= trials or trials < 1:
        raise RequestError(f"{wins} wins of {trials} trials: expected 0 to all of at least one")
    z = NormalDist().inv_cdf(0.5 + _between_0_and_1(level) / 2)
    share, spread = wins / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * (share * (1 - share) / trials + spread / (4 * trials)) ** 0.5
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


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


def bradley_terry(wins: ArrayLike, smoothing: float = 0.0, tolerance: float = 1e-10, rounds: int = 100_000) -> Array:
    """Scores_K with P(i beats j) = sigmoid(score_i - score_j), in nats, mean 0: maximum likelihood.

    `wins_KK[i, j]` is how often i beat j, a tie counting half in both directions. Minorise-maximise (Hunter 2004,
    equation 3). A finite answer exists only if every split of the players in two has wins in both directions (his
    assumption 1); `smoothing` adds that many wins to every direction of every pair, which makes it so.
    """
    wins_KK = np.array(wins, dtype=np.float64)
    if wins_KK.ndim != 2 or wins_KK.shape[0] != wins_KK.shape[1] or wins_KK.shape[0] < 2:
        raise RequestError(f"wins: expected a square table of at least two players, got the shape {wins_KK.shape}")
    if not np.isfinite(wins_KK).all() or (wins_KK < 0).any():
        raise RequestError("wins: each is a number from 0")
    wins_KK += smoothing
    np.fill_diagonal(wins_KK, 0)
    if not _all_reach_all(wins_KK > 0):
        raise RequestError("wins: some players never lost to, or never met, the others, so their scores have no "
                           "finite value; compare more, or use smoothing")
    games_KK, won_K = wins_KK + wins_KK.T, wins_KK.sum(axis=1)
    strength_K = np.ones(len(won_K))
    for _ in range(rounds):
        after_K = won_K / (games_KK / (strength_K[:, None] + strength_K[None, :])).sum(axis=1)
        after_K /= np.exp(np.log(after_K).mean())
        done = np.abs(np.log(after_K / strength_K)).max() < tolerance
        strength_K = after_K
        if done:
            break
    return np.log(strength_K)


def _all_reach_all(beat_KK: NDArray[np.bool_]) -> bool:
    """Whether a chain of wins leads from every player to every other."""
    reach_KK = beat_KK | np.eye(len(beat_KK), dtype=bool)
    for _ in range(len(beat_KK).bit_length()):
        reach_KK = reach_KK @ reach_KK
    return bool(reach_KK.all())


def _numbers(values: ArrayLike) -> Array:
    numbers_N = np.asarray(values, dtype=np.float64)
    if numbers_N.ndim != 1 or numbers_N.size == 0:
        raise RequestError(f"expected one number per prompt, at least one, got the shape {numbers_N.shape}")
    if not np.isfinite(numbers_N).all():
        raise RequestError("expected finite numbers, got NaN or infinity among them")
    return numbers_N


def _between_0_and_1(level: float) -> float:
    if not 0 < level < 1:
        raise RequestError(f"level: {level} is not between 0 and 1")
    return level
