"""One update: epochs over a rollout, each minibatch a step of the policy and, where there is one, of the critic."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop import memory, passes, ranks, runs, training
from prefloop.errors import RunError

from . import loss
from .actors import Actors, answer_logprobs, answer_values
from .rollout import Rollout, cut, split
from .settings import PPOConfig

Gradients = Callable[[Rollout, list[list[int]], list[list[int]], "Tally"], float]


@dataclass
class Tally:
    """Sums over the tokens that an update's passes saw."""

    sums: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    highest: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, per_token_N: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + float(per_token_N.detach().sum())
        self.tokens[name] = self.tokens.get(name, 0.0) + per_token_N.numel()

    def peak(self, name: str, value: float) -> None:
        self.highest[name] = max(self.highest.get(name, 0.0), value)

    def means(self) -> dict[str, float]:
        """Over the tokens of all processes."""
        whole = Tally()
        for part in ranks.from_all(self):
            for name, total in part.sums.items():
                whole.sums[name] = whole.sums.get(name, 0.0) + total
                whole.tokens[name] = whole.tokens.get(name, 0.0) + part.tokens[name]
            for name, value in part.highest.items():
                whole.peak(name, value)
        return {name: total / whole.tokens[name] for name, total in whole.sums.items()} | whole.highest


