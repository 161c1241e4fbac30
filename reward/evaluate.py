"""How good a reward model is on judgements it did not learn from: figures with intervals, as a report can hold them.

Every interval is a bootstrap over prompts, each of which brings all of its pairs: pairs of one prompt share answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.records import STRENGTHS

from . import calibration
from .calibration import Array
from .held_out import HeldOut, agreements, null

DRAWS = 1000
SHOWN = 50  # slices of one kind
BY_LENGTH = ("much shorter won", "shorter won", "about as long", "longer won", "much longer won")
QUARTERS = ("least sure", "less sure", "more sure", "most sure")
THIRDS = ("members agree", "in between", "members disagree")
LENGTH_EDGES = np.log([0.5, 0.8, 1.25, 2.0])
Figure = dict[str, float]


def report(held: HeldOut, baselines: Mapping[str, Array], trained_by: frozenset[str], seed: int = 0) -> dict[str, Any]:
    """Everything that can be said of pairs with their scores. `baselines` are other scores_E of the same entries;
    `trained_by` are the raters that the model learned from."""
    temperatures_P, temperature = out_of_fold(held)
    told = Told(held, seed)
    right_P = ordered(held, held.scores_E)
    confidence_P, correct_P = calibration.confidence(held.gaps_P, temperatures_P, held.eta_P)
    chance = null(held, temperatures_P, calibration.ece, seed=seed)
    return {
        "pairs": held.gaps_P.size, "prompts": int(np.unique(held.prompt_P).size), "judgements": len(held.raters),
        "raters": len(set(held.raters)),
        "accuracy": told.mean(right_P),
        "log_loss": told.mean(calibration.log_loss(held.gaps_P, temperatures_P, held.eta_P)),
        "log_loss_before_temperature": told.mean(calibration.log_loss(held.gaps_P, 1.0, held.eta_P)),
        "brier": told.mean(calibration.brier(held.gaps_P, temperatures_P, held.eta_P)),
        "temperature": temperature,
        "ece": told.ece(confidence_P, correct_P) | {
            "chance": float(chance.mean()), "chance_95": float(np.quantile(chance, 0.95))},
        "ece_before_temperature": calibration.ece(*calibration.confidence(held.gaps_P, 1.0, held.eta_P)),
        "diagram": [vars(one) for one in calibration.diagram(confidence_P, correct_P)],
        "agreement": told.agreement(),
        "baselines": {name: told.against(right_P, ordered(held, scores_E))
                      for name, scores_E in {"longer is better": held.words_E, **baselines}.items()},
        "slices": slices(held, told, right_P, trained_by),
    }


def ordered(held: HeldOut, scores_E: Array) -> Array:
    """1 for each pair that these scores order as the rater did, 1/2 for equal scores, 0 for the opposite."""
    return 0.5 + 0.5 * np.sign(scores_E[held.better_P] - scores_E[held.worse_P])


class Told:
    """Figures of pairs with intervals, all over the same draws of prompts."""

    def __init__(self, held: HeldOut, seed: int) -> None:
        self.held, self.prompts = held, len(held.groups)
        drawn = np.random.default_rng(seed).integers(0, self.prompts, (DRAWS, self.prompts))
        self.times_DN = np.stack([np.bincount(one, minlength=self.prompts) for one in drawn]).astype(np.float32)

    def summed(self, values_P: Array, prompt_P: NDArray[np.intp] | None = None) -> Array:
        """The sum of each draw, of values by prompt."""
        where = self.held.prompt_P if prompt_P is None else prompt_P
        return self.times_DN @ np.bincount(where, values_P, self.prompts).astype(np.float64)

    def share(self, of_P: Array, among_P: Array, prompt_P: NDArray[np.intp] | None = None) -> Figure:
        """sum(of) / sum(among), and its interval."""
        drawn_D, all_D = self.summed(of_P, prompt_P), self.summed(among_P, prompt_P)
        return estimate(float(of_P.sum() / among_P.sum()), drawn_D[all_D > 0] / all_D[all_D > 0])

    def mean(self, values_P: Array, among_P: Array | None = None) -> Figure:
        among_P = np.ones_like(values_P) if among_P is None else among_P
        return self.share(values_P * among_P, among_P)

    def against(self, ours_P: Array, theirs_P: Array) -> dict[str, Figure]:
        """A baseline's accuracy, and how far ours is ahead of it on the same pairs."""
        return {"accuracy": self.mean(theirs_P), "ahead": self.mean(ours_P - theirs_P)}

    def ece(self, confidence_P: Array, correct_P: Array) -> Figure:
        bins = calibration.in_bins(confidence_P)
        off_DB = np.stack([self.summed((confidence_P - correct_P) * (bins == n)) for n in range(calibration.BINS)], 1)
        pairs_D = self.summed(np.ones_like(confidence_P))
        return estimate(calibration.ece(confidence_P, correct_P), np.abs(off_DB).sum(1) / np.maximum(pairs_D, 1))

    def agreement(self) -> Figure | None:
        """How often two raters who decided on the same two answers chose alike: what a model can hope for."""
        prompt, agreed, pairs = agreements(self.held)
        return self.share(agreed, pairs, prompt) | {"pairs": float(pairs.sum())} if pairs.size else None

    def slice(self, name: str, right_P: Array, own_P: NDArray[np.bool_]) -> dict[str, Any]:
        return {"name": name, "pairs": int(own_P.sum()), "prompts": int(np.unique(self.held.prompt_P[own_P]).size),
                "accuracy": self.mean(right_P, own_P.astype(np.float64))}


