"""What a comparison is made of: questions, everybody's answers, and what judges said of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.records import Prompt

HELD_OUT = "held out"  # the set that the verdict is about
PEOPLE = "people"  # the judge who is everybody that voted


@dataclass(frozen=True)
class Question:
    """A prompt that every contestant answers. `set` is HELD_OUT, or the name of another set (near, far, typos ...);
    `of` is then the number of the question that it is a variant of, where it is one. `reference` is a right answer.
    """

    prompt: Prompt
    set: str = HELD_OUT
    reference: str = ""
    of: int | None = None


@dataclass(frozen=True)
class Answer:
    """One sample. `ended` is false where it was cut at sampling.max_new_tokens. `kl` is log p_run - log p_baseline of
    it in nats, where the two read the same tokens."""

    text: str
    tokens: int
    ended: bool
    kl: float | None = None

    @property
    def empty(self) -> bool:
        return not self.text.strip()


def by_rule(first: Answer, second: Answer) -> float | None:
    """1 where the first wins, 0 where it loses, 1/2 for a tie: the same text is a tie, and an empty answer loses
    against one that is not. None: somebody has to judge."""
    if first.text == second.text or (first.empty and second.empty):
        return 0.5
    return float(second.empty) if first.empty or second.empty else None


def length_gap(first: Answer, second: Answer) -> float:
    """log(tokens of the first / tokens of the second); 0 where either is empty."""
    if first.empty or second.empty or not (first.tokens and second.tokens):
        return 0.0
    return math.log(first.tokens / second.tokens)


@dataclass(frozen=True)
class Contestant:
    """A checkpoint and its answers, QK: `answers[q][k]` is sample k of question q. `key` tells it from others: its
    checksum. `facts` are figures of its own: cost, adapter size, lineage. `references[q]` is -log p of the question's
    reference in nats, and its tokens; empty where that was not asked for."""

    name: str
    key: str
    answers: tuple[tuple[Answer, ...], ...]
    facts: dict[str, Any] = field(default_factory=dict)
    references: tuple[tuple[float, int] | None, ...] = ()


@dataclass(frozen=True)
class Rewards:
    """What one reward model gave: `scores[c][q]` has a number for each answer of contestant c to question q, and is
    empty where somebody's answer is longer than the model reads. `spreads` are those of an ensemble, or nothing.
    `recorded` are the rewards of former good answers, by the number of the question that must pass."""

    name: str
    checksum: str
    scores: tuple[tuple[tuple[float, ...], ...], ...]
    spreads: tuple[tuple[tuple[float, ...], ...], ...] = ()
    recorded: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Contests:
    """D contests between two of the `players` on a question, judged by somebody.

    `prompt_D` is the question's number, `rater_D` a number for who said it (-1: nobody, it is so by rule), `first_D`
    and `second_D` are players, `won_D` is 1 where the first won, 0 where it lost, 1/2 for a tie. `gap_D` is
    log(tokens of the first / tokens of the second), 0 where either is empty. Each pair of players stands once for a
    vote, in either order.
    """

    players: tuple[str, ...]
    raters: tuple[str, ...]
    prompt_D: NDArray[np.int64]
    rater_D: NDArray[np.int64]
    first_D: NDArray[np.int64]
    second_D: NDArray[np.int64]
    won_D: NDArray[np.float64]
    gap_D: NDArray[np.float64]
    asked: int = 0  # verdicts that were wanted of this judge and did not come

    def __len__(self) -> int:
        return len(self.won_D)

    def where(self, kept: Sequence[bool]) -> Contests:
        """Only the contests for which `kept` is true."""
        mask_D = np.array(kept, dtype=bool)
        return replace(self, **{name: getattr(self, name)[mask_D] for name in (
            "prompt_D", "rater_D", "first_D", "second_D", "won_D", "gap_D")})


@dataclass(frozen=True)
class Judge:
    """Who judged. `kind` is people, ai or reward; a reward model is the `proxy` that the policies may have been
    trained on, or one that they have not seen."""

    name: str
    kind: str
    contests: Contests
    proxy: bool = False
