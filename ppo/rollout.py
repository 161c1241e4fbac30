"""A rollout: answers sampled from the policy, and everything about them that an update needs, frozen.

Which prompts, in which order and with which random numbers is a function of (seed, rollout): nothing of it is stored,
and a resumed run samples what the uninterrupted one would have. Dimensions as in loss.py; N runs over the answer
tokens of a batch, one row after another; H hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from prefloop import generate, models
from prefloop.chat import Chat
from prefloop.models import Checkpoint, ModelConfig

from . import loss
from .settings import PPOConfig

LOGITS_AT_ONCE = 2**24  # 64 MB in fp32


@dataclass(frozen=True)
class Actors:
    """One base in memory and its roles: adapters by name, and two heads. `reference` is None when it is the base."""

    model: PeftModel
    chat: Chat
    reference: str | None
    reward_head: models.Head
    value_head: models.Head

    policy: str = "policy"
    reward: str = "reward"
    value: str = "value"


@dataclass(frozen=True)
class Rollout:
    """Episodes: `rows` are prompt + answer ids, the answers begin at `starts`. Masked positions hold zeros."""

    rows: list[list[int]]
    starts: list[int]
    ended_B: Tensor
    mask_BT: Tensor
    logprobs_BT: Tensor
    reference_BT: Tensor
    values_BT: Tensor
    returns_BT: Tensor
    advantages_BT: Tensor
    scores_B: Tensor
    entropy: float
    sampling_seconds: float
    scoring_seconds: float

    def episodes(self, chosen: list[int]) -> tuple[list[list[int]], list[int]]:
        return [self.rows[n] for n in chosen], [self.starts[n] for n in chosen]

    def of(self, chosen: list[int], values_BT: Tensor) -> Tensor:
        """The valid entries of the chosen episodes, N, one after another."""
        return values_BT[chosen][self.mask_BT[chosen].bool()]


def assemble(checkpoint: Checkpoint, reward_folder: Path, config: ModelConfig, seed: int) -> Actors:
    """Load the base once; policy from the SFT adapter, which stays as the reference; value from the reward."""
    torch.manual_seed(seed)
    base = models.load_base(checkpoint, config)
    model = models.add_adapter(base, "policy", checkpoint.adapter, config)
    reference = "sft" if checkpoint.adapter else None
    if reference:
        models.add_adapter(model, reference, checkpoint.adapter, config)
    for name in ("reward", "value"):
        models.add_adapter(model, name, reward_folder, config)
    models.train_only(model, {"policy", "value"})
    reward_head = models.Head.load(reward_folder, models.device())
    # Dropout is off for good: the ratio must compare one policy with itself.
    return Actors(model.eval(), models.load_chat(checkpoint), reference, reward_head, critic_head(reward_head))


def critic_head(reward_head: models.Head) -> models.Head:
    """The reward's head, with its shift and scale folded in: it begins by expecting the scaled score."""
    head = copy.deepcopy(reward_head).requires_grad_(True)
    with torch.no_grad():
        head.linear.weight.div_(reward_head.scale)
        head.linear.bias.sub_(reward_head.shift).div_(reward_head.scale)
    head.shift, head.scale = 0.0, 1.0
    return head


