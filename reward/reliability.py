"""How far each rater can be relied on, estimated together with what the answers are worth. Pure arithmetic.

A rater of reliability eta, who sees a gap d between two answers, puts the first above with probability
eta * sigmoid(d) + (1 - eta) * (1 - sigmoid(d)); a tie is half of either. eta has a Beta prior over raters, whose mean
is over 1/2: most people mean what they say, or everything could as well be read the other way round.

What the answers are worth, given the etas, is inferred in worth.py; the etas, given that, are a posterior on a grid.
But what a rater's own votes shaped must not vouch for that rater: the votes of each are judged by the cavity, what all
the others (and a model that did not see this prompt) say of the answers, with all its uncertainty. The Beta prior is
the one under which the raters' votes are most probable (empirical Bayes), tau likewise by the evidence of worth.py.

Dimensions as in comparisons.py, and E points of eta's grid.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln
from scipy.stats import norm

from .comparisons import Array, Comparisons
from .worth import LEVEL, Worth, cavities, inferred

TRUSTED = 0.98  # the reliability of a trusted rater, and the most that anyone is believed to have
GRID_E = np.linspace(1 - TRUSTED, TRUSTED, 97)
TAUS = (0.25, 0.5, 1.0, 1.5, 2.0)
ROUNDS = 5
EARLY = 2  # rounds with tau = 1, in which the etas leave their common start: before that, agreement looks like chance


@dataclass(frozen=True)
class Beta:
    """A prior over reliabilities by its mean and by how many sure observations it counts for."""

    mean: float
    strength: float

    def log_density(self) -> Array:
        """Of each point of the grid, up to the grid's spacing."""
        a, b = self.mean * self.strength, (1 - self.mean) * self.strength
        return (a - 1) * np.log(GRID_E) + (b - 1) * np.log1p(-GRID_E) - betaln(a, b)


PRIORS = tuple(Beta(mean, strength) for mean in (0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.94, 0.97)
               for strength in (2.0, 4.0, 8.0, 16.0, 32.0, 64.0))


@dataclass(frozen=True)
class Fit:
    """Reliabilities with their intervals (95%), their prior, the answers' worth, and others_P: how probable it was to
    the others that the first of two answers is seen to be the better."""

    names: tuple[str, ...]
    eta_R: Array
    low_R: Array
    high_R: Array
    prior: Beta
    worth: Worth
    others_P: Array


def fitted(votes: Comparisons, prior_A: Array, trusted: Collection[str] = (), start: Fit | None = None) -> Fit:
    """Alternate between what the answers are worth and whom to believe; from where an earlier fit of these votes, with
    other scores, came to, if there is one."""
    sure_R = np.isin(votes.raters, list(trusted))
    # Where some are trusted, they alone say which way is up, and then who else is with them.
    eta_R = start.eta_R if start else np.where(sure_R, TRUSTED, 0.5 if sure_R.any() else 0.85)
    found = inferred(votes, prior_A, eta_R, start.worth.tau if start else 1.0)
    for turn in range(EARLY if start else 0, ROUNDS):
        if turn:
            taus = TAUS if turn in (EARLY, ROUNDS - 1) else (found.tau,)
            found = max((inferred(votes, prior_A, eta_R, tau, found) for tau in taus), key=_believed)
        others_P = cavities(votes, found)
        told_RE = likelihoods(votes, others_P)
        prior = empirical(told_RE[~sure_R])
        eta_R, low_R, high_R = posteriors(told_RE, prior)
        eta_R, low_R, high_R = (np.where(sure_R, TRUSTED, own_R) for own_R in (eta_R, low_R, high_R))
    return Fit(votes.raters, eta_R, low_R, high_R, prior, found, others_P)


def _believed(found: Worth) -> float:
    """The evidence, and that answers differ by about 1 nat of their own, give or take a third: few votes can hardly
    tell large differences seen by careless raters from small ones seen by careful ones."""
    return found.evidence + float(norm.logpdf(np.log(found.tau), 0.0, 0.35))


def likelihoods(votes: Comparisons, others_P: Array) -> Array:
    """log likelihood_RE of each rater's votes at each reliability of the grid, others_P being as the others see it."""
    told_RE = np.zeros((len(votes.raters), len(GRID_E)))
    p_PE = (1 - GRID_E) + (2 * GRID_E - 1) * others_P[:, None]
    y_P1 = votes.outcome_P[:, None]
    log_PE = votes.said_P[:, None] * (y_P1 * np.log(p_PE) + (1 - y_P1) * np.log1p(-p_PE))
    np.add.at(told_RE, votes.rater_P, log_PE)
    return told_RE


def empirical(told_RE: Array) -> Beta:
    """The Beta prior under which the raters' votes are most probable, each rater's reliability integrated out."""
    if not len(told_RE):
        return Beta(0.85, 8.0)
    return max(PRIORS, key=lambda one: float(_log_sum(told_RE + one.log_density()).sum()) + _hyper(one))


def _hyper(prior: Beta) -> float:
    """A gentle pull towards 0.85 and 8, as strong as two raters: it decides where there are hardly any."""
    return float(2 * (norm.logpdf(prior.mean, 0.85, 0.1) + norm.logpdf(np.log(prior.strength), np.log(8), 1.0)))


def _log_sum(values_RE: Array) -> Array:
    top_R = values_RE.max(axis=1)
    return top_R + np.log(np.exp(values_RE - top_R[:, None]).sum(axis=1))


def posteriors(told_RE: Array, prior: Beta, level: float = LEVEL) -> tuple[Array, Array, Array]:
    """Mean and interval_R of each rater's reliability."""
    log_RE = told_RE + prior.log_density()
    mass_RE = np.exp(log_RE - _log_sum(log_RE)[:, None])
    below_RE = np.cumsum(mass_RE, axis=1)
    low_R, high_R = (GRID_E[(below_RE < share).sum(axis=1).clip(max=len(GRID_E) - 1)]
                     for share in ((1 - level) / 2, (1 + level) / 2))
    return mass_RE @ GRID_E, low_R, high_R
