"""Simulated raters of several kinds, who rank the demo's answers; the README says plainly that they are made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

from prefloop.records import Prompt

from .grammar import truth


@dataclass(frozen=True)
class Rater:
    """How one rater feels about an answer: weights on its truth, its length and its place, and chance.

    `tiring` is by how much chance grows with every ranking that they have done.
    """

    name: str
    kind: str
    care: float = 1.0
    noise: float = 0.4
    per_word: float = 0.0
    leftness: float = 0.0
    # Answers that feel closer than this are a tie.
    tie: float = 0.25
    tiring: float = 0.0


CAREFUL = Rater("", "careful")
NOISY = Rater("", "noisy", noise=2.0)
LONG = Rater("", "long", care=0.5, noise=0.5, per_word=0.15)
LEFT = Rater("", "left", care=0.5, noise=0.5, leftness=1.5)
RANDOM = Rater("", "random", care=0.0, noise=1.0)
# Of benchmarks, beside these: who clicks what stands left, who sees only length, whose care fades, and who agree with
# each other on the opposite of what is true.
LEFTMOST = Rater("", "left-clicker", care=0.0, noise=0.3, leftness=2.0)
LONGEST = Rater("", "length-lover", care=0.0, noise=0.3, per_word=0.3)
TIRED = Rater("", "tired", noise=0.4, tiring=0.2)
COLLUDER = Rater("", "colluder", care=-1.0, noise=0.2)
MIX = ((CAREFUL, 8), (NOISY, 6), (LONG, 2), (LEFT, 2), (RANDOM, 2))


def utility(rater: Rater, prompt: Prompt, answer: str, place: int, rng: Random, done: int = 0) -> float:
    """How much the rater likes an answer shown at `place`, counted from the left, having ranked `done` before."""
    return (rater.care * truth(prompt, answer) + rater.per_word * len(answer.split())
            - rater.leftness * place + rng.gauss(0.0, rater.noise + rater.tiring * done))


def rank(rater: Rater, prompt: Prompt, shown: list[str], rng: Random, done: int = 0) -> list[int]:
    """The rank of each answer in the order shown: 1 is best, and answers that feel alike tie with their neighbour."""
    felt = [utility(rater, prompt, answer, place, rng, done) for place, answer in enumerate(shown)]
    order = sorted(range(len(shown)), key=lambda place: -felt[place])
    ranks = [1] * len(shown)
    for above, below in pairwise(order):
        ranks[below] = ranks[above] + (felt[above] - felt[below] >= rater.tie)
    return ranks


def crew(seed: int, mix: Sequence[tuple[Rater, int]] = MIX) -> list[Rater]:
    """Twenty raters of all kinds. The names do not tell the kind, and the seed decides who is who."""
    kinds = [kind for kind, count in mix for _ in range(count)]
    Random(seed).shuffle(kinds)
    return [replace(kind, name=f"rater-{number:02d}") for number, kind in enumerate(kinds, start=1)]
