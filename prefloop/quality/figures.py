"""How good the work is, in figures: agreement, and what each rater's answers show. Every figure has a 95% interval.

The item is the unit: pairs of one ranking go together, and are never counted as if they did not.
Dimensions: A answers, P pairs (votes.py), I items, V values of a pair (above, tied, below).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prefloop.agreement import alpha_of, apart_by_chance
from prefloop.quality.votes import Array, Signs, Votes, Whole, mirrored, neighbours

LEVEL = 0.95
FEW_ITEMS = 3  # below so many no interval is worth its name, and it is all there is
BUCKETS = 40  # points of a chart over time, at most
STEPS = (3600, 6 * 3600, 86400, 7 * 86400, 28 * 86400)  # seconds that one of them may stand for


class Figure(NamedTuple):
    """`n` items, of which it was made. The interval is of 95%."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Agreement:
    """Between raters of the same items: Krippendorff's alpha, ordinal, of pairs' outcomes (-1, 0, 1); the share of
    pairs of raters who decided a pair alike, a tie being an outcome; the mean of Kendall's tau-b of two rankings.
    """

    alpha: Figure | None
    percent: Figure | None
    tau_b: Figure | None
    items: int


@dataclass(frozen=True)
class RaterFigures:
    """`gold`: the share of gold items that were right. `consistency`: of the pairs of repeats, and `agreement`: of
    those that others rated too, the share decided alike (where one of them is a tie, half). `left`: of the pairs that
    they decided, those won by what was shown first. `ties`: of all pairs. `seconds`: the median over an item.
    """

    rater: str
    answers: int
    gold: Figure | None
    consistency: Figure | None
    agreement: Figure | None
    left: Figure | None
    ties: Figure | None
    seconds: Figure | None


@dataclass(frozen=True)
class Period:
    """Figures of the answers that were given in `seconds` from `at`."""

    at: int
    seconds: int
    answers: int
    agreement: Agreement
    shares: dict[str, Figure | None]


# -- intervals --------------------------------------------------------------------------------------------------------


def share(won_A: Array, of_A: Array, unit_A: Whole) -> Figure | None:
    """The share that `won_A` is of `of_A` (pairs, say), which go together in units: Wilson's interval.

    Its sample is as large as the spread between units says (Kish's design effect, 1965, by the linearised ratio),
    and never larger than the units where they do not spread at all; Student's quantile, for they may be few.
    """
    _, unit = np.unique(unit_A, return_inverse=True)
    won_I, of_I = np.bincount(unit, won_A), np.bincount(unit, of_A)
    won_I, of_I = won_I[of_I > 0], of_I[of_I > 0]
    items, total = len(of_I), float(of_I.sum())
    if not items:
        return None
    value = min(1.0, float(won_I.sum()) / total)
    spread = float(((won_I - value * of_I) ** 2).sum()) * items / max(items - 1, 1) / total**2
    return Figure(value, *_interval(value, spread, items, total), items)


def _interval(value: float, variance: float, items: int, most: float) -> tuple[float, float]:
    """Wilson's, of a value in 0..1 with this variance that is of so many items; its sample is `most` at most."""
    size = value * (1 - value) / variance if variance > 1e-12 else float(items)
    size = min(max(size, 1.0), most)
    wide = (float(stats.t.ppf(0.5 + LEVEL / 2, max(items - 1, 1))) / NormalDist().inv_cdf(0.5 + LEVEL / 2)) ** 2
    size = size / wide if items >= FEW_ITEMS else min(size, items) / wide
    return wilson_of(value, max(size, 1e-9))


def wilson_of(value: float, size: float) -> tuple[float, float]:
    """Wilson's interval of a share of a sample that may have any size."""
    z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
    spread = z * z / size
    centre, half = (value + spread / 2) / (1 + spread), z / (1 + spread) * (
        value * (1 - value) / size + spread / (4 * size)) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def median(values: Array) -> Figure | None:
    """With the interval between two order statistics (the binomial's, exact or wider)."""
    ordered = np.sort(values[np.isfinite(values)])
    if not len(ordered):
        return None
    low = int(stats.binom.ppf((1 - LEVEL) / 2, len(ordered), 0.5))
    return Figure(float(np.median(ordered)), float(ordered[max(low - 1, 0)]), float(ordered[min(
        len(ordered) - low, len(ordered) - 1)]), len(ordered))


