"""What answers are worth, given how reliable the raters are: expectation propagation (Minka 2001).

theta_a = beta * prior_a + own_a, own_a ~ N(0, tau^2); a comparison sees d = theta_i - theta_j + gamma * left. Of own,
the answers of a group are jointly Gaussian: their prior times one factor exp(pull * d - hold * d^2 / 2) a comparison,
each fitted to the moments of its own likelihood where all the others leave d (its cavity). beta and gamma are the mode
of the evidence of this approximation.

Dimensions as in comparisons.py; K answers of a group, Q points of a quadrature.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_expit
from scipy.stats import norm

from .comparisons import Array, Comparisons, Places

NODES_Q, WEIGHTS_Q = np.polynomial.hermite_e.hermegauss(15)
LOG_WEIGHTS_Q = np.log(WEIGHTS_Q / WEIGHTS_Q.sum())
SPREADS = np.array([5.0, 1.0])  # of beta's and gamma's prior, which matters only where the data say nothing
SWEEPS, DAMPING, TOLERANCE = 20, 0.6, 0.01
LEANING = 0.5  # nats: the spread of the prior of one rater's own position bias
LEVEL = 0.95
STACK = 4_000_000  # numbers of stacked matrices in memory at once


@dataclass(frozen=True)
class Worth:
    """theta_A with its posterior mean, beta, gamma with its 95% interval (None where no place is known), tau; the
    evidence; and of each comparison its factor (pull_P, hold_P), and offset_P = beta * prior + gamma * left."""

    theta_A: Array
    beta: float
    gamma: float
    gamma_interval: tuple[float, float] | None
    tau: float
    evidence: float
    pull_P: Array
    hold_P: Array
    offset_P: Array


def log_likelihood(gaps: Array, outcome: Array, eta: Array) -> tuple[Array, Array]:
    """log p of each outcome, and its derivative by the gap."""
    seen_up = expit(gaps)
    if (eta == 1).all():  # then p itself may round to 0
        return outcome * log_expit(gaps) + (1 - outcome) * log_expit(-gaps), outcome - seen_up
    p = np.maximum(1 - eta + (2 * eta - 1) * seen_up, 1e-300)
    told, by_p = np.log(p), 1 / p
    tied = outcome < 1
    q = np.maximum(1 - p[..., tied], 1e-300)
    told[..., tied] = outcome[tied] * told[..., tied] + (1 - outcome[tied]) * np.log(q)
    by_p[..., tied] = outcome[tied] * by_p[..., tied] - (1 - outcome[tied]) / q
    return told, (2 * eta - 1) * seen_up * (1 - seen_up) * by_p


def seen(mean_P: Array, variance_P: Array) -> Array:
    """The mean of sigmoid(d) over d ~ N(mean, variance) (MacKay 1992, equation 10)."""
    return expit(mean_P / np.sqrt(1 + np.pi / 8 * variance_P))


def inferred(votes: Comparisons, prior_A: Array, eta_R: Array, tau: float, start: Worth | None = None) -> Worth:
    """Sweeps over all comparisons at once, damped, with a step of beta and gamma in each."""
    eta_P, known_P2 = eta_R[votes.rater_P], np.stack([votes.differences(prior_A), votes.left_P], axis=1)
    parts = list(stacks(votes, votes.group_A[votes.first_P]))
    size = len(votes.first_P)
    pull_P, hold_P, slope_2 = (start.pull_P, start.hold_P, np.array([start.beta, start.gamma])) if start else (
        np.zeros(size), np.zeros(size), np.array([float(prior_A.any()), 0.0]))
    for _ in range(SWEEPS):
        mean_P, variance_P, curvature_22 = marginals(parts, pull_P, hold_P, tau, known_P2)
        away_P, spread_P = without(mean_P, variance_P, pull_P, hold_P)
        moments = tilted(away_P, spread_P, known_P2 @ slope_2, votes, eta_P)
        new_hold_P = np.maximum(1 / moments.variance_P - 1 / spread_P, 1e-6)
        new_pull_P = moments.mean_P * (new_hold_P + 1 / spread_P) - away_P / spread_P
        change = float(np.abs(new_pull_P - pull_P).max(initial=0.0))
        hold_P, pull_P = (DAMPING * new + (1 - DAMPING) * old
                          for new, old in ((new_hold_P, hold_P), (new_pull_P, pull_P)))
        uphill_2 = known_P2.T @ ((moments.mean_P - away_P) / spread_P) - slope_2 / SPREADS**2
        step_2 = DAMPING * np.linalg.solve(curvature_22, uphill_2)
        slope_2 = slope_2 + step_2 * min(1.0, 1.0 / max(1e-9, float(np.abs(step_2).max())))
        if change < TOLERANCE and float(np.abs(step_2).max()) < TOLERANCE:
            break
    mean_P, variance_P, curvature_22 = marginals(parts, pull_P, hold_P, tau, known_P2)
    own_A, volume = _own(votes, parts, pull_P, hold_P, tau)
    log_z = tilted(*without(mean_P, variance_P, pull_P, hold_P), known_P2 @ slope_2, votes, eta_P).log_z_P
    evidence = volume + float((log_z - _overlap(mean_P, variance_P, pull_P, hold_P)).sum())
    half = float(norm.ppf((1 + LEVEL) / 2) * np.sqrt(np.linalg.inv(curvature_22)[1, 1]))
    beta, gamma = float(slope_2[0]), float(slope_2[1])
    interval = (gamma - half, gamma + half) if votes.left_P.any() else None
    return Worth(beta * prior_A + own_A, beta, gamma, interval, tau, evidence,
                 pull_P, hold_P, known_P2 @ slope_2)


@dataclass(frozen=True)
class Moments:
    """Of a cavity times its comparison's likelihood."""

    log_z_P: Array
    mean_P: Array
    variance_P: Array


