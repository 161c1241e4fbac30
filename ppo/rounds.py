"""The rounds of online DPO: which prompts are answered, how the answers are ranked, and the pairs that come of it.

What a round samples is a function of (seed, round) and the weights. P prompts with K answers each.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Dataset

from prefloop import checkpoints, passes, runs, scoring
from prefloop.chat import Chat
from prefloop.errors import RunError
from prefloop.generate import SamplingConfig, row_seed, sample_ids
from prefloop.records import Prompt

from . import loss
from .pairs import POLICY, REFERENCE

FILE = "round.json"


@dataclass(frozen=True)
class OnlineConfig:
    """`online:` of DPO. With a reward run, pairs are made of the policy's own answers, anew in every round."""

    reward: str = ""
    rounds: int = 20
    prompts: int = 128
    answers: int = 4
    pairs: Literal["extremes", "all"] = "extremes"
    passes: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    sample_batch: int = 64
    missing_eos_penalty: float = 1.0
    least_margin: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("prompts", 1), ("answers", 2), ("passes", 1), ("max_new_tokens", 1),
                            ("sample_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"online.{name} is at least {least}, not {getattr(self, name)}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"online.temperature is a finite number above 0, not {self.temperature}")
        for name in ("missing_eos_penalty", "least_margin"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"online.{name} is at least 0, not {getattr(self, name)}")

    @property
    def most_pairs(self) -> int:
        """Of a round in which no two answers tie."""
        each = self.answers * (self.answers - 1) // 2 if self.pairs == "all" else 1
        return self.prompts * each


