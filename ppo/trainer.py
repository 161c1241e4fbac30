"""The loop of PPO: sample a rollout, learn from it for a few epochs, note what happened; exact resume."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from prefloop import checkpoints, heads, models, ranks, runs, training
from prefloop.errors import RunError
from prefloop.models import Checkpoint
from prefloop.remote import Remote

from . import loss, ranges
from .actors import Actors
from .rollout import Rollout, collect
from .sampler import Sampler
from .settings import PPOConfig, SamplerConfig
from .update import Learner
from .watch import Watch


class Trainer:
    def __init__(self, run: runs.Run, actors: Actors, prompts: list[list[int]], settings: PPOConfig,
                 checkpoint: Checkpoint, watch: Watch, sampling: SamplerConfig | None = None,
                 server: Remote | None = None) -> None:
        """`server` samples the rollouts, as `sampling` says; without one this process does."""
        self.run, self.actors, self.prompts, self.watch, self.asked = run, actors, prompts, watch, settings
        known = fitted(run)
        self.settings = replace(settings, sample_batch=known.get("sample_batch", settings.sample_batch))
        self.checkpoint = checkpoint
        self.sampling = sampling or SamplerConfig()
        self.sampler = Sampler(server, run.path / "rollouts", self.sampling.connections) if server else None
        self.learner = Learner(run, actors, settings, known.get("micro_batch", settings.micro_batch),
                               self.sampling.importance_cap)
        self.began = {name: training.Moved(nn.ParameterList(own)) for name, own in self.learner.networks().items()}
        self.kl_coef = settings.kl_coef
        self.done = 0
        self.saved: int | None = None

    def fit(self) -> None:
        settings = self.settings
        with tqdm(total=settings.rollouts, initial=self.done, desc="ppo", unit="rollout") as bar:
            while self.look():
                batch = self.collect()
                with self.run.stop.finishing("this update"):
                    figures = self.learn(batch)
                    due = self.done % settings.save_every == 0 or self.done == settings.rollouts
                    if ranks.any_of(due or self.run.stop.asked):
                        self.save()
                bar.set_postfix(score=f"{figures['score']:.3f}", kl=f"{figures['kl']:.2f}")
                bar.update()
        for name, weights in self.learner.networks().items():
            self.began[name].check(self.run, nn.ParameterList(weights), f"{name} weights")

    def look(self) -> bool:
        """Where it is time, see how the policy does on held-out prompts; whether to go on."""
        last = self.done == self.settings.rollouts
        if self.watch.due(self.done, last):
            began = time.monotonic()
            with self.keeping():
                row = self.watch.look(self.actors, self.done, self.settings)
            self.note_down({**row, "seconds_watching": time.monotonic() - began})
            if self.watch.best() == self.done != self.saved:
                with self.run.stop.finishing("the best checkpoint so far"):
                    self.save()
        return not last and not self.watch.hacked()

    def take_best(self) -> None:
        """From here on the policy is the best one by the second reward model, if one watched."""
        best = self.watch.best()
        if best is not None and best != self.done:
            checkpoints.verify(self.folder(best))
            models.load_adapter(self.actors.model, self.actors.policy, self.folder(best))

    def note_down(self, row: dict[str, Any]) -> None:
        """A row of metrics, and what it warns of."""
        before = runs.read_lines(self.run.path / "metrics.jsonl")
        said = list(ranges.warnings([*before, row], self.settings.critic_warmup if self.settings.critic else 0))
        for words in said:
            print(f"warning: after rollout {self.done}: {words}", flush=True)
        self.run.log({**row, "warnings": said} if said else row)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Cut off inside, no weight has changed since the last update, and that is saved."""
        try:
            yield
        except (KeyboardInterrupt, RunError):
            if self.done > (self.saved or 0) and ranks.world() == 1:
                with self.run.stop.finishing("the last update"):
                    self.save()
            raise

    def collect(self) -> Rollout:
        with self.keeping():
            batch = collect(self.actors, self.prompts, self.done, self.kl_coef, self.learner.micro_batch,
                            self.settings, self.sampler)
            self.check_sampler(batch)
        for what, told in (("reward", batch.scores_B), ("policy's log-probability", batch.logprobs_BT),
                           ("reference's log-probability", batch.reference_BT), ("value", batch.values_BT)):
            if told is not None:
                training.require_finite(self.run, what, [told], self.done)
        self.go_on_with(batch.sample_batch, batch.micro_batch)
        return batch

    def go_on_with(self, sample_batch: int, micro_batch: int) -> None:
        """What memory sufficed for, in all processes; a resumed run begins with it."""
        self.settings = replace(self.settings, sample_batch=sample_batch)
        self.learner.micro_batch = min(ranks.from_all(min(micro_batch, self.learner.micro_batch)))
        asked = {"sample_batch": self.asked.sample_batch, "micro_batch": self.asked.micro_batch}
        found = {"sample_batch": sample_batch, "micro_batch": self.learner.micro_batch}
        less = {name: size for name, size in found.items() if size < asked[name]}
        if less != fitted(self.run):
            self.run.note(fitting=less)

    def check_sampler(self, batch: Rollout) -> None:
        """A server's log-probabilities must be ours but for rounding: else it samples from another model."""
        gap = sampler_gap(batch)
        if gap is not None and gap > self.sampling.max_gap:
            raise RunError(f"{self.sampling.url}: its log-probabilities are {gap:.3f} from ours a token, on average "
                           f"(sampler.max_gap={self.sampling.max_gap:g}): it must hold the same base, held alike, and "
                           f"serve with --logprobs-mode processed_logprobs; {self.run.last_good()}")

    def learn(self, batch: Rollout) -> dict[str, float]:
        began, seen = time.monotonic(), describe(batch, self.settings)
        if reason := ranges.reason_to_stop(seen, len(batch.rows), self.watch.settings.max_kl):
            raise RunError(f"rollout {self.done + 1}: {reason}; {self.run.last_good(before=self.done)}")
        figures = {**seen, **self.learner.update(batch, self.done), "kl_coef": self.kl_coef}
        self.go_on_with(batch.sample_batch, self.learner.micro_batch)
        self.adapt(figures["kl"])
        self.done += 1
        self.note_down({"step": self.done, **figures, "seconds_sampling": batch.sampling_seconds,
                        "seconds_scoring": batch.scoring_seconds, "seconds_updating": time.monotonic() - began})
        return figures

    def adapt(self, kl: float) -> None:
        settings = self.settings
        if settings.kl_target is not None and (not settings.critic or self.done >= settings.critic_warmup):
            self.kl_coef = loss.adapted_kl_coef(self.kl_coef, kl, settings.kl_target, settings.episodes,
                                                settings.kl_horizon)

    def save(self) -> None:
        """checkpoint-N: the policy at its root, value/ with its head, and what the loop needs to go on exactly."""
        ranks.by_first(f"checkpoint-{self.done}", self._save)
        self.saved = self.done

    def _save(self) -> None:
        folder, actors = self.folder(self.done), self.actors
        models.save_adapter(actors.model, actors.policy, folder)
        models.save_tokenizer(actors.chat, folder)
        if actors.critic:
            models.save_adapter(actors.model, actors.value, folder / "value")
            actors.critic.head.save(folder / "value")
        torch.save(self.learner.optimizer.state_dict(), folder / "optimizer.pt")
        checkpoints.write_json(folder / "state.json", {"rollouts": self.done, "kl_coef": self.kl_coef,
                                                        "critic_span": actors.critic and actors.critic.span,
                                                        "watch": self.watch.state()})
        models.check_reload(self.run, actors.model, actors.chat, folder, actors.policy)
        if actors.critic:
            models.check_reload(self.run, actors.model, actors.chat, folder / "value", actors.value,
                                actors.critic.head)
        models.seal(folder, self.checkpoint, "ppo")
        best = self.watch.best()
        checkpoints.rotate(self.run.path, self.settings.save_total_limit, None if best is None else self.folder(best))

    def folder(self, step: int) -> Path:
        return self.run.path / f"checkpoint-{step}"

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint that was verified. Random numbers are functions of the seed: nothing to restore."""
        actors = self.actors
        models.load_adapter(actors.model, actors.policy, folder)
        state: dict[str, Any] = checkpoints.read_json(folder / "state.json")
        if actors.critic:
            models.load_adapter(actors.model, actors.value, folder / "value")
            actors.critic.head.load_state_dict(heads.Head.load(folder / "value", models.device()).state_dict())
            actors.critic.span = state["critic_span"]
        self.learner.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", "cpu", weights_only=True))
        self.done, self.kl_coef = state["rollouts"], state["kl_coef"]
        self.watch.restore(state["watch"])
        self.saved = self.done
        if self.done > self.settings.rollouts:
            raise RunError(f"{folder}: it has {self.done} rollouts behind it, more than train.rollouts")


def describe(batch: Rollout, settings: PPOConfig) -> dict[str, float]:
    """What a rollout was like, before anything was learnt from it."""
    lengths_B = batch.mask_BT.sum(1)
    kl_BT = batch.logprobs_BT - batch.reference_BT
    told = {
        "score": float(batch.scores_B.mean()),
        "score_std": spread(batch.scores_B),
        "kl": float(kl_BT.sum(1).mean()),
        "kl_per_token": float(kl_BT.sum() / lengths_B.sum()),
        "entropy": batch.entropy,
        "length": float(lengths_B.mean()),
        "eos_rate": float(batch.ended_B.float().mean()),
        "score_length_correlation": loss.correlation(batch.scores_B, lengths_B),
        "unread": float(batch.unread_B.mean()),
        "reward_clipped": float((batch.scores_B.abs() > settings.reward_clip).float().mean()),
    }
    if batch.sampled_BT is not None:
        told["sampler_gap"] = sampler_gap(batch) or 0.0
    if batch.values_BT is not None:
        told["explained_variance"] = loss.explained_variance(batch.values_BT, batch.returns_BT, batch.mask_BT)
    return told


def spread(scores_B: Tensor) -> float:
    """Their standard deviation; exactly 0 where all are one number, which rounding would hide."""
    return float(scores_B.std(correction=0)) if scores_B.min() < scores_B.max() else 0.0


def fitted(run: runs.Run) -> dict[str, int]:
    """What memory sufficed for before this run was resumed, where it did not suffice for what was asked."""
    known = run.record.get("fitting")
    return {name: size for name in ("sample_batch", "micro_batch")
            if isinstance(known, dict) and isinstance(size := known.get(name), int) and size >= 1}


def sampler_gap(batch: Rollout) -> float | None:
    """The mean of |log p - log p| of the sampled tokens, by us and by the server that sampled them, if one did."""
    if batch.sampled_BT is None:
        return None
    return float(((batch.logprobs_BT - batch.sampled_BT) * batch.mask_BT).abs().sum() / batch.mask_BT.sum())
