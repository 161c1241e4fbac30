"""How much GPU memory a stage takes, by arithmetic: weights, adapters, activations, cache. Nothing is loaded.

The terms are those of a Llama-like decoder (Llama, Qwen2, Qwen3, Mistral) that computes in bf16. They sum what must be
there; `REST` stands for what the allocator wastes, which is not known. Not yet held against a GPU.
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
LOGITS = 4 * FP32 * 2**24  # passes.LOGITS_AT_ONCE and what log-softmax and its backward make of it
REST = 10**9  # CUDA's own, a dequantised layer, and what the allocator cannot use
ANSWERS = 4  # of a prompt, where a snapshot decides


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
class Load:
    """What a stage puts on the GPU: adapters, the tokens of a training pass, and those of a sampled batch."""

    trained: int = 0
    frozen: int = 0
    pass_tokens: int = 0
    cached_tokens: int = 0
    checkpointing: bool = True


@dataclass(frozen=True)
class Need:
    """Bytes. Updating and sampling take turns, so the larger of them counts."""

    base: float
    adapters: float
    updating: float
    sampling: float

    @property
    def total(self) -> float:
        return self.base + self.adapters + max(self.updating, self.sampling) + REST


def need(shape: Shape, load: Load, four_bit: bool, rank: int) -> Need:
    each = rank * adapter_width(shape)
    return Need(base_bytes(shape, four_bit), each * (TRAINED * load.trained + FP32 * load.frozen),
                activation_bytes(shape, load.pass_tokens, load.checkpointing),
                cache_bytes_per_token(shape) * load.cached_tokens)


def base_bytes(shape: Shape, four_bit: bool) -> float:
    """Linear maps in NF4 or bf16; embeddings, and a head of their own, in bf16."""
    linear = shape.layers * sum(wide * high for wide, high in shape.linears)
    return linear * (NF4 if four_bit else BF16) + shape.vocab * shape.hidden * (1 if shape.tied else 2) * BF16


def adapter_width(shape: Shape) -> int:
    """Weights of LoRA on all linear maps, for each unit of its rank."""
    return shape.layers * sum(wide + high for wide, high in shape.linears)


def activation_bytes(shape: Shape, tokens: int, checkpointing: bool) -> float:
    """Of a pass with gradients: each layer's input, and of one layer (or, without checkpointing, of all) the rest.

    Under an fp32 adapter a linear map keeps its input in fp32, and makes its output in bf16 and twice in fp32.
    """
    if not tokens:
        return 0.0
    inside = sum(FP32 * wide + (BF16 + 2 * FP32) * high for wide, high in shape.linears)
    return tokens * (shape.layers * shape.hidden * BF16 + inside * (1 if checkpointing else shape.layers)) + LOGITS


def cache_bytes_per_token(shape: Shape) -> int:
    return shape.layers * 2 * shape.kv_heads * shape.head * BF16


def load_of(stage: str, told: dict[str, Any]) -> Load:
    """What `stage` holds under its sections (the objects that its config became)."""
    train, sampling = told.get("train"), told.get("sampling")
    # transformers renamed the key; PPO's settings, ours, know only the older name.
    checkpointing = bool(getattr(train, "activation_checkpointing", getattr(train, "gradient_checkpointing", False)))
    if stage in ("sft", "reward", "dpo"):
        rows = {"sft": 1, "reward": ANSWERS, "dpo": 2}[stage] * train.per_device_train_batch_size  # type: ignore
        return Load(1, int(stage == "dpo"), rows * (train.max_length or 1024), 0, checkpointing)  # type: ignore
    if stage == "ppo":
        row = train.max_prompt_tokens + train.max_new_tokens  # type: ignore[union-attr]
        return Load(2, 2, train.micro_batch * row, train.sample_batch * row, checkpointing)  # type: ignore[union-attr]
    if stage in ("generate", "compare"):
        row = sampling.max_prompt_tokens + sampling.max_new_tokens  # type: ignore[union-attr]
        return Load(0, 2, 0, sampling.batch * row)  # type: ignore[union-attr]
    if stage == "score":
        return Load(0, 1)
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
