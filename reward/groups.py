"""Rankings as a model reads them: each answer of a prompt once, as tokens, and what was said of them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prefloop.heads import OVERALL
from prefloop.records import STRENGTHS

from .judgements import Group, Judgement
from .loss import NOBODY, UNRANKED

Row = tuple[list[int], int]  # prompt and answer as tokens; where the answer begins


@dataclass(frozen=True)
class Tokens:
    """One group as token ids: a row for each answer, and the judgements."""

    prompt_id: str
    rows: tuple[Row, ...]
    judgements: tuple[Judgement, ...]

    @property
    def length(self) -> int:
        """Tokens to be read when the answers share their prompt."""
        return self.rows[0][1] + sum(len(ids) - start for ids, start in self.rows)


@dataclass(frozen=True)
class Encoded:
    """Groups that say something, the judgements in them, and how many judgements were left out for what reason."""

    groups: list[Tokens]
    rankings: int
    over_length: int
    undecided: int


def encoded(rows: Callable[[Group], list[Row | None]], groups: Iterable[Group],
            says: Callable[[Judgement], bool]) -> Encoded:
    """Groups as tokens; `rows` gives a row for each answer, None where it is over the limit.

    A judgement of such an answer, or one that says nothing, is left out and counted.
    """
    found: list[Tokens] = []
    used = over_length = undecided = 0
    for group in groups:
        own = rows(group)
        short = [one for one in group.judgements if all(own[place] is not None for place in one.places)]
        kept = [one for one in short if says(one)]
        over_length += len(group.judgements) - len(short)
        undecided += len(short) - len(kept)
        used += len(kept)
        if kept:
            found.append(_named(group.prompt.id, own, kept))
    return Encoded(found, used, over_length, undecided)


def _named(prompt_id: str, rows: Sequence[Row | None], judgements: Sequence[Judgement]) -> Tokens:
    """Without the answers that no judgement names."""
    named = sorted({place for one in judgements for place in one.places})
    place_of = {old: new for new, old in enumerate(named)}
    kept = tuple(row for place in named if (row := rows[place]) is not None)
    return Tokens(prompt_id, kept, tuple(replace(one, places=tuple(place_of[n] for n in one.places))
                                         for one in judgements))


def levels_of(judgement: Judgement, objective: str) -> list[int]:
    """1 for the best, and on without gaps; all NOBODY where the judgement says nothing of this objective."""
    given = judgement.ranks if objective == OVERALL else judgement.dimensions.get(objective)
    if given is None:
        return [NOBODY] * len(judgement.places)
    place_of = {rank: n for n, rank in enumerate(sorted({rank for rank in given if rank is not None}), start=1)}
    return [UNRANKED if rank is None else place_of[rank] for rank in given]


@dataclass(frozen=True)
class Judged:
    """J judgements over rows of a batch, padded to K answers; D objectives, E members of an ensemble.

    `shares_EJ`: what each counts for, so that the judgements of one prompt that weigh 1 sum to 1.
    """

    rows_JK: Tensor
    levels_DJK: Tensor
    offsets_JK: Tensor
    strength_J: Tensor
    none_J: Tensor
    reliability_J: Tensor
    shares_EJ: Tensor

    def to(self, where: torch.device) -> Judged:
        return Judged(*(getattr(self, name).to(where) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Batch:
    """Rows of several prompts on top of each other, and what was said of them."""

    rows: list[list[int]]
    starts: list[int]
    judged: Judged
    prompts: int


def collated(groups: Sequence[Tokens], objectives: Sequence[str], members: int = 1, seed: int = 0) -> Batch:
    rows, starts, judgements = [], [], []
    for group in groups:
        times = resampled(seed, members, group.prompt_id)
        judgements += [(one, len(rows), [one.weight * n / len(group.judgements) for n in times])
                       for one in group.judgements]
        rows += [ids for ids, _ in group.rows]
        starts += [start for _, start in group.rows]
    width = max(len(one.places) for one, _, _ in judgements)

    def padded(values: Iterable[float], filling: float = 0) -> list[float]:
        own = list(values)
        return own + [filling] * (width - len(own))

    judged = Judged(
        torch.tensor([padded(first + place for place in one.places) for one, first, _ in judgements]),
        torch.tensor([[padded(levels_of(one, name), NOBODY) for one, _, _ in judgements] for name in objectives]),
        torch.tensor([padded(one.offsets) for one, _, _ in judgements], dtype=torch.float32),
        torch.tensor([STRENGTHS.index(one.strength) if one.strength else -1 for one, _, _ in judgements]),
        torch.tensor([one.none_acceptable for one, _, _ in judgements]),
        torch.tensor([one.reliability for one, _, _ in judgements], dtype=torch.float32),
        torch.tensor([share for _, _, share in judgements], dtype=torch.float32).T)
    return Batch(rows, starts, judged, len(groups))


def resampled(seed: int, members: int, prompt_id: str) -> list[int]:
    """How often each member of an ensemble draws this prompt: a bootstrap of prompts, as independent Poisson(1) draws
    from the names alone (Oza and Russell 2001). A single model takes every prompt once."""
    if members == 1:
        return [1]
    drawn = []
    for member in range(members):
        name = hashlib.sha256(f"{seed}\x1f{member}\x1f{prompt_id}".encode()).digest()
        left, count, term = int.from_bytes(name[:8]) / 2**64, 0, math.exp(-1)
        while left >= term and count < 20:
            left, count = left - term, count + 1
            term /= count
        drawn.append(count)
    return drawn
