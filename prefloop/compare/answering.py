"""What every run answers to the same prompts: each base loaded once, adapters switched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefloop.compare.settings import HoldConfig
from prefloop.errors import RequestError, RunError
from prefloop.generate import SamplingConfig

if TYPE_CHECKING:
    from torch import nn

    from prefloop.chat import Chat
    from prefloop.formats.snapshot import Snapshot
    from prefloop.models import Checkpoint, ModelConfig
    from prefloop.records import Prompt


@dataclass
class Contestant:
    """One run, and what was found out about it. Every list has one entry per prompt, with one number per answer;
    rewards have none where somebody's answer is longer than the reward model reads."""

    name: str
    checkpoint: Checkpoint
    chat: Chat
    role: str | None
    ids: list[list[list[int]]]
    own_logprobs: list[list[float]]
    baseline_logprobs: list[list[float]] | None = None
    rewards: list[list[float]] | None = None
    spreads: list[list[float]] | None = None

    @property
    def unread(self) -> int:
        """Prompts without rewards, which are the same for all."""
        return sum(not own for own in self.rewards or ())

    def texts(self) -> list[list[str]]:
        return [[self.chat.text(ids) for ids in own] for own in self.ids]


def refuse(found: list[Checkpoint], reward: Checkpoint | None) -> None:
    """What cannot be compared, said before a base is loaded."""
    from prefloop import models

    folders = [one.folder.resolve() for one in found if one.folder]
    if len(set(folders)) < len(folders):
        raise RequestError("compare.runs names one run twice, by two paths: its folder and its final/")
    for one in found:
        if models.reward_kind(one):
            raise RequestError(f"{one.path}: a reward model writes no answers; name it as compare.reward")
    if reward:
        models.require_reward(reward)


def shared_prompts(source: Snapshot, found: list[Checkpoint], split: str, limit: int | None,
                   sampling: SamplingConfig) -> tuple[list[Prompt], int]:
    """The split's first prompts that fit every run's tokenizer, and how many did not."""
    from prefloop import models

    wanted = source.prompts_of(split)[:limit]
    if not wanted:
        raise RequestError(f"{source.path}: it has no prompts in split {split!r}")
    chats = [models.load_chat(one) for one in found]
    fitting = [prompt for prompt in wanted
               if all(len(chat.prompt_ids(prompt)) <= sampling.max_prompt_tokens for chat in chats)]
    if not fitting:
        raise RequestError(f"{source.path}: every prompt is over "
                           f"sampling.max_prompt_tokens={sampling.max_prompt_tokens}")
    return fitting, len(wanted) - len(fitting)


def answered(found: list[Checkpoint], reward: Checkpoint | None, prompts: list[Prompt], hold: HoldConfig,
             sampling: SamplingConfig) -> list[Contestant]:
    """Every run's answers, base by base; the baseline's last, for then it can read what all the others wrote."""
    made: dict[str, Contestant] = {}
    for base in {one.base_checksum: one for one in found[1:] if one.base_checksum != found[0].base_checksum}:
        made |= on_base(found, base, prompts, hold, sampling)[1]
    model: Any
    model, own = on_base(found, found[0].base_checksum, prompts, hold, sampling)
    made |= own
    baseline, *others = everyone = [made[one.path] for one in found]
    for one in others:
        # Greedy answers are no sample of anything, and a KL is between two that read and write the same tokens.
        if sampling.temperature and same_tokens(one.chat, baseline.chat, prompts):
            one.baseline_logprobs = logprobs(model, baseline.role, one, prompts, sampling)
    if reward:
        if not reward.adapter or reward.base_checksum != found[0].base_checksum:
            model = None  # it makes room for the reward model's own
        score(reward, everyone, prompts, model_config(reward, hold), model)
    return everyone