def tilted(away_P: Array, spread_P: Array, offset_P: Array, votes: Comparisons, eta_P: Array) -> Moments:
    own_PQ = away_P[:, None] + np.sqrt(spread_P)[:, None] * NODES_Q
    p_PQ = (1 - eta_P)[:, None] + (2 * eta_P - 1)[:, None] * expit(own_PQ + offset_P[:, None])
    told_PQ = np.log(p_PQ)
    tied_P = votes.outcome_P < 1
    told_PQ[tied_P] = (told_PQ[tied_P] + np.log1p(-p_PQ[tied_P])) / 2
    log_PQ = votes.said_P[:, None] * told_PQ + LOG_WEIGHTS_Q
    top_P = log_PQ.max(axis=1)
    mass_PQ = np.exp(log_PQ - top_P[:, None])
    total_P = mass_PQ.sum(axis=1)
    mean_P = (mass_PQ * own_PQ).sum(axis=1) / total_P
    variance_P = (mass_PQ * (own_PQ - mean_P[:, None]) ** 2).sum(axis=1) / total_P
    return Moments(top_P + np.log(total_P), mean_P, np.maximum(variance_P, 1e-6))


def without(mean_P: Array, variance_P: Array, pull_P: Array, hold_P: Array) -> tuple[Array, Array]:
    """Mean and variance of d where each comparison's own factor is taken away."""
    spread_P = 1 / np.maximum(1 / variance_P - hold_P, 1e-6)
    return spread_P * (mean_P / variance_P - pull_P), spread_P


def _overlap(mean_P: Array, variance_P: Array, pull_P: Array, hold_P: Array) -> Array:
    """log of the mean of exp(pull * d - hold * d^2 / 2) over the cavity."""
    away_P, spread_P = without(mean_P, variance_P, pull_P, hold_P)
    both_P = 1 / spread_P + hold_P
    return (-np.log(spread_P * both_P) + (away_P / spread_P + pull_P) ** 2 / both_P - away_P**2 / spread_P) / 2


def marginals(parts: Sequence[Stack], pull_P: Array, hold_P: Array, tau: float,
              known_P2: Array) -> tuple[Array, Array, Array]:
    """Mean and variance of own_i - own_j, of each comparison; and the curvature of the log evidence by beta and gamma,
    what the answers are worth of their own integrated out."""
    mean_P, variance_P = np.empty(len(pull_P)), np.empty(len(pull_P))
    curvature_22 = np.diag(SPREADS**-2.0) + known_P2.T @ (hold_P[:, None] * known_P2)
    for part in parts:
        covariance, mean = part.posterior(pull_P[part.rows], hold_P[part.rows], tau)
        mean_P[part.rows], variance_P[part.rows] = part.gaps(covariance, mean)
        cross_NK2 = np.stack([part.pulled(hold_P[part.rows] * column[part.rows]) for column in known_P2.T], axis=-1)
        curvature_22 -= np.einsum("nka,nkl,nlb->ab", cross_NK2, covariance, cross_NK2, optimize=True)
    return mean_P, variance_P, curvature_22


def _own(votes: Comparisons, parts: Sequence[Stack], pull_P: Array, hold_P: Array, tau: float) -> tuple[Array, float]:
    """The posterior mean own_A, and the log volume of the Gaussian product."""
    own_A, volume = np.zeros(len(votes.group_A)), 0.0
    starts_G = np.searchsorted(votes.group_A, np.arange(int(votes.group_A[-1]) + 1))
    for part in parts:
        covariance, mean_NK = part.posterior(pull_P[part.rows], hold_P[part.rows], tau)
        own_A[starts_G[part.group_N][:, None] + np.arange(part.size)] = mean_NK
        volume += float((np.linalg.slogdet(covariance)[1] - 2 * part.size * np.log(tau)).sum()) / 2
        volume += float((mean_NK * part.pulled(pull_P[part.rows])).sum()) / 2
    return own_A, volume


