"""Simulated raters of several kinds, who rank the demo's answers; the README says plainly that they are made up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from random import Random

from prefloop.records import Prompt

from .grammar import truth


@dataclass(frozen=True)
class Rater:
    """How one rater feels about an answer: weights on its truth, its length and its place, and chance."""

    name: str
    kind: str
    care: float = 1.0
    noise: float = 0.4
    per_word: float = 0.0
    leftness: float = 0.0
    # Answers that feel closer than this are a tie.
    tie: float = 0.25


CAREFUL = Rater("", "careful")
NOISY = Rater("", "noisy", noise=2.0)
LONG = Rater("", "long", care=0.5, noise=0.5, per_word=0.15)
LEFT = Rater("", "left", care=0.5, noise=0.5, leftness=1.5)
RANDOM = Rater("", "random", care=0.0, noise=1.0)
MIX = ((CAREFUL, 8), (NOISY, 6), (LONG, 2), (LEFT, 2), (RANDOM, 2))


def utility(rater: Rater, prompt: Prompt, answer: str, place: int, rng: Random) -> float:
    """How much the rater likes an answer shown at `place`, counted from the left."""
    return (rater.care * truth(prompt, answer) + rater.per_word * len(answer.split())
            - rater.leftness * place + rng.gauss(0.0, rater.noise))


def rank(rater: Rater, prompt: Prompt, shown: list[str], rng: Random) -> list[int]:
    """The rank of each answer in the order shown: 1 is best, and answers that feel alike tie with their neighbour."""
    felt = [utility(rater, prompt, answer, place, rng) for place, answer in enumerate(shown)]
    order = sorted(range(len(shown)), key=lambda place: -felt[place])
    ranks = [1] * len(shown)
    for above, below in pairwise(order):
        ranks[below] = ranks[above] + (felt[above] - felt[below] >= rater.tie)
    return ranks


def crew(seed: int) -> list[Rater]:
    """Twenty raters of all kinds. The names do not tell the kind, and the seed decides who is who."""
    kinds = [kind for kind, count in MIX for _ in range(count)]
    Random(seed).shuffle(kinds)
    return [Rater(f"rater-{number:02d}", kind.kind, kind.care, kind.noise, kind.per_word, kind.leftness, kind.tie)
            for number, kind in enumerate(kinds, start=1)]
