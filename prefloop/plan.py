"""`prefloop plan CONFIG`: what a stage will take, said before anything is loaded: memory by phase, time, micro-batch.

Memory is arithmetic (footprint.py); time is arithmetic on speeds that are measured here first (pace.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefloop import config, footprint, pace
from prefloop.cli import COMMANDS
from prefloop.errors import RequestError
from prefloop.footprint import Held, Lengths, Load, Need, Shape

if TYPE_CHECKING:
    from prefloop.chat import Chat

GB = 10**9
ROOM = 0.9  # of the memory that is free
LOOKED_AT = 300  # rows of the data, to see how long they are
ENOUGH = {True: 16384, False: 2048}  # tokens of a pass beyond which more rows are no faster, on a GPU and a CPU
TURNS = {"ppo": "rollout", "generate": "run", "compare": "run"}


@dataclass(frozen=True)
class PlanConfig:
    """`plan:`, beside the sections of the stage. `gigabytes` is what may be used; null: what is free here."""

    stage: str = ""
    base: str = ""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    gigabytes: float | None = None

    def __post_init__(self) -> None:
        if self.gigabytes is not None and not 0 < self.gigabytes < float("inf"):
            raise ValueError("plan.gigabytes is above 0, or null for what is free here")


@dataclass(frozen=True)
class Case:
    """A stage as it would run. `measured` says that `lengths` are the data's; without, the settings allow so much."""

    stage: str
    told: dict[str, Any]
    shape: Shape
    held: Held
    rank: int
    lengths: Lengths
    measured: bool

    @property
    def load(self) -> Load:
        return footprint.load_of(self.stage, self.told, self.lengths)

    @property
    def need(self) -> Need:
        return footprint.need(self.shape, self.load, self.held, self.rank)

    def with_train(self, **sizes: int) -> Case:
        return replace(self, told={**self.told, "train": Changed(self.told["train"], sizes)})


@dataclass(frozen=True)
class Changed:
    """Settings, but for some: TRL's would act anew if they were copied."""

    settings: Any
    sizes: dict[str, int]

    def __getattr__(self, name: str) -> Any:
        return self.sizes[name] if name in self.sizes else getattr(self.settings, name)


def sections() -> config.Sections:
    return {"plan": config.Section(PlanConfig)}


def main(asked: config.Asked) -> int:
    import torch

    own = {name: section for name, section in asked.sections.items() if name == "plan"}
    (settings,) = config.build(config.Asked("plan", own), sections())
    if asked.path is None:
        raise RequestError("name the config of a stage: prefloop plan configs/ppo.yaml")
    theirs = {name: section for name, section in asked.sections.items() if name != "plan"}
    gpu = torch.cuda.is_available() if settings.device == "auto" else settings.device == "cuda"
    case = case_of(asked.path, theirs, settings.stage, settings.base, gpu)
    free = settings.gigabytes * GB if settings.gigabytes else free_memory(gpu)
    here = torch.device("cuda") if gpu else torch.device("cpu")
    machine = None if gpu and not torch.cuda.is_available() else pace.probe(case.shape, case.held, case.load.sampled,
                                                                            here)
    sizes = micro_batch(case, free)
    print("\n".join(report(asked.path, case, machine, free, sizes)))
    return int(case.with_train(**sizes).need.total > free if sizes else case.need.total > free)


def case_of(path: Path, given: dict[str, dict[str, Any]], stage: str, base: str, gpu: bool, look: bool = True) -> Case:
    """What a config asks for. With `look`, the lengths are those of its data, where that and a tokenizer are here."""
    stage = stage or stage_of(path)
    owners = import_module(COMMANDS[stage][0]).sections()
    told = dict(zip(owners, config.build(config.Asked(stage, given), owners), strict=True))
    own = told.get("model")
    named = str(getattr(own, "path", "")) or next(iter(getattr(told.get("compare"), "runs", [])), "")
    if own is None or getattr(own, "kind", "adapter") != "adapter":
        raise RequestError(f"{path}: {stage} takes no GPU memory worth reckoning; name a config of sft, reward, ppo, "
                           f"dpo, generate, compare or score, on a base")
    known = lengths_of(stage, told, Path(named)) if look else None
    held = replace(footprint.ON_GPU if gpu else footprint.ON_CPU, four_bit=own.four_bit)
    if own.dtype != "auto":
        held = replace(held, wide=footprint.BF16 if own.dtype == "bfloat16" else footprint.FP32)
    return Case(stage, told, footprint.shape_of(base or base_of(path, named)), held,
                rank_of(Path(named), getattr(own, "lora_r", 16)), known or footprint.limits(stage, told),
                known is not None)


