"""What is sampled beside the training: held-out prompts before and after, and answers to scale a reward on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from prefloop import generate, models, ranks, runs, stats

from . import judging
from .actors import Actors
from .rollout import Judge, answer_mask, sample, scores
from .settings import PPOConfig

SCALED_ON = 256  # answers


@dataclass(frozen=True)
class Outcome:
    """One number for each held-out prompt, from one sampled answer; `seconds` are a second reward model's scores."""

    answers: list[list[int]]
    scores: list[float]
    seconds: list[float]
    kls: list[float]
    lengths: list[float]
    ended: list[float]


def judged(actors: Actors, role: str | None, prompts: list[list[int]], settings: PPOConfig,
           second: judging.Judge | None = None, draw: int = 0) -> Outcome:
    """Sample from `role`, with random numbers that no rollout uses; each `draw` has its own."""
    seeds = [generate.row_seed(settings.seed, n, 2, draw, 0) for n in range(len(prompts))]
    answers, _ = sample(actors, role, prompts, seeds, settings)
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    starts = [len(prompt) for prompt in prompts]
    micros = [list(range(len(rows)))[first : first + settings.micro_batch]
              for first in range(0, len(rows), settings.micro_batch)]
    judge = Judge(actors, rows, starts, answer_mask(answers, models.device()), ranks.share(micros),
                  settings.micro_batch, settings.temperature)
    kls_BT = judge.logprobs(role)[0] - judge.logprobs(actors.reference)[0]
    seconds = scores(second, rows, starts, settings)[0].tolist() if second else []
    return Outcome(answers, scores(actors.judge, rows, starts, settings)[0].tolist(), seconds, kls_BT.sum(1).tolist(),
                   [float(len(answer)) for answer in answers],
                   [float(answer[-1] == actors.chat.end_id) for answer in answers])


def compared(actors: Actors, prompts: list[list[int]], settings: PPOConfig,
             second: judging.Judge | None = None) -> dict[str, Any]:
    """Reference and policy on the same prompts with the same random numbers; 95% intervals over prompts.

    The random numbers are not the watch's, whose answers the policy may have been chosen by.
    """
    before = judged(actors, actors.reference, prompts, settings, second, draw=1)
    after = judged(actors, actors.policy, prompts, settings, second, draw=1)
    gain, low, high = stats.paired_difference(after.scores, before.scores)
    kl_low, kl_high = stats.bootstrap_interval(after.kls)
    watched: dict[str, float] = {}
    if second:
        risen = stats.paired_difference(after.seconds, before.seconds)
        watched = {"second_gain": risen.value, "second_gain_low": risen.low, "second_gain_high": risen.high}
    return {"score_after": mean(after.scores), "score_before": mean(before.scores), "score_gain": gain,
            "score_gain_low": low, "score_gain_high": high, **watched, "kl": mean(after.kls), "kl_low": kl_low,
            "kl_high": kl_high, "length_after": mean(after.lengths), "length_before": mean(before.lengths),
            "eos_rate_after": mean(after.ended), "eos_rate_before": mean(before.ended), "held_out": len(prompts)}


def centred(run: runs.Run, actors: Actors, prompts: list[list[int]], settings: PPOConfig) -> Actors:
    """`actors` with the judge in units of its spread over the SFT model's answers; found once, and kept in the record.
    """
    known: dict[str, float] | None = run.record.get("reward_scale")
    if known is None:
        prompts = prompts[:SCALED_ON]
        seeds = [generate.row_seed(settings.seed, n, 3, 0, 0) for n in range(len(prompts))]
        answers, _ = sample(actors, actors.reference, prompts, seeds, settings)
        rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
        scores_B, unread_B = scores(actors.judge, rows, list(map(len, prompts)), settings)
        read_R = scores_B[unread_B == 0].cpu()
        judge = judging.rescaled(actors.judge, read_R)
        known = {"shift": judge.shift, "scale": judge.scale, "answers": len(read_R)}
        run.note(reward_scale=known)
    print(f"the reward's scores less {known['shift']:.4g}, over {known['scale']:.4g}: its median and spread on "
          f"{known['answers']} answers of the SFT model")
    assert isinstance(actors.judge, judging.ThroughText)
    return replace(actors, judge=replace(actors.judge, shift=known["shift"], scale=known["scale"]))


def mean(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).mean())
