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

from prefloop import generate, memory, models, passes, ranks

from . import judging, loss
from .actors import Actors, answer_logprobs, answer_values
from .sampler import Sampler
from .settings import PPOConfig

UNREAD = -3.0  # of an answer longer than a judge of texts can read: far below what the SFT model gets


@dataclass(frozen=True)
class Rollout:
    """Episodes: `rows` are prompt + answer ids, the answers begin at `starts`. Masked positions hold zeros.

    Every process holds the whole of it. Without a critic there are no values, and returns are the rewards.
    `sampled_BT` are the log-probabilities by which a server sampled, if one did.
    """

    rows: list[list[int]]
    starts: list[int]
    ended_B: Tensor
    mask_BT: Tensor
    logprobs_BT: Tensor
    sampled_BT: Tensor | None
    reference_BT: Tensor
    values_BT: Tensor | None
    returns_BT: Tensor
    advantages_BT: Tensor
    scores_B: Tensor
    unread_B: Tensor  # 1 on answers that the reward model could not read whole
    kl_coef: float
    entropy: float
    sample_batch: int  # as many as memory sufficed for
    micro_batch: int  # the same of judging
    cut: bool  # whether some were judged in smaller micro-batches than others, for want of memory
    sampling_seconds: float
    scoring_seconds: float

    def episodes(self, chosen: list[int]) -> tuple[list[list[int]], list[int]]:
        return [self.rows[n] for n in chosen], [self.starts[n] for n in chosen]

    def of(self, chosen: list[int], values_BT: Tensor) -> Tensor:
        """The valid entries of the chosen episodes, N, one after another."""
        return values_BT[chosen][self.mask_BT[chosen].bool()]

    def lengths(self, chosen: list[int]) -> list[int]:
        """Of the chosen answers, in tokens."""
        return [len(self.rows[n]) - self.starts[n] for n in chosen]

    def tokens(self, part: list[list[int]]) -> int:
        """Of all answers in a minibatch's micro-batches."""
        return sum(sum(self.lengths(micro)) for micro in part)