class Learner:
    """What learns, and how: the trained weights, their optimizer, and the passes that give them gradients.

    Several processes share a minibatch's micro-batches and add their gradients up; each then takes the same step.
    """

    def __init__(self, run: runs.Run, actors: Actors, settings: PPOConfig, micro_batch: int,
                 importance_cap: float) -> None:
        """`micro_batch` is as many rows as memory has sufficed for."""
        self.run, self.actors, self.settings = run, actors, settings
        self.micro_batch, self.importance_cap = micro_batch, importance_cap
        named = list(actors.model.named_parameters())
        self.policy = [weight for name, weight in named if weight.requires_grad and f".{actors.policy}." in name]
        self.critic = [weight for name, weight in named if weight.requires_grad and f".{actors.value}." in name]
        self.critic += list(actors.critic.parameters()) if actors.critic else []
        self.optimizer = torch.optim.AdamW([{"params": own} for own in self.networks().values()], eps=1e-5,
                                           weight_decay=0.0)
        self.ratio_checked = False
        memory.keep_freed()
        if settings.gradient_checkpointing:
            plain = passes.plain(actors.model)
            plain.gradient_checkpointing_enable({"use_reentrant": False})
            plain.enable_input_require_grads()

    def networks(self) -> dict[str, list[nn.Parameter]]:
        """The trained weights by the name of what they belong to."""
        return {"policy": self.policy} | ({"critic": self.critic} if self.critic else {})

    def update(self, batch: Rollout, done: int) -> dict[str, float]:
        """Epochs over the rollout that follows `done` others; the means of what its passes saw.

        Once the policy is too far from where it sampled it rests; the critic goes on.
        """
        settings, tally = self.settings, Tally()
        policy_learns = not settings.critic or done >= settings.critic_warmup
        policy_steps = 0
        for epoch in range(settings.ppo_epochs):
            minibatches = split(list(map(len, batch.rows)), done, epoch, settings)
            for number, part in enumerate(minibatches):
                if not (policy_learns or self.critic):
                    break
                self.optimizer.zero_grad(set_to_none=True)
                if policy_learns:
                    approximate_kl, tally = self.fitting(self.policy_gradients, self.policy, batch, part, tally)
                    policy_learns = (settings.target_approx_kl is None or
                                     ranks.total(approximate_kl) <= settings.target_approx_kl)
                if policy_learns:
                    policy_steps += 1
                else:
                    clear(self.policy)
                if self.critic:
                    _, tally = self.fitting(self.critic_gradients, self.critic, batch, part, tally)
                self.step((done * settings.ppo_epochs + epoch) * settings.minibatches + number, policy_learns, tally)
        planned = settings.ppo_epochs * settings.minibatches
        return {**tally.means(), "policy_steps": policy_steps, "policy_steps_planned": planned}

    def fitting(self, gradients: Gradients, weights: Sequence[Tensor], batch: Rollout, part: list[list[int]],
                tally: Tally) -> tuple[float, Tally]:
        """Gradients of this process's share of a minibatch; where memory runs out, by micro-batches half as large.

        Weights change only in `step`, and a minibatch's gradients are sums: how it is cut up does not count.
        """
        while True:
            micros, tried, said = cut(ranks.share(part), self.micro_batch), copy.deepcopy(tally), []
            if memory.suffices(lambda tried=tried, said=said, micros=micros: said.append(
                    gradients(batch, part, micros, tried))):
                return said[0], tried
            clear(weights)
            size = max(map(len, micros))
            if size == 1:
                raise RunError("out of memory with micro-batches of 1: lower train.max_new_tokens, or set "
                               f"train.gradient_checkpointing=true or model.four_bit=true; {self.run.last_good()}")
            self.micro_batch = size // 2
            print(f"out of memory with micro-batches of {size}; going on with {size // 2}", flush=True)

    def policy_gradients(self, batch: Rollout, part: list[list[int]], micros: list[list[int]], tally: Tally) -> float:
        """Backward of the policy's loss over this process's micro-batches of minibatch `part`; their share of the
        approximate KL that the minibatch's tokens have, on average, from the policy that sampled them."""
        settings, actors = self.settings, self.actors
        tokens = batch.tokens(part)
        approximate_kl, gap = 0.0, 0.0
        with passes.acting(actors.model, actors.policy), recomputing(actors.model, settings.gradient_checkpointing):
            for micro in micros:
                old_N = batch.of(micro, batch.logprobs_BT)
                new_N = answer_logprobs(actors, *batch.episodes(micro), settings.temperature)
                self.policy_loss(new_N, old_N, batch, micro, part, tally).backward()
                new_N = new_N.detach()
                ratios_N, kl_N = loss.ratios(new_N, old_N), loss.approximate_kl(new_N, old_N)
                approximate_kl += float(kl_N.sum()) / tokens
                gap = max(gap, float((ratios_N - 1).abs().max()))
                tally.add("approx_kl", kl_N)
                tally.peak("ratio_max", float(ratios_N.max()))
        if not self.ratio_checked:
            self.check_ratio(gap, cut_otherwise=batch.cut or self.micro_batch != batch.micro_batch)
        return approximate_kl

    def check_ratio(self, gap: float, cut_otherwise: bool) -> None:
        """Rows that were cut into other micro-batches when they were judged have a ratio that is not exactly 1."""
        found = ranks.from_all((gap, cut_otherwise))
        if not any(cut for _, cut in found):
            gap = max(gap for gap, _ in found)
            self.run.check("ratio", gap < 1e-3, f"in the first pass over fresh samples it is 1 within {gap:.1e}")
            self.ratio_checked = True

    def policy_loss(self, new_N: Tensor, old_N: Tensor, batch: Rollout, micro: list[int], part: list[list[int]],
                    tally: Tally) -> Tensor:
        """A micro-batch's summand of its minibatch's loss: PPO's and GRPO's mean over tokens, RLOO's over answers."""
        settings = self.settings
        if settings.advantage == "rloo":
            lengths, count = batch.lengths(micro), sum(map(len, part))
            advantages = batch.advantages_BT[micro, 0]
            new, old = loss.by_answer(new_N, lengths), loss.by_answer(old_N, lengths)
        else:
            lengths, count = None, batch.tokens(part)
            advantages, new, old = batch.of(micro, batch.advantages_BT), new_N, old_N
        tally.add("clip_fraction", loss.policy_clipped(new.detach(), old, advantages, settings.clip))
        losses = loss.policy_losses(new, old, advantages, settings.clip)
        if settings.advantage == "grpo":
            losses = losses + batch.kl_coef * loss.reference_kl(new, old, batch.of(micro, batch.reference_BT))
        if batch.sampled_BT is not None:
            sampled = batch.of(micro, batch.sampled_BT)
            sampled = loss.by_answer(sampled, lengths) if lengths else sampled
            losses = losses * loss.importance(old, sampled, self.importance_cap)
        return losses.sum() / count

    def critic_gradients(self, batch: Rollout, part: list[list[int]], micros: list[list[int]], tally: Tally) -> float:
        """Backward of the critic's loss over this process's micro-batches of minibatch `part`."""
        settings, actors = self.settings, self.actors
        assert batch.values_BT is not None
        tokens = batch.tokens(part)
        with passes.acting(actors.model, actors.value), recomputing(actors.model, settings.gradient_checkpointing):
            for micro in micros:
                old_N, returns_N = batch.of(micro, batch.values_BT), batch.of(micro, batch.returns_BT)
                values_N = answer_values(actors, *batch.episodes(micro))
                losses_N = loss.value_losses(values_N, old_N, returns_N, settings.value_clip)
                (losses_N.sum() / tokens).backward()
                tally.add("value_loss", losses_N)
                tally.add("value_clip_fraction",
                          loss.value_clipped(values_N.detach(), old_N, returns_N, settings.value_clip))
        return 0.0

    def step(self, number: int, policy_learns: bool, tally: Tally) -> None:
        """One optimizer step, the only one: finite gradients, clipped for each network by itself, scheduled rates."""
        settings = self.settings
        share = loss.learning_rate_share(number, settings.rollouts * settings.ppo_epochs * settings.minibatches,
                                         settings.warmup)
        rates = {"policy": settings.learning_rate, "critic": settings.critic_learning_rate}
        for (name, weights), group in zip(self.networks().items(), self.optimizer.param_groups, strict=True):
            group["lr"] = rates[name] * share
            if name == "policy" and not policy_learns:
                continue
            ranks.sum_gradients(weights)
            training.require_finite(self.run, f"{name} gradient", [w.grad for w in weights if w.grad is not None],
                                    number // (settings.ppo_epochs * settings.minibatches))
            norm = nn.utils.clip_grad_norm_(weights, settings.max_grad_norm)
            tally.peak(f"{name}_grad_norm", float(norm))
        self.optimizer.step()


def clear(weights: Sequence[Tensor]) -> None:
    for weight in weights:
        weight.grad = None


@contextmanager
def recomputing(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing in evaluation mode: only the layers that recompute are told that they train."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)] if wanted else []
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
