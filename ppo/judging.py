"""Who judges: the reward model whose scores PPO raises, and the second one that only watches (watch.py).

A reward run on the policy's own base, with its tokens, is one more adapter on the base in memory and reads the very
ids that were sampled. Any other reads text: an encoder, a linear model, an adapter elsewhere, or a server (served.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor

from prefloop import heads, models, scoring
from prefloop.chat import PROBES, Chat
from prefloop.errors import RequestError, RunError
from prefloop.models import Checkpoint, ModelConfig
from prefloop.records import Message, Prompt

from . import served
from .settings import RewardConfig

Texts = Mapping[tuple[int, ...], Prompt]  # the prompts of a run, by their ids


class Judge(Protocol):
    """Whoever can score sampled rows: prompt + answer ids, whose answers begin at `starts`."""

    def reads(self, rows: list[list[int]], starts: list[int]) -> list[bool]:
        """Of each row, whether its answer can be read whole."""
        ...

    def scores(self, rows: list[list[int]], starts: list[int], batch: int) -> Tensor:
        """Scaled rewards_R of rows that it can read, on the CPU; `batch` rows at a time where it holds a model."""
        ...


class Reader(Protocol):
    """The part of scoring.Scorer that a judge of texts needs; a server has it too."""

    def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> scoring.Scores: ...

    def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]: ...


@dataclass(frozen=True)
class OnBase:
    """An adapter on the policy's base, and its head."""

    model: PeftModel
    head: heads.Head
    role: str
    pad_id: int

    def reads(self, rows: list[list[int]], starts: list[int]) -> list[bool]:
        return [True] * len(rows)  # a row that fits the policy fits the base

    def scores(self, rows: list[list[int]], starts: list[int], batch: int) -> Tensor:
        return heads.score(self.model, self.head, self.role, rows, starts, self.pad_id, batch)


@dataclass(frozen=True)
class ThroughText:
    """A reward model with tokens of its own. What it says is centred by `shift` and divided by `scale`."""

    reader: Reader
    chat: Chat
    texts: Texts
    shift: float = 0.0
    scale: float = 1.0

    def reads(self, rows: list[list[int]], starts: list[int]) -> list[bool]:
        return self.reader.reads(self._asked(rows, starts))

    def scores(self, rows: list[list[int]], starts: list[int], batch: int) -> Tensor:
        asked = self._asked(rows, starts)
        once = list(dict.fromkeys(asked))
        said = self.reader.score(once, batch).mean_N.tolist()
        known = {one: (score - self.shift) / self.scale for one, score in zip(once, said, strict=True)}
        return torch.tensor([known[one] for one in asked])

    def _asked(self, rows: list[list[int]], starts: list[int]) -> list[tuple[Prompt, str]]:
        return [(self.texts[tuple(row[:start])], self.chat.text(row[start:]))
                for row, start in zip(rows, starts, strict=True)]


@dataclass(frozen=True)
class Found:
    """A reward model that was found and verified, and is not loaded yet. `lineage` is what the run's record says."""

    name: str
    lineage: dict[str, str]
    checkpoint: Checkpoint | None = None
    server: served.Server | None = None
    on_base: bool = False
    scaled: bool = True  # by itself; otherwise on the SFT model's answers

    @property
    def folder(self) -> Path:
        assert self.checkpoint is not None
        assert self.checkpoint.folder is not None
        return self.checkpoint.folder


def find(config: RewardConfig, policy: Checkpoint) -> Found:
    """The reward model that `reward:` names; RequestError if there is none."""
    if config.url:
        server = served.connect(config)
        lineage = {"path": config.url, "checksum": server.model}
        scaled = server.scaled if config.rescale is None else not config.rescale
        return Found(config.url, lineage, server=server, scaled=scaled)
    assert config.path is not None
    found = found_at(config.path, policy, "reward.path")
    if config.rescale and found.on_base:
        raise RequestError(f"reward.rescale: {config.path} has its scale from answers of its own base already; drop "
                           "it")
    assert found.checkpoint is not None
    own_unit = models.reward_kind(found.checkpoint) != "linear"  # whose scores are log-odds, in no unit of spread
    return replace(found, scaled=own_unit if config.rescale is None else not config.rescale)


def found_at(path: str, policy: Checkpoint, key: str) -> Found:
    """The reward run at `path`, of any kind; whether it can stand on the policy's base and read its ids."""
    found = models.resolve(path)
    kind = models.reward_kind(found)
    if kind is None:
        raise RequestError(f"{key}: {path} is no reward model (it has no {heads.HEAD}); name a reward run")
    on_base = kind == "adapter" and found.base_checksum == policy.base_checksum and (
        models.probe_rows(models.load_chat(found)) == models.probe_rows(models.load_chat(policy)))
    return Found(path, found.lineage(), found, on_base=on_base)


def require_another(reward: Found, second: Found | None) -> None:
    """The model that watches must not be the one whose score is raised."""
    if second and second.lineage["checksum"] == reward.lineage["checksum"]:
        raise RequestError(f"watch.reward: {second.name} is the reward that PPO raises itself, and sees nothing else; "
                           "name one trained with another seed, on other raters, or of another kind")


def hold(found: Found, role: str, model: PeftModel, chat: Chat, texts: Texts, config: ModelConfig) -> Judge:
    """Load it: as adapter `role` on the policy's base, or beside it."""
    if found.server:
        print(f"{role}: {found.name} scores, through text")
        return ThroughText(found.server, chat, texts)
    assert found.checkpoint is not None
    if found.on_base:
        models.add_adapter(model, role, found.folder, config)
        return OnBase(model, heads.Head.load(found.folder, models.device()), role, chat.pad_id)
    print(f"{role}: {found.name} is {kind_of(found.checkpoint)}, so it reads the answers as text")
    return ThroughText(scoring.load(found.checkpoint, config), chat, texts)


def texts_of(prompts: Mapping[Prompt, list[int]], chat: Chat) -> Texts:
    """These prompts by their ids, and those of the self-checks."""
    probes = [Prompt((Message("user", ask),)) for ask, _ in PROBES]
    return {tuple(ids): prompt for prompt, ids in [*prompts.items(), *((one, chat.prompt_ids(one)) for one in probes)]}


def beside(**named: Found | Checkpoint | None) -> dict[str, Checkpoint]:
    """Of what these adapters' names stand for, what is on the policy's base, by name."""
    found = {name: one.checkpoint if isinstance(one, Found) and one.on_base else one for name, one in named.items()}
    return {name: one for name, one in found.items() if isinstance(one, Checkpoint)}


def kind_of(found: Checkpoint) -> str:
    kind = models.reward_kind(found)
    return f"an adapter on {found.base}, held beside the policy's base" if kind == "adapter" else f"of kind {kind}"


def rescaled(judge: Judge, scores_R: Tensor) -> ThroughText:
    """`judge` in units of what it said of the SFT model's answers: median 0, and a spread of 1 by quartiles."""
    assert isinstance(judge, ThroughText)
    if not len(scores_R):
        raise RunError("the reward model can read none of the SFT model's answers whole: lower train.max_new_tokens, "
                       "or take one that reads more")
    shift, scale = heads.unit(scores_R)
    if not scale > 0:
        raise RunError(f"the reward model says {shift:.4g} of nearly all of {len(scores_R)} answers of the SFT model: "
                       "a reward that is constant teaches nothing; look at what it is asked (prefloop score)")
    return replace(judge, shift=shift, scale=scale)
