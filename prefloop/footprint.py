"""How much memory a stage takes, by arithmetic, phase by phase: weights, adapters, activations, logits, cache.

Nothing is loaded. The terms are those of a Llama-like decoder (Llama, Qwen2, Qwen3, Mistral) with LoRA on all linear
maps, in bf16 on a GPU or fp32 on a CPU. They sum what must be there; `rest_bytes` stands for what cannot be summed.
tests/test_footprint.py counts what a real model keeps for its backward pass, and tests/benchmarks/plan.py measures
whole stages on a CPU. Not yet held against a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop import checkpoints
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
STAGES = ("sft", "reward", "dpo", "ppo", "generate", "compare", "score")  # whose memory is reckoned
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


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
        """(in, out) of the seven linear maps of a layer, in the order of LINEARS."""
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
class Judge:
    """A model that scores: how many adapters on the policy's base it is, or the bytes of one that stands beside it."""

    adapters: int = 0
    beside: float = 0.0


@dataclass(frozen=True)
class Load:
    """What a stage brings to the base. `rows` of at most `row` tokens go through a pass together, and of each `said`
    have logits; `sampled` rows grow together from `prompt` by `answer` tokens. `trained` and `frozen` count adapters;
    `beside` is the bytes of models that have a base of their own."""

    trained: int = 0
    frozen: int = 0
    beside: float = 0.0
    whole: bool = False  # every weight of the base is trained, and there is no adapter
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


def need(shape: Shape, load: Load, held: Held, each: int) -> Need:
    """What `load` takes, with adapters of `each` weights."""
    base, adapters = base_bytes(shape, held), each * (TRAINED * load.trained + FP32 * load.frozen)
    saved = FP32 * each * load.trained
    if load.whole:  # in fp32 as it learns; what it began as, and copies to save, are in the machine's memory
        base = base_bytes(shape, ON_CPU)
        adapters, saved = (3.0, 0.0) if held.gpu else (4.0, base)
        adapters *= base
    passed, said = load.rows * load.row, load.rows * load.said
    heap = 1.0 if held.gpu else HEAP
    quietly = heap * pass_bytes(shape, held, passed) + logit_bytes(shape, held, said, load.logits)
    kept = heap * kept_bytes(shape, held, passed, load.checkpointing)
    if load.shares:  # an answer sees its prompt and not its neighbours: who sees whom is kept with every layer
        kept += load.rows * load.row**2 * FP32 * (1 if load.checkpointing else shape.layers)
    return Need(
        base + load.beside, adapters,
        loading=0.0,
        sampling=load.sampled * ((load.prompt + load.answer) * cache_bytes(shape, held) + shape.vocab * PICKED)
        + pass_bytes(shape, held, load.sampled * load.prompt),
        scoring=quietly if load.frozen and passed else 0.0,
        updating=quietly + kept if load.learns and passed else 0.0,
        saving=2.0 * saved,  # a copy on its way to disk, another read back
        rest=rest_bytes(held, load.learns))


def base_bytes(shape: Shape, held: Held) -> float:
    """Linear maps in NF4 or plain; embeddings, and a head of their own, always plain."""
    linear = shape.layers * sum(wide * high for wide, high in shape.linears)
    return (linear * (NF4 if held.four_bit else held.wide)
            + shape.vocab * shape.hidden * (1 if shape.tied else 2) * held.wide)


def adapter_width(shape: Shape, targets: tuple[str, ...] = LINEARS) -> int:
    """Weights of LoRA on these linear maps of every layer, for each unit of its rank."""
    return shape.layers * sum(wide + high for name, (wide, high) in zip(LINEARS, shape.linears, strict=True)
                              if name in targets)


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
    train, online = told.get("train"), online_of(told)
    asked = train if stage == "ppo" else told.get("sampling")
    longest = getattr(train, "max_length", None) or 1024
    if online:
        answer = online.max_new_tokens
        prompt = max(longest - answer, 1)
    elif stage in ("ppo", "generate", "compare"):
        prompt, answer = asked.max_prompt_tokens, asked.max_new_tokens  # type: ignore[union-attr]
    else:
        prompt, answer = longest // 2, longest - longest // 2
    return Lengths(prompt, answer, prompt, answer, answers={"reward": ANSWERS, "dpo": 2}.get(stage, 1))


def online_of(told: dict[str, Any]) -> Any | None:
    """The settings of online DPO, where that is what is asked for."""
    online = told.get("online")
    return online if getattr(online, "reward", "") else None


