"""Judgements that a reward model did not learn from: arrays of pairs with its scores, and draws of pure chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefloop.records import decided

from .calibration import Array, confidence, said
from .judgements import Group

Places = NDArray[np.intp]


@dataclass(frozen=True)
class HeldOut:
    """P decided pairs of judgements over N prompts; E entries, an answer in a judgement; A distinct answers.

    `better_P` and `worse_P` are entries; `gaps_P` is the score of the better less that of the worse. `same_P` numbers
    the two answers of a pair, whoever judged them, and `flipped_P` tells which of them was the better. `words_E` is
    the logarithm of an answer's words, `spread_E` how far an ensemble disagrees on it.
    """

    groups: Sequence[Group]
    prompt_P: Places
    judgement_P: Places
    better_P: Places
    worse_P: Places
    same_P: Places
    flipped_P: NDArray[np.bool_]
    answer_E: Places
    judgement_E: Places
    scores_E: Array
    words_E: Array
    spread_E: Array
    eta_J: Array
    raters: tuple[str, ...]  # of each judgement
    strengths: tuple[str, ...]

    @property
    def gaps_P(self) -> Array:
        return self.scores_E[self.better_P] - self.scores_E[self.worse_P]

    @property
    def eta_P(self) -> Array:
        """The reliability of who judged."""
        return self.eta_J[self.judgement_P]

    @property
    def longer_P(self) -> Array:
        """Log ratio of words, of the better to the worse."""
        return self.words_E[self.better_P] - self.words_E[self.worse_P]


def paired(groups: Sequence[Group], scores: Sequence[ArrayLike],
           spreads: Sequence[ArrayLike] | None = None) -> HeldOut:
    """All pairs of all judgements; `scores` (and the ensemble's `spreads`) are those of each group's texts."""
    pairs: list[tuple[int, ...]] = []
    entries: list[tuple[int | float, ...]] = []
    raters, strengths, reliabilities, known = [], [], [], {}
    answers = 0
    nothing = [np.zeros(len(group.texts)) for group in groups]
    for number, (group, given, apart) in enumerate(zip(groups, scores, spreads or nothing, strict=True)):
        own, own_spread = np.asarray(given), np.asarray(apart)
        words = [float(np.log1p(len(text.split()))) for text in group.texts]
        for own_judgement in group.judgements:
            first, places = len(entries), own_judgement.places
            entries += [(answers + n, len(raters), own[n], words[n], own_spread[n]) for n in places]
            for one, other in decided(own_judgement.ranks):
                low, high = sorted((places[one], places[other]))
                which = known.setdefault((number, low, high), len(known))
                pairs.append((number, len(raters), first + one, first + other, which, places[one] != low))
            raters.append(own_judgement.rater)
            reliabilities.append(own_judgement.reliability)
            strengths.append(own_judgement.strength or "")
        answers += len(group.texts)
    prompt, judgement, better, worse, same, flipped = np.array(pairs, dtype=np.intp).reshape(-1, 6).T
    answer, judged, score, length, spread = np.array(entries, dtype=np.float64).reshape(-1, 5).T
    return HeldOut(groups, prompt, judgement, better, worse, same, flipped.astype(bool), answer.astype(np.intp),
                   judged.astype(np.intp), score, length, spread, np.array(reliabilities), tuple(raters),
                   tuple(strengths))


def once(held: HeldOut) -> Places:
    """The pairs without those that a rater was asked again: the first each rater decided of the same two answers."""
    number = {name: n for n, name in enumerate(dict.fromkeys(held.raters))}
    rater_P = np.array([number[held.raters[n]] for n in held.judgement_P], dtype=np.intp)
    _, first = np.unique(np.stack([held.same_P, rater_P]), axis=1, return_index=True)
    return first


def agreements(held: HeldOut) -> tuple[Places, Array, Array]:
    """Of each two answers that two raters or more decided on: their prompt, how many pairs of raters agreed, and how
    many pairs of raters there are."""
    own, count = once(held), int(held.same_P.max(initial=-1)) + 1
    asked = np.bincount(held.same_P[own], minlength=count)
    one = np.bincount(held.same_P[own], held.flipped_P[own], minlength=count)
    prompt = np.zeros(count, dtype=np.intp)
    prompt[held.same_P] = held.prompt_P
    other = asked - one
    agreed, pairs = (one * (one - 1) + other * (other - 1)) / 2, asked * (asked - 1) / 2
    several = asked > 1
    return prompt[several], agreed[several], pairs[several].astype(np.float64)


def alike(held: HeldOut, temperature_P: Array) -> float:
    """How often a rater's choice comes from what raters have in common, beyond what the model's probabilities say.

    If each of two raters follows, with probability s, one draw that they share, they agree with probability
    s^2 + (1 - s^2)(p^2 + (1-p)^2): s is solved for from how often they do, on the pairs that several decided.
    """
    _, agreed, pairs = agreements(held)
    if not pairs.size:
        return 0.0
    own = once(held)
    sure = said(held.gaps_P[own], temperature_P[own], held.eta_P[own])
    others = np.bincount(held.same_P[own])[held.same_P[own]] - 1  # a pair of raters for each other rater
    expected = float((others * (sure**2 + (1 - sure) ** 2)).sum() / others.sum())
    shared = (float(agreed.sum() / pairs.sum()) - expected) / max(1 - expected, 1e-9)
    return float(np.sqrt(min(max(shared, 0.0), 1.0)))


def null(held: HeldOut, temperature_P: Array, figure: Callable[[Array, Array], float], draws: int = 400,
         seed: int = 0) -> Array:
    """`figure(confidence_P, correct_P)` where the model's probabilities are exactly right: D draws of it.

    Each judgement ranks its answers by score plus Gumbel noise, whose pairs have the probability sigmoid(gap) and
    belong together as the pairs of one ranking do (Yellott 1977). Raters of one prompt share a draw as often as they
    are alike: were they taken to be independent, chance would look smaller than it is. A rater of reliability eta
    turns a ranking round with probability 1 - eta.
    """
    rng = np.random.default_rng(seed)
    sure_P, _ = confidence(held.gaps_P, temperature_P, held.eta_P)
    preferred, other = _preferred(held)
    temperature_E = np.ones(held.scores_E.size)
    temperature_E[held.better_P], temperature_E[held.worse_P] = temperature_P, temperature_P
    share, judgements = alike(held, temperature_P), len(held.raters)
    found = np.empty(draws)
    for draw in range(draws):
        own_E = rng.gumbel(size=held.scores_E.size)
        common_E = rng.gumbel(size=int(held.answer_E.max(initial=0)) + 1)[held.answer_E]
        follows_E = (rng.random(judgements) < share)[held.judgement_E]
        felt_E = held.scores_E / temperature_E + np.where(follows_E, common_E, own_E)
        turned_P = (rng.random(judgements) > np.maximum(held.eta_J, 1 - held.eta_J))[held.judgement_P]
        found[draw] = figure(sure_P, ((felt_E[preferred] > felt_E[other]) != turned_P).astype(np.float64))
    return found


def _preferred(held: HeldOut) -> tuple[Places, Places]:
    """Of each pair, the entry that the model prefers, and the other."""
    right_P = held.gaps_P >= 0
    return np.where(right_P, held.better_P, held.worse_P), np.where(right_P, held.worse_P, held.better_P)