def estimate(value: float, drawn_D: Array, level: float = 0.95) -> Figure:
    low, high = np.quantile(drawn_D, [(1 - level) / 2, (1 + level) / 2])
    return {"value": value, "low": float(low), "high": float(high)}


def out_of_fold(held: HeldOut) -> tuple[Array, float]:
    """temperature_P, of each half of the prompts fitted on the other half, and the one fitted on all.

    A temperature judged on the pairs it was fitted on would flatter the model.
    """
    half_P = held.prompt_P % 2 == 0
    everywhere = calibration.temperature(held.gaps_P, held.eta_P)
    halves = [calibration.temperature(held.gaps_P[own], held.eta_P[own]) if own.any() else everywhere
              for own in (~half_P, half_P)]
    return np.where(half_P, *halves), everywhere


def slices(held: HeldOut, told: Told, right_P: Array, trained_by: frozenset[str]) -> dict[str, list[dict[str, Any]]]:
    """Accuracy by stratum, confidence, length, strength and rater: the largest of each kind."""
    raters = np.array(held.raters)[held.judgement_P]
    strata = np.array([held.groups[n].prompt.stratum for n in held.prompt_P])
    strength = np.array(held.strengths)[held.judgement_P]
    confidence_P = calibration.sigmoid(np.abs(held.gaps_P))

    edges = np.quantile(confidence_P, [0.25, 0.5, 0.75])
    quarter_P = np.digitize(confidence_P, edges)

    def by(names: Sequence[str], of: Callable[[str], NDArray[np.bool_]]) -> list[dict[str, Any]]:
        return [told.slice(name, right_P, own) for name in names if (own := of(name)).any()]

    found = {
        "stratum": by(largest(strata[strata != ""]), lambda name: strata == name),
        "length": by(BY_LENGTH, lambda name: np.digitize(held.longer_P, LENGTH_EDGES) == BY_LENGTH.index(name)),
        "strength": by(STRENGTHS, lambda name: strength == name),
        "rater": by(largest(raters), lambda name: raters == name),
        "confidence": by(QUARTERS, lambda name: quarter_P == QUARTERS.index(name)),
    }
    if held.spread_E.any():
        apart_P = held.spread_E[held.better_P] + held.spread_E[held.worse_P]
        third_P = np.digitize(apart_P, np.quantile(apart_P, [1 / 3, 2 / 3]))
        found["disagreement"] = by(THIRDS, lambda name: third_P == THIRDS.index(name))
    unseen = np.array([one not in trained_by for one in raters])
    if unseen.any() and not unseen.all():
        found["raters"] = [told.slice("raters it learned from", right_P, ~unseen),
                           told.slice("raters it never saw", right_P, unseen)]
    return {name: own for name, own in found.items() if own}


def largest(names_P: NDArray[np.str_]) -> list[str]:
    names, counts = np.unique(names_P, return_counts=True)
    return [str(one) for one in names[np.argsort(-counts, kind="stable")][:SHOWN]]
