"""How much one ranking says of whether its rater reads: likelihood ratios of whole rankings, the item as the unit.

An attentive rater's ranking is near a reference (a gold item's key, another rater's ranking, their own of before):
Mallows' model (1957), P(ranking) proportional to q^d, where d is the number of pairs that it and the reference decide
differently, a tie of one of them half. Now and then nobody attends: a share of LAPSES of all rankings is drawn at
random (Wichmann and Hill 2001), so that no single answer convicts anybody. Pairs of one ranking are not independent,
and so they are never counted as if they were.

Dimensions: A answers, P pairs, K places (votes.py).
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln

from prefloop.quality.votes import Array, Signs, Whole, pair_places, pairs_of

LAPSES = 0.1
FLIPS = 0.3  # the share of flipped rankings that a change for the worse is measured against


def distance(said_AP: Signs, reference_AP: Signs, asked_AP: np.ndarray | None = None) -> tuple[Array, Array]:
    """d_A and of how many pairs: those that the reference decides. A tie there is half."""
    decides_AP = reference_AP != 0
    if asked_AP is not None:
        decides_AP = decides_AP & asked_AP
    apart_AP = np.abs(said_AP - reference_AP) / 2 * decides_AP
    return apart_AP.sum(axis=1), decides_AP.sum(axis=1).astype(np.float64)


def attentive(d_A: Array, reference_AP: Signs, places_A: Whole, q: Array | float) -> Array:
    """How many times likelier an attentive rater gives this ranking than a random one, who gives all alike."""
    q_A = np.broadcast_to(np.asarray(q, dtype=np.float64), d_A.shape)
    return LAPSES + (1 - LAPSES) * np.exp(d_A * np.log(q_A) - _log_mean(reference_AP, places_A, q_A))


def random_rather(d_A: Array, reference_AP: Signs, places_A: Whole, q: Array | float) -> Array:
    """ln of how many times likelier a random rater is: at most ln(1 / LAPSES) for one answer."""
    return -np.log(attentive(d_A, reference_AP, places_A, q))


def flipped_rather(d_A: Array, pairs_A: Array, reference_AP: Signs, places_A: Whole, q: Array | float) -> Array:
    """ln of how many times likelier one is who turns FLIPS of their rankings round."""
    straight_A = attentive(d_A, reference_AP, places_A, q)
    turned_A = attentive(pairs_A - d_A, reference_AP, places_A, q)
    return np.log((1 - FLIPS) + FLIPS * turned_A / straight_A)


def q_of(alike: float, places: int) -> float:
    """The q at which a pair of attentive rankings is decided alike with this chance, lapses included; at most 1."""
    grid_G = np.linspace(0.02, 0.999, 400)
    wanted = 1 - (alike - LAPSES / 2) / (1 - LAPSES)
    steps_KG = np.arange(1, places + 1)[:, None]
    mean_G = places * grid_G / (1 - grid_G) - (steps_KG * grid_G**steps_KG / (1 - grid_G**steps_KG)).sum(axis=0)
    return float(np.interp(wanted, mean_G / pairs_of(np.array(places)), grid_G))


def _log_mean(reference_AP: Signs, places_A: Whole, q_A: Array) -> Array:
    """ln of the mean of q^d over all orders of K places.

    With q-factorials, [K]! / K! divided by the same of each group of places that the reference ties: inversions of
    a multiset's orders (MacMahon 1916). A group of k gives each of its members a k-th of its part.
    """
    most = int(places_A.max(initial=2))
    whole_KA = _log_factorials(most, q_A)
    first_P, second_P = pair_places(most)
    width = len(first_P)
    tied_AP = (reference_AP[:, :width] == 0) & (np.arange(width) < pairs_of(places_A)[:, None])
    member_PK = (first_P[:, None] == np.arange(most)) | (second_P[:, None] == np.arange(most))
    group_AK = 1 + tied_AP.astype(np.int64) @ member_PK.astype(np.int64)
    rows_A = np.arange(len(places_A))
    part_AK = whole_KA[group_AK, rows_A[:, None]] / group_AK * (np.arange(most) < places_A[:, None])
    return whole_KA[places_A, rows_A] - part_AK.sum(axis=1)


def _log_factorials(most: int, q_A: Array) -> Array:
    """ln([k]_q! / k!) for k from 0 to `most`, one row each."""
    steps_K = np.arange(1, most + 1)[:, None]
    ln_KA = np.cumsum(np.log((1 - q_A**steps_K) / (1 - q_A)), axis=0) - gammaln(steps_K + 1)
    return np.concatenate([np.zeros((1, len(q_A))), ln_KA])