def alpha(sums_IX: Array, most: float) -> Figure | None:
    """Of items' parts of Krippendorff's table. Disagreement is a share, of the widest that was said, and has Wilson's
    interval as others have, also where all agree; its variance is the delta method's, so that what chance would give
    may vary with it.
    """
    items, total_X = len(sums_IX), sums_IX.sum(axis=0)
    value = _alpha(total_X)
    if value is None:
        return None
    scale = max(float(np.abs(total_X).max()), 1.0) * 1e-5
    slope_X = np.array([_slope(_alpha, total_X, n, scale) for n in range(len(total_X))])
    moved_I = (sums_IX - total_X / items) @ slope_X
    variance = float((moved_I**2).sum()) * items / max(items - 1, 1)
    chance = apart_by_chance(total_X.reshape(3, 3), "ordinal")
    low, high = _interval(min(1.0, (1 - value) * chance), variance * chance**2, items, most)
    return Figure(value, max(-1.0, 1 - high / chance), min(1.0, 1 - low / chance), items)


def _alpha(sums_X: Array) -> float | None:
    return alpha_of(sums_X.reshape(3, 3), "ordinal")


def _slope(figure: Callable[[Array], float | None], at_X: Array, n: int, step: float) -> float:
    up, down = at_X.copy(), at_X.copy()
    up[n] += step
    down[n] -= step
    above, below = figure(up), figure(down)
    return 0.0 if above is None or below is None else (above - below) / (2 * step)


# -- agreement --------------------------------------------------------------------------------------------------------


def agreement(votes: Votes) -> Agreement:
    """Between raters of the same items."""
    own = votes.where(votes.of_kind("normal") & votes.counts_A)
    _, unit, size = np.unique(own.item_A, return_inverse=True, return_counts=True)
    shared = size[unit] > 1
    own, (_, unit) = own.where(shared), np.unique(unit[shared], return_inverse=True)
    items = int(unit.max(initial=-1)) + 1
    if not items:
        return Agreement(None, None, None, 0)
    counts_IPV = np.zeros((items, own.said_AP.shape[1], 3), np.float64)
    for value in (-1, 0, 1):
        np.add.at(counts_IPV[:, :, value + 1], unit, (own.said_AP == value) & own.asked_AP)
    alike_I, pairs_I = _alike(counts_IPV)
    return Agreement(alpha(_coincidences(counts_IPV), float(pairs_I.sum())), share(alike_I, pairs_I, np.arange(items)),
                     _tau_b(*_taus(own, unit, items), float(pairs_I.sum())), items)


def _coincidences(counts_IPV: Array) -> Array:
    """Each item's part of Krippendorff's table, in a row."""
    rated_IP = counts_IPV.sum(axis=2)
    weighed_IPV = counts_IPV / np.maximum(rated_IP - 1, 1)[:, :, None]
    table_IVV = np.einsum("ipv,ipw->ivw", weighed_IPV, counts_IPV)
    table_IVV -= weighed_IPV.sum(axis=1)[:, :, None] * np.eye(3)
    return table_IVV.reshape(len(counts_IPV), 9)


def _alike(counts_IPV: Array) -> tuple[Array, Array]:
    """Of each item, pairs of raters who said the same of a pair of answers, and how many there are."""
    rated_IP = counts_IPV.sum(axis=2)
    return (counts_IPV * (counts_IPV - 1)).sum(axis=(1, 2)) / 2, (rated_IP * (rated_IP - 1)).sum(axis=1) / 2


def _tau_b(tau_I: Array, of_I: Array, pairs: float) -> Figure | None:
    """The mean: half of it and a half is a share, and has a share's interval; of that many pairs of answers in all."""
    each = pairs / max(float(of_I.sum()), 1.0)
    found = share((tau_I + of_I) / 2 * each, of_I * each, np.arange(len(of_I)))
    return found and Figure(2 * found.value - 1, 2 * found.low - 1, 2 * found.high - 1, found.n)


def _taus(votes: Votes, unit: Whole, items: int) -> tuple[Array, Array]:
    """Of each item the sum of tau-b over pairs of its raters, and how many there are; who ties all has none.

    tau-b is the product of two rankings' signs, each divided by the root of how many it decides; and so the sum over
    all pairs of raters is that of the squared sums.
    """
    decides_A = (votes.said_AP != 0).sum(axis=1)
    has = decides_A > 0
    scaled_AP = votes.said_AP[has] / np.sqrt(decides_A[has])[:, None]
    sum_IP = np.zeros((items, scaled_AP.shape[1]))
    np.add.at(sum_IP, unit[has], scaled_AP)
    raters_I = np.bincount(unit[has], minlength=items).astype(np.float64)
    return ((sum_IP**2).sum(axis=1) - raters_I) / 2, raters_I * (raters_I - 1) / 2


# -- raters -----------------------------------------------------------------------------------------------------------