def load_of(stage: str, told: dict[str, Any], lengths: Lengths, judges: tuple[Judge, ...] = ()) -> Load:
    """What `stage`, one of STAGES, holds under its sections (the objects that its config became) on rows of these
    lengths, beside the `judges` that it asks."""
    train, sampling, online = told.get("train"), told.get("sampling"), online_of(told)
    # transformers renamed the key; PPO's settings, ours, know only the older name.
    checkpointing = bool(getattr(train, "activation_checkpointing", getattr(train, "gradient_checkpointing", False)))
    long, prompt, answer = lengths.longest, lengths.longest_prompt, lengths.longest_answer
    judging, beside = sum(judge.adapters for judge in judges), sum(judge.beside for judge in judges)
    if stage in ("sft", "reward", "dpo"):
        size = train.per_device_train_batch_size  # type: ignore[union-attr]
        if stage == "reward":  # the answers to a prompt share it, and no logits are made
            return Load(1, rows=size, row=prompt + lengths.answers * answer, checkpointing=checkpointing, shares=True)
        if stage == "sft":
            whole = told["model"].whole
            return Load(int(not whole), whole=whole, rows=size, row=long, said=long, checkpointing=checkpointing,
                        logits="trl")
        return Load(1, 1 + judging, beside, rows=2 * size, row=long, said=long, prompt=prompt,
                    sampled=online.sample_batch if online else 0, answer=online.max_new_tokens if online else 0,
                    checkpointing=checkpointing, logits="trl")
    if stage == "ppo":
        assert train is not None
        sampled = 0 if told["sampler"].url else train.sample_batch
        return Load(1 + train.critic, 1 + judging, beside, rows=train.micro_batch, row=long, said=answer,
                    sampled=sampled, prompt=prompt, answer=train.max_new_tokens, checkpointing=checkpointing)
    if stage == "score":
        return Load(0, 1, rows=told["score"].batch, row=long, learns=False)
    return Load(0, 2, sampled=sampling.batch, prompt=prompt, answer=sampling.max_new_tokens,  # type: ignore[union-attr]
                learns=False)


def shape_of(named: str, asker: str = "plan") -> Shape:
    """The shape of a base: one that configs/ name, a model folder, or what a run or checkpoint stands on. Nothing is
    downloaded. `asker` is the section that may name another."""
    base = base_under(named)
    if base in KNOWN:
        return KNOWN[base]
    path = Path(base) / "config.json"
    if not path.is_file():
        raise RequestError(f"{named}: neither a model folder, run or checkpoint here nor a base that configs/ name; "
                           f"name one as {asker}.base")
    outer = object_in(path)
    told = outer["text_config"] if isinstance(outer.get("text_config"), dict) else outer
    hidden, layers, heads, inner, vocab = (size_in(told, name, path) for name in (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"))
    return Shape(hidden, layers, heads, size_in(told, "num_key_value_heads", path, heads),
                 size_in(told, "head_dim", path, hidden // heads), inner, vocab,
                 bool(told.get("tie_word_embeddings", outer.get("tie_word_embeddings", False))))


def size_in(told: dict[str, Any], name: str, path: Path, absent: int | None = None) -> int:
    """A size that config.json says: a whole number of at least 1, or `absent` where it may be."""
    size = absent if told.get(name) is None else told[name]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise RequestError(f"{path}: {name} is {'missing' if size is None else repr(size)[:40]}, where a whole number "
                           f"of at least 1 is wanted; is this the config of a language model?")
    return size


def base_under(named: str) -> str:
    """What a run or checkpoint says that it stands on; all else is a base itself."""
    folder = checkpoint_in(named)
    base = object_in(folder / checkpoints.MANIFEST).get("base") or ""
    if not base and not (folder / "config.json").is_file():
        parents = object_in(Path(named) / "run.json").get("parents")
        every = parents.values() if isinstance(parents, dict) else ()
        base = next((one["base"] for one in every if isinstance(one, dict) and one.get("base")), "")
    where = Path(base) if base and isinstance(base, str) else folder
    return str(where.resolve()) if where.is_dir() else str(where) if base else named


def checkpoint_in(named: str) -> Path:
    """The folder with the weights of a run, once it is done; else the one that is named."""
    final = Path(named) / "final"
    return final if named and final.is_dir() else Path(named or "nothing is named")


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    try:
        told = checkpoints.read_json(path)
    except RecursionError:
        told = None
    if not isinstance(told, dict):
        raise RequestError(f"{path}: not a JSON object")
    return told
