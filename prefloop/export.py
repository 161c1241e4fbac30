"""`prefloop export`: a trained policy as plain files, for transformers, vLLM and PEFT, held against the model it was.

What was trained is a base as it was held (perhaps in 4 bits) and an adapter. `merged` writes both as one model in 16
bits; nothing is ever merged into 4 bits. `adapter` writes the adapter as PEFT keeps them. Either is read back from
disk by the plain library before it gets its name, and how far it is from what was trained is measured and said.

A tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefloop import checkpoints, config
from prefloop.chat import PLAIN_TEMPLATE, PROBES
from prefloop.errors import RequestError, RunError
from prefloop.formats import snapshot
from prefloop.records import Message, Prompt

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor, nn
    from transformers import GenerationConfig, PreTrainedModel

    from prefloop.chat import Chat
    from prefloop.models import Checkpoint, ModelConfig

ROLE = "policy"
ABOUT = "export.json"


@dataclass(frozen=True)
class ExportConfig:
    """`export:`. `max_kl` is in nats per answer token; null writes whatever comes out."""

    run: str = ""
    out: str = ""
    form: Literal["merged", "adapter"] = "merged"
    onto: Literal["trained", "original"] = "trained"
    dtype: Literal["bfloat16", "float16"] = "bfloat16"
    four_bit: bool | None = None
    max_kl: float | None = 0.01

    def __post_init__(self) -> None:
        if not self.run or not self.out:
            raise ValueError("export.run and export.out are needed: what is exported, and the folder to write")
        if self.max_kl is not None and not 0 < self.max_kl < float("inf"):
            raise ValueError("export.max_kl is above 0, or null to write whatever comes out")


@dataclass(frozen=True)
class ProbeConfig:
    """`data:` of export: on answers to which prompts the copy is held against the model. Without a path, built-in."""

    path: str = ""
    split: str | None = "test"
    limit: int = 16
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if self.limit < 1 or self.max_new_tokens < 1:
            raise ValueError("data.limit and data.max_new_tokens are at least 1")


@dataclass(frozen=True)
class Probes:
    """Answers that the trained model sampled, as rows of token ids that begin with the prompt, and what it says there:
    log p of every token of the vocabulary at every place of the answer, one AV for each row."""

    rows: list[list[int]]
    starts: list[int]
    logprobs: list[Tensor]


@dataclass(frozen=True)
class Distance:
    """How far the copy is from the trained model, on `tokens` places of sampled answers.

    `kl` is KL(trained, copy) in nats per token, over the whole vocabulary; `greedy_agreement` is the share of places
    where both hold the same token for the likeliest.
    """

    kl: float
    kl_most: float
    greedy_agreement: float
    tokens: int


def sections() -> config.Sections:
    return {"export": config.Section(ExportConfig), "data": config.Section(ProbeConfig)}


def main(asked: config.Asked) -> None:
    from prefloop import models

    settings, data = config.build(asked, sections())
    found = models.resolve(settings.run)
    refuse(found, settings)
    require_new(Path(settings.out))
    held, chat = as_trained(found, settings), models.load_chat(found)
    prompts = probe_prompts(chat, data)
    with becoming(Path(settings.out)) as draft:
        probes = write(draft, found, held, chat, prompts, settings, data.max_new_tokens)
        distance = distance_between(probes, read_back(draft, found, held, settings), probes.logprobs)
        require_near(distance, held, settings)
        facts = {"run": found.lineage(), "four_bit": held.four_bit, "form": settings.form, "onto": settings.onto,
                 "dtype": settings.dtype, "measured": asdict(distance)}
        checkpoints.write_json(draft / ABOUT, facts)
        (draft / "README.md").write_text(card(found, held, settings, distance), encoding="utf-8")
        models.seal(draft, found, "export")
    print(f"{settings.out}: {words(distance)}; README.md there says how to load it")


def refuse(found: Checkpoint, settings: ExportConfig) -> None:
    """What has no such export, said before anything is loaded."""
    from prefloop import models

    if models.reward_kind(found):
        raise RequestError(f"{found.path}: a reward model, whose head no plain loader reads; `prefloop serve` offers "
                           f"its scores to other programs")
    if found.folder is None:
        raise RequestError(f"{found.path}: a plain model already; name a run")
    if settings.form == "adapter" and not found.adapter:
        raise RequestError(f"{found.path}: it was trained whole, so it has no adapter; export.form=merged")


def require_new(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise RequestError(f"{out}: it exists already; name another export.out, or remove it")


@contextmanager
def becoming(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out` that takes its name once the work in it succeeds, and goes away otherwise."""
    with checkpoints.naming(out), snapshot.beside(out) as draft:
        yield draft
        require_new(out)
        draft.rename(out)
        checkpoints.sync(out.parent)


