"""One base in memory, named adapters on it, heads beside them: load, switch, save, reload and score.

A *checkpoint* is what a path names: a run, a checkpoint folder, a model folder or a hub name. It is a base plus at
most one adapter, and for rewards a head. bitsandbytes is reached only from here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from prefloop import checkpoints, runs
from prefloop.chat import Chat, probe_rows
from prefloop.errors import RequestError

ADAPTER = "adapter_model.safetensors"
HEAD = "head.safetensors"
LOGITS_AT_ONCE = 2**24  # 64 MB in fp32
LIKELIHOOD = 5.0  # a head's first weight: mean log-probabilities of one prompt's answers differ by about 0.2
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


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
    """One checksum over the config, tokenizer and weights of a model folder."""
    names = ["config.json", "tokenizer.json", *sorted(p.name for p in folder.glob("*.safetensors"))]
    present = {name: checkpoints.file_sha256(folder / name) for name in names if (folder / name).is_file()}
    return hashlib.sha256(json.dumps(present).encode()).hexdigest()


def resolve(path: str, revision: str | None = None) -> Checkpoint:
    """Find out what `path` names, and verify it: manifest, base, and for a run that it is done."""
    where = Path(path)
    stage = ""
    if (where / "run.json").is_file():
        stage = str(runs.finished(where).record["stage"])
        where = where / "final"
    if (where / checkpoints.MANIFEST).is_file() or stage:
        return _ours(path, where, stage)
    folder = _model_folder(path, revision)
    checksum = fingerprint(folder)
    return Checkpoint(path, str(folder) if where.is_dir() else path, checksum, checksum, revision)


def _ours(path: str, folder: Path, stage: str) -> Checkpoint:
    manifest = checkpoints.verify(folder)
    checksum = checkpoints.file_sha256(folder / checkpoints.MANIFEST)
    if not (folder / ADAPTER).is_file():
        return Checkpoint(path, str(folder.resolve()), fingerprint(folder), checksum, None, folder, stage)
    base, revision, wanted = manifest["base"], manifest.get("revision"), manifest["base_checksum"]
    found = fingerprint(_model_folder(base, revision))
    if found != wanted:
        raise RequestError(f"{folder}: its adapter was trained on another base than the one now at {base} "
                           f"(checksum {wanted[:12]}, found {found[:12]}); restore that base")
    return Checkpoint(path, base, wanted, checksum, revision, folder, stage or manifest.get("stage", ""))


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

    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise RequestError(f"{path}: there is no such folder")
    try:
        return Path(snapshot_download(path, revision=revision,
                                      allow_patterns=["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise RequestError(f"{path}: neither a folder here nor a model that the hub gave "
                           f"({type(error).__name__}); check the name, or the network") from None


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_chat(checkpoint: Checkpoint) -> Chat:
    own = checkpoint.folder if checkpoint.folder and (checkpoint.folder / "tokenizer.json").is_file() else None
    tokenizer = AutoTokenizer.from_pretrained(str(own or checkpoint.base),
                                              revision=None if own else checkpoint.revision)
    chat = Chat(tokenizer)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == chat.end_id:
        tokenizer.pad_token_id = chat.pad_id
    return chat


def load_base(checkpoint: Checkpoint, config: ModelConfig) -> PreTrainedModel:
    """The base model on the device, in NF4 with double quantisation or plain, in evaluation mode and frozen."""
    transformers_logging.disable_progress_bar()  # of loading, which takes a moment; downloads keep theirs
    where = device()
    name = config.dtype if config.dtype != "auto" else "bfloat16" if where.type == "cuda" else "float32"
    dtype = getattr(torch, name)
    quantised = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
                                   bnb_4bit_compute_dtype=dtype) if config.four_bit else None
    try:
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.base, revision=checkpoint.revision, dtype=dtype, quantization_config=quantised,
            device_map={"": where}, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise RequestError(f"{checkpoint.base}: not a model that can be loaded: "
                           f"{' '.join(str(error).split())[:300]}") from None
    if config.four_bit and where.type == "cpu":
        from bitsandbytes.nn import Linear4bit

        # With AVX512-BF16 it would repack a layer, for good, at its first use in evaluation mode; its kernel for that
        # layout has no backward, so all adapters below would silently stop learning.
        for layer in model.modules():
            if isinstance(layer, Linear4bit):
                layer.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False).eval()


def lora(config: ModelConfig) -> LoraConfig:
    """Dropout is always 0: PPO's ratio and every reload check need the same model twice (training.md 4.7)."""
    return LoraConfig(r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=0.0, bias="none",
                      target_modules=config.lora_targets, task_type="CAUSAL_LM")


