"""The loop of PPO: sample a rollout, learn from it for a few epochs, note what happened; exact resume."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.modeling_layers import GradientCheckpointingLayer

from prefloop import checkpoints, heads, memory, models, passes, runs, training
from prefloop.errors import RunError
from prefloop.models import Checkpoint

from . import loss
from .actors import Actors, answer_logprobs, answer_values
from .rollout import Rollout, collect, split
from .settings import PPOConfig


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
        return {name: total / self.tokens[name] for name, total in self.sums.items()} | self.highest


Gradients = Callable[[Rollout, list[list[int]], Tally], bool]


class Trainer:
    def __init__(self, run: runs.Run, actors: Actors, prompts: list[list[int]], settings: PPOConfig,
                 checkpoint: Checkpoint) -> None:
        self.run, self.actors, self.prompts = run, actors, prompts
        known = run.record.get("fitting", {})  # what memory sufficed for before this run was resumed
        self.settings = replace(settings, **{name: known[name] for name in ("micro_batch", "sample_batch")
                                             if isinstance(known, dict) and name in known})
        self.checkpoint = checkpoint
        named = list(actors.model.named_parameters())
        self.policy = [weight for name, weight in named if weight.requires_grad and f".{actors.policy}." in name]
        self.critic = [weight for name, weight in named if weight.requires_grad and f".{actors.value}." in name]
        self.critic += list(actors.critic.parameters())
        self.optimizer = torch.optim.AdamW([{"params": self.policy}, {"params": self.critic}], eps=1e-5,
                                           weight_decay=0.0)
        self.began = {"policy": training.Moved(nn.ParameterList(self.policy)),
                      "critic": training.Moved(nn.ParameterList(self.critic))}
        self.kl_coef = settings.kl_coef
        self.done = self.saved = 0
        self.ratio_checked = False
        self.judged_by = settings.micro_batch
        if settings.gradient_checkpointing:
            plain = passes.plain(actors.model)
            plain.gradient_checkpointing_enable({"use_reentrant": False})
            plain.enable_input_require_grads()

    def fit(self) -> None:
        settings = self.settings
        with tqdm(total=settings.rollouts, initial=self.done, desc="ppo", unit="rollout") as bar:
            while self.done < settings.rollouts:
                batch = self.collect()
                with self.run.stop.finishing("this update"):
                    figures = self.learn(batch)
                    if self.done % settings.save_every == 0 or self.done == settings.rollouts or self.run.stop.asked:
                        self.save()
                bar.set_postfix(score=f"{figures['score']:.3f}", kl=f"{figures['kl']:.2f}")
                bar.update()
        for what, weights in (("policy", self.policy), ("critic", self.critic)):
            self.began[what].check(self.run, nn.ParameterList(weights), f"{what} weights")

    def collect(self) -> Rollout:
        """The next rollout. Stopped here, no weight has changed since the last update, and that is saved."""
        try:
            batch = collect(self.actors, self.prompts, self.done, self.kl_coef, self.settings)
        except KeyboardInterrupt:
            if self.done > self.saved:
                with self.run.stop.finishing("the last update"):
                    self.save()
            raise
        for what, told in (("reward", batch.scores_B), ("policy's log-probability", batch.logprobs_BT),
                           ("reference's log-probability", batch.reference_BT), ("value", batch.values_BT)):
            training.require_finite(self.run, what, [told], self.done)
        if batch.sample_batch < self.settings.sample_batch:
            self.go_on_with(sample_batch=batch.sample_batch)
        self.judged_by = self.settings.micro_batch
        return batch

    def go_on_with(self, **sizes: int) -> None:
        self.settings = replace(self.settings, **sizes)
        self.run.note(fitting={**self.run.record.get("fitting", {}), **sizes})

    def learn(self, batch: Rollout) -> dict[str, float]:
        began = time.monotonic()
        figures = {**describe(batch, self.settings), **self.update(batch), "kl_coef": self.kl_coef}
        self.adapt(figures["kl"])
        self.done += 1
        self.run.log({"step": self.done, **figures, "seconds_sampling": batch.sampling_seconds,
                      "seconds_scoring": batch.scoring_seconds, "seconds_updating": time.monotonic() - began})
        return figures

    def adapt(self, kl: float) -> None:
        settings = self.settings
        if settings.kl_target is not None and self.done >= settings.critic_warmup:
            self.kl_coef = loss.adapted_kl_coef(self.kl_coef, kl, settings.kl_target, settings.episodes,
                                                settings.kl_horizon)

    def update(self, batch: Rollout) -> dict[str, float]:
        """Epochs over one rollout. Once the policy is too far from where it sampled it rests; the critic goes on."""
        settings, tally = self.settings, Tally()
        policy_learns = self.done >= settings.critic_warmup
        policy_steps = 0
        for epoch in range(settings.ppo_epochs):
            for number in range(settings.minibatches):
                self.optimizer.zero_grad(set_to_none=True)
                here = (batch, epoch, number)
                if policy_learns:
                    policy_learns, tally = self.fitting(self.policy_gradients, self.policy, here, tally)
                if policy_learns:
                    policy_steps += 1
                else:
                    clear(self.policy)
                _, tally = self.fitting(self.critic_gradients, self.critic, here, tally)
                self.step((self.done * settings.ppo_epochs + epoch) * settings.minibatches + number, tally)
        planned = settings.ppo_epochs * settings.minibatches
        return {**tally.means(), "policy_steps": policy_steps, "policy_steps_planned": planned}

    def fitting(self, gradients: Gradients, weights: Sequence[Tensor], minibatch: tuple[Rollout, int, int],
                tally: Tally) -> tuple[bool, Tally]:
        """One minibatch's gradients; where memory runs out, once more by micro-batches half as large.

        Weights change only in `step`, and a minibatch's gradients are sums: how it is cut up does not count.
        """
        batch, epoch, number = minibatch
        while True:
            micros = split(list(map(len, batch.rows)), self.done, epoch, self.settings)[number]
            tried, said = copy.deepcopy(tally), []
            if memory.suffices(lambda tried=tried, said=said, micros=micros: said.append(
                    gradients(batch, micros, tried))):
                return said[0], tried
            clear(weights)
            size = max(map(len, micros))
            if size == 1:
                raise RunError("out of memory with micro-batches of 1: lower train.max_new_tokens, or set "
                               f"train.gradient_checkpointing=true or model.four_bit=true; {self.run.last_good()}")
            self.go_on_with(micro_batch=size // 2)
            print(f"out of memory with micro-batches of {size}; going on with {size // 2}", flush=True)

    def policy_gradients(self, batch: Rollout, micros: list[list[int]], tally: Tally) -> bool:
        """Backward of the policy's loss over one minibatch; False when its approximate KL says to take no step."""
        settings, actors = self.settings, self.actors
        tokens = sum(float(batch.mask_BT[micro].sum()) for micro in micros)
        approximate_kl, gap = 0.0, 0.0
        with passes.acting(actors.model, actors.policy), recomputing(actors.model, settings.gradient_checkpointing):
            for micro in micros:
                old_N, advantages_N = batch.of(micro, batch.logprobs_BT), batch.of(micro, batch.advantages_BT)
                new_N = answer_logprobs(actors, *batch.episodes(micro), settings.temperature)
                (loss.policy_losses(new_N, old_N, advantages_N, settings.clip).sum() / tokens).backward()
                new_N = new_N.detach()
                ratios_N, kl_N = loss.ratios(new_N, old_N), loss.approximate_kl(new_N, old_N)
                approximate_kl += float(kl_N.sum()) / tokens
                gap = max(gap, float((ratios_N - 1).abs().max()))
                tally.add("approx_kl", kl_N)
                tally.add("clip_fraction", loss.policy_clipped(new_N, old_N, advantages_N, settings.clip))
                tally.peak("ratio_max", float(ratios_N.max()))
        if not self.ratio_checked and self.judged_by == settings.micro_batch:  # cut otherwise, it is not exactly 1
            self.run.check("ratio", gap < 1e-3, f"in the first pass over fresh samples it is 1 within {gap:.1e}")
            self.ratio_checked = True
        return settings.target_approx_kl is None or approximate_kl <= settings.target_approx_kl

    def critic_gradients(self, batch: Rollout, micros: list[list[int]], tally: Tally) -> bool:
        settings, actors = self.settings, self.actors
        tokens = sum(float(batch.mask_BT[micro].sum()) for micro in micros)
        with passes.acting(actors.model, actors.value), recomputing(actors.model, settings.gradient_checkpointing):
            for micro in micros:
                old_N, returns_N = batch.of(micro, batch.values_BT), batch.of(micro, batch.returns_BT)
                values_N = answer_values(actors, *batch.episodes(micro))
                losses_N = loss.value_losses(values_N, old_N, returns_N, settings.value_clip)
                (losses_N.sum() / tokens).backward()
                tally.add("value_loss", losses_N)
                tally.add("value_clip_fraction",
                          loss.value_clipped(values_N.detach(), old_N, returns_N, settings.value_clip))
        return True

    def step(self, number: int, tally: Tally) -> None:
        """One optimizer step, the only one: finite gradients, clipped for each network by itself, scheduled rates."""
        settings = self.settings
        share = loss.learning_rate_share(number, settings.rollouts * settings.ppo_epochs * settings.minibatches,
                                         settings.warmup)
        rates = (settings.learning_rate, settings.critic_learning_rate)
        for name, group, rate in zip(("policy", "critic"), self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * share
            moving = [weight for weight in group["params"] if weight.grad is not None]
            if moving:
                training.require_finite(self.run, f"{name} gradient", [weight.grad for weight in moving], self.done)
                norm = nn.utils.clip_grad_norm_(moving, settings.max_grad_norm)
                tally.peak(f"{name}_grad_norm", float(norm))
        self.optimizer.step()

    def save(self) -> None:
        """checkpoint-N: the policy at its root, value/ with its head, and what the loop needs to go on exactly."""
        folder, actors = self.run.path / f"checkpoint-{self.done}", self.actors
        models.save_adapter(actors.model, actors.policy, folder)
        models.save_tokenizer(actors.chat, folder)
        models.save_adapter(actors.model, actors.value, folder / "value")
        actors.critic.head.save(folder / "value")
        torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")
        checkpoints.write_json(folder / "state.json", {"rollouts": self.done, "kl_coef": self.kl_coef,
                                                        "critic_span": actors.critic.span})
        models.check_reload(self.run, actors.model, actors.chat, folder, actors.policy)
        models.check_reload(self.run, actors.model, actors.chat, folder / "value", actors.value, actors.critic.head)
        models.seal(folder, self.checkpoint, "ppo")
        checkpoints.rotate(self.run.path, self.settings.save_total_limit)
        self.saved = self.done

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint that was verified. Random numbers are functions of the seed: nothing to restore."""
        actors = self.actors
        models.load_adapter(actors.model, actors.policy, folder)
        models.load_adapter(actors.model, actors.value, folder / "value")
        actors.critic.head.load_state_dict(heads.Head.load(folder / "value", models.device()).state_dict())
        self.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", "cpu", weights_only=True))
        state: dict[str, Any] = checkpoints.read_json(folder / "state.json")
        self.done, self.kl_coef, actors.critic.span = state["rollouts"], state["kl_coef"], state["critic_span"]
        self.saved = self.done
        if self.done > self.settings.rollouts:
            raise RunError(f"{folder}: it has {self.done} rollouts behind it, more than train.rollouts")


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


def describe(batch: Rollout, settings: PPOConfig) -> dict[str, float]:
    """What a rollout was like, before anything was learnt from it."""
    lengths_B = batch.mask_BT.sum(1)
    kl_BT = batch.logprobs_BT - batch.reference_BT
    return {
        "score": float(batch.scores_B.mean()),
        "score_std": float(batch.scores_B.std(correction=0)),
        "kl": float(kl_BT.sum(1).mean()),
        "kl_per_token": float(kl_BT.sum() / lengths_B.sum()),
        "entropy": batch.entropy,
        "length": float(lengths_B.mean()),
        "eos_rate": float(batch.ended_B.float().mean()),
        "score_length_correlation": loss.correlation(batch.scores_B, lengths_B),
        "reward_clipped": float((batch.scores_B.abs() > settings.reward_clip).float().mean()),
        "explained_variance": loss.explained_variance(batch.values_BT, batch.returns_BT, batch.mask_BT),
    }
