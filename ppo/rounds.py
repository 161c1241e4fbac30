"""The rounds of online DPO: which prompts are answered, how the answers are ranked, and the pairs that come of it.

What a round samples is a function of (seed, round) and the weights. P prompts with K answers each.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import combinations
from math import isfinite, isnan, nan
from pathlib import Path
from statistics import mean, pstdev
from typing import Any, Literal

import torch
from peft import PeftModel
from torch.utils.data import Dataset

from prefloop import checkpoints, passes, ranks, remote, runs, scoring
from prefloop.chat import Chat
from prefloop.errors import RunError
from prefloop.generate import SamplingConfig, row_seed, sample_ids
from prefloop.records import Prompt

from . import loss
from .judging import Reader
from .pairs import POLICY, REFERENCE

FILE = "round.json"


@dataclass(frozen=True)
class OnlineConfig:
    """`online:` of DPO. With a reward run, pairs are made of the policy's own answers, anew in every round."""

    reward: str = ""
    token_file: str | None = None
    timeout: float = 60.0
    patience: float = 300.0
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
    max_kl: float | None = 50.0

    def __post_init__(self) -> None:
        if "://" in self.reward:
            remote.require_url(self.reward, "online.reward")
        if not 0 < self.timeout < float("inf") or not 0 <= self.patience < float("inf"):
            raise ValueError("online.timeout is above 0 seconds, online.patience at least 0")
        for name, least in (("rounds", 1), ("prompts", 1), ("answers", 2), ("passes", 1), ("max_new_tokens", 1),
                            ("sample_batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"online.{name} is at least {least}, not {getattr(self, name)}")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"online.temperature is a finite number above 0, not {self.temperature}")
        for name in ("missing_eos_penalty", "least_margin"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"online.{name} is at least 0, not {getattr(self, name)}")
        if self.max_kl is not None and not self.max_kl > 0:
            raise ValueError(f"online.max_kl is above 0, or null for none, not {self.max_kl}")

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

    def __init__(self, run: runs.Run, model: PeftModel, chat: Chat, scorer: Reader, prompts: list[Prompt],
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
            # Several processes wait for each other in here: they stop at the next step instead.
            with self.run.stop.at_once() if ranks.world() == 1 else nullcontext():
                self.pairs = self._made(step)
        self.dealt = dealt(len(self.pairs), self.size, self.seed, self.number)

    def save(self, folder: Path) -> None:
        checkpoints.write_json(folder / FILE, {"round": self.number, "pairs": self.pairs})

    def _made(self, step: int) -> list[dict[str, Any]]:
        pairs, figures = made(self.model, self.chat, self.scorer, self._asked(), self.online,
                              row_seed(self.seed, self.number), self.number + 1)
        if self.online.max_kl is not None and figures["kl"] > self.online.max_kl:
            raise RunError(f"round {self.number + 1}: the policy is {figures['kl']:.1f} nats an answer from its "
                           f"reference, past online.max_kl={self.online.max_kl:g}: raise train.beta, lower "
                           f"train.learning_rate, or add an sft term; {self.run.last_good()}")
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


@dataclass(frozen=True)
class Judged:
    """A prompt's answers, what the reward model says of each, and log policy - log reference of the first."""

    prompt_ids: list[int]
    answers: list[list[int]]
    ended: list[bool]
    scores: list[float]
    log_ratio: float


def made(model: PeftModel, chat: Chat, scorer: Reader, prompts: list[Prompt], online: OnlineConfig, seed: int,
         number: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A round's pairs as the trainer reads them, and its figures. Several processes share the prompts."""
    began = time.monotonic()
    settings = SamplingConfig(online.answers, online.max_new_tokens, temperature=online.temperature,
                              batch=online.sample_batch, seed=seed)
    mine = ranks.share(range(len(prompts)))
    asked = [prompts[n] for n in mine]
    answers = sample_ids(model, chat, asked, settings, POLICY, f"round {number}: answers", mine)
    sampled = time.monotonic()
    scores_PK = judged(chat, scorer, asked, answers)
    ratios_P = log_ratios(model, chat, asked, [own[0] for own in answers], online.temperature)
    own = [Judged(chat.prompt_ids(prompt), texts, [ids[-1] == chat.end_id for ids in texts], scores, ratio)
           for prompt, texts, scores, ratio in zip(asked, answers, scores_PK, ratios_P, strict=True)]
    parts = ranks.from_all(own)
    together = whole(chat, [parts[n % len(parts)][n // len(parts)] for n in range(len(prompts))])
    rows = ranked(together, online)
    figures = described(together) | {"pairs": len(rows), "seconds_sampling": sampled - began,
                                     "seconds_scoring": time.monotonic() - sampled}
    return weighted(rows) if online.pairs == "all" else [plain(row) for row in rows], figures


def whole(chat: Chat, together: list[Judged]) -> list[Judged]:
    """What all processes have of a round, with a score for every answer; RunError where there is nothing to rank."""
    if not any(chat.text(ids).strip() for one in together for ids in one.answers):
        raise RunError("every answer is empty: the policy ends its turn at once; look at its SFT run")
    scores = filled([one.scores for one in together])
    return [replace(one, scores=own) for one, own in zip(together, scores, strict=True)]


def judged(chat: Chat, scorer: Reader, prompts: list[Prompt], answers: list[list[list[int]]]) -> list[list[float]]:
    """The score of each answer, as text: the reward model may have another tokenizer. One that it cannot read whole
    has none, which is nan."""
    asked = [[(prompt, chat.text(ids)) for ids in own] for prompt, own in zip(prompts, answers, strict=True)]
    flat = [one for own in asked for one in own]
    known = list(dict.fromkeys(one for one, read in zip(flat, scorer.reads(flat), strict=True) if read))
    scores = scoring.scored(scorer, known).mean_N.tolist()  # type: ignore[arg-type]  # a Reader is enough
    if not all(map(isfinite, scores)):
        raise RunError("the reward model gave an answer a score that is not finite")
    said = dict(zip(known, scores, strict=True))
    return [[said.get(one, nan) for one in own] for own in asked]


def filled(scores: list[list[float]]) -> list[list[float]]:
    """Unread answers get the lowest score of all that were read: of a whole round, not of one process's share."""
    read = [score for own in scores for score in own if not isnan(score)]
    if not read:
        raise RunError("every answer is longer than the reward model can read; lower online.max_new_tokens")
    lowest = min(read)
    return [[lowest if isnan(score) else score for score in own] for own in scores]


def log_ratios(model: PeftModel, chat: Chat, prompts: list[Prompt], answers: list[list[int]],
               temperature: float) -> list[float]:
    """log policy - log reference of one answer to each prompt, in nats: its mean estimates KL(policy, reference)."""
    asked = list(map(chat.prompt_ids, prompts))
    texts = [ids + answer for ids, answer in zip(asked, answers, strict=True)]
    policy_P, reference_P = (passes.total_logprobs(model, role, texts, list(map(len, asked)), chat.pad_id, temperature)
                             for role in (POLICY, REFERENCE))
    return (policy_P - reference_P).tolist()


@dataclass(frozen=True)
class Found:
    """A pair of one prompt's answers and how far apart the reward model has them."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    margin: float


def ranked(together: list[Judged], online: OnlineConfig) -> list[Found]:
    """The pairs of a round. Penalty and least margin are in units of the spread of its scores."""
    spread = pstdev(score for one in together for score in one.scores)
    found = []
    for one in together:
        worth_K = [score - (0.0 if ended else online.missing_eos_penalty * spread)
                   for score, ended in zip(one.scores, one.ended, strict=True)]
        for high, low in better_than(worth_K, online.least_margin * spread, online.pairs == "all"):
            found.append(Found(one.prompt_ids, one.answers[high], one.answers[low], worth_K[high] - worth_K[low]))
    return found


def better_than(worth_K: list[float], least: float, every: bool) -> list[tuple[int, int]]:
    """(better, worse) of one prompt's answers: the best and the worst, or every two, if further apart than `least`."""
    order = sorted(range(len(worth_K)), key=lambda n: -worth_K[n])
    among = combinations(order, 2) if every else [(order[0], order[-1])]
    return [(high, low) for high, low in among if worth_K[high] - worth_K[low] > least]


def plain(row: Found) -> dict[str, Any]:
    return {"prompt_ids": row.prompt_ids, "chosen_ids": row.chosen_ids, "rejected_ids": row.rejected_ids}


def weighted(rows: list[Found]) -> list[dict[str, Any]]:
    """Each weighs as its margin; the mean is 1."""
    mean = sum(row.margin for row in rows) / max(1, len(rows))
    return [plain(row) | {"probability": 1.0, "weight": row.margin / mean} for row in rows]


def described(together: list[Judged]) -> dict[str, float]:
    """By PPO's names. The KL is estimated on the first answer of each prompt."""
    scores = torch.tensor([one.scores for one in together]).flatten()
    lengths = torch.tensor([float(len(ids)) for one in together for ids in one.answers])
    log_ratio = sum(one.log_ratio for one in together)
    return {"score": float(scores.mean()), "score_std": float(scores.std(correction=0)),
            "kl": log_ratio / len(together),
            "kl_per_token": log_ratio / sum(len(one.answers[0]) for one in together),
            "length": float(lengths.mean()), "eos_rate": mean(float(end) for one in together for end in one.ended),
            "score_length_correlation": loss.correlation(scores, lengths)}
