"""How long a stage takes, by arithmetic on a few speeds that are measured on this machine in a second or two.

A pass multiplies (matrices of the base, of the adapters, of the vocabulary), goes over numbers one by one (norms,
activations, sums with an adapter's output), and calls many small operations, which is all that counts for a tiny
model. An estimate: tests/benchmarks/plan.py holds it against whole stages on a CPU. Of a base in 4 bits the unpacking
is left out, which on a CPU takes longer than all the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

from prefloop.footprint import FP32, Held, Judge, Lengths, Load, Shape, cache_bytes, layer_bytes, online_of

if TYPE_CHECKING:
    import torch

ROWS = 512  # of the matrix that is multiplied to find the speed of passes
COLD = 2**26  # bytes of matrices that no cache holds: token by token, every weight comes from memory
CALLS = 250  # small operations that a layer with LoRA on its seven linear maps costs as much as, in a pass
TOUCHED = 4.0  # how often a number that a pass would keep is gone over
PICKED = 5  # how often a logit is gone over while a token is drawn
VOCABULARY = {"ours": 8, "trl": 50}  # how often a logit is gone over in a pass
# How often a pass multiplies, goes over numbers, and calls: without gradients, with, and with checkpointing; and where
# every weight has a gradient, not an adapter alone.
WAYS = {"quiet": (1, 1, 1), "kept": (2, 4, 3), "recomputed": (3, 5, 4), "kept whole": (3, 4, 3),
        "recomputed whole": (4, 5, 4)}


@dataclass(frozen=True)
class Machine:
    """Measured speeds: multiplications and additions a second in matrices of many rows and of as many as are sampled
    together, numbers gone over a second, and seconds of a call of an operation on next to nothing."""

    dense: float
    narrow: float
    numbers: float
    call: float


@dataclass(frozen=True)
class Pace:
    """Seconds of each phase of one turn (an optimizer step, a rollout, or all answers), and how many turns there are.
    """

    sampling: float
    scoring: float
    updating: float
    turns: int

    @property
    def turn(self) -> float:
        return self.sampling + self.scoring + self.updating


def probe(shape: Shape, held: Held, sampled: int, where: torch.device,
          clock: Callable[[], float] = time.perf_counter) -> Machine:
    """Try this machine on matrices of this shape, for a second or two."""
    import torch
    from torch.nn.functional import linear

    dtype = torch.float32 if held.wide == FP32 else torch.bfloat16

    def rate(work: Callable[[], Any], amount: float, least: float = 0.3) -> float:
        times, began = 0, clock()
        while (spent := clock() - began) < least or times < 3:
            if times == 1:  # the first only warms up
                began = clock()
            work()
            if where.type == "cuda":
                torch.cuda.synchronize()
            times += 1
        return amount * (times - 1) / spent

    size = shape.inner * shape.hidden
    weights = [torch.ones(shape.inner, shape.hidden, dtype=dtype, device=where)
               for _ in range(max(1, COLD // (size * held.wide)))]
    many, few = (torch.ones(rows, shape.hidden, dtype=dtype, device=where) for rows in (ROWS, max(sampled, 1)))
    each, tiny = torch.ones(2**22, dtype=dtype, device=where), torch.ones(8, device=where)
    with torch.no_grad():
        return Machine(rate(lambda: linear(many, weights[0]), 2.0 * size * len(many)),
                       rate(lambda: [linear(few, weight) for weight in weights], 2.0 * size * len(few) * len(weights)),
                       rate(lambda: each * 1.5, len(each)),
                       1 / rate(lambda: [tiny * 1.5 for _ in range(100)], 100))


def pass_seconds(shape: Shape, held: Held, machine: Machine, tokens: float, row: float, calls: float, each: int,
                 way: str = "quiet", narrow: bool = False) -> float:
    """Passes over `tokens` of rows of `row` tokens, in `calls` calls of the model; no logits. The adapter at work has
    `each` weights."""
    multiplied, gone_over, called = WAYS[way]
    weights = shape.layers * sum(wide * high for wide, high in shape.linears) + each
    attended = shape.layers * 2 * shape.heads * shape.head * row
    numbers = tokens * shape.layers * TOUCHED * layer_bytes(shape, held) / held.wide
    return (multiplied * 2 * tokens * (weights + attended) / (machine.narrow if narrow else machine.dense)
            + gone_over * numbers / machine.numbers + called * calls * shape.layers * CALLS * machine.call)


def logit_seconds(shape: Shape, machine: Machine, tokens: float, whose: str, learns: bool) -> float:
    """Logits are made for `tokens`; to learn from them, made again and taken back."""
    times = 3 if learns else 1
    return times * tokens * shape.vocab * (2 * shape.hidden / machine.dense + VOCABULARY[whose] / machine.numbers)


def sampled_seconds(shape: Shape, held: Held, machine: Machine, load: Load, lengths: Lengths, rows: int,
                    each: int) -> float:
    """Answers of full length to `rows` prompts, `load.sampled` together: the prompts at once, then token by token."""
    if not load.sampled:  # a server samples
        return 0.0
    together = min(load.sampled, rows)
    batches, row = ceil(rows / together), lengths.prompt + load.answer
    read = pass_seconds(shape, held, machine, rows * lengths.prompt, lengths.prompt, batches, each)
    grown = pass_seconds(shape, held, machine, rows * load.answer, row, batches * load.answer, each, narrow=True)
    drawn = rows * load.answer * shape.vocab * (2 * shape.hidden / machine.narrow + PICKED / machine.numbers)
    # Keys and values so far are copied to grow by one, and then read.
    copied = 3 * rows * load.answer * row * cache_bytes(shape, held) / held.wide / machine.numbers
    return read + grown + drawn + copied


def learnt_seconds(shape: Shape, held: Held, machine: Machine, load: Load, tokens: float, said: float, row: float,
                   calls: float, each: int) -> float:
    """Passes over `tokens` with gradients for one adapter."""
    way = ("recomputed" if load.checkpointing else "kept") + " whole" * load.whole
    return (pass_seconds(shape, held, machine, tokens, row, calls, each, way)
            + logit_seconds(shape, machine, said, load.logits, learns=True))


def reckonable(stage: str, told: dict[str, Any], lengths: Lengths) -> bool:
    """Whether it is known how much there is to do: the data's rows, or as much as the settings say."""
    return stage == "ppo" or online_of(told) is not None or (
        stage in ("sft", "reward", "dpo", "generate") and lengths.rows > 0)


