"""One base in memory, named adapters on it, heads beside them: load, switch, save, reload and score.

A *checkpoint* is what a path names: a run, a checkpoint folder, a model folder or a hub name. It is a base plus at
most one adapter, and for rewards a head. bitsandbytes is reached only from here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from prefloop import checkpoints, finite, memory, ranks, runs
from prefloop.chat import Chat, probe_rows
from prefloop.errors import RequestError, RunError
from prefloop.heads import HEAD, Head, score_rows
from prefloop.passes import acting, answer_logprobs, plain

ADAPTER = "adapter_model.safetensors"
SETTINGS = "adapter_config.json"
ENCODER, LINEAR = "encoder.json", "linear.json"  # which says that a folder holds a reward model of this kind
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
                   "added_tokens.json", "tokenizer.model", "vocab.json", "merges.txt")


@dataclass(frozen=True)
class ModelConfig:
    """`model:` says what to start from and how to hold it. A dtype of `auto` is bf16 on a GPU, fp32 on a CPU."""

    path: str = ""
    revision: str | None = None
    four_bit: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    whole: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_targets: str | list[str] = "all-linear"

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("model.path is missing: name a run, a model folder or a hub model")
        if self.lora_r < 1 or self.lora_alpha < 1:
            raise ValueError("model.lora_r and lora_alpha are at least 1; model.whole=true trains without an adapter")
        if self.whole and self.four_bit:
            raise ValueError("model.whole trains every weight, which a base in 4 bits does not allow; drop one")


@dataclass(frozen=True)
class Checkpoint:
    """What a path was found to hold. `checksum` names its content, `base_checksum` that of the base under it."""

    path: str
    base: str
    base_checksum: str
    checksum: str
    revision: str | None = None
    folder: Path | None = None
    stage: str = ""

    @property
    def adapter(self) -> Path | None:
        return self.folder if self.folder and (self.folder / ADAPTER).is_file() else None

    def lineage(self) -> dict[str, str]:
        return {"path": self.path, "checksum": self.checksum, "base": self.base, "base_checksum": self.base_checksum}


def fingerprint(folder: Path) -> str:
    """One checksum over the config, tokenizer, chat template and weights of a model folder."""
    names = ["config.json", *TOKENIZER_FILES, *sorted(p.name for p in folder.glob("*.safetensors"))]
    present = {name: checkpoints.file_sha256(folder / name) for name in names if (folder / name).is_file()}
    return hashlib.sha256(json.dumps(present).encode()).hexdigest()


def resolve(path: str, revision: str | None = None) -> Checkpoint:
    """Find out what `path` names, and verify it: manifest, base, and for a run that it is done."""
    where = Path(path)
    stage = ""
    if (where / "run.json").is_file():
        stage = str(runs.finished(where).record["stage"])
        where = where / "final"
    if (where / checkpoints.MANIFEST).is_file() and (where / "rankings.jsonl").is_file():
        raise RequestError(f"{path}: a snapshot of data, not a model; name it as data.path")
    if (where / checkpoints.MANIFEST).is_file() or stage:
        return _ours(path, where, stage)
    folder = _model_folder(path, revision)
    checksum = fingerprint(folder)
    return Checkpoint(path, str(folder) if where.is_dir() else path, checksum, checksum, revision)


def resolve_policy(path: str, revision: str | None = None) -> Checkpoint:
    """`resolve`, for a checkpoint that is to write answers: a reward model is refused."""
    found = resolve(path, revision)
    if reward_kind(found):
        raise RequestError(f"{path}: a reward model writes no answers; name the SFT run (or PPO's, or DPO's) instead")
    return found


def reward_kind(found: Checkpoint) -> Literal["adapter", "encoder", "linear"] | None:
    """Which kind of reward model a checkpoint is, by its files; None if it is none."""
    if found.folder is None:
        return None
    if (found.folder / LINEAR).is_file():
        return "linear"
    if not (found.folder / HEAD).is_file():
        return None
    return "encoder" if (found.folder / ENCODER).is_file() else "adapter" if found.adapter else None


def require_reward(found: Checkpoint) -> str:
    """Which kind of reward model it is; RequestError if it is none."""
    kind = reward_kind(found)
    if kind is None:
        what = "a plain model" if found.folder is None else f"it has no {HEAD}, so it"
        raise RequestError(f"{found.path}: {what} is no reward model; name a reward run")
    return kind


def context_of(model: nn.Module) -> int | None:
    """How many tokens a row may have, where the model says so."""
    return getattr(plain(model).config.get_text_config(), "max_position_embeddings", None)


def require_context(model: nn.Module, longest: int, keys: str) -> None:
    """A row longer than the model's context would be read past it in silence; `keys` name what to lower."""
    context = context_of(model)
    if context is not None and longest > context:
        raise RequestError(f"{keys}: up to {longest} tokens, but the model's context is {context}; lower it")


