"""How much memory a stage takes, by arithmetic, phase by phase: weights, adapters, activations, logits, cache.

Nothing is loaded. The terms are those of a Llama-like decoder (Llama, Qwen2, Qwen3, Mistral) with LoRA on all linear
maps, in bf16 on a GPU or fp32 on a CPU. They sum what must be there; `rest_bytes` stands for what cannot be summed.
tests/test_footprint.py counts what a real model keeps for its backward pass, and tests/benchmarks/plan.py measures
whole stages on a CPU. Not yet held against a GPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.errors import RequestError

NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8  # bytes a weight: blocks of 64 share 8 bits, 256 such blocks share 32
BF16, FP32 = 2, 4
TRAINED = 4 * FP32  # weight, gradient and Adam's two moments
LOGITS_AT_ONCE = 2**24  # as passes.logprobs makes them
TRL_TILE = (4096, 32768)  # tokens and vocabulary of the logits that TRL's trainers make at once
COPIES = {"ours": 4, "trl": 9}  # fp32 numbers alive for each logit: softmax, its gradient, what lies between
HEAP = 1.5  # what activations take of a CPU's heap, which does not give back all that is freed
PICKED = 16  # bytes for each logit while a token is drawn: fp32, its weight, what lies between
ANSWERS = 4  # of a prompt, where nothing says how many


@dataclass(frozen=True)
class Shape:
    """What a model's config.json says of its size."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    inner: int
    vocab: int
    tied: bool

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of the seven linear maps of a layer."""
        query, key = self.heads * self.head, self.kv_heads * self.head
        return [(self.hidden, query), (self.hidden, key), (self.hidden, key), (query, self.hidden),
                (self.hidden, self.inner), (self.hidden, self.inner), (self.inner, self.hidden)]


# The bases that configs/ name, so that doctor can answer before they are downloaded.
KNOWN = {"Qwen/Qwen2.5-0.5B-Instruct": Shape(896, 24, 14, 2, 64, 4864, 151936, True),
         "Qwen/Qwen3-8B": Shape(4096, 36, 32, 8, 128, 12288, 151936, False)}


@dataclass(frozen=True)
class Held:
    """How numbers are held: the base in 4 bits or not, the rest of it and what is computed in `wide` bytes."""

    four_bit: bool
    wide: int
    gpu: bool


ON_GPU, ON_CPU = Held(True, BF16, True), Held(False, FP32, False)


@dataclass(frozen=True)
class Load:
    """What a stage brings to the base. `rows` of at most `row` tokens go through a pass together, and of each `said`
    have logits; `sampled` rows grow together from `prompt` by `answer` tokens."""

    trained: int = 0
    frozen: int = 0
    rows: int = 0
    row: int = 0
    said: int = 0
    sampled: int = 0
    prompt: int = 0
    answer: int = 0
    learns: bool = True
    checkpointing: bool = True
    shares: bool = False  # a prompt among its answers, in one row
    logits: str = "ours"


@dataclass(frozen=True)
class Need:
    """Bytes: what stays, and what each phase takes beside it. Phases take turns, so the largest counts."""

    base: float
    adapters: float
    loading: float
    sampling: float
    scoring: float
    updating: float
    saving: float
    rest: float

    @property
    def phases(self) -> dict[str, float]:
        """The whole of what is held in each phase that the stage has."""
        staying = self.base + self.adapters + self.rest
        each = {"sampling": self.sampling, "scoring": self.scoring, "updating": self.updating, "saving": self.saving}
        return {"loading": self.base + self.rest + self.loading,
                **{name: staying + own for name, own in each.items() if own}}

    @property
    def total(self) -> float:
        return max(self.phases.values())


def need(shape: Shape, load: Load, held: Held, rank: int) -> Need:
    each = rank * adapter_width(shape)
    adapters = each * (TRAINED * load.trained + FP32 * load.frozen)
    passed, said = load.rows * load.row, load.rows * load.said
    heap = 1.0 if held.gpu else HEAP
    quietly = heap * pass_bytes(shape, held, passed) + logit_bytes(shape, held, said, load.logits)
    kept = heap * kept_bytes(shape, held, passed, load.checkpointing)
    if load.shares:  # an answer sees its prompt and not its neighbours: who sees whom is kept with every layer
        kept += load.rows * load.row**2 * FP32 * (1 if load.checkpointing else shape.layers)
    return Need(
        base_bytes(shape, held), adapters,
        loading=0.0,
        sampling=load.sampled * ((load.prompt + load.answer) * cache_bytes(shape, held) + shape.vocab * PICKED)
        + pass_bytes(shape, held, load.sampled * load.prompt),
        scoring=quietly if load.frozen and passed else 0.0,
        updating=quietly + kept if load.learns and passed else 0.0,
        saving=2.0 * FP32 * each if load.trained else 0.0,  # a copy on its way to disk, another read back
        rest=rest_bytes(held, load.learns))


def base_bytes(shape: Shape, held: Held) -> float:
    """Linear maps in NF4 or plain; embeddings, and a head of their own, always plain."""
    linear = shape.layers * sum(wide * high for wide, high in shape.linears)
    return (linear * (NF4 if held.four_bit else held.wide)
            + shape.vocab * shape.hidden * (1 if shape.tied else 2) * held.wide)


def adapter_width(shape: Shape) -> int:
    """Weights of LoRA on all linear maps, for each unit of its rank."""
    return shape.layers * sum(wide + high for wide, high in shape.linears)


def kept_bytes(shape: Shape, held: Held, tokens: int, checkpointing: bool) -> float:
    """What a pass keeps for its backward: the last norm's input, and every layer; with checkpointing of all layers
    but one their inputs only."""
    inputs, inside, last = shape.hidden * held.wide, layer_bytes(shape, held), shape.hidden * FP32
    return tokens * (last + (shape.layers * inputs + inside if checkpointing else shape.layers * inside))


def layer_bytes(shape: Shape, held: Held) -> float:
    """What one layer keeps of a token. Under fp32 adapters a base in bf16 keeps fp32 copies of their inputs too."""
    key = shape.kv_heads * shape.head
    if held.wide == FP32:
        return FP32 * (7 * shape.hidden + 2 * key + 4 * shape.inner)
    return 38 * shape.hidden + 4 * key + 10 * shape.inner


def pass_bytes(shape: Shape, held: Held, tokens: int) -> float:
    """What is alive inside one layer, forward or backward, whether or not anything is kept."""
    return tokens * held.wide * 8 * (shape.hidden + shape.inner)


def logit_bytes(shape: Shape, held: Held, tokens: int, whose: str) -> float:
    """Logits that are alive together, and what becomes of them."""
    if whose == "trl" and held.gpu:
        return min(tokens, TRL_TILE[0]) * min(shape.vocab, TRL_TILE[1]) * BF16  # its kernel works in place
    at_once = (min(tokens, TRL_TILE[0]) * min(shape.vocab, TRL_TILE[1]) if whose == "trl"
               else min(tokens * shape.vocab, LOGITS_AT_ONCE))
    return COPIES[whose] * FP32 * at_once


def cache_bytes(shape: Shape, held: Held) -> int:
    """Keys and values of a token."""
    return shape.layers * 2 * shape.kv_heads * shape.head * held.wide


def rest_bytes(held: Held, learns: bool) -> float:
    """CUDA's own, a dequantised layer and what its allocator cannot use; on a CPU what libraries hold at work."""
    return 1e9 if held.gpu else 80e6 if learns else 30e6


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and of answers, EOS included: the mean, and the most; `rows` are what an epoch learns from
    (demonstrations, ranked prompts, pairs, or prompts), with `answers` to each."""

    prompt: float
    answer: float
    longest_prompt: int
    longest_answer: int
    rows: int = 0
    answers: int = 1

    @property
    def longest(self) -> int:
        return self.longest_prompt + self.longest_answer


def limits(stage: str, told: dict[str, Any]) -> Lengths:
    """As long as the settings allow, which is all that is known without the data."""
    train, sampling = told.get("train"), told.get("sampling")
    if stage in ("ppo", "generate", "compare"):
        asked = train if stage == "ppo" else sampling
        prompt, answer = asked.max_prompt_tokens, asked.max_new_tokens  # type: ignore[union-attr]
    else:
        longest = getattr(train, "max_length", None) or 1024
        prompt, answer = longest // 2, longest - longest // 2
    return Lengths(prompt, answer, prompt, answer, answers={"reward": ANSWERS, "dpo": 2}.get(stage, 1))


def load_of(stage: str, told: dict[str, Any], lengths: Lengths) -> Load:
    """What `stage` holds under its sections (the objects that its config became) on rows of these lengths."""
    train, sampling = told.get("train"), told.get("sampling")
    # transformers renamed the key; PPO's settings, ours, know only the older name.
    checkpointing = bool(getattr(train, "activation_checkpointing", getattr(train, "gradient_checkpointing", False)))
    long, prompt, answer = lengths.longest, lengths.longest_prompt, lengths.longest_answer
    if stage in ("sft", "reward", "dpo"):
        size = train.per_device_train_batch_size  # type: ignore[union-attr]
        if stage == "reward":  # the answers to a prompt share it, and no logits are made
            return Load(1, 0, size, prompt + lengths.answers * answer, checkpointing=checkpointing, shares=True)
        rows = size * (2 if stage == "dpo" else 1)
        return Load(1, int(stage == "dpo"), rows, long, long, checkpointing=checkpointing, logits="trl")
    if stage == "ppo":
        both = 1 + bool(getattr(train, "critic", True))
        return Load(both, 2, train.micro_batch, long, answer, train.sample_batch, prompt,  # type: ignore[union-attr]
                    train.max_new_tokens, checkpointing=checkpointing)  # type: ignore[union-attr]
    if stage in ("generate", "compare"):
        batch, new = sampling.batch, sampling.max_new_tokens  # type: ignore[union-attr]
        return Load(0, 2, sampled=batch, prompt=prompt, answer=new, learns=False)
    if stage == "score":
        return Load(0, 1, learns=False)
    raise RequestError(f"{stage} takes no GPU memory worth reckoning; name a config of sft, reward, ppo, dpo, "
                       f"generate, compare or score")


def shape_of(base: str) -> Shape:
    """The shape of a base: one that configs/ name, a model folder, or a run's base. Nothing is downloaded."""
    if base in KNOWN:
        return KNOWN[base]
    run = Path(base) / "run.json"
    if run.is_file():
        parents = json.loads(run.read_text(encoding="utf-8")).get("parents", {})
        own = next((parent["base"] for parent in parents.values() if parent.get("base")), "")
        return shape_of(own)
    path = Path(base) / "config.json"
    if not path.is_file():
        raise RequestError(f"{base}: neither a model folder or run here nor a base that configs/ name; "
                           f"name one as doctor.base")
    told = json.loads(path.read_text(encoding="utf-8"))
    hidden, heads = told["hidden_size"], told["num_attention_heads"]
    return Shape(hidden, told["num_hidden_layers"], heads, told.get("num_key_value_heads") or heads,
                 told.get("head_dim") or hidden // heads, told["intermediate_size"], told["vocab_size"],
                 bool(told.get("tie_word_embeddings", False)))