def as_trained(found: Checkpoint, settings: ExportConfig) -> ModelConfig:
    """How the base was held when the run was made, by its resolved.json; export.four_bit says otherwise."""
    from prefloop import models

    assert found.folder is not None
    path = found.folder.parent / "resolved.json"
    told = checkpoints.read_json(path) if path.is_file() else {}
    model = told.get("model") if isinstance(told, dict) else None
    model = model if isinstance(model, dict) else {}
    four_bit = model.get("four_bit") if settings.four_bit is None else settings.four_bit
    if not isinstance(four_bit, bool):
        raise RequestError(f"{found.path}: nothing beside it says how its base was held; say export.four_bit=true or "
                           f"false")
    named = model.get("dtype")
    return models.ModelConfig(found.path, four_bit=four_bit,
                              dtype=named if named in ("float32", "bfloat16") else "auto")


def probe_prompts(chat: Chat, data: ProbeConfig) -> list[list[int]]:
    """Token ids of the prompts whose answers are looked at."""
    prompts = [Prompt((Message("user", ask),)) for ask, _ in PROBES]
    if data.path:
        prompts = snapshot.read(Path(data.path)).prompts_of(data.split)[: data.limit]
    if not prompts:
        raise RequestError(f"{data.path}: it has no prompts in split {data.split!r}")
    return [chat.prompt_ids(prompt) for prompt in prompts]


def write(draft: Path, found: Checkpoint, held: ModelConfig, chat: Chat, prompts: list[list[int]],
          settings: ExportConfig, max_new_tokens: int) -> Probes:
    """The files of the export, and what the model that was trained says on the answers it gives."""
    from prefloop import models

    trained = loaded(found, held)
    probes = probed(trained, chat, prompts, max_new_tokens)
    if settings.form == "adapter":
        models.save_adapter(trained, ROLE, draft)  # type: ignore[arg-type]
    else:
        if settings.onto == "original" and held.four_bit:
            del trained
            trained = loaded(found, unquantised(held))
        save_merged(trained, chat, draft, settings.dtype)
    if not chat.tokenizer.chat_template:
        chat.tokenizer.chat_template = PLAIN_TEMPLATE  # which it was trained with
    models.save_tokenizer(chat, draft)
    return probes


def loaded(found: Checkpoint, held: ModelConfig) -> PeftModel | PreTrainedModel:
    from prefloop import models

    base = models.load_base(found, held)
    return models.add_adapter(base, ROLE, found.adapter, held).eval() if found.adapter else base


def unquantised(held: ModelConfig) -> ModelConfig:
    from prefloop import models

    return models.ModelConfig(held.path, dtype=held.dtype)


def probed(model: nn.Module, chat: Chat, prompts: list[list[int]], max_new_tokens: int) -> Probes:
    from prefloop import generate, models

    context = models.context_of(model)
    fitting = [ids for ids in prompts if context is None or len(ids) + max_new_tokens <= context]
    if not fitting:
        raise RequestError(f"data.max_new_tokens={max_new_tokens}: no prompt and its answer fit into the model's "
                           f"context of {context} tokens")
    seeds = [generate.row_seed(0, n) for n in range(len(fitting))]
    answers = generate.sample(model, fitting, seeds, max_new_tokens, 1.0, chat.end_id, chat.pad_id)
    rows, starts = [ids + answer for ids, answer in zip(fitting, answers, strict=True)], list(map(len, fitting))
    return Probes(rows, starts, [distributions(model, row, start) for row, start in zip(rows, starts, strict=True)])