class Rounds(Dataset):
    """The rows of the round at hand, by number.

    Every round has the same number of steps, so that the schedule and the time left are known. Where answers tie there
    are fewer pairs, and these are dealt again.
    """

    def __init__(self, run: runs.Run, model: PeftModel, chat: Chat, scorer: scoring.Scorer, prompts: list[Prompt],
                 online: OnlineConfig, batch: int, seed: int) -> None:
        """`batch` is how many pairs a step learns from."""
        self.run, self.model, self.chat, self.scorer = run, model, chat, scorer
        self.prompts, self.online, self.seed = prompts, online, seed
        self.steps = -(-online.most_pairs * online.passes // batch)
        self.size = self.steps * batch
        self.number = 0
        self.pairs: list[dict[str, Any]] = []
        self.dealt: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, place: int) -> dict[str, Any]:
        return self.pairs[self.dealt[place]]

    def begin(self, step: int) -> None:
        """The round that the step after `step` is in: made now, or that of the checkpoint gone on from."""
        self.number, kept = step // self.steps, self.run.resumed_from
        if step % self.steps and kept and kept.name == f"checkpoint-{step}":
            self.pairs = checkpoints.read_json(kept / FILE)["pairs"]
        else:
            with self.run.stop.at_once():
                self.pairs = self._made(step)
        self.dealt = dealt(len(self.pairs), self.size, self.seed, self.number)

    def save(self, folder: Path) -> None:
        checkpoints.write_json(folder / FILE, {"round": self.number, "pairs": self.pairs})

    def _made(self, step: int) -> list[dict[str, Any]]:
        pairs, figures = made(self.model, self.chat, self.scorer, self._asked(), self.online,
                              row_seed(self.seed, self.number), self.number + 1)
        if not pairs:
            raise RunError(f"round {self.number + 1}: no two answers to a prompt differ in their score by more than "
                           f"online.least_margin, so there is nothing to learn (score {figures['score']:.3f}, "
                           f"spread {figures['score_std']:.3f}); look at samples of the policy, or take another "
                           f"reward model; {self.run.last_good()}")
        # By the step that follows: a run resumed at this one makes the round again, and says so again.
        self.run.log({"step": step + 1, "round": self.number + 1, **figures})
        return pairs

    def _asked(self) -> list[Prompt]:
        """All prompts in a new order in every pass over them."""
        first, count = self.number * self.online.prompts, len(self.prompts)
        turns = range(first // count, (first + self.online.prompts - 1) // count + 1)
        order = [place for turn in turns for place in shuffled(count, row_seed(self.seed, turn, 0))]
        return [self.prompts[place] for place in order[first % count :][: self.online.prompts]]


def shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def dealt(pairs: int, size: int, seed: int, number: int) -> list[int]:
    """`size` numbers of pairs: all of them in a new order, as often as it takes."""
    order = [place for turn in range(-(-size // pairs)) for place in shuffled(pairs, row_seed(seed, number, turn, 1))]
    return order[:size]


def made(model: PeftModel, chat: Chat, scorer: scoring.Scorer, prompts: list[Prompt], online: OnlineConfig, seed: int,
         number: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A round's pairs as the trainer reads them, and its figures."""
    began = time.monotonic()
    settings = SamplingConfig(online.answers, online.max_new_tokens, temperature=online.temperature,
                              batch=online.sample_batch, seed=seed)
    answers = sample_ids(model, chat, prompts, settings, POLICY, f"round {number}: answers")
    sampled = time.monotonic()
    scores_PK, ended_PK = judged(chat, scorer, prompts, answers), tensor_of(answers, chat.end_id)
    worth_PK = scores_PK - online.missing_eos_penalty * scores_PK.std(correction=0) * ~ended_PK
    least = online.least_margin * float(scores_PK.std(correction=0))
    rows = [row for place, prompt in enumerate(prompts)
            for row in rows_of(chat.prompt_ids(prompt), answers[place], worth_PK[place].tolist(), least, online)]
    figures = described(model, chat, prompts, answers, scores_PK, ended_PK, online)
    figures |= {"pairs": len(rows), "seconds_sampling": sampled - began, "seconds_scoring": time.monotonic() - sampled}
    return weighted(rows) if online.pairs == "all" else [plain(row) for row in rows], figures


def judged(chat: Chat, scorer: scoring.Scorer, prompts: list[Prompt], answers: list[list[list[int]]]) -> Tensor:
    """scores_PK of the answers, as texts: the reward model may have another tokenizer."""
    asked = [(prompt, chat.text(ids)) for prompt, own in zip(prompts, answers, strict=True) for ids in own]
    if not any(text.strip() for _, text in asked):
        raise RunError("every answer is empty: the policy ends its turn at once; look at its SFT run")
    scores_PK = torch.tensor(scoring.scored(scorer, asked).mean_N).view(len(prompts), -1)
    if not scores_PK.isfinite().all():
        raise RunError("the reward model gave an answer a score that is not finite")
    return scores_PK


def tensor_of(answers: list[list[list[int]]], end_id: int) -> Tensor:
    """ended_PK: whether an answer ended by itself."""
    return torch.tensor([[ids[-1] == end_id for ids in own] for own in answers])


def better_than(worth_K: list[float], least: float, every: bool) -> list[tuple[int, int]]:
    """(better, worse) of one prompt's answers: the best and the worst, or every two, if further apart than `least`."""
    order = sorted(range(len(worth_K)), key=lambda n: -worth_K[n])
    among = combinations(order, 2) if every else [(order[0], order[-1])]
    return [(high, low) for high, low in among if worth_K[high] - worth_K[low] > least]


@dataclass(frozen=True)
class Found:
    """A pair of one prompt's answers and how far apart the reward model has them."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float


def rows_of(prompt_ids: list[int], answers: list[list[int]], worth_K: list[float], least: float,
            online: OnlineConfig) -> list[Found]:
    return [Found(prompt_ids, answers[high], answers[low], worth_K[high] - worth_K[low])
            for high, low in better_than(worth_K, least, online.pairs == "all")]


def plain(row: Found) -> dict[str, Any]:
    return {"prompt_ids": row.prompt_ids, "chosen_ids": row.chosen_ids, "rejected_ids": row.rejected_ids}


def weighted(rows: list[Found]) -> list[dict[str, Any]]:
    """Each weighs as its margin; the mean is 1."""
    mean = sum(row.margin for row in rows) / max(1, len(rows))
    return [plain(row) | {"probability": 1.0, "weight": row.margin / mean} for row in rows]


def described(model: PeftModel, chat: Chat, prompts: list[Prompt], answers: list[list[list[int]]],
              scores_PK: Tensor, ended_PK: Tensor, online: OnlineConfig) -> dict[str, float]:
    """By PPO's names. The KL is estimated on the first answer of each prompt."""
    asked, first = [chat.prompt_ids(prompt) for prompt in prompts], [own[0] for own in answers]
    texts = [ids + answer for ids, answer in zip(asked, first, strict=True)]
    policy_P, reference_P = (passes.total_logprobs(model, role, texts, list(map(len, asked)), chat.pad_id,
                                                   online.temperature) for role in (POLICY, REFERENCE))
    lengths = torch.tensor([float(len(ids)) for own in answers for ids in own])
    kl = float((policy_P - reference_P).mean())
    return {"score": float(scores_PK.mean()), "score_std": float(scores_PK.std(correction=0)), "kl": kl,
            "kl_per_token": kl * len(first) / sum(map(len, first)), "length": float(lengths.mean()),
            "eos_rate": float(ended_PK.float().mean()),
            "score_length_correlation": loss.correlation(scores_PK.flatten().float(), lengths)}
