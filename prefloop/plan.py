"""`prefloop plan CONFIG`: what a stage will take, said before anything is loaded: memory by phase, time, micro-batch.

Memory is arithmetic (footprint.py); time is arithmetic on speeds that are measured here first (pace.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prefloop import config, footprint, pace
from prefloop.cli import COMMANDS
from prefloop.errors import RequestError
from prefloop.footprint import LINEARS, STAGES, Held, Judge, Lengths, Load, Need, Shape, online_of

if TYPE_CHECKING:
    from prefloop.chat import Chat

GB = 10**9
ROOM = 0.9  # of the memory that is free
LOOKED_AT = 300  # rows of the data, to see how long they are
ENOUGH = {True: 16384, False: 2048}  # tokens of a pass beyond which more rows are no faster, on a GPU and a CPU
TURNS = {"ppo": "rollout", "generate": "run"}
SHIPPED = {"online_dpo": "dpo", "encoder": "reward", "linear": "reward"}  # configs that have not their stage's name


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
class Lora:
    """What the adapters are: their rank, and on which of footprint.LINEARS they stand."""

    rank: int
    targets: tuple[str, ...] = LINEARS


@dataclass(frozen=True)
class Case:
    """A stage as it would run. `measured` says that `lengths` are the data's; without, the settings allow so much.
    Of `judges` the first is the reward model; another watches."""

    stage: str
    told: dict[str, Any]
    shape: Shape
    held: Held
    lora: Lora
    lengths: Lengths
    measured: bool
    judges: tuple[Judge, ...] = ()

    @property
    def load(self) -> Load:
        return footprint.load_of(self.stage, self.told, self.lengths, self.judges)

    @property
    def each(self) -> int:
        """Weights of an adapter."""
        return self.lora.rank * footprint.adapter_width(self.shape, self.lora.targets)

    @property
    def need(self) -> Need:
        return footprint.need(self.shape, self.load, self.held, self.each)

    @property
    def turn(self) -> str:
        return "round" if online_of(self.told) else TURNS.get(self.stage, "step")

    def changed(self, sizes: dict[str, int]) -> Case:
        """With other settings, by their names with their section's."""
        told = dict(self.told)
        for name, size in sizes.items():
            section, key = name.split(".")
            told[section] = Changed(told[section], {key: size})
        return replace(self, told=told)


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
    measurable = pace.reckonable(case.stage, case.told, case.lengths) and (torch.cuda.is_available() or not gpu)
    machine = pace.probe(case.shape, case.held, case.load.sampled, here) if measurable else None
    sizes = micro_batch(case, free)
    print("\n".join(report(asked.path, case, machine, free, sizes)))
    return int((case.changed(sizes) if sizes else case).need.total > free)


def case_of(path: Path, given: dict[str, dict[str, Any]], stage: str, base: str, gpu: bool, look: bool = True,
            asker: str = "plan") -> Case:
    """What a config asks for. With `look`, the lengths are those of its data, where that and a tokenizer are here.
    `asker` is the section that says what the config does not."""
    stage = stage or stage_of(path, asker)
    require_planned(path, stage, stage in STAGES)
    owners = import_module(COMMANDS[stage][0]).sections()
    told = dict(zip(owners, config.build(config.Asked(stage, given), owners), strict=True))
    own = told["model"]
    named = str(getattr(own, "path", "")) or next(iter(getattr(told.get("compare"), "runs", [])), "")
    kind = kind_of(named) if stage == "score" else getattr(own, "kind", "adapter")
    require_planned(path, f"{stage} of kind {kind}", kind == "adapter")
    known = lengths_of(stage, told, Path(named)) if look else None
    held = replace(footprint.ON_GPU if gpu else footprint.ON_CPU, four_bit=own.four_bit)
    if own.dtype != "auto":
        held = replace(held, wide=footprint.BF16 if own.dtype == "bfloat16" else footprint.FP32)
    under = base or base_of(path, named)
    return Case(stage, told, footprint.shape_of(under, asker), held, lora_of(named, own),
                known or footprint.limits(stage, told), known is not None, judges_of(stage, told, under, held))


def require_planned(path: Path, what: str, planned: bool) -> None:
    if not planned:
        raise RequestError(f"{path}: no plan is made for {what}; it takes configs of {', '.join(STAGES[:-1])} and "
                           f"{STAGES[-1]}, on a base (of reward models: model.kind=adapter)")


def stage_of(path: Path, asker: str = "plan") -> str:
    """By the run beside a run.yaml, or by the file's name; `asker` is the section that says it otherwise."""
    stage = SHIPPED.get(path.stem, path.stem)
    if path.name == "run.yaml":
        stage = str(footprint.object_in(path.parent / "run.json").get("stage", stage))
    if not COMMANDS.get(stage, ("", ""))[0]:
        raise RequestError(f"{path}: which stage is it for? Say {asker}.stage=ppo, or another")
    return stage