def add_adapter(model: PreTrainedModel | PeftModel, name: str, start: Path | None,
                config: ModelConfig) -> PeftModel:
    """`model` with an fp32 adapter `name`: a copy of the one saved in `start`, or a new one that changes nothing."""
    settings = LoraConfig.from_pretrained(str(start)) if start else lora(config)
    settings.inference_mode = False
    if isinstance(model, PeftModel):
        model.add_adapter(name, settings)
    else:
        model = get_peft_model(model, settings, adapter_name=name)
    if start:
        load_adapter(model, name, start)
    for key, weight in model.named_parameters():
        if f".{name}." in key:
            weight.data = weight.data.float()
    return model


def load_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """Overwrite adapter `name` by the one saved in `folder`. Every weight must find its place."""
    outcome = set_peft_model_state_dict(model, load_file(folder / ADAPTER), adapter_name=name)
    missing = [key for key in outcome.missing_keys if f".{name}." in key]
    if missing or outcome.unexpected_keys:
        raise RequestError(f"{folder / ADAPTER}: it does not fit this base: "
                           f"{(missing or outcome.unexpected_keys)[0]} has no counterpart")


def save_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """adapter_model.safetensors and adapter_config.json, as plain PEFT reads them, in fp32."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {key: value.detach().float().cpu().contiguous()
               for key, value in get_peft_model_state_dict(model, adapter_name=name).items()}
    save_file(weights, folder / ADAPTER, metadata={"format": "pt"})
    settings = model.peft_config[name]
    was = settings.inference_mode
    settings.inference_mode = True
    settings.save_pretrained(str(folder))
    settings.inference_mode = was


@contextmanager
def acting(model: nn.Module, role: str | None) -> Iterator[None]:
    """Inside, the base acts through adapter `role`, or bare when it is None.

    Moves only the pointer: who trains was decided once, and PEFT's own `set_adapter` would flip requires_grad and
    take 50 times longer. `_active_adapter` is private to PEFT; tests/test_models.py holds the contract.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [role] if role else []
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


def train_only(model: nn.Module, names: set[str]) -> list[nn.Parameter]:
    """Give gradients to the adapters in `names` and to nothing else; returns their parameters."""
    trained = []
    for key, weight in model.named_parameters():
        weight.requires_grad_(any(f".{name}." in key for name in names) and "lora_" in key)
        if weight.requires_grad:
            trained.append(weight)
    return trained


