"""A rollout: answers sampled from the policy, and everything about them that an update needs, frozen.

Which prompts, in which order and with which random numbers is a function of (seed, rollout): nothing of it is stored,
and a resumed run samples what the uninterrupted one would have. Dimensions as in loss.py and actors.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prefloop import generate, heads, memory, models, passes

from . import loss
from .actors import Actors, answer_logprobs, answer_values
from .settings import PPOConfig


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
    sample_batch: int  # as many as memory sufficed for
    sampling_seconds: float
    scoring_seconds: float

    def episodes(self, chosen: list[int]) -> tuple[list[list[int]], list[int]]:
        return [self.rows[n] for n in chosen], [self.starts[n] for n in chosen]

    def of(self, chosen: list[int], values_BT: Tensor) -> Tensor:
        """The valid entries of the chosen episodes, N, one after another."""
        return values_BT[chosen][self.mask_BT[chosen].bool()]


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
    answers, sample_batch = sample(actors, actors.policy, chosen, seeds, settings)
    rows = [prompt + answer for prompt, answer in zip(chosen, answers, strict=True)]
    starts = [len(prompt) for prompt in chosen]
    sampled = time.monotonic()
    scores_B = heads.score(actors.model, actors.reward_head, actors.reward, rows, starts, actors.chat.pad_id,
                            settings.micro_batch)
    # The same micro-batches as in the first epoch: the ratio there is exactly 1, in bf16 too.
    micros = [micro for part in split(list(map(len, rows)), rollout, 0, settings) for micro in part]
    mask_BT = answer_mask(answers, models.device())
    if actors.critic.span is None:
        actors.critic.span = sum(map(len, answers)) / len(answers)
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
                   sample_batch, sampled - began, time.monotonic() - sampled)


def sample(actors: Actors, role: str | None, prompts: list[list[int]], seeds: list[int],
           settings: PPOConfig) -> tuple[list[list[int]], int]:
    """An answer for each prompt, in the order given; sampled with prompts of like length, and with how many."""
    answers: list[list[int]] = [[] for _ in prompts]

    def answer(batch: list[int]) -> None:
        found = generate.sample(actors.model, [prompts[n] for n in batch], [seeds[n] for n in batch],
                                settings.max_new_tokens, settings.temperature, actors.chat.end_id, actors.chat.pad_id)
        for n, own in zip(batch, found, strict=True):
            answers[n] = own

    with passes.acting(actors.model, role):
        size = memory.at_once(passes.by_length(prompts), settings.sample_batch, answer, "answers")
    return answers, size


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
        found: list[Tensor] = []

        def judge(micro: list[int]) -> None:
            given = passed([self.rows[n] for n in micro], [self.starts[n] for n in micro])
            if not found:
                found.append(given.new_zeros(*self.mask_BT.shape, given.shape[1]))
            block = torch.zeros_like(found[0][micro])
            block[self.mask_BT[micro].bool()] = given
            found[0][micro] = block

        with passes.acting(self.actors.model, role):
            for micro in self.micros:
                memory.at_once(micro, len(micro), judge, "episodes")
        return found[0]