def on_base(found: list[Checkpoint], base: str, prompts: list[Prompt], hold: HoldConfig,
            sampling: SamplingConfig) -> tuple[nn.Module, dict[str, Contestant]]:
    """A base with the adapters of all the runs that stand on it, and what these runs answered."""
    own = [one for one in found if one.base_checksum == base]
    model, roles = hosted(own, hold)
    return model, {one.path: contestant(model, one, role, prompts, sampling)
                   for one, role in zip(own, roles, strict=True)}


def hosted(own: list[Checkpoint], hold: HoldConfig) -> tuple[nn.Module, list[str | None]]:
    """The base that these checkpoints share, with their adapters on it, and each one's role."""
    from prefloop import models

    model: Any = models.load_base(own[0], model_config(own[0], hold))
    roles = [f"run{number}" if one.adapter else None for number, one in enumerate(own)]
    for one, role in zip(own, roles, strict=True):
        if role:
            model = models.add_adapter(model, role, one.adapter, model_config(one, hold))
    return model.eval(), roles


def model_config(one: Checkpoint, hold: HoldConfig) -> ModelConfig:
    from prefloop.models import ModelConfig

    return ModelConfig(path=one.path, four_bit=hold.four_bit, dtype=hold.dtype)


def contestant(model: nn.Module, one: Checkpoint, role: str | None, prompts: list[Prompt],
               sampling: SamplingConfig) -> Contestant:
    from prefloop import models
    from prefloop.generate import sample_ids

    chat = models.load_chat(one)
    ids = sample_ids(model, chat, prompts, sampling, role, f"sampling from {one.path}")
    made = Contestant(one.path, one, chat, role, ids, [])
    made.own_logprobs = logprobs(model, role, made, prompts, sampling)
    return made


def same_tokens(one: Chat, other: Chat, prompts: list[Prompt]) -> bool:
    """Whether both read and write the same token ids: only then is a KL between them defined."""
    return (one.end_id == other.end_id and one.tokenizer.get_vocab() == other.tokenizer.get_vocab()
            and all(one.prompt_ids(prompt) == other.prompt_ids(prompt) for prompt in prompts))


def logprobs(model: nn.Module, role: str | None, one: Contestant, prompts: list[Prompt],
             sampling: SamplingConfig) -> list[list[float]]:
    """log p of each answer of `one` under `role`, at the temperature it was sampled at."""
    from prefloop import passes

    asked = [ids for prompt in prompts for ids in [one.chat.prompt_ids(prompt)] * sampling.answers]
    flat = [ids for own in one.ids for ids in own]
    values = passes.total_logprobs(model, role, [a + b for a, b in zip(asked, flat, strict=True)],
                                   [len(ids) for ids in asked], one.chat.pad_id, sampling.temperature or 1.0)
    return by_prompt(values.tolist(), sampling.answers)


def by_prompt(values: list[float], answers: int) -> list[list[float]]:
    return [values[first : first + answers] for first in range(0, len(values), answers)]


def score(reward: Checkpoint, everyone: list[Contestant], prompts: list[Prompt], settings: ModelConfig,
          base: Any) -> None:
    """Rewards of the answers as people would read them: text, and the end of the turn.

    `base` is the baseline's, which a reward adapter that was trained on it is put on.
    """
    from prefloop import scoring

    scorer = scoring.load(reward, settings, base)
    each, texts = len(everyone[0].ids[0]), [one.texts() for one in everyone]
    asked = [[(prompt, text) for own in texts for text in own[n]] for n, prompt in enumerate(prompts)]
    kept = [n for n, own in enumerate(asked) if all(scorer.reads(own))]
    if not kept:
        raise RunError(f"{reward.path}: on every prompt some answer is longer than this reward model reads; name "
                       "another compare.reward, or lower sampling.max_new_tokens")
    found = scoring.scored(scorer, [answer for n in kept for answer in asked[n]], what="rewards")
    for number, one in enumerate(everyone):
        one.rewards, one.spreads = [[] for _ in prompts], [[] for _ in prompts]
        for place, n in enumerate(kept):
            first = (place * len(everyone) + number) * each
            one.rewards[n] = found.mean_N[first : first + each].tolist()
            one.spreads[n] = found.spread_N[first : first + each].tolist()