def distributions(model: nn.Module, row: list[int], start: int) -> Tensor:
    """log p_AV of the token at every place of the answer that begins at `start`; on the CPU, in fp32."""
    import torch

    with torch.no_grad():
        ids_BT = torch.tensor([row], device=next(model.parameters()).device)
        logits_AV = model(input_ids=ids_BT, use_cache=False, logits_to_keep=len(row) - start + 1).logits[0, :-1]
        return torch.log_softmax(logits_AV.float(), -1).cpu()


def save_merged(model: PeftModel | PreTrainedModel, chat: Chat, folder: Path, dtype: str) -> None:
    """One model in 16 bits, which stops at the end of a turn for whoever loads it plainly."""
    import torch

    from prefloop import finite

    merged: Any = (unloaded(model) if hasattr(model, "peft_config") else model).to(getattr(torch, dtype))
    bad = finite.culprit(merged)
    if bad:
        raise RunError(f"{bad} does not fit into {dtype}; export.dtype=bfloat16 reaches as far as 32 bits do")
    merged.generation_config = generation(merged, chat)
    merged.save_pretrained(str(folder))


def generation(model: PreTrainedModel, chat: Chat) -> GenerationConfig:
    """Where texts end and begin. The base's ways of sampling stay out of it: a server that takes them for defaults
    would draw from another distribution than was trained, and transformers does not save some that hubs hold."""
    from transformers import GenerationConfig

    told: Any = model.generation_config or GenerationConfig()
    ends = [told.eos_token_id] if isinstance(told.eos_token_id, int) else list(told.eos_token_id or [])
    return GenerationConfig(eos_token_id=[chat.end_id, *(end for end in ends if end != chat.end_id)],
                            pad_token_id=chat.pad_id, bos_token_id=told.bos_token_id)


def unloaded(model: Any) -> PreTrainedModel:
    """The base with the adapter's change in its weights; one held in 4 bits is first written out in its precision."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: dict[str, Any] = {name: layer for name, layer in model.get_base_model().named_modules()
                              if isinstance(layer, BaseTunerLayer)}
    base = model.unload()
    for layer in layers.values():
        del layer.base_layer  # so that each layer in 4 bits goes when it is written out
    if getattr(base, "is_quantized", False):
        base = base.dequantize()
    refuse_shared(base, layers)
    with torch.no_grad():
        for name, layer in layers.items():
            weight = base.get_submodule(name).weight
            weight.data = merged(weight, layer.get_delta_weight(ROLE))
    return base


def merged(weight: Tensor, change: Tensor) -> Tensor:
    """Their sum, made in fp32 and rounded once to the weight's own precision."""
    return (weight.float() + change.float()).to(weight.dtype)


def refuse_shared(base: PreTrainedModel, layers: dict[str, Any]) -> None:
    """An adapter on one of two layers that share their weight would, merged, change the other too."""
    embeds, heads = base.get_input_embeddings(), base.get_output_embeddings()
    if heads is None or embeds.weight is not heads.weight:
        return
    both = [name for name, layer in base.named_modules() if layer in (embeds, heads) and name in layers]
    if both:
        raise RequestError(f"the adapter changes {both[0]}, whose weight this base uses twice; export.form=adapter")