def places(count: int, rollout: int, settings: PPOConfig) -> list[int]:
    """Which of `count` prompts this rollout answers: all of them in a new order in every pass."""
    first, chosen = rollout * settings.episodes, []
    for turn in range(first // count, (first + settings.episodes - 1) // count + 1):
        shuffle = torch.Generator().manual_seed(generate.row_seed(settings.seed, turn))
        chosen += torch.randperm(count, generator=shuffle).tolist()
    skipped = first % count
    return chosen[skipped : skipped + settings.episodes]


def split(lengths: list[int], rollout: int, epoch: int, settings: PPOConfig) -> list[list[list[int]]]:
    """Minibatches of micro-batches of episodes: shuffled, then within a minibatch by length, against padding."""
    shuffle = torch.Generator().manual_seed(generate.row_seed(settings.seed, rollout, epoch))
    order = torch.randperm(len(lengths), generator=shuffle).tolist()
    parts = [sorted(order[m :: settings.minibatches], key=lambda n: lengths[n]) for m in range(settings.minibatches)]
    size = settings.micro_batch
    return [[part[first : first + size] for first in range(0, len(part), size)] for part in parts]


def collect(actors: Actors, prompts: list[list[int]], rollout: int, kl_coef: float, settings: PPOConfig) -> Rollout:
    """Sample one rollout and judge it."""
    began = time.monotonic()
    chosen = [prompts[place] for place in places(len(prompts), rollout, settings)]
    seeds = [generate.row_seed(settings.seed, rollout, n, 1) for n in range(len(chosen))]
    answers = sample(actors, actors.policy, chosen, seeds, settings)
    rows = [prompt + answer for prompt, answer in zip(chosen, answers, strict=True)]
    starts = [len(prompt) for prompt in chosen]
    sampled = time.monotonic()
    scores_B = models.score(actors.model, actors.reward_head, actors.reward, rows, starts, actors.chat.pad_id,
                            settings.micro_batch)
    # The same micro-batches as in the first epoch: the ratio there is exactly 1, in bf16 too.
    micros = [micro for part in split(list(map(len, rows)), rollout, 0, settings) for micro in part]
    mask_BT = answer_mask(answers, models.device())
    told = Judge(actors, rows, starts, mask_BT, micros, settings.temperature)
    logprobs_BT, entropy_BT = told.logprobs(actors.policy)
    reference_BT, _ = told.logprobs(actors.reference)
    values_BT = told.values()
    scores_B = scores_B.to(mask_BT.device)
    ended_B = torch.tensor([answer[-1] == actors.chat.end_id for answer in answers], device=mask_BT.device)
    terminal_B = loss.terminal_rewards(scores_B, ended_B, settings.reward_clip, settings.missing_eos_penalty)
    rewards_BT = loss.shaped_rewards(terminal_B, logprobs_BT, reference_BT, mask_BT, kl_coef)
    advantages_BT, returns_BT = loss.advantages_and_returns(rewards_BT, values_BT, mask_BT, settings.gamma,
                                                            settings.lam)
    return Rollout(rows, starts, ended_B, mask_BT, logprobs_BT, reference_BT, values_BT, returns_BT,
                   loss.whitened(advantages_BT, mask_BT), scores_B, float(entropy_BT.sum() / mask_BT.sum()),
                   sampled - began, time.monotonic() - sampled)


def sample(actors: Actors, role: str | None, prompts: list[list[int]], seeds: list[int],
           settings: PPOConfig) -> list[list[int]]:
    """An answer for each prompt, in the order given; in batches of prompts of like length."""
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    answers: list[list[int]] = [[] for _ in prompts]
    with models.acting(actors.model, role):
        for first in range(0, len(order), settings.sample_batch):
            batch = order[first : first + settings.sample_batch]
            found = generate.sample(actors.model, [prompts[n] for n in batch], [seeds[n] for n in batch],
                                    settings.max_new_tokens, settings.temperature, actors.chat.end_id,
                                    actors.chat.pad_id)
            for n, answer in zip(batch, found, strict=True):
                answers[n] = answer
    return answers


def answer_mask(answers: list[list[int]], where: torch.device) -> Tensor:
    lengths_B = torch.tensor([len(answer) for answer in answers], device=where)
    return (torch.arange(int(lengths_B.max()), device=where) < lengths_B[:, None]).float()


@dataclass(frozen=True)
class Judge:
    """Passes over sampled rows without gradients, micro-batch by micro-batch, gathered into BT."""

    actors: Actors
    rows: list[list[int]]
    starts: list[int]
    mask_BT: Tensor
    micros: list[list[int]]
    temperature: float

    def logprobs(self, role: str | None) -> tuple[Tensor, Tensor]:
        """Log-probability of each answer token, and the entropy of the distribution that it came from."""
        def of(rows: list[list[int]], starts: list[int]) -> Tensor:
            return answer_logprobs(self.actors, rows, starts, self.temperature, entropy=True)

        both_BT2 = self._gathered(role, of)
        return both_BT2[..., 0], both_BT2[..., 1]

    def values(self) -> Tensor:
        return self._gathered(self.actors.value,
                              lambda rows, starts: answer_values(self.actors, rows, starts)[:, None])[..., 0]

    @torch.no_grad()
    def _gathered(self, role: str | None, passed: Callable[[list[list[int]], list[int]], Tensor]) -> Tensor:
        found: Tensor | None = None
        with models.acting(self.actors.model, role):
            for micro in self.micros:
                given = passed([self.rows[n] for n in micro], [self.starts[n] for n in micro])
                if found is None:
                    found = given.new_zeros(*self.mask_BT.shape, given.shape[1])
                block = torch.zeros_like(found[micro])
                block[self.mask_BT[micro].bool()] = given
                found[micro] = block
        assert found is not None
        return found


def answer_logprobs(actors: Actors, rows: list[list[int]], starts: list[int], temperature: float,
                    entropy: bool = False) -> Tensor:
    """log p of every answer token, N, under the adapter now acting; with `entropy`, N2: the entropy beside it.

    Logits are made only where answers are, a chunk at a time, and made again for the backward pass.
    """
    hidden_NH = hidden_before(actors, rows, starts)
    tokens_N = torch.tensor([token for row, start in zip(rows, starts, strict=True) for token in row[start:]],
                            device=hidden_NH.device)
    head = models.plain(actors.model).get_output_embeddings()
    assert head is not None
    chunk = max(1, LOGITS_AT_ONCE // models.plain(actors.model).config.get_text_config().vocab_size)

    def of(hidden_NH: Tensor, tokens_N: Tensor) -> Tensor:
        logprobs_NV = torch.log_softmax(head(hidden_NH).float() / temperature, -1)
        own_N = logprobs_NV.gather(1, tokens_N[:, None]).squeeze(1)
        return torch.stack([own_N, -(logprobs_NV.exp() * logprobs_NV).sum(-1)], 1) if entropy else own_N

    pieces = list(zip(hidden_NH.split(chunk), tokens_N.split(chunk), strict=True))
    if len(pieces) == 1 or not hidden_NH.requires_grad:
        return torch.cat([of(*piece) for piece in pieces])
    return torch.cat([recomputed(of, *piece, use_reentrant=False) for piece in pieces])  # type: ignore[misc]


def answer_values(actors: Actors, rows: list[list[int]], starts: list[int]) -> Tensor:
    """The critic's expectation before every answer token, N. Its adapter must be acting."""
    return actors.value_head(hidden_before(actors, rows, starts))


def hidden_before(actors: Actors, rows: list[list[int]], starts: list[int]) -> Tensor:
    """Hidden states from which each answer token is predicted, NH: those one place before it."""
    ids_BT, mask_BT = models.pad_right(rows, actors.chat.pad_id, models.device())
    hidden_BTH = models.hidden_states(actors.model, ids_BT, mask_BT)
    place_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    starts_B1 = torch.tensor(starts, device=ids_BT.device)[:, None]
    return hidden_BTH[(place_T >= starts_B1 - 1) & (place_T < mask_BT.sum(1, keepdim=True) - 1)]