def of_stage(stage: str, told: dict[str, Any], shape: Shape, held: Held, machine: Machine, load: Load,
             lengths: Lengths, each: int, judges: tuple[Judge, ...] = ()) -> Pace:
    """Seconds by phase of a turn of what is `reckonable`, with adapters of `each` weights."""
    train = told.get("train")
    if stage == "generate":
        rows = lengths.rows * told["sampling"].answers
        return Pace(sampled_seconds(shape, held, machine, load, lengths, rows, each), 0.0, 0.0, 1)
    reward = sum(judge.adapters for judge in judges[:1])  # a second one only watches
    if stage == "ppo":
        return of_ppo(train, shape, held, machine, load, lengths, each, reward)
    step = of_step(stage, train, shape, held, machine, load, lengths, each)
    rows = train.per_device_train_batch_size * train.gradient_accumulation_steps  # type: ignore[union-attr]
    online = online_of(told)
    if online:
        return of_round(online, step, rows, shape, held, machine, load, lengths, each, reward)
    steps = train.max_steps if train.max_steps > 0 else ceil(  # type: ignore[union-attr]
        train.num_train_epochs * ceil(lengths.rows / rows))  # type: ignore[union-attr]
    return Pace(0.0, 0.0, step, steps)


def of_step(stage: str, train: Any, shape: Shape, held: Held, machine: Machine, load: Load, lengths: Lengths,
            each: int) -> float:
    """An optimizer step of one of transformers' trainers."""
    row, calls = lengths.prompt + lengths.answer, train.gradient_accumulation_steps
    rows = train.per_device_train_batch_size * calls
    if stage == "reward":
        tokens, said = rows * (lengths.prompt + lengths.answers * lengths.answer), 0.0
    else:
        tokens = said = rows * row * lengths.answers
    step = learnt_seconds(shape, held, machine, load, tokens, said, row, calls, each)
    if stage == "dpo":  # the reference reads them too
        step += (pass_seconds(shape, held, machine, tokens, row, calls, each)
                 + logit_seconds(shape, machine, said, load.logits, learns=False))
    return step


def of_round(online: Any, step: float, batch: int, shape: Shape, held: Held, machine: Machine, load: Load,
             lengths: Lengths, each: int, reward: int) -> Pace:
    """Online DPO: answers of full length; the reward reads them all, policy and reference the first to each prompt;
    then the round's steps of `batch` pairs."""
    rows, row = online.prompts * online.answers, lengths.prompt + online.max_new_tokens
    readings = reward * rows + 2 * online.prompts
    scoring = (pass_seconds(shape, held, machine, readings * row, row, ceil(readings / online.sample_batch), each)
               + logit_seconds(shape, machine, 2.0 * online.prompts * online.max_new_tokens, "ours", learns=False))
    return Pace(sampled_seconds(shape, held, machine, load, lengths, rows, each), scoring,
                ceil(online.most_pairs * online.passes / batch) * step, online.rounds)


def of_ppo(train: Any, shape: Shape, held: Held, machine: Machine, load: Load, lengths: Lengths, each: int,
           reward: int) -> Pace:
    """A rollout: answers of full length; policy, reference, and the reward and critic where they are adapters here,
    read them; policy and critic learn from them in every epoch."""
    row = lengths.prompt + train.max_new_tokens
    tokens, said = train.episodes * row, float(train.episodes * train.max_new_tokens)
    calls = ceil(train.episodes / train.micro_batch)
    once = pass_seconds(shape, held, machine, tokens, row, calls, each)
    logits = logit_seconds(shape, machine, said, load.logits, learns=False)
    policy = learnt_seconds(shape, held, machine, load, tokens, said, row, calls, each)
    critic = learnt_seconds(shape, held, machine, load, tokens, 0.0, row, calls, each) if train.critic else 0.0
    return Pace(sampled_seconds(shape, held, machine, load, lengths, train.episodes, each),
                (2 + train.critic + reward) * once + 2 * logits, train.ppo_epochs * (policy + critic), train.rollouts)
