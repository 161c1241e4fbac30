"""What a comparison is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class CompareConfig:
    """`compare:`. The first of `runs` is the baseline; `sweep` or `answers` take their place. `out` is a folder;
    without it the files go to the run's."""

    runs: list[str] = field(default_factory=list)
    sweep: str = ""
    answers: list[str] = field(default_factory=list)
    reward: str = ""
    second: list[str] = field(default_factory=list)
    votes: list[str] = field(default_factory=list)
    by: Literal["auto", "people", "reward", "second", "ai"] = "auto"
    out: str = ""
    cache: str = ""
    split: str = "test"
    limit: int | None = 200
    near: str = ""
    far: str = ""
    robust: list[str] = field(default_factory=list)
    must_pass: str = ""
    allow_overlap: bool = False
    shared_only: bool = False
    level: float = 0.95
    effect: float = 0.55
    planned_votes: int | None = None
    length_gate: bool = True
    max_kl: float | None = None
    max_tokens_ratio: float | None = None

    def __post_init__(self) -> None:
        _require_runs(self)
        if self.limit is not None and self.limit < 1:
            raise ValueError("compare.limit is at least 1")
        if not 0 < self.level < 1:
            raise ValueError("compare.level is between 0 and 1")
        if not 0.5 < self.effect < 1:
            raise ValueError("compare.effect is a win rate between 0.5 and 1, such as 0.55")
        if self.planned_votes is not None and self.planned_votes < 1:
            raise ValueError("compare.planned_votes is at least 1")
        if self.max_kl is not None and self.max_kl <= 0:
            raise ValueError("compare.max_kl is above 0")
        if self.max_tokens_ratio is not None and self.max_tokens_ratio <= 0:
            raise ValueError("compare.max_tokens_ratio is above 0")


def _require_runs(asked: CompareConfig) -> None:
    idle = [name for name in ("sweep", "second", "near", "far", "robust", "must_pass") if getattr(asked, name)]
    if asked.answers and idle:
        raise ValueError(f"compare.answers judges what was sampled and scored then, without compare.{idle[0]}: name "
                         "one of the two (what was sampled is kept, so comparing the runs again is quick)")
    for name in ("runs", "answers", "second", "votes", "robust"):
        if not all(isinstance(one, str) and one for one in getattr(asked, name)):
            raise ValueError(f"compare.{name} is a list of names: compare.{name}=[a,b]")
    if len(asked.runs) < 2 and not asked.sweep and not asked.answers:
        raise ValueError("compare.runs names two or more runs, the baseline first: compare.runs=[runs/a,runs/b]")
    places = [str(Path(one).resolve()) for one in asked.runs]
    twice = next((one for n, one in enumerate(asked.runs) if places[n] in places[:n]), None)
    if twice:
        raise ValueError(f"compare.runs names {twice} twice")


@dataclass(frozen=True)
class PromptSource:
    """`data:` names the snapshot whose prompts are answered."""

    path: str = ""


@dataclass(frozen=True)
class HoldConfig:
    """`model:` says how the bases are held; which they are, the runs say."""

    four_bit: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