def base_of(path: Path, named: str) -> str:
    """What a config names, or where that is a run that is not there yet, what the sft.yaml beside the config names."""
    beside = path.with_name("sft.yaml")
    hub = named.count("/") == 1 and not named.startswith(("runs/", ".", "/", "~"))
    if hub or (named and Path(named).is_dir()) or path == beside or not beside.is_file():
        return named
    return str(config.read("sft", beside, []).sections.get("model", {}).get("path", named))


def lora_of(named: str, own: Any) -> Lora:
    """The adapter that a run has already; a new one is as it was asked for."""
    path = footprint.checkpoint_in(named) / "adapter_config.json"
    saved = footprint.object_in(path)
    if saved:
        listed = saved.get("target_modules")
        names = {str(name).split(".")[-1] for name in listed} if isinstance(listed, list) else set()
        known = tuple(name for name in LINEARS if name in names)  # other architectures have other names
        return Lora(footprint.size_in(saved, "r", path), known if known and len(known) == len(names) else LINEARS)
    asked = getattr(own, "lora_targets", "all-linear")
    if asked != "all-linear" and (isinstance(asked, str) or not asked or any(name not in LINEARS for name in asked)):
        raise RequestError(f"model.lora_targets={asked}: reckoned are all-linear, and a list of some of "
                           f"{', '.join(LINEARS)}")
    return Lora(getattr(own, "lora_r", 16), LINEARS if asked == "all-linear" else tuple(asked))


def kind_of(named: str) -> str:
    """Which kind of reward model a run is, by its files; an adapter, where it is not there."""
    from prefloop import models

    folder = footprint.checkpoint_in(named)
    return next((kind for kind, file in (("encoder", models.ENCODER), ("linear", models.LINEAR))
                 if (folder / file).is_file()), "adapter")


def judges_of(stage: str, told: dict[str, Any], under: str, held: Held) -> tuple[Judge, ...]:
    """The reward model, and one that watches. A run that is not there yet is taken to stand on the base `under`."""
    online = online_of(told)
    if stage != "ppo" and not online:
        return ()
    named = [online.reward] if online else [told["reward"].path or told["reward"].url, told["watch"].reward]
    return tuple(judge_of(str(one), footprint.base_under(under), held) for one in named if one)


def judge_of(named: str, under: str, held: Held) -> Judge:
    folder = footprint.checkpoint_in(named)
    if "://" in named or kind_of(named) == "linear":
        return Judge()
    if kind_of(named) == "encoder":
        return Judge(beside=float(sum(file.stat().st_size for file in folder.glob("*.safetensors"))))
    if not folder.is_dir() or footprint.base_under(named) == under:
        return Judge(adapters=1)
    return Judge(beside=footprint.base_bytes(footprint.shape_of(named), held))


def lengths_of(stage: str, told: dict[str, Any], model: Path) -> Lengths | None:
    """How long the rows of the data are, by the first of them; None where the data or a tokenizer is not here."""
    data = Path(getattr(told.get("data"), "path", ""))
    if stage not in ("sft", "reward", "dpo", "ppo", "generate") or not (data / "rankings.jsonl").is_file() or not (
            model.is_dir()):
        return None
    from prefloop import models
    from prefloop.formats import snapshot

    folder = footprint.checkpoint_in(str(model))
    chat = models.load_chat(models.Checkpoint(str(model), footprint.base_under(str(model)), "", "", None, folder))
    return measured(stage, told, snapshot.read(data), chat)


