"""How far a reward model's probabilities can be believed: pure functions of numbers.

Dimensions: P pairs, D draws. `confidence_P` in 0.5..1 is the probability of the answer that the model prefers, and
`correct_P` whether the rater preferred it too. A pair's two probabilities say the same, so it is counted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

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


def said(gaps_P: ArrayLike, temperature: ArrayLike = 1.0, eta: ArrayLike = 1.0) -> Array:
    """The probability that a rater of reliability `eta` says what a gap of scores suggests (reliability.py)."""
    seen_P = sigmoid(np.asarray(gaps_P, dtype=np.float64) / np.asarray(temperature))
    return np.asarray(eta) * seen_P + (1.0 - np.asarray(eta)) * (1.0 - seen_P)


def log_loss(gaps_P: ArrayLike, temperature: ArrayLike = 1.0, eta: ArrayLike = 1.0) -> Array:
    """-log of the probability of each pair, in nats; a gap is the score of the chosen less the rejected."""
    gaps_P = np.asarray(gaps_P, dtype=np.float64) / np.asarray(temperature)
    certain = np.logaddexp(0.0, -gaps_P)  # exact, where a probability would round to 0
    return np.where(np.asarray(eta) == 1.0, certain, -np.log(np.maximum(said(gaps_P, 1.0, eta), 1e-300)))


def brier(gaps_P: ArrayLike, temperature: ArrayLike = 1.0, eta: ArrayLike = 1.0) -> Array:
    """(1 - p)^2 of each pair, p the probability of what the rater chose (Brier 1950): 0.25 for a coin."""
    return (1.0 - said(gaps_P, temperature, eta)) ** 2


def confidence(gaps_P: ArrayLike, temperature: ArrayLike = 1.0, eta: ArrayLike = 1.0) -> tuple[Array, Array]:
    """confidence_P and correct_P (1, 0, or 1/2 where the scores are equal) of pairs with these gaps.

    A rater of reliability below a half is expected to say the opposite of what the scores suggest.
    """
    gaps_P = np.asarray(gaps_P, dtype=np.float64) * np.where(np.asarray(eta) < 0.5, -1.0, 1.0)
    sure_P = said(np.abs(gaps_P), temperature, np.maximum(eta, 1.0 - np.asarray(eta)))
    return sure_P, 0.5 + 0.5 * np.sign(gaps_P)


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


def temperature(gaps_P: ArrayLike, eta: ArrayLike = 1.0) -> float:
    """The T under which pairs have the least log-loss (Guo et al. 2017), between 1/1000 and 1000.

    One pair more, of the mean gap, is taken to be right and wrong half each: a few pairs that happen to be all right
    would ask for certainty. Where gaps say nothing, or the opposite, 1000 is given: every probability is about a half.
    """
    gaps_P = np.asarray(gaps_P, dtype=np.float64)
    typical = float(np.abs(gaps_P).mean()) if gaps_P.size else 0.0
    if not typical:
        return 1e3

    def loss(log_size: float) -> float:
        own = log_loss(gaps_P, np.exp(-log_size), eta).sum()
        return float(own + log_loss([typical, -typical], np.exp(-log_size)).mean())

    tried = np.linspace(np.log(1e-3), np.log(1e3), 60)  # of 1/T; with eta the loss may have more than one valley
    best = int(np.argmin([loss(one) for one in tried]))
    around = (float(tried[max(best - 1, 0)]), float(tried[min(best + 1, len(tried) - 1)]))
    found = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(-found.x))