def stage_of(path: Path, key: str = "plan.stage") -> str:
    """By the run beside a run.yaml, or by the file's name; `key` is what says it otherwise."""
    record = path.parent / "run.json"
    stage = path.stem
    if path.name == "run.yaml" and record.is_file():
        stage = str(json.loads(record.read_text(encoding="utf-8")).get("stage"))
    if not COMMANDS.get(stage, ("", ""))[0]:
        raise RequestError(f"{path}: which stage is it for? Say {key}=ppo, or another")
    return stage


def base_of(path: Path, named: str) -> str:
    """The base under a config: what it names if that is there, else what the sft.yaml beside it names."""
    beside = path.with_name("sft.yaml")
    if named in footprint.KNOWN or (named and Path(named).is_dir()) or not beside.is_file():
        return named
    return str(config.read("sft", beside, []).sections.get("model", {}).get("path", named))


def rank_of(run: Path, asked: int) -> int:
    """The rank of the adapter that a run has already; a new one gets what is asked."""
    settings = run / "final" / "adapter_config.json"
    rank = json.loads(settings.read_text(encoding="utf-8")).get("r") if settings.is_file() else asked
    return rank if isinstance(rank, int) else asked


def lengths_of(stage: str, told: dict[str, Any], model: Path) -> Lengths | None:
    """How long the rows of the data are, by the first of them; None where the data or a tokenizer is not here."""
    data = Path(getattr(told.get("data"), "path", ""))
    if stage not in ("sft", "reward", "dpo", "ppo", "generate") or not (data / "rankings.jsonl").is_file() or not (
            model.is_dir()):
        return None
    from prefloop import models
    from prefloop.formats import snapshot

    folder = model / "final" if (model / "final").is_dir() else model
    chat = models.load_chat(models.Checkpoint(str(model), str(folder), "", "", None, folder))
    return measured(stage, told, snapshot.read(data), chat)


def measured(stage: str, told: dict[str, Any], source: Any, chat: Chat) -> Lengths | None:
    """Mean and greatest lengths of the rows that fit, and how many there are."""
    settings = told["sampling"] if stage == "generate" else told["train"]
    limit = getattr(told["data"], "limit", None)
    if stage in ("ppo", "generate"):
        prompts = source.prompts_of("train" if stage == "ppo" else told["data"].split)[:limit]
        new = settings.max_new_tokens
        found = [(len(chat.prompt_ids(prompt)), new) for prompt in prompts[:LOOKED_AT]]
        found = [one for one in found if one[0] <= settings.max_prompt_tokens]
        rows, answers = len(prompts), 1
    else:
        texts = [(one.prompt, one.answer) for one in source.demonstrations_of("train")]
        rows, answers = len(texts[:limit]), 1
        if stage != "sft" or not texts:
            rankings = source.rankings_of("train")[:limit]
            texts = [(one.prompt, response.text) for one in rankings for response in one.responses]
            answers = 2 if stage == "dpo" else max(1, round(len(texts) / max(len(rankings), 1)))
            rows = len(source.pairs("train")[:limit]) if stage == "dpo" else len(rankings)
        answers = 1 if stage == "sft" else answers
        found = [(len(chat.prompt_ids(prompt)), len(chat.answer_ids(text))) for prompt, text in texts[:LOOKED_AT]]
        found = [one for one in found if sum(one) <= (settings.max_length or sum(one))]
    if not found:
        return None
    prompts_N, answers_N = zip(*found, strict=True)
    longest = max(map(sum, found))
    return Lengths(sum(prompts_N) / len(found), sum(answers_N) / len(found), longest - max(answers_N),
                   max(answers_N), rows, answers)


def free_memory(gpu: bool) -> float:
    """Bytes that are free: of the GPU, or of the machine as the kernel reckons them."""
    import torch

    if gpu:
        return float(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 0.0
    with open("/proc/meminfo", encoding="utf-8") as file:
        return next(1024.0 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))


