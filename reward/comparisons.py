"""Judgements as arrays of comparisons of two answers, which the fit of raters and the linear model read.

Dimensions: A answers (the texts of all groups, one group after the other), P comparisons, R raters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .judgements import Group, Judgement

Array = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Comparisons:
    """P comparisons of a first with a second answer.

    `outcome_P` is 1 where the first was put above the second and 1/2 for a tie (the second never is above the first).
    `weight_P`: the comparisons of a judgement share its weight. `said_P`: what they say together, as many things as
    a ranking of its answers is made of: one less than the answers it ranks. `left_P`: how many places further left
    the first stood, 0 where nobody knows. `reliability_P` and `offset_P` are what the judgement says of them.
    """

    first_P: Places
    second_P: Places
    outcome_P: Array
    weight_P: Array
    said_P: Array
    left_P: Array
    rater_P: Places
    reliability_P: Array
    offset_P: Array
    raters: tuple[str, ...]
    group_A: Places

    def differences(self, values_A: Array) -> Array:
        return values_A[self.first_P] - values_A[self.second_P]

    def gathered(self, values_P: Array) -> Array:
        """The transpose of `differences`: each comparison's value, added to its first and taken from its second."""
        size = len(self.group_A)
        to_first, to_second = (np.bincount(at_P, values_P, size) for at_P in (self.first_P, self.second_P))
        return np.asarray(to_first - to_second, dtype=np.float64)


def compared(groups: Sequence[Group]) -> Comparisons:
    starts = np.cumsum([0, *(len(group.texts) for group in groups)])
    raters: dict[str, int] = {}
    rows = [(starts[n] + judgement.places[i], starts[n] + judgement.places[j], outcome, weight, said,
             _left(judgement, i, j), raters.setdefault(judgement.rater, len(raters)), judgement.reliability,
             _offset(judgement, i, j))
            for n, group in enumerate(groups) for judgement in group.judgements
            for i, j, outcome, weight, said in _pairs(judgement)]
    columns = [np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)] or [np.zeros(0)] * 9
    first, second, outcome, weight, said, left, rater, reliability, offset = columns
    return Comparisons(first.astype(np.intp), second.astype(np.intp), outcome, weight, said, left,
                       rater.astype(np.intp), reliability, offset, tuple(raters),
                       np.repeat(np.arange(len(groups)), [len(group.texts) for group in groups]))


def _pairs(judgement: Judgement) -> list[tuple[int, int, float, float, float]]:
    """(better, worse, outcome, weight, said) of each two answers that the ranking orders or ties.

    An unranked answer lost to every ranked one; of two unranked answers the ranking says nothing.
    """
    ranks = judgement.ranks
    last = max((rank for rank in ranks if rank is not None), default=0) + 1
    place = [last if rank is None else rank for rank in ranks]
    pairs = [(i, j) if place[i] <= place[j] else (j, i) for i, j in combinations(range(len(ranks)), 2)
             if ranks[i] is not None or ranks[j] is not None]
    return [(i, j, 0.5 if place[i] == place[j] else 1.0, judgement.weight / len(pairs),
             judgement.weight * (len(ranks) - 1) / len(pairs)) for i, j in pairs]


def _left(judgement: Judgement, i: int, j: int) -> float:
    return float(judgement.shown[j] - judgement.shown[i]) if judgement.shown else 0.0


def _offset(judgement: Judgement, i: int, j: int) -> float:
    return judgement.offsets[i] - judgement.offsets[j] if judgement.offsets else 0.0
