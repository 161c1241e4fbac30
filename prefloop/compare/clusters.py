"""How far a figure may be from the truth, when votes share prompts and raters.

Votes on one prompt are alike, and so are the votes of one rater. Resamples of prompts, each with all its votes, know
of the first; where raters recur across prompts, the resamples' deviations are widened by what two-way clustering
finds (Cameron, Gelbach and Miller 2011: V_prompt + V_rater - V_vote), and by Student's t instead of the normal
(Satterthwaite 1946: a few raters are few clusters). An interval is never narrower than that of the resamples alone.

Dimensions: D contests, R resamples. An `influence_D` is each contest's part in a figure's deviation from the truth,
in the figure's unit: of a mean, (value - mean) / D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from prefloop import stats

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]

FEW = 10  # prompts; under this many an interval of a share is never narrower than the exact one

NONE = 1e-18  # a variance that is nothing but rounding


@dataclass(frozen=True)
class Spread:
    """A figure's variances: `clustered` as above, `prompts` as resamples of prompts see it, `votes` as if all contests
    were independent. `freedom` are the degrees of freedom of the first."""

    clustered: float
    prompts: float
    votes: float
    freedom: float

    def widening(self, level: float) -> float:
        """By what to multiply deviations of resamples, so that their quantiles are the interval's ends."""
        if self.prompts < NONE:
            return 1.0
        return self.student(level) * (self.clustered / self.prompts) ** 0.5

    def student(self, level: float) -> float:
        """How much further out Student's quantile is than the normal one."""
        tail = (1 - level) / 2
        return float(special.stdtrit(self.freedom, tail) / special.ndtri(tail))

    @property
    def design_effect(self) -> float:
        """How many votes say as much as one independent vote would; 1 where prompts do not differ, or there is one."""
        return self.clustered / self.votes if self.votes > 0 and self.clustered > NONE else 1.0


def spread(influence_D: Array, prompt_D: Numbers, rater_D: Numbers) -> Spread:
    """Sums of squares over prompts, over raters, and over what a rater said of a prompt. A `rater_D` under 0 is a
    rule, which has no taste: what it decided goes by its prompt alone, and is nothing that raters differ from."""
    said_D = rater_D >= 0
    vote_D = np.unique(np.stack([prompt_D, rater_D]), axis=1, return_inverse=True)[1].ravel()
    prompts = _sums(influence_D, prompt_D)
    together = _variance(prompts)
    shared = by_vote = 0.0  # of raters: what their votes on different prompts have in common, and of votes apart
    if said_D.any():
        own_D = influence_D[said_D] - influence_D[said_D].mean()
        by_vote = _variance(_sums(own_D, vote_D[said_D]))
        shared = max(0.0, _variance(_sums(own_D, rater_D[said_D])) - by_vote)
    # Of raters, the geometric mean of what they share and of all their variance: with all of it, a crew without tastes
    # of its own would pay for them; with the first alone, too few tastes are too readily believed.
    freedoms = max(1, len(prompts) - 1), max(1.0, _equal_parts(rater_D[said_D]) - 1)
    parts = together**2 / freedoms[0] + shared * (shared + by_vote) / freedoms[1]
    clustered = together + shared
    return Spread(clustered, float((prompts**2).sum()), _variance(influence_D),
                  clustered**2 / parts if parts else freedoms[0])


def _sums(influence_D: Array, group_D: Numbers) -> Array:
    """Of each group that occurs."""
    group_D = np.unique(group_D, return_inverse=True)[1].ravel()
    return np.bincount(group_D, weights=influence_D).astype(np.float64)


def _variance(sums_G: Array) -> float:
    """Of their total: one group says nothing of others."""
    groups = len(sums_G)
    return float((sums_G**2).sum() * groups / (groups - 1)) if groups > 1 else 0.0


def _equal_parts(group_D: Numbers) -> float:
    """How many groups of the same size are worth these (Kish 1965)."""
    sizes_G = np.unique(group_D, return_counts=True)[1]
    return float(sizes_G.sum() ** 2 / (sizes_G**2).sum()) if len(sizes_G) else 1.0


@dataclass(frozen=True)
class Resampled:
    """A figure, in the sample and in each resample of prompts, of so many prompts."""

    value: float
    values_R: Array
    spread: Spread
    prompts: int

    def interval(self, level: float) -> stats.Interval:
        """Quantiles of the widened resamples; a resample without any of the votes says nothing."""
        widened_R = self.value + self.spread.widening(level) * (self.values_R - self.value)
        low, high = np.nanquantile(widened_R, [(1 - level) / 2, (1 + level) / 2])
        return stats.Interval(float(low), float(high))

    def share(self, level: float) -> stats.Estimate:
        """Of a figure in 0..1. Where resamples know too little, the exact one is the least."""
        low, high = self.interval(level)
        if self.few:
            least, most = stats.exact(self.value * self.prompts, self.prompts, level)
            low, high = min(low, least), max(high, most)
        return stats.Estimate(self.value, max(0.0, low), min(1.0, high))

    def p(self) -> float:
        """Two-sided, that a share is one half."""
        variance, away = self.spread.clustered, abs(self.value - 0.5)
        p = 2 * float(special.stdtr(self.spread.freedom, -away / variance**0.5)) if variance > 0 else 0.0
        return max(p, stats.exact_p(self.value * self.prompts, self.prompts)) if self.few else p

    @property
    def few(self) -> bool:
        """Whether the resamples know too little: few prompts, or all of them said the same."""
        return self.prompts < FEW or self.spread.prompts < NONE