def micro_batch(case: Case, free: float) -> dict[str, int]:
    """The sizes to set: as many rows at a time as fit and as make a pass faster. The global batch stays."""
    train = case.told.get("train")
    if case.stage == "ppo":
        part = train.episodes // train.minibatches  # type: ignore[union-attr]
        found = largest(case, free, [{"micro_batch": size} for size in powers(part)])
        together = [{**found, "sample_batch": size} for size in powers(train.episodes)]  # type: ignore[union-attr]
        return largest(case, free, together)
    if case.stage in ("sft", "reward", "dpo"):
        total = train.per_device_train_batch_size * train.gradient_accumulation_steps  # type: ignore[union-attr]
        return largest(case, free, [{"per_device_train_batch_size": size, "gradient_accumulation_steps": total // size}
                                    for size in range(1, total + 1) if total % size == 0])
    return {}


def powers(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length()) if 2**n <= most]


def largest(case: Case, free: float, sizes: list[dict[str, int]]) -> dict[str, int]:
    """The last of these growing sizes that fits and is worth its memory, or the first."""
    fitting = [one for one in sizes if fits(case.with_train(**one), free)]
    return fitting[-1] if fitting else sizes[0]


def fits(case: Case, free: float) -> bool:
    load = case.load
    worth = load.rows == 1 or load.rows * load.row <= ENOUGH[case.held.gpu]
    return case.need.total <= ROOM * free and worth


def report(path: Path, case: Case, machine: pace.Machine | None, free: float, sizes: dict[str, int]) -> Iterator[str]:
    """What is printed."""
    need, shape = case.need, case.shape
    weights = footprint.base_bytes(shape, replace(case.held, four_bit=False)) / case.held.wide
    where = "a GPU" if case.held.gpu else "this CPU"
    yield (f"{path}: {case.stage} on {where}, a base of {weights / 1e6:,.0f} million weights "
           f"{'in NF4' if case.held.four_bit else f'in {8 * case.held.wide} bits'}, adapters of rank {case.rank}")
    lengths = case.lengths
    yield (f"rows: prompts of {lengths.prompt:.0f} tokens and answers of {lengths.answer:.0f}, at most "
           f"{lengths.longest} together, " + ("as the data has them" if case.measured else
                                               "as long as the settings allow: the data is not here"))
    timed = paced(case, machine)
    yield from table(case, need, timed)
    verdict = "fits" if need.total < ROOM * free else "may not fit" if need.total < free else "does not fit"
    yield f"memory: {need.total / GB:.2f} GB at most; it {verdict} in the {free / GB:.1f} GB there are"
    if sizes:
        yield advice(case, sizes, free)
    if timed is None:
        yield "time: not reckoned" + ("" if machine else ": there is no such GPU here to measure")
    else:
        turn = TURNS.get(case.stage, "step")
        yield (f"time: {span(timed.turn)} a {turn}, {span(timed.turn * timed.turns)} for {timed.turns} of them, "
               f"without loading and saving. An estimate, from matrices multiplied here at {machine.dense / 1e9:.0f} "  # type: ignore
               f"GFLOP/s" + ("; unpacking 4 bits on a CPU comes on top" if case.held.four_bit and not case.held.gpu
                             else "") + ("; answers that end early take less" if case.load.sampled else ""))


def paced(case: Case, machine: pace.Machine | None) -> pace.Pace | None:
    if machine is None:
        return None
    return pace.of_stage(case.stage, case.told, case.shape, case.held, machine, case.load, case.lengths, case.rank)


def table(case: Case, need: Need, timed: pace.Pace | None) -> Iterator[str]:
    yield f"{'phase':10} {'GB':>8} {'seconds a ' + TURNS.get(case.stage, 'step') if timed else '':>18}"
    for name, held in need.phases.items():
        seconds = getattr(timed, name, 0.0) if timed else 0.0
        yield f"{name:10} {held / GB:8.2f} {f'{seconds:.2f}' if seconds else '':>18}".rstrip()


def advice(case: Case, sizes: dict[str, int], free: float) -> str:
    words = " ".join(f"train.{name}={size}" for name, size in sizes.items())
    other = case.with_train(**sizes)
    if all(getattr(case.told["train"], name) == size for name, size in sizes.items()):
        return f"micro-batch: as it is ({words})"
    least = "" if other.need.total <= free else (", and even that does not: lower the lengths, or set "
                                                 "train.gradient_checkpointing=true or model.four_bit=true")
    return f"micro-batch: {words} takes {other.need.total / GB:.2f} GB{least}"


def span(seconds: float) -> str:
    """In words that a person reads at once."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} seconds"