def _ours(path: str, folder: Path, stage: str) -> Checkpoint:
    manifest = checkpoints.verify(folder)
    checksum = checkpoints.file_sha256(folder / checkpoints.MANIFEST)
    if not (folder / ADAPTER).is_file():
        return Checkpoint(path, str(folder.resolve()), fingerprint(folder), checksum, None, folder, stage)
    base, revision, wanted = (manifest.get(name) for name in ("base", "revision", "base_checksum"))
    if not (isinstance(base, str) and isinstance(wanted, str) and isinstance(revision, str | None)):
        raise RequestError(f"{folder / checkpoints.MANIFEST}: it does not say on which base this adapter was trained")
    try:
        found = fingerprint(_model_folder(base, revision))
    except RequestError as error:
        raise RequestError(f"{folder}: the base that its adapter was trained on (checksum {wanted[:12]}) is not where "
                           f"it was: {error}; put it back there") from None
    if found != wanted:
        raise RequestError(f"{folder}: its adapter was trained on another base than the one now at {base} "
                           f"(checksum {wanted[:12]}, found {found[:12]}); restore that base")
    return Checkpoint(path, base, wanted, checksum, revision, folder, stage or manifest.get("stage", ""))


def model_folder(checkpoint: Checkpoint) -> Path:
    """Where the files of its base are."""
    return _model_folder(checkpoint.base, checkpoint.revision)