def plain(model: nn.Module) -> PreTrainedModel:
    """The transformers model under PEFT's wrapping, adapters still at work inside it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def hidden_states(model: nn.Module, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Last hidden states, BTH, of right-padded rows. No logits are made."""
    backbone = plain(model).base_model
    return backbone(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state


def token_logprobs(model: nn.Module, hidden_BTH: Tensor, ids_BT: Tensor, answer_BT: Tensor,
                   temperature: float = 1.0, entropy: bool = False) -> Tensor:
    """log p of every token where `answer_BT` is 1, N in row order; with `entropy`, N2: the entropy beside it.

    Logits are made only for these, a chunk at a time, and made again for the backward pass.
    """
    wanted_BT = answer_BT.bool()
    before_BT = torch.roll(wanted_BT, -1, dims=1)  # a token is predicted one place before it
    head: nn.Module = plain(model).get_output_embeddings()  # type: ignore[assignment]

    def of(hidden_NH: Tensor, tokens_N: Tensor) -> Tensor:
        logprobs_NV = torch.log_softmax(head(hidden_NH).float() / temperature, -1)
        own_N = logprobs_NV.gather(1, tokens_N[:, None]).squeeze(1)
        return torch.stack([own_N, -(logprobs_NV.exp() * logprobs_NV).sum(-1)], 1) if entropy else own_N

    chunk = max(1, LOGITS_AT_ONCE // plain(model).config.get_text_config().vocab_size)
    pieces = list(zip(hidden_BTH[before_BT].split(chunk), ids_BT[wanted_BT].split(chunk), strict=True))
    if len(pieces) == 1 or not hidden_BTH.requires_grad:
        return torch.cat([of(*piece) for piece in pieces])
    return torch.cat([recomputed(of, *piece, use_reentrant=False) for piece in pieces])  # type: ignore[misc]


def answers_of(starts: list[int], mask_BT: Tensor) -> Tensor:
    """answer_BT: 1 on the tokens of each row from its start on."""
    place_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return mask_BT * (place_T >= torch.tensor(starts, device=mask_BT.device)[:, None])


def answer_logprobs(model: nn.Module, rows: list[list[int]], starts: list[int], pad_id: int,
                    temperature: float = 1.0) -> list[Tensor]:
    """log p of each row's tokens from `starts[i]` on, given what precedes them."""
    ids_BT, mask_BT = pad_right(rows, pad_id, next(model.parameters()).device)
    found_N = token_logprobs(model, hidden_states(model, ids_BT, mask_BT), ids_BT, answers_of(starts, mask_BT),
                             temperature)
    return list(found_N.split([len(row) - start for row, start in zip(rows, starts, strict=True)]))


@torch.no_grad()
def total_logprobs(model: nn.Module, role: str | None, rows: list[list[int]], starts: list[int], pad_id: int,
                   temperature: float = 1.0, batch: int = 16) -> Tensor:
    """log p_B of each row's whole answer under `role`, in nats, batched by length, in the order given."""
    out = torch.empty(len(rows))
    with acting(model, role):
        for chosen in _batches(rows, batch):
            found = answer_logprobs(model, [rows[n] for n in chosen], [starts[n] for n in chosen], pad_id, temperature)
            out[chosen] = torch.stack([own_T.sum() for own_T in found]).cpu()
    return out


def _batches(rows: list[list[int]], batch: int) -> Iterator[list[int]]:
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    return (order[first : first + batch] for first in range(0, len(order), batch))


def pad_right(rows: list[list[int]], pad_id: int, where: torch.device) -> tuple[Tensor, Tensor]:
    """ids_BT and mask_BT (1 on real tokens, from lengths and never from token ids)."""
    longest = max(len(row) for row in rows)
    ids_BT = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows], device=where)
    mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=where)
    return ids_BT, mask_BT