def places(count: int, rollout: int, settings: PPOConfig) -> list[int]:
    """Which of `count` prompts this rollout answers: all of them in a new order in every pass.

    Where a prompt gets several answers it is there as often, one after the other.
    """
    asked = settings.episodes // settings.per_prompt
    first, chosen = rollout * asked, []
    for turn in range(first // count, (first + asked - 1) // count + 1):
        shuffle = torch.Generator().manual_seed(generate.row_seed(settings.seed, turn))
        chosen += torch.randperm(count, generator=shuffle).tolist()
    skipped = first % count
    return [place for place in chosen[skipped : skipped + asked] for _ in range(settings.per_prompt)]


def split(lengths: list[int], rollout: int, epoch: int, settings: PPOConfig) -> list[list[list[int]]]:
    """Minibatches of micro-batches of episodes: shuffled, then within a minibatch by length, against padding."""
    shuffle = torch.Generator().manual_seed(generate.row_seed(settings.seed, rollout, epoch))
    order = torch.randperm(len(lengths), generator=shuffle).tolist()
    parts = [sorted(order[m :: settings.minibatches], key=lambda n: lengths[n]) for m in range(settings.minibatches)]
    size = settings.micro_batch
    return [[part[first : first + size] for first in range(0, len(part), size)] for part in parts]


def cut(micros: list[list[int]], size: int) -> list[list[int]]:
    """Micro-batches of at most `size`, where memory sufficed for no more."""
    return [micro[first : first + size] for micro in micros for first in range(0, len(micro), size)]


def collect(actors: Actors, prompts: list[list[int]], rollout: int, kl_coef: float, micro_batch: int,
            settings: PPOConfig, sampler: Sampler | None = None) -> Rollout:
    """Sample one rollout and judge it; several processes share the work, and each has all of what comes of it."""
    began = time.monotonic()
    chosen = [prompts[place] for place in places(len(prompts), rollout, settings)]
    seeds = [generate.row_seed(settings.seed, rollout, n, 1) for n in range(len(chosen))]
    served = sampler.sample(actors, chosen, seeds, rollout, settings) if sampler else None
    answers, size = ((served.answers, settings.sample_batch) if served else
                     sample(actors, actors.policy, chosen, seeds, settings))
    starts = [len(prompt) for prompt in chosen]
    rows = [prompt + answer for prompt, answer in zip(chosen, answers, strict=True)]
    mask_BT = answer_mask(answers, models.device())
    ended_B = torch.tensor([answer[-1] == actors.chat.end_id for answer in answers], device=mask_BT.device)
    sampled_at = time.monotonic()
    scores_B, unread_B = scores(actors.judge, rows, starts, settings)
    if actors.critic and actors.critic.span is None:
        actors.critic.span = sum(map(len, answers)) / len(answers)
    # The same micro-batches as in the first epoch: the ratio there is exactly 1, in bf16 too.
    micros = [micro for part in split(list(map(len, rows)), rollout, 0, settings) for micro in ranks.share(part)]
    told = Judge(actors, rows, starts, mask_BT, cut(micros, micro_batch), micro_batch, settings.temperature)
    logprobs_BT, entropy_BT = told.logprobs(actors.policy)
    reference_BT, _ = told.logprobs(actors.reference)
    values_BT = told.values() if actors.critic else None
    advantages_BT, returns_BT = credit(loss.terminal_rewards(scores_B, ended_B, settings.reward_clip,
                                                             settings.missing_eos_penalty),
                                       logprobs_BT, reference_BT, values_BT, mask_BT, kl_coef, settings)
    judged_by = min(ranks.from_all(told.size))
    sampled_BT = padded(served.logprobs, mask_BT) if served else None
    return Rollout(rows, starts, ended_B, mask_BT, logprobs_BT, sampled_BT, reference_BT, values_BT, returns_BT,
                   advantages_BT, scores_B, unread_B, kl_coef, float(entropy_BT.sum() / mask_BT.sum()), size,
                   judged_by, judged_by < micro_batch, sampled_at - began, time.monotonic() - sampled_at)


def credit(terminal_B: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, values_BT: Tensor | None, mask_BT: Tensor,
           kl_coef: float, settings: PPOConfig) -> tuple[Tensor, Tensor]:
    """Advantages_BT and returns_BT. GRPO's KL penalty is in its loss; the others' is in the rewards."""
    if values_BT is not None:
        rewards_BT = loss.shaped_rewards(terminal_B, logprobs_BT, reference_BT, mask_BT, kl_coef)
        advantages_BT, returns_BT = loss.advantages_and_returns(rewards_BT, values_BT, mask_BT, settings.gamma,
                                                                settings.lam)
        return loss.whitened(advantages_BT, mask_BT), returns_BT
    if settings.advantage == "rloo":
        returns_B = loss.penalised(terminal_B, logprobs_BT, reference_BT, mask_BT, kl_coef)
        advantages_B = loss.leave_one_out(returns_B, settings.per_prompt)
    else:
        returns_B, advantages_B = terminal_B, loss.group_relative(terminal_B, settings.per_prompt)
    return advantages_B[:, None] * mask_BT, returns_B[:, None] * mask_BT


def scores(judge: judging.Judge, rows: list[list[int]], starts: list[int],
           settings: PPOConfig) -> tuple[Tensor, Tensor]:
    """A reward model's scores_B, and unread_B: 1 on answers that it cannot read whole, which score UNREAD."""
    own = ranks.share(range(len(rows)))
    read = [n for n, fits in zip(own, judge.reads([rows[n] for n in own], [starts[n] for n in own]), strict=True)
            if fits]
    unread_B = torch.zeros(len(rows), device=models.device())
    unread_B[[n for n in own if n not in set(read)]] = 1.0
    scores_B = UNREAD * unread_B
    if read:
        scores_B[read] = judge.scores([rows[n] for n in read], [starts[n] for n in read],
                                      settings.micro_batch).to(scores_B)
    return ranks.summed(scores_B), ranks.summed(unread_B)


def sample(actors: Actors, role: str | None, prompts: list[list[int]], seeds: list[int],
           settings: PPOConfig) -> tuple[list[list[int]], int]:
    """An answer for each prompt, in the order given; sampled with prompts of like length, and with how many.

    Several processes share the prompts, and each has all of the answers.
    """
    answers: dict[int, list[int]] = {}

    def answer(batch: list[int]) -> None:
        found = generate.sample(actors.model, [prompts[n] for n in batch], [seeds[n] for n in batch],
                                settings.max_new_tokens, settings.temperature, actors.chat.end_id, actors.chat.pad_id)
        for n, own in zip(batch, found, strict=True):
            answers[n] = own

    with passes.acting(actors.model, role):
        size = memory.at_once(ranks.share(passes.by_length(prompts)), settings.sample_batch, answer, "answers")
    found = {n: ids for part in ranks.from_all(answers) for n, ids in part.items()}
    return [found[n] for n in range(len(prompts))], min(ranks.from_all(size))


def answer_mask(answers: list[list[int]], where: torch.device) -> Tensor:
    lengths_B = torch.tensor([len(answer) for answer in answers], device=where)
    return (torch.arange(int(lengths_B.max()), device=where) < lengths_B[:, None]).float()


def padded(values: list[list[float]], mask_BT: Tensor) -> Tensor:
    """Numbers of each answer's tokens as BT, with zeros where the mask has them."""
    out_BT = torch.zeros_like(mask_BT)
    out_BT[mask_BT.bool()] = torch.tensor([one for own in values for one in own], device=mask_BT.device)
    return out_BT


@dataclass
class Judge:
    """Passes over sampled rows without gradients, micro-batch by micro-batch, gathered into BT.

    `micros` are this process's; what comes back holds those of all processes. `size` is as many rows at once as
    memory has sufficed for so far.
    """

    actors: Actors
    rows: list[list[int]]
    starts: list[int]
    mask_BT: Tensor
    micros: list[list[int]]
    size: int
    temperature: float

    def logprobs(self, role: str | None) -> tuple[Tensor, Tensor]:
        """Log-probability of each answer token, and the entropy of the distribution that it came from."""
        def of(rows: list[list[int]], starts: list[int]) -> Tensor:
            return answer_logprobs(self.actors, rows, starts, self.temperature, entropy=True)

        both_BT2 = self._gathered(role, of, 2)
        return both_BT2[..., 0], both_BT2[..., 1]

    def values(self) -> Tensor:
        return self._gathered(self.actors.value,
                              lambda rows, starts: answer_values(self.actors, rows, starts)[:, None], 1)[..., 0]

    @torch.no_grad()
    def _gathered(self, role: str | None, passed: Callable[[list[list[int]], list[int]], Tensor],
                  width: int) -> Tensor:
        found_BTX = torch.zeros(*self.mask_BT.shape, width, device=self.mask_BT.device)

        def judge(micro: list[int]) -> None:
            block = torch.zeros_like(found_BTX[micro])
            block[self.mask_BT[micro].bool()] = passed([self.rows[n] for n in micro], [self.starts[n] for n in micro])
            found_BTX[micro] = block

        with passes.acting(self.actors.model, role):
            for micro in self.micros:
                self.size = memory.at_once(micro, self.size, judge, "episodes")
        return ranks.summed(found_BTX)
