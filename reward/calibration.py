"""How far a reward model's probabilities can be believed: pure functions of numbers.

Dimensions: P pairs, D draws. `confidence_P` in 0.5..1 is the probability of the answer that the model prefers, and
`correct_P` whether the rater preferred it too. A pair's two probabilities say the same, so it is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
BINS = 10


@dataclass(frozen=True)
class Bin:
    """The pairs whose confidence lies in low..high: its mean, and the share that the raters had so too."""

    low: float
    high: float
    pairs: int
    confidence: float
    correct: float


def sigmoid(x: ArrayLike) -> Array:
    """1 / (1 + e^-x), without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, dtype=np.float64)))


def log_loss(gaps_P: ArrayLike, temperature: float = 1.0) -> Array:
    """-log sigmoid(gap / temperature) of each pair, in nats; a gap is the score of the chosen less the rejected."""
    return np.logaddexp(0.0, -np.asarray(gaps_P, dtype=np.float64) / temperature)


def brier(gaps_P: ArrayLike, temperature: float = 1.0) -> Array:
    """(1 - p)^2 of each pair, p the probability of what the rater chose (Brier 1950): 0.25 for a coin."""
    return (1.0 - sigmoid(np.asarray(gaps_P) / temperature)) ** 2


def confidence(gaps_P: ArrayLike, temperature: float = 1.0) -> tuple[Array, Array]:
    """confidence_P and correct_P (1, 0, or 1/2 where the scores are equal) of pairs with these gaps."""
    gaps_P = np.asarray(gaps_P, dtype=np.float64)
    return sigmoid(np.abs(gaps_P) / temperature), 0.5 + 0.5 * np.sign(gaps_P)


def in_bins(confidence_P: ArrayLike, bins: int = BINS) -> NDArray[np.intp]:
    """Which of `bins` bins of equal width between 0.5 and 1 each confidence falls into."""
    places = (np.asarray(confidence_P, dtype=np.float64) - 0.5) * 2 * bins
    return np.clip(places.astype(np.intp), 0, bins - 1)


def diagram(confidence_P: ArrayLike, correct_P: ArrayLike, bins: int = BINS) -> list[Bin]:
    """The reliability diagram: its bins that hold a pair."""
    confidence_P, correct_P = np.asarray(confidence_P), np.asarray(correct_P)
    where_P = in_bins(confidence_P, bins)
    edges = np.linspace(0.5, 1.0, bins + 1)
    return [Bin(float(edges[n]), float(edges[n + 1]), int(own.sum()), float(confidence_P[own].mean()),
                float(correct_P[own].mean())) for n in range(bins) if (own := where_P == n).any()]


def ece(confidence_P: ArrayLike, correct_P: ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: mean |confidence - correct| over bins, each by its pairs (Naeini et al. 2015)."""
    confidence_P = np.asarray(confidence_P, dtype=np.float64)
    off_B = np.bincount(in_bins(confidence_P, bins), confidence_P - np.asarray(correct_P), minlength=bins)
    return float(np.abs(off_B).sum() / confidence_P.size)


def temperature(gaps_P: ArrayLike, rounds: int = 100) -> float:
    """The T whose sigmoid(gap / T) has the least log-loss (Guo et al. 2017), between 1/1000 and 1000.

    One pair more, of the mean gap, is taken to be right and wrong half each: a few pairs that happen to be all right
    would ask for certainty. Where gaps say nothing, or the opposite, 1000 is given: every probability is about a half.
    The loss is convex in 1/T, so its slope is bisected, on a log scale.
    """
    gaps_P = np.asarray(gaps_P, dtype=np.float64)
    typical = float(np.abs(gaps_P).mean()) if gaps_P.size else 0.0
    low, high = np.log(1e-3), np.log(1e3)  # of 1/T
    for _ in range(rounds if typical else 0):
        middle = (low + high) / 2
        size = np.exp(middle)
        slope = -(gaps_P * sigmoid(-gaps_P * size)).sum() + typical * (sigmoid(typical * size) - 0.5)
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(np.exp(-(low + high) / 2)) if typical else 1e3
