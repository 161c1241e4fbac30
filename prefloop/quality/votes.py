"""What raters said, as arrays: one row for each answer, one column for each pair of an item's places.

Dimensions: A answers, oldest first; P pairs of places (i, j), i < j, in the stored order of an item's answers, ordered
by j and then i, so that the pairs of K answers are the first K (K - 1) / 2 whatever K the widest item has; K places.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]
Signs = NDArray[np.int8]
Truth = NDArray[np.bool_]
Array = NDArray[np.float64]

NEIGHBOURS = 4  # each answer is held against so many others to its item at most
KINDS = ("normal", "gold", "repeat", "qualification")


@dataclass(frozen=True)
class Votes:
    """`rater_A`, `stratum_A` and `guideline_A` number the names in `raters`, `strata`, `guidelines`; `kind_A` KINDS.

    `said_AP` is 1 where the pair's first place was put above the other, -1 below, 0 a tie; `first_AP` is 1 where it
    was shown first, else -1; both are 0 beyond an item's `places_A`. `key_AP` is what an item's key says, of gold.
    `right_A` is 1 or 0 for an answer that was given to gold, else NaN. `mirrors_A` is the item that a repeat shows
    again, else -1. Times are seconds, UTC; `seconds_A`, over an item, may be NaN.
    """

    id_A: Whole
    item_A: Whole
    campaign_A: Whole
    rater_A: Whole
    kind_A: Whole
    stratum_A: Whole
    guideline_A: Whole
    mirrors_A: Whole
    created_A: Whole
    seconds_A: Array
    places_A: Whole
    said_AP: Signs
    first_AP: Signs
    key_AP: Signs
    right_A: Array
    counts_A: Truth  # in what is exported: neither changed, withdrawn, surplus nor of a quarantined rater
    stands_A: Truth  # neither changed nor withdrawn; to gold, what its rater said first
    accepted_A: Truth  # counts, some answer is acceptable, and its rater flagged nothing
    newest_A: Truth  # the last revision of its rater's answer (to gold, the first), whether it stands or not
    raters: tuple[str, ...] = ()
    strata: tuple[str, ...] = ()
    guidelines: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.id_A)

    def where(self, chosen_A: NDArray[Any]) -> Votes:
        """Those rows alone, by a mask or by their numbers."""
        return replace(self, **{one.name: getattr(self, one.name)[chosen_A] for one in fields(self)
                                if "_A" in one.name})

    def of_kind(self, *kinds: str) -> Truth:
        return np.isin(self.kind_A, [KINDS.index(kind) for kind in kinds])

    @property
    def asked_AP(self) -> Truth:
        """Which pairs an item has."""
        return np.arange(self.said_AP.shape[1]) < pairs_of(self.places_A)[:, None]


def pairs_of(places: Whole) -> Whole:
    return places * (places - 1) // 2


def pair_places(places: int) -> tuple[Whole, Whole]:
    """The first and the second place of each pair of so many places."""
    second_P, first_P = np.tril_indices(places, -1)
    return first_P, second_P


def compared(ranks: Sequence[str], shown: Sequence[str]) -> tuple[Signs, Signs, Whole]:
    """`said_AP`, `first_AP` and `places_A` of answers as they are stored: JSON lists, ranks in the order shown.

    What was left unranked is below all that was not, and ties with its like.
    """
    given, orders = _Lists(ranks), _Lists(shown)
    places_A = given.lengths
    width = int(pairs_of(places_A.max(initial=0)))
    said_AP, first_AP = np.zeros((len(ranks), width), np.int8), np.zeros((len(ranks), width), np.int8)
    for places in np.unique(places_A):
        rows = np.flatnonzero(places_A == places)
        rank_NK, order_NK = given.table(rows), orders.table(rows).astype(np.int64)
        stored_NK, turn_NK = np.empty_like(rank_NK), np.empty_like(rank_NK)
        np.put_along_axis(stored_NK, order_NK, np.where(np.isnan(rank_NK), np.inf, rank_NK), axis=1)
        np.put_along_axis(turn_NK, order_NK, np.arange(places, dtype=np.float64)[None].repeat(len(rows), 0), axis=1)
        said_AP[rows, :pairs_of(places)] = signs(stored_NK)
        first_AP[rows, :pairs_of(places)] = signs(turn_NK)
    return said_AP, first_AP, places_A


class _Lists:
    """Lists of numbers as JSON texts: most are alike, and each is read once."""

    def __init__(self, texts: Sequence[str]) -> None:
        number = {text: n for n, text in enumerate(dict.fromkeys(texts))}
        self._lists = json.loads(f"[{','.join(number)}]")
        self._of_A = np.fromiter(map(number.__getitem__, texts), np.int64, len(texts))
        self.lengths = np.fromiter(map(len, self._lists), np.int64, len(number))[self._of_A]

    def table(self, rows: Whole) -> Array:
        """Of rows of one length; null is NaN."""
        wanted, row = np.unique(self._of_A[rows], return_inverse=True)
        return np.array([self._lists[n] for n in wanted], dtype=np.float64)[row]


def signs(order_NK: Array) -> Signs:
    """For each pair of places 1 where the first has the lower number, -1 the higher, 0 the same."""
    first_P, second_P = pair_places(order_NK.shape[1])
    one_NP, other_NP = order_NK[:, first_P], order_NK[:, second_P]
    return (one_NP < other_NP).astype(np.int8) - (one_NP > other_NP).astype(np.int8)


# -- which answers are of one item ------------------------------------------------------------------------------------


def mirrored(votes: Votes) -> Whole:
    """The row of the same rater's answer to the item that a repeat shows again; -1 of anything else."""
    given = {(int(item), int(rater)): row for row, (item, rater, stands) in enumerate(
        zip(votes.item_A, votes.rater_A, votes.stands_A, strict=True)) if stands}
    first = np.full(len(votes), -1)
    for row in np.flatnonzero(votes.of_kind("repeat") & votes.stands_A):
        first[row] = given.get((int(votes.mirrors_A[row]), int(votes.rater_A[row])), -1)
    return first


def neighbours(votes: Votes, most: int = NEIGHBOURS) -> tuple[Whole, Whole]:
    """Rows of answers to one normal item by two raters: whose is looked at, and against whose, which must count."""
    rows = np.flatnonzero(votes.of_kind("normal") & votes.stands_A)
    rows = rows[np.argsort(votes.item_A[rows], kind="stable")]
    _, start, size = np.unique(votes.item_A[rows], return_index=True, return_counts=True)
    size_N, start_N = np.repeat(size, size), np.repeat(start, size)
    within_N = np.arange(len(rows)) - start_N
    pairs = [(rows[size_N > step], rows[(start_N + (within_N + step) % size_N)[size_N > step]])
             for step in range(1, most + 1)]
    one, other = (np.concatenate(side) if pairs else np.zeros(0, np.int64) for side in zip(*pairs, strict=True))
    return one[votes.counts_A[other]], other[votes.counts_A[other]]