def read_back(draft: Path, found: Checkpoint, held: ModelConfig, settings: ExportConfig) -> nn.Module:
    """What was written, as the plain libraries load it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from prefloop import models

    with models.loading(str(draft)):
        if settings.form == "adapter":
            base = models.load_base(found, held if settings.onto == "trained" else unquantised(held))
            return PeftModel.from_pretrained(base, str(draft)).eval()
        return AutoModelForCausalLM.from_pretrained(str(draft), dtype="auto", use_safetensors=True,
                                                    device_map={"": models.device()}).eval()


def distance_between(probes: Probes, copy: nn.Module, trained: list[Tensor]) -> Distance:
    import torch

    kl, agree = [], []
    for row, start, own_AV in zip(probes.rows, probes.starts, trained, strict=True):
        copied_AV = distributions(copy, row, start)
        kl.append(divergences(own_AV, copied_AV))
        agree.append(own_AV.argmax(-1) == copied_AV.argmax(-1))
    kl_N, agree_N = torch.cat(kl), torch.cat(agree)
    return Distance(float(kl_N.mean()), float(kl_N.max()), float(agree_N.float().mean()), len(kl_N))


def divergences(trained_AV: Tensor, copied_AV: Tensor) -> Tensor:
    """KL(trained, copy)_A in nats, of log-probabilities."""
    return (trained_AV.exp() * (trained_AV - copied_AV)).sum(-1)


def require_near(distance: Distance, held: ModelConfig, settings: ExportConfig) -> None:
    if settings.max_kl is not None and not distance.kl <= settings.max_kl:
        other = "; it was trained on a base in 4 bits, which export.onto=trained keeps" * (
            settings.onto == "original" and held.four_bit)
        raise RunError(f"nothing was written: {words(distance)}, and export.max_kl is {settings.max_kl:g}{other}; "
                       f"export.max_kl=null writes it all the same")


def words(distance: Distance) -> str:
    return (f"KL {distance.kl:.2g} nats per answer token from the model that was trained (at most "
            f"{distance.kl_most:.2g}), the same likeliest token at {distance.greedy_agreement:.1%} of "
            f"{distance.tokens} places")


def card(found: Checkpoint, held: ModelConfig, settings: ExportConfig, distance: Distance) -> str:
    """README.md: what this is, from what, how near it is, and how to load it without prefloop."""
    base = f"`{found.base}`" + (f" at revision {found.revision}" if found.revision else "")
    kept = "in NF4" if held.four_bit else "unquantised"
    lines = [f"# {Path(settings.out).name}", "",
             f"The policy of `{found.path}` (checksum {found.checksum[:12]}), trained by prefloop on {base}, which "
             f"was held {kept}. The base's licence holds for it too.", "", f"Measured: {words(distance)}.", ""]
    if settings.form == "adapter":
        return "\n".join([*lines, *use_of_adapter(found, held, settings)]) + "\n"
    if held.four_bit:
        lines += ["The base's weights in here are " + ("those 4-bit weights, written out in 16 bits: what was trained "
                  "and compared." if settings.onto == "trained" else "the original ones, not the 4-bit ones that it "
                  "was trained on."), ""]
    return "\n".join([*lines, "    from transformers import AutoModelForCausalLM, AutoTokenizer",
                      '    model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER", dtype="auto")',
                      '    tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")', "",
                      "With vLLM: `vllm serve THIS_FOLDER`. Its chat template renders prompts as they were in "
                      "training; where the template knows of thinking, `enable_thinking=False`."]) + "\n"


def use_of_adapter(found: Checkpoint, held: ModelConfig, settings: ExportConfig) -> list[str]:
    how, needed = 'dtype="auto"', "AutoModelForCausalLM"
    if held.four_bit and settings.onto == "trained":
        how, needed = "quantization_config=four_bit", "AutoModelForCausalLM, BitsAndBytesConfig"
    lines = ["    from peft import PeftModel", f"    from transformers import {needed}"]
    if "BitsAndBytesConfig" in needed:
        lines += ['    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",',
                  '                                  bnb_4bit_use_double_quant=True,'
                  ' bnb_4bit_compute_dtype="bfloat16")']
    return [*lines, f'    base = AutoModelForCausalLM.from_pretrained("{found.base}", {how})',
            '    model = PeftModel.from_pretrained(base, "THIS_FOLDER")', "",
            "The chat template of the tokenizer in this folder renders prompts as they were in training; where it "
            "knows of thinking, `enable_thinking=False`."]
