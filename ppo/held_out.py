"""Before and after on prompts that nobody trained on: reward, distance from the reference, length, endings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from prefloop import generate, models, ranks, stats

from .actors import Actors
from .rollout import Judge, answer_mask, sample, scores
from .settings import PPOConfig


@dataclass(frozen=True)
class Outcome:
    """One number for each held-out prompt, from one sampled answer."""

    scores: list[float]
    kls: list[float]
    lengths: list[float]
    ended: list[float]


def judged(actors: Actors, role: str | None, prompts: list[list[int]], settings: PPOConfig) -> Outcome:
    """Sample from `role`, with random numbers that no rollout uses."""
    seeds = [generate.row_seed(settings.seed, n, 2, 0, 0) for n in range(len(prompts))]
    answers, _ = sample(actors, role, prompts, seeds, settings)
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    starts = [len(prompt) for prompt in prompts]
    micros = [list(range(len(rows)))[first : first + settings.micro_batch]
              for first in range(0, len(rows), settings.micro_batch)]
    judge = Judge(actors, rows, starts, answer_mask(answers, models.device()), ranks.share(micros),
                  settings.temperature)
    kls_BT = judge.logprobs(role)[0] - judge.logprobs(actors.reference)[0]
    scores_B = scores(actors, rows, starts, settings)
    return Outcome(scores_B.tolist(), kls_BT.sum(1).tolist(), [float(len(answer)) for answer in answers],
                   [float(answer[-1] == actors.chat.end_id) for answer in answers])


def compared(actors: Actors, prompts: list[list[int]], settings: PPOConfig) -> dict[str, Any]:
    """Reference and policy on the same prompts with the same random numbers; 95% intervals over prompts."""
    before = judged(actors, actors.reference, prompts, settings)
    after = judged(actors, actors.policy, prompts, settings)
    gain, low, high = stats.paired_difference(after.scores, before.scores)
    kl_low, kl_high = stats.bootstrap_interval(after.kls)
    return {"score_after": mean(after.scores), "score_before": mean(before.scores), "score_gain": gain,
            "score_gain_low": low, "score_gain_high": high, "kl": mean(after.kls), "kl_low": kl_low,
            "kl_high": kl_high, "length_after": mean(after.lengths), "length_before": mean(before.lengths),
            "eos_rate_after": mean(after.ended), "eos_rate_before": mean(before.ended), "held_out": len(prompts)}


def mean(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).mean())
