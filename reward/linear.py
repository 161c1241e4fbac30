"""Learning the linear kind: a penalised maximum likelihood fit on differences of features.

With perfect raters it is convex; with raters of some reliability the likelihood is the mixture of reliability.py, and
the fit begins at 0, where they agree on the direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse
from scipy.optimize import minimize

from prefloop.linear import LinearScorer, Reader

from .comparisons import Array, Comparisons, compared
from .groups import resampled
from .judgements import Group
from .worth import log_likelihood

PRIORS = (0.001, 0.003, 0.01, 0.03, 0.1)  # variances of a weight that are tried
FOLDS = 3
MAX_STEPS = 200
ROUGHLY = 1e-6  # how far the fits go by which the penalty is chosen


@dataclass(frozen=True)
class Fitted:
    """A scorer, and the variance of a weight that it was fitted with."""

    scorer: LinearScorer
    prior: float


def learn(groups: Sequence[Group], seed: int = 0, members: int = 1, prior: float | None = None) -> Fitted:
    """A linear reward model of these groups, in the raw unit of its likelihood, nats.

    The penalty is chosen by the held-out likelihood of whole prompts, unless `prior` states it.
    """
    asked = [(group.prompt, text) for group in groups for text in group.texts]
    reader = Reader.learned(asked)
    features_AF, votes = reader.features(asked), compared(groups)
    prior = prior or chosen(features_AF, votes, seed)
    times_GM = np.array([resampled(seed, members, group.prompt.id) for group in groups], dtype=np.float64)
    weights = [weights_of(features_AF, replace(votes, weight_P=votes.weight_P * times_G[votes.group_A[votes.first_P]]),
                          prior) for times_G in times_GM.T]
    return Fitted(LinearScorer(reader, np.stack(weights)), prior)


def aside(groups: Sequence[Group], seed: int = 0) -> Array:
    """scores_A of all answers, each by a model that learned from other prompts."""
    asked = [(group.prompt, text) for group in groups for text in group.texts]
    return crossed(Reader.learned(asked).features(asked), compared(groups), seed)


def crossed(features_AF: sparse.csr_matrix, votes: Comparisons, seed: int = 0) -> Array:
    """scores_A, each by weights that were fitted to the other folds of groups."""
    prior, fold_P = chosen(features_AF, votes, seed), folds(votes, seed)
    scores_A = np.zeros(features_AF.shape[0])  # type: ignore[index]
    for fold in range(FOLDS):
        own_A = np.isin(votes.group_A, votes.group_A[votes.first_P[fold_P == fold]])
        if own_A.any() and not own_A.all():
            scores_A[own_A] = features_AF[own_A] @ weights_of(features_AF, subset(votes, fold_P != fold), prior)
    return scores_A


def weights_of(features_AF: sparse.csr_matrix, votes: Comparisons, prior: float, start_F: Array | None = None,
               tolerance: float = 1e-10) -> Array:
    """The mode of the weights, each N(0, prior)."""
    scale = np.sqrt(prior)

    def negative(x_F: Array) -> tuple[float, Array]:
        theta_A = scale * (features_AF @ x_F)
        told_P, by_gap_P = log_likelihood(votes.differences(theta_A) + votes.offset_P, votes.outcome_P,
                                          votes.reliability_P)
        slope_F = scale * (features_AF.T @ votes.gathered(votes.weight_P * by_gap_P))
        return float(x_F @ x_F / 2 - votes.weight_P @ told_P), x_F - slope_F

    start = np.zeros(features_AF.shape[1]) if start_F is None else start_F / scale  # type: ignore[index]
    options = {"maxiter": MAX_STEPS, "maxcor": 20, "ftol": tolerance}
    return scale * minimize(negative, start, jac=True, method="L-BFGS-B", options=options).x


def chosen(features_AF: sparse.csr_matrix, votes: Comparisons, seed: int) -> float:
    """The variance of a weight under which held-out prompts' judgements are most probable."""
    fold_P = folds(votes, seed)
    told = dict.fromkeys(PRIORS, 0.0)
    for fold in range(FOLDS):
        if not (fold_P == fold).any() or (fold_P == fold).all():
            return PRIORS[len(PRIORS) // 2]
        weights_F = None
        for prior in PRIORS:
            weights_F = weights_of(features_AF, subset(votes, fold_P != fold), prior, weights_F, ROUGHLY)
            told[prior] += told_by(features_AF @ weights_F, subset(votes, fold_P == fold))
    return max(told, key=lambda prior: told[prior])


def told_by(theta_A: Array, votes: Comparisons) -> float:
    """The log likelihood of comparisons, position bias and reliabilities included."""
    gaps_P = votes.differences(theta_A) + votes.offset_P
    return float(votes.weight_P @ log_likelihood(gaps_P, votes.outcome_P, votes.reliability_P)[0])


def folds(votes: Comparisons, seed: int) -> np.ndarray:
    """Each comparison's fold, by its prompt; prompts with most comparisons are dealt first, so that folds are even."""
    group_P = votes.group_A[votes.first_P]
    size_G = np.bincount(group_P, minlength=int(votes.group_A[-1]) + 1)
    order = np.lexsort((np.random.default_rng(seed).random(len(size_G)), -size_G))
    fold_G = np.empty(len(size_G), dtype=np.intp)
    fold_G[order] = np.arange(len(size_G)) % FOLDS
    return fold_G[group_P]


def subset(votes: Comparisons, kept_P: np.ndarray) -> Comparisons:
    fields = ("first_P", "second_P", "outcome_P", "weight_P", "said_P", "left_P", "rater_P", "reliability_P",
              "offset_P")
    return replace(votes, **{name: getattr(votes, name)[kept_P] for name in fields})