def _model_folder(path: str, revision: str | None) -> Path:
    """The local folder of a model: itself, or a hub model's snapshot, downloaded if it is not there yet."""
    where = Path(path)
    if where.is_dir():
        if not (where / "config.json").is_file():
            raise RequestError(f"{path}: this folder holds neither a run nor a model (no run.json, no config.json)")
        if not list(where.glob("*.safetensors")):
            raise RequestError(f"{path}: it has no .safetensors weights; other formats are not loaded")
        return where.resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if where.exists():
        raise RequestError(f"{path}: a file, where a run, a model folder or a hub model should be named")
    if path.startswith((".", "/", "~", "runs/")) or path.count("/") > 1:
        raise RequestError(f"{path}: there is no such folder")
    try:
        return Path(snapshot_download(path, revision=revision,
                                      allow_patterns=["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise RequestError(f"{path}: neither a folder here nor a model that the hub gave "
                           f"({type(error).__name__}); check the name, or the network") from None


def device() -> torch.device:
    """This process's GPU, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", ranks.local_rank()) if ranks.world() > 1 else torch.device("cuda")


def load_chat(checkpoint: Checkpoint) -> Chat:
    own = checkpoint.folder if checkpoint.folder and (checkpoint.folder / "tokenizer.json").is_file() else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(own or checkpoint.base),
                                                  revision=None if own else checkpoint.revision)
    except (OSError, ValueError) as error:
        raise RequestError(f"{own or checkpoint.base}: its tokenizer cannot be loaded: "
                           f"{' '.join(str(error).split())[:200]}") from None
    chat = Chat(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == chat.end_id:
        tokenizer.pad_token_id = chat.pad_id
    return chat


@contextmanager
def loading(name: str) -> Iterator[None]:
    """What transformers has against the files of a model, as one line."""
    transformers_logging.disable_progress_bar()  # of loading, which takes a moment; downloads keep theirs
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, MemoryError,
            SafetensorError) as error:
        if memory.ran_out(error):
            raise RunError(f"{name}: out of memory while it was loaded; hold it in 4 bits (model.four_bit=true), or "
                           f"take a smaller model") from None
        raise RequestError(f"{name}: not a model that can be loaded: {' '.join(str(error).split())[:300]}") from None


def load_base(checkpoint: Checkpoint, config: ModelConfig) -> PreTrainedModel:
    """The base model on the device, in NF4 with double quantisation or plain, in evaluation mode and frozen."""
    where = device()
    name = config.dtype if config.dtype != "auto" else "bfloat16" if where.type == "cuda" else "float32"
    dtype = getattr(torch, name)
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                   bnb_4bit_compute_dtype=dtype,
                                   # FSDP shares out floating-point weights only: the 4 bits are kept in these.
                                   **({"bnb_4bit_quant_storage": dtype} if ranks.sharded() else {})
                                   ) if config.four_bit else None
    with loading(checkpoint.base):
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.base, revision=checkpoint.revision, dtype=dtype, quantization_config=quantised,
            device_map={"": where}, use_safetensors=True)
    require_finite(model, checkpoint)
    if config.four_bit and where.type == "cpu":
        from bitsandbytes.nn import Linear4bit

        # With AVX512-BF16 it would repack a layer, for good, at its first use in evaluation mode; its kernel for that
        # layout has no backward, so all adapters below would silently stop learning.
        for layer in model.modules():
            if isinstance(layer, Linear4bit):
                layer.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False).eval()


def require_finite(model: nn.Module, checkpoint: Checkpoint) -> None:
    """A base with a NaN in it would make every loss one: said here, with the file and the key."""
    bad = finite.culprit(model)
    if bad:
        finite.require_files(model_folder(checkpoint))
        raise RunError(f"{checkpoint.base}: {bad} holds values that are not finite in this precision (model.dtype)")


def lora(config: ModelConfig) -> LoraConfig:
    """Dropout is always 0: PPO's ratio and every reload check need the same model twice."""
    return LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=0.0, bias="none",
                      target_modules=config.lora_targets, task_type="CAUSAL_LM")


def adapter_settings(folder: Path) -> LoraConfig:
    """The settings that our adapters have, and no others.

    PEFT's own reader would take whatever the file says, such as the name of a module to import.
    """
    told = checkpoints.read_json(folder / SETTINGS)
    kinds = {"r": int, "lora_alpha": int, "target_modules": str | list}
    with safe_open(folder / ADAPTER, framework="pt") as weights:
        sizes = {weights.get_slice(key).get_shape()[0] for key in weights.keys() if "lora_A" in key}  # noqa: SIM118
    if not isinstance(told, dict) or not all(isinstance(told.get(key), kind) for key, kind in kinds.items()) or (
            told.get("peft_type") != "LORA" or sizes != {told["r"]}):
        raise RequestError(f"{folder / SETTINGS}: these are not the settings of the adapter beside it")
    return lora(ModelConfig("any", lora_r=told["r"], lora_alpha=told["lora_alpha"],
                            lora_targets=told["target_modules"]))


def add_adapter(model: PreTrainedModel | PeftModel, name: str, start: Path | None,
                config: ModelConfig) -> PeftModel:
    """`model` with an fp32 adapter `name`: a copy of the one saved in `start`, or a new one that changes nothing."""
    try:
        settings = adapter_settings(start) if start else lora(config)
        if isinstance(model, PeftModel):
            model.add_adapter(name, settings)
        else:
            model = get_peft_model(model, settings, adapter_name=name)
    except (ValueError, TypeError, re.error, SafetensorError) as error:
        what = start / SETTINGS if start else f"model.lora_targets={config.lora_targets}"
        raise RequestError(f"{what}: no adapter can be made from this: {' '.join(str(error).split())[:200]}") from None
    known: Any = model.peft_config[name]
    if isinstance(known.target_modules, set):  # saved in one order by every process: checksums name runs
        known.target_modules = sorted(known.target_modules)
    if start:
        load_adapter(model, name, start)
    for key, weight in model.named_parameters():
        if f".{name}." in key:
            weight.data = weight.data.float()
    return model


def load_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """Overwrite adapter `name` by the one saved in `folder`. Every weight must find its place, and be finite."""
    try:
        weights = load_file(folder / ADAPTER)
        outcome = set_peft_model_state_dict(model, weights, adapter_name=name)
    except (RuntimeError, SafetensorError) as error:
        raise RequestError(f"{folder / ADAPTER}: it does not fit this base: "
                           f"{' '.join(str(error).split())[:200]}") from None
    missing = [key for key in outcome.missing_keys if f".{name}." in key]
    if missing or outcome.unexpected_keys:
        raise RequestError(f"{folder / ADAPTER}: it does not fit this base: "
                           f"{(missing or outcome.unexpected_keys)[0]} has no counterpart")
    finite.require(weights, folder / ADAPTER)


def save_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """adapter_model.safetensors and adapter_config.json, as plain PEFT reads them, in fp32."""
    weights = {key: ranks.gathered(value.detach()).float().cpu().contiguous()
               for key, value in get_peft_model_state_dict(model, adapter_name=name).items()}
    if not ranks.first():
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / ADAPTER, metadata={"format": "pt"})
    settings = model.peft_config[name]
    was = settings.inference_mode
    settings.inference_mode = True
    settings.save_pretrained(str(folder))
    settings.inference_mode = was