def measured(stage: str, told: dict[str, Any], source: Any, chat: Chat) -> Lengths | None:
    """Mean and greatest lengths of the rows that fit, and how many there are."""
    settings, online = told["sampling"] if stage == "generate" else told["train"], online_of(told)
    limit = getattr(told["data"], "limit", None)
    if stage in ("ppo", "generate") or online:
        prompts = source.prompts_of(told["data"].split if stage == "generate" else "train")[:limit]
        new = (online or settings).max_new_tokens
        found = [(len(chat.prompt_ids(prompt)), new) for prompt in prompts[:LOOKED_AT]]
        most = (settings.max_length or float("inf")) - new if online else settings.max_prompt_tokens
        found = [one for one in found if one[0] <= most]
        rows, answers = len(prompts), 2 if online else 1
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
    """The sizes to set: as many rows at a time as fit and as make a pass faster. The global batch stays.

    Phases take turns, so how many learn together is found first, with one that grows at a time.
    """
    train, online = case.told.get("train"), online_of(case.told)
    if case.stage == "ppo":
        part = train.episodes // train.minibatches  # type: ignore[union-attr]
        steps = [{"train.micro_batch": size} for size in powers(part)]
        grown, most = "train.sample_batch", train.episodes  # type: ignore[union-attr]
    elif case.stage in ("sft", "reward", "dpo"):
        total = train.per_device_train_batch_size * train.gradient_accumulation_steps  # type: ignore[union-attr]
        steps = [{"train.per_device_train_batch_size": size, "train.gradient_accumulation_steps": total // size}
                 for size in range(1, total + 1) if total % size == 0]
        grown, most = "online.sample_batch", online.prompts * online.answers if online else 0
    else:
        return {}
    if not case.load.sampled:
        return largest(case, free, steps)
    found = largest(case.changed({grown: 1}), free, steps)
    return largest(case, free, [{**found, grown: size} for size in powers(most)])


def powers(most: int) -> list[int]:
    return [2**n for n in range(most.bit_length()) if 2**n <= most]


def largest(case: Case, free: float, sizes: list[dict[str, int]]) -> dict[str, int]:
    """The last of these growing sizes that fits and is worth its memory, or the first."""
    fitting = [one for one in sizes if fits(case.changed(one), free)]
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
    held = ("trained whole in fp32" if case.load.whole else "in NF4" if case.held.four_bit
            else f"in {8 * case.held.wide} bits")
    some = "" if case.lora.targets == LINEARS else f" on {', '.join(case.lora.targets)}"
    yield (f"{path}: {case.stage} on {where}, a base of {weights / 1e6:,.0f} million weights {held}"
           + ("" if case.load.whole else f", adapters of rank {case.lora.rank}{some}"))
    lengths = case.lengths
    yield (f"rows: prompts of {lengths.prompt:.0f} tokens and answers of {lengths.answer:.0f}, at most "
           f"{lengths.longest} together, " + ("as the data has them" if case.measured else
                                               "as long as the settings allow: the data is not here"))
    timed = paced(case, machine) if machine else None
    yield from table(case, need, timed)
    yield from (f"not counted: {what}" for what in left_out(case))
    verdict = "fits" if need.total < ROOM * free else "may not fit" if need.total < free else "does not fit"
    yield f"memory: {need.total / GB:.2f} GB at most; it {verdict} in the {free / GB:.1f} GB there are"
    if sizes:
        yield advice(case, sizes, free)
    yield time_of(case, timed, machine)


def paced(case: Case, machine: pace.Machine) -> pace.Pace:
    return pace.of_stage(case.stage, case.told, case.shape, case.held, machine, case.load, case.lengths, case.each,
                         case.judges)


def time_of(case: Case, timed: pace.Pace | None, machine: pace.Machine | None) -> str:
    if timed is None or machine is None:
        if pace.reckonable(case.stage, case.told, case.lengths):
            why = "there is no such GPU here to measure"
        elif case.stage in ("compare", "score"):
            why = f"of {case.stage} only memory is"
        else:
            why = "how many rows there are is not known; data.path and model.path name what is here"
        return f"time: not reckoned: {why}"
    return (f"time: {span(timed.turn)} a {case.turn}, {span(timed.turn * timed.turns)} for {timed.turns} of them, "
            f"without loading and saving. An estimate, from matrices multiplied here at {machine.dense / 1e9:.0f} "
            f"GFLOP/s" + ("; unpacking 4 bits on a CPU comes on top" if case.held.four_bit and not case.held.gpu
                          else "") + ("; answers that end early take less" if case.load.sampled else ""))


def left_out(case: Case) -> Iterator[str]:
    """What else there is, and is neither in the memory nor in the time."""
    online = online_of(case.told)
    reward = online.reward if online else getattr(case.told.get("reward"), "url", None) or ""
    if case.stage == "ppo" and case.told["sampler"].url:
        yield f"sampling, which {case.told['sampler'].url} does"
    if "://" in reward:
        yield f"scoring, which {reward} does"
    if any(judge.beside for judge in case.judges):
        yield "the time of a reward model with a base of its own, and what it holds while it reads"
    if case.stage == "ppo" and case.told["watch"].every:
        looks = case.told["watch"]
        yield f"the time of a look at {looks.prompts} held-out prompts every {looks.every} rollouts"


def table(case: Case, need: Need, timed: pace.Pace | None) -> Iterator[str]:
    yield f"{'phase':10} {'GB':>8} {'seconds a ' + case.turn if timed else '':>18}".rstrip()
    for name, held in need.phases.items():
        seconds = getattr(timed, name, 0.0) if timed else 0.0
        yield f"{name:10} {held / GB:8.2f} {f'{seconds:.2f}' if seconds else '':>18}".rstrip()


def advice(case: Case, sizes: dict[str, int], free: float) -> str:
    words = " ".join(f"{name}={size}" for name, size in sizes.items())
    other = case.changed(sizes)
    if all(getattr(case.told[section], key) == sizes[f"{section}.{key}"]
           for section, key in (name.split(".") for name in sizes)):
        return f"micro-batch: as it is ({words})"
    smaller = "model.whole=false" if case.load.whole else "model.four_bit=true"
    least = "" if other.need.total <= free else (f", and even that does not: lower the lengths, or set "
                                                 f"train.gradient_checkpointing=true or {smaller}")
    return f"micro-batch: {words} takes {other.need.total / GB:.2f} GB{least}"


def span(seconds: float) -> str:
    """In words that a person reads at once."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} seconds"