@dataclass(frozen=True)
class Stack:
    """N problems of K answers each: comparison p is of answers first_p and second_p of problem slot_p."""

    rows: Places
    slot: Places
    first: Places
    second: Places
    group_N: Places
    size: int

    def pulled(self, pull: Array) -> Array:
        """pull_NK: each comparison's, to its first and from its second."""
        count, at = len(self.group_N) * self.size, self.slot * self.size
        to_first, to_second = (np.bincount(at + one, pull, count) for one in (self.first, self.second))
        return np.asarray(to_first - to_second, dtype=np.float64).reshape(-1, self.size)

    def held(self, hold: Array) -> Array:
        """hold_NKK: the precision that the comparisons add."""
        count, size = len(self.group_N), self.size
        flat = np.zeros(count * size * size)
        at = self.slot * size * size
        for one, other, sign in ((self.first, self.first, 1), (self.second, self.second, 1),
                                 (self.first, self.second, -1), (self.second, self.first, -1)):
            flat += np.bincount(at + one * size + other, sign * hold, len(flat))
        return flat.reshape(count, size, size)

    def posterior(self, pull: Array, hold: Array, tau: float) -> tuple[Array, Array]:
        """covariance_NKK and mean_NK of own."""
        return solved(self.held(hold), self.pulled(pull), tau)

    def gaps(self, covariance: Array, mean: Array) -> tuple[Array, Array]:
        """Mean and variance of each comparison's gap."""
        n, i, j = self.slot, self.first, self.second
        return mean[n, i] - mean[n, j], covariance[n, i, i] + covariance[n, j, j] - 2 * covariance[n, i, j]


def solved(hold_NKK: Array, pull_NK: Array, tau: float) -> tuple[Array, Array]:
    """covariance_NKK and mean_NK of own, from what comparisons hold and pull."""
    covariance_NKK = np.linalg.inv(hold_NKK + np.eye(hold_NKK.shape[-1]) / tau**2).astype(np.float64, copy=False)
    return covariance_NKK, np.einsum("nkl,nl->nk", covariance_NKK, pull_NK)


def stacks(votes: Comparisons, problem_P: Places) -> Iterator[Stack]:
    """The comparisons by problem (each within one group), problems of one size together, as much as memory likes."""
    starts_G = np.searchsorted(votes.group_A, np.arange(int(votes.group_A[-1]) + 2))
    group_P = votes.group_A[votes.first_P]
    size_P = np.diff(starts_G)[group_P]
    for size in np.unique(size_P):
        rows = np.flatnonzero(size_P == size)
        rows = rows[np.argsort(problem_P[rows], kind="stable")]
        _, slots = np.unique(problem_P[rows], return_inverse=True)
        many = max(1, STACK // int(size) ** 2)
        for part in range(0, int(slots[-1]) + 1, many):
            own = (slots >= part) & (slots < part + many)
            at, slot = rows[own], slots[own] - part
            group_N = group_P[at][np.searchsorted(slot, np.arange(slot[-1] + 1))]
            start = starts_G[group_P[at]]
            yield Stack(at, slot, votes.first_P[at] - start, votes.second_P[at] - start, group_N, int(size))


def cavities(votes: Comparisons, found: Worth) -> Array:
    """p_P that the first is seen to be the better, by what all but the comparison's rater said of the answers, and
    with the position bias of the usual rater.

    With gamma instead, one who always picks the left would be the only one who does as expected: gamma would feed on
    such votes, and all the others come to seem careless.
    """
    group_P = votes.group_A[votes.first_P]
    whole_G = {int(group): both for stack in stacks(votes, group_P)
               for group, *both in zip(stack.group_N, stack.held(found.hold_P[stack.rows]),
                                       stack.pulled(found.pull_P[stack.rows]), strict=True)}
    mean_P, variance_P = found.offset_P - found.gamma * votes.left_P, np.empty(len(group_P))
    for stack in stacks(votes, group_P * len(votes.raters) + votes.rater_P):
        hold, pull = found.hold_P[stack.rows], found.pull_P[stack.rows]
        others = np.stack([whole_G[int(group)][0] for group in stack.group_N]) - stack.held(hold)
        pulled = np.stack([whole_G[int(group)][1] for group in stack.group_N]) - stack.pulled(pull)
        own_P, variance_P[stack.rows] = stack.gaps(*solved(others, pulled, found.tau))
        mean_P[stack.rows] += own_P
    return seen(mean_P + usual_bias(votes, seen(mean_P, variance_P)) * votes.left_P, variance_P)


def usual_bias(votes: Comparisons, seen_P: Array) -> float:
    """The median over raters, by what they tell of it, of how far each leans to the left of what others see; each
    estimated by one Newton step from a normal prior, and so near 0 where the rater said little."""
    lean_R, told_R = (np.bincount(votes.rater_P, own_P, len(votes.raters)) for own_P in (
        votes.left_P * (votes.outcome_P - seen_P), votes.left_P**2 * seen_P * (1 - seen_P)))
    bias_R = lean_R / (told_R + LEANING**-2)
    order_R = np.argsort(bias_R)
    below_R = np.cumsum(told_R[order_R])
    return float(bias_R[order_R][np.searchsorted(below_R, below_R[-1] / 2)])