def train_only(model: nn.Module, names: set[str]) -> list[nn.Parameter]:
    """Give gradients to the adapters in `names` and to nothing else; returns their parameters."""
    trained = []
    for key, weight in model.named_parameters():
        weight.requires_grad_(any(f".{name}." in key for name in names) and "lora_" in key)
        if weight.requires_grad:
            trained.append(weight)
    return trained


def check_reload(run: runs.Run, model: nn.Module, chat: Chat, folder: Path, name: str, head: Head | None = None,
                 saved_head: Path | None = None) -> None:
    """Load what `folder` holds back under another name, and hold it against the adapter in memory.

    The random state is put back, so that a run with this check and one without it go the same way.
    """
    if ranks.sharded():
        ranks.meet(f"{folder.name} is written")
    if ranks.sharded() or not isinstance(model, PeftModel):
        finite.require_files(folder)
        saved = {key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()}
        held = get_peft_model_state_dict(model, adapter_name=name) if ranks.sharded() else model.state_dict()
        own = {key: ranks.gathered(value.detach()).cpu() for key, value in held.items()}
        same = all(torch.equal(own[key], value.to(own[key].dtype)) for key, value in saved.items())
        run.check(f"reload {folder.name}", same, f"{len(saved)} tensors equal to those in memory")
        return
    rows, starts = probe_rows(chat)
    with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
        was_trained = [key for key, weight in model.named_parameters() if weight.requires_grad]
        was_training = model.training
        model.eval()
        model.add_adapter("reloaded", adapter_settings(folder))
        load_adapter(model, "reloaded", folder)
        gap = _gap(model, (name, head), ("reloaded", Head.load(saved_head or folder, device()) if head else None),
                   rows, starts, chat.pad_id)
        model.delete_adapter("reloaded")
        model.train(was_training)
        for key, weight in model.named_parameters():
            weight.requires_grad_(key in was_trained)
    what = "scores" if head else "log-probabilities"
    run.check(f"reload {folder.name}", gap < 1e-3, f"{what} of the saved {name} differ by at most {gap:.1e}")


def _gap(model: nn.Module, ours: tuple[str, Head | None], theirs: tuple[str, Head | None], rows: list[list[int]],
         starts: list[int], pad_id: int) -> float:
    found = []
    for role, head in (ours, theirs):
        with acting(model, role):
            found.append(score_rows(model, head, rows, starts, pad_id) if head
                         else torch.cat(answer_logprobs(model, rows, starts, pad_id)))
    return float((found[0] - found[1]).abs().max())


def save_tokenizer(chat: Chat, folder: Path) -> None:
    if ranks.first():
        chat.tokenizer.save_pretrained(str(folder))


def seal(folder: Path, checkpoint: Checkpoint, stage: str) -> None:
    """Make `folder` a checkpoint: an adapter's manifest names the base it belongs to."""
    if not ranks.first():
        return
    for pickle in folder.glob("training_args.bin"):
        os.remove(pickle)
    about: dict[str, Any] = {"stage": stage}
    if (folder / ADAPTER).is_file():
        about |= {"base": checkpoint.base, "revision": checkpoint.revision, "base_checksum": checkpoint.base_checksum}
    checkpoints.seal(folder, **about)