class Head(nn.Module):
    """One number per token from its hidden state, in fp32 outside autocast: rewards and values.

    As a reward, `pooling` says which tokens of the answer (EOS included) count: `mean` of all, or the `last`, EOS.
    With `likelihood`, the mean log-probability of the answer's tokens, under the very adapter that the head reads,
    is added with a learned weight: a language model knows what fits a prompt long before its hidden states say so.
    `shift` and `scale` turn a raw score into (raw - shift) / scale: mean 0 and spread 1 on the SFT model's answers.
    """

    def __init__(self, hidden_size: int, pooling: str = "mean", likelihood: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        # Beside a likelihood, which already says much, the hidden states begin silent.
        nn.init.normal_(self.linear.weight, std=0.0 if likelihood else 1 / (hidden_size + 1) ** 0.5)
        nn.init.zeros_(self.linear.bias)
        self.likelihood = nn.Parameter(torch.tensor(LIKELIHOOD)) if likelihood else None
        self.pooling = pooling
        self.shift = 0.0
        self.scale = 1.0

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        with torch.autocast(hidden_BTH.device.type, enabled=False):
            return self.linear(hidden_BTH.float()).squeeze(-1)

    def pooled(self, hidden_BTH: Tensor, answer_BT: Tensor) -> Tensor:
        """Raw scores_B of the hidden states alone; `answer_BT` is 1 on the answer's tokens."""
        per_token_BT = self(hidden_BTH)
        if self.pooling == "last":
            last_B = answer_BT.shape[1] - 1 - answer_BT.flip(1).argmax(1)
            return per_token_BT.gather(1, last_B[:, None]).squeeze(1)
        return (per_token_BT * answer_BT).sum(1) / answer_BT.sum(1)

    def save(self, folder: Path) -> None:
        weights = {key: value.detach().cpu() for key, value in self.state_dict().items()}
        save_file(weights, folder / HEAD, metadata={"format": "pt"})
        checkpoints.write_json(folder / "head.json",
                               {"pooling": self.pooling, "shift": self.shift, "scale": self.scale})

    @classmethod
    def load(cls, folder: Path, where: torch.device) -> Head:
        if not (folder / HEAD).is_file():
            raise RequestError(f"{folder}: it has no {HEAD}, so it is no reward model; name a reward run")
        settings = checkpoints.read_json(folder / "head.json")
        weights = load_file(folder / HEAD)
        head = cls(weights["linear.weight"].shape[1], settings["pooling"], "likelihood" in weights)
        head.load_state_dict(weights)
        head.shift, head.scale = settings["shift"], settings["scale"]
        return head.requires_grad_(False).to(where)


def score_rows(model: nn.Module, head: Head, rows: list[list[int]], starts: list[int], pad_id: int) -> Tensor:
    """Raw scores_B of rows whose answers begin at `starts`; gradients flow."""
    where = head.linear.weight.device
    ids_BT, mask_BT = pad_right(rows, pad_id, where)
    answer_BT = answers_of(starts, mask_BT)
    hidden_BTH = hidden_states(model, ids_BT, mask_BT)
    scores_B = head.pooled(hidden_BTH, answer_BT)
    if head.likelihood is None:
        return scores_B
    per_token_BT = torch.zeros_like(answer_BT, dtype=torch.float32)
    per_token_BT[answer_BT.bool()] = token_logprobs(model, hidden_BTH, ids_BT, answer_BT)
    return scores_B + head.likelihood * per_token_BT.sum(1) / answer_BT.sum(1)


@torch.no_grad()
def score(model: nn.Module, head: Head, role: str | None, rows: list[list[int]], starts: list[int], pad_id: int,
          batch: int = 32) -> Tensor:
    """Scaled scores_B, batched by length, in the order given. A row is prompt ids + answer ids, EOS included."""
    out = torch.empty(len(rows))
    with acting(model, role):
        for chosen in _batches(rows, batch):
            raw = score_rows(model, head, [rows[n] for n in chosen], [starts[n] for n in chosen], pad_id)
            out[chosen] = raw.cpu()
    return (out - head.shift) / head.scale


def check_reload(run: runs.Run, model: nn.Module, chat: Chat, folder: Path, name: str, head: Head | None = None,
                 saved_head: Path | None = None) -> None:
    """Load what `folder` holds back under another name, and hold it against the adapter in memory.

    The random state is put back, so that a run with this check and one without it go the same way.
    """
    if not isinstance(model, PeftModel):
        saved = {key: value for file in sorted(folder.glob("*.safetensors")) for key, value in load_file(file).items()}
        own = {key: value.cpu() for key, value in model.state_dict().items()}
        same = all(torch.equal(own[key], value.to(own[key].dtype)) for key, value in saved.items())
        run.check(f"reload {folder.name}", same, f"{len(saved)} tensors equal to those in memory")
        return
    rows, starts = probe_rows(chat)
    with torch.random.fork_rng(range(torch.cuda.device_count())), torch.no_grad():
        was_trained = [key for key, weight in model.named_parameters() if weight.requires_grad]
        was_training = model.training
        model.eval()
        model.add_adapter("reloaded", LoraConfig.from_pretrained(str(folder)))
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
    chat.tokenizer.save_pretrained(str(folder))


def seal(folder: Path, checkpoint: Checkpoint, stage: str) -> str:
    """Make `folder` a checkpoint: an adapter's manifest names the base it belongs to."""
    for pickle in folder.glob("training_args.bin"):
        os.remove(pickle)
    about: dict[str, Any] = {"stage": stage}
    if (folder / ADAPTER).is_file():
        about |= {"base": checkpoint.base, "revision": checkpoint.revision, "base_checksum": checkpoint.base_checksum}
    return checkpoints.seal(folder, **about)