def of_raters(votes: Votes) -> list[RaterFigures]:
    """Of everybody who gave an answer, also of a rater whose answers do not count."""
    standing = votes.where(votes.stands_A & ~votes.of_kind("qualification"))
    met = _likeness(standing)
    return [_of_rater(name, standing, met, np.flatnonzero(standing.rater_A == number))
            for number, name in enumerate(votes.raters) if (standing.rater_A == number).any()]


def _likeness(votes: Votes) -> tuple[Array, Array, Array, Array]:
    """Of each answer the pairs that others decided alike, of how many; and, of a repeat, its rater before."""
    others, pairs = np.zeros((2, len(votes)))
    one, other = neighbours(votes)
    np.add.at(others, one, _same(votes.said_AP[one], votes.said_AP[other], votes.asked_AP[one]))
    np.add.at(pairs, one, votes.asked_AP[one].sum(axis=1))
    again, of = np.zeros((2, len(votes)))
    first = mirrored(votes)
    rows = first >= 0
    again[rows] = _same(votes.said_AP[rows], votes.said_AP[first[rows]], votes.asked_AP[rows])
    of[rows] = votes.asked_AP[rows].sum(axis=1)
    return others, pairs, again, of


def _same(one_AP: Signs, other_AP: Signs, asked_AP: NDArray[np.bool_]) -> Array:
    return np.asarray(((1 - np.abs(one_AP - other_AP) / 2) * asked_AP).sum(axis=1))


def _of_rater(name: str, votes: Votes, met: tuple[Array, Array, Array, Array], rows: Whole) -> RaterFigures:
    own = votes.where(rows)
    others, pairs, again, of = (each[rows] for each in met)
    gold = np.isfinite(own.right_A)
    return RaterFigures(name, len(own), share(np.nan_to_num(own.right_A), gold.astype(np.float64), own.item_A),
                        share(again, of, own.item_A), share(others, pairs, own.item_A), left(own), ties(own),
                        median(own.seconds_A))


def left(votes: Votes) -> Figure | None:
    """Of the decided pairs, those won by the answer that was shown first."""
    decided_AP = votes.said_AP != 0
    return share((decided_AP & (votes.said_AP == votes.first_AP)).sum(axis=1).astype(np.float64),
                 decided_AP.sum(axis=1).astype(np.float64), votes.item_A)


def ties(votes: Votes) -> Figure | None:
    asked_AP = votes.asked_AP
    return share(((votes.said_AP == 0) & asked_AP).sum(axis=1).astype(np.float64),
                 asked_AP.sum(axis=1).astype(np.float64), votes.item_A)


# -- over time --------------------------------------------------------------------------------------------------------


def over_time(votes: Votes, rater: str | None = None) -> list[Period]:
    """The same figures of equal spans of time, at most BUCKETS; one without an answer is left out. With `rater` of
    their answers alone, and how far others said the same.
    """
    own = votes if rater is None else votes.where(votes.rater_A == _number(votes, rater))
    if not len(own):
        return []
    met = None if rater is None else _met(votes, own)
    first, last = int(own.created_A.min()), int(own.created_A.max())
    step = next((one for one in STEPS if (last - first) // one < BUCKETS), STEPS[-1])
    bucket_A = own.created_A // step
    return [_period(own, bucket_A == one, met, int(one) * step, step) for one in np.unique(bucket_A)]


def _number(votes: Votes, rater: str) -> int:
    return votes.raters.index(rater) if rater in votes.raters else -1


def _met(votes: Votes, own: Votes) -> tuple[Array, Array]:
    """Of each of their answers the pairs that others decided alike, of how many."""
    about = votes.where(np.isin(votes.item_A, own.item_A))
    others, pairs, _, _ = _likeness(about)
    rows = np.searchsorted(about.id_A, own.id_A)
    return others[rows], pairs[rows]


def _period(votes: Votes, within: NDArray[np.bool_], met: tuple[Array, Array] | None, at: int, seconds: int) -> Period:
    """What was said in it; agreement is of raters who both said it then."""
    newest = votes.where(within & votes.newest_A & ~votes.of_kind("qualification"))
    normal = newest.of_kind("normal").astype(np.float64)
    gold = np.isfinite(newest.right_A)
    stands = newest.where(newest.stands_A)
    shares = {"accepted": share(newest.accepted_A * normal, normal, newest.item_A),
              "gold": share(np.nan_to_num(newest.right_A), gold.astype(np.float64), newest.id_A),
              "ties": ties(stands), "left": left(stands), "seconds": median(stands.seconds_A)}
    if met is not None:
        shares["agreement"] = share(met[0][within], met[1][within], votes.item_A[within])
    return Period(at, seconds, int(newest.stands_A.sum()), agreement(newest), shares)
