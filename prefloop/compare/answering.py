"""What every run answers to the same questions: each base loaded once, adapters switched, nothing sampled twice."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from prefloop import generate
from prefloop.compare import metrics
from prefloop.compare.cache import Cache, Kept, text_key
from prefloop.compare.metrics import MetricsConfig
from prefloop.compare.records import HELD_OUT, Answer, Contestant, Question
from prefloop.compare.settings import HoldConfig
from prefloop.compare.tasks import Tasks
from prefloop.errors import RequestError
from prefloop.generate import Job, SamplingConfig
from prefloop.records import Prompt, digest

if TYPE_CHECKING:
    from torch import nn

    from prefloop.chat import Chat
    from prefloop.models import Checkpoint, ModelConfig


@dataclass(frozen=True)
class Setting:
    """What is the same for all who answer."""

    questions: tuple[Question, ...]
    hold: HoldConfig
    sampling: SamplingConfig
    cache: Cache
    measuring: MetricsConfig = field(default_factory=MetricsConfig)

    def batches(self, chat: Chat) -> list[list[Job]]:
        """What is sampled together: each set by itself, so that answers do not hang on which other sets are asked.

        Within a set seeds go by the question's place, as `prefloop generate` has them.
        """
        found, first = [], 0
        for _, own in groupby(self.questions, key=lambda one: one.set):
            prompts = [one.prompt for one in own]
            found += [[replace(job, prompt=job.prompt + first) for job in batch]
                      for batch in generate.batches(chat, prompts, self.sampling)]
            first += len(prompts)
        return found

    def made_by(self, one: Checkpoint) -> tuple[object, ...]:
        """What decides an answer, beside the tokens asked and the seed."""
        return one.checksum, one.base_checksum, self.hold, self.sampling.temperature, self.sampling.max_new_tokens


@dataclass(eq=False)
class Writer:
    """A checkpoint that answers, on a base that is loaded only where something is still owed. `jobs` are those of each
    question, one for each sample."""

    checkpoint: Checkpoint
    chat: Chat
    kept: Kept
    batches: list[list[Job]]
    jobs: list[list[Job]]
    role: str | None = None

    @property
    def owed(self) -> list[list[Job]]:
        """The batches that are not all there, each whole: among other rows an answer could round otherwise."""
        return [batch for batch in self.batches if not all(key_of(job) in self.kept for job in batch)]

    def ids(self, job: Job) -> list[int]:
        return self.kept[key_of(job)]["ids"]


def key_of(job: Job) -> str:
    """A row is known by the very tokens that were asked, and its seed."""
    return digest(*map(str, job.ids), "", str(job.seed))


Held = list[tuple[str, Any]]  # the base in memory with its checksum, or none: whoever takes it out is its only holder


def answered(found: Sequence[Checkpoint], setting: Setting) -> tuple[tuple[Contestant, ...], Held]:
    """Everybody's answers, base by base; the baseline's last, for then it can read what all the others wrote.

    Beside them the baseline's base, if something was asked of it.
    """
    writers = [writer(one, setting) for one in found]
    baseline, *others = writers
    # Greedy answers are no sample of anything, and a KL is between two that read and write the same tokens.
    measured = [one for one in others if setting.sampling.temperature and same_tokens(one, baseline)]
    bases = dict.fromkeys(one.checkpoint.base_checksum for one in [*others, baseline])
    last = baseline.checkpoint.base_checksum
    model = None
    for base in [*(one for one in bases if one != last), last]:
        own = [one for one in writers if one.checkpoint.base_checksum == base]
        readings = [Reading(one, one, setting) for one in own if one in measured]
        model = None  # before the next base is loaded
        model = make(own, readings + [Reading(baseline, one, setting) for one in measured if base == last], setting)
    contestants = tuple(contestant(one, baseline if one in measured else None, setting) for one in writers)
    return contestants, [(last, model)] if model else []


def writer(one: Checkpoint, setting: Setting) -> Writer:
    from prefloop import models

    chat = models.load_chat(one)
    batches = setting.batches(chat)
    jobs: list[list[Job]] = [[] for _ in setting.questions]
    for job in sorted((job for batch in batches for job in batch), key=lambda job: job.answer):
        jobs[job.prompt].append(job)
    return Writer(one, chat, setting.cache.of("answers", *setting.made_by(one)), batches, jobs)


class Reading:
    """The log-probabilities that `reader` gives to the held-out answers of `one`."""

    def __init__(self, reader: Writer, one: Writer, setting: Setting) -> None:
        self.reader, self.one, self.temperature = reader, one, setting.sampling.temperature
        self.kept = setting.cache.of("logprobs", *setting.made_by(one.checkpoint), reader.checkpoint.checksum,
                                     reader.checkpoint.base_checksum)
        self.jobs = [job for question, own in zip(setting.questions, one.jobs, strict=True)
                     if question.set == HELD_OUT for job in own]

    @property
    def owed(self) -> list[Job]:
        return [job for job in self.jobs if key_of(job) not in self.one.kept or self.key(job) not in self.kept]

    def key(self, job: Job) -> str:
        """Of the answer that was read: a batch sampled again may have another."""
        return digest(key_of(job), *map(str, self.one.ids(job)))

    def read(self, model: nn.Module) -> None:
        """log p of each answer, in nats, at the temperature it was sampled at."""
        from prefloop import passes

        jobs = self.owed
        if jobs:
            values = passes.total_logprobs(model, self.reader.role, [job.ids + self.one.ids(job) for job in jobs],
                                           [len(job.ids) for job in jobs], self.one.chat.pad_id, self.temperature)
            self.kept.add({"key": self.key(job), "logprob": value}
                          for job, value in zip(jobs, values.tolist(), strict=True))

    def value(self, job: Job) -> float | None:
        """None for an answer of another set."""
        return self.kept.rows.get(self.key(job), {}).get("logprob")


def make(own: list[Writer], readings: list[Reading], setting: Setting) -> Any:
    """What these writers, who share a base, still owe. The base is loaded if anything is, and returned."""
    others = [*readings, *(kind(one, setting) for kind in (References, Tasks) for one in own)]
    if not any(one.owed for one in [*own, *others]):
        return None
    model, roles = hosted([one.checkpoint for one in own], setting.hold)
    for one, role in zip(own, roles, strict=True):
        one.role = role
        if one.owed:
            sample(model, one, setting.sampling)
    for one in others:
        one.read(model)
    return model


class References:
    """-log p of the questions' right answers under a writer, where that was asked for."""

    def __init__(self, one: Writer, setting: Setting) -> None:
        self.one, self.setting = one, setting
        self.kept = setting.cache.of("references", one.checkpoint.checksum, one.checkpoint.base_checksum, setting.hold)

    def key(self, question: Question) -> str:
        return text_key(question.prompt, question.reference)

    @property
    def owed(self) -> list[Question]:
        wanted = self.setting.questions if self.setting.measuring.perplexity else ()
        return [one for one in wanted if one.reference and self.key(one) not in self.kept]

    def read(self, model: nn.Module) -> None:
        questions = self.owed
        found = metrics.perplexities(model, self.one.role, self.one.chat, questions)
        self.kept.add({"key": self.key(question), "read": one} for question, one in zip(questions, found, strict=True))

    def all(self) -> tuple[tuple[float, int] | None, ...]:
        """Of every question; None where it has no reference that could be read. Nothing where it was not asked for."""
        if not self.setting.measuring.perplexity:
            return ()
        found = [self.kept[self.key(one)]["read"] if one.reference else None for one in self.setting.questions]
        return tuple((own[0], own[1]) if own else None for own in found)


def sample(model: nn.Module, one: Writer, sampling: SamplingConfig) -> None:
    """The answers that are owed, kept batch by batch with what they cost."""
    forget_peak()
    began = time.monotonic()

    def keep(batch: list[Job], found: list[list[int]]) -> None:
        nonlocal began
        seconds, began = (time.monotonic() - began) / len(batch), time.monotonic()
        one.kept.add({"key": key_of(job), "ids": ids, "seconds": round(seconds, 5), "peak_mb": peak_mb()}
                     for job, ids in zip(batch, found, strict=True))

    what = f"sampling from {one.checkpoint.path}"
    generate.sample_batches(model, one.chat, one.owed, sampling, one.role, what, keep)


def forget_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_mb() -> int:
    """The most memory held: the GPU's since the peak was forgotten, or without a GPU this process's so far."""
    import torch

    used = (torch.cuda.max_memory_allocated() if torch.cuda.is_available()
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10)
    return used >> 20


def same_tokens(one: Writer, other: Writer) -> bool:
    """Whether both read and write the same token ids."""
    return (one.chat.end_id == other.chat.end_id
            and one.chat.tokenizer.get_vocab() == other.chat.tokenizer.get_vocab()
            and all(mine[0].ids == its[0].ids for mine, its in zip(one.jobs, other.jobs, strict=True)))


def contestant(one: Writer, baseline: Writer | None, setting: Setting) -> Contestant:
    """A writer's answers as a record; with a `baseline`, each held-out one with its log ratio."""
    pair = (Reading(one, one, setting), Reading(baseline, one, setting)) if baseline else None

    def answer(job: Job) -> Answer:
        own, its = (reading.value(job) for reading in pair) if pair else (None, None)
        ids = one.ids(job)
        return Answer(one.chat.text(ids), len(ids), ids[-1] == one.chat.end_id,
                      None if own is None or its is None else own - its)

    answers = tuple(tuple(map(answer, own)) for own in one.jobs)
    return Contestant(one.checkpoint.path, one.checkpoint.checksum, answers,
                      {"checksum": one.checkpoint.checksum, "base_checksum": one.checkpoint.base_checksum,
                       "cost": cost(one), **Tasks(one, setting).facts()}, References(one, setting).all())


def cost(one: Writer) -> dict[str, float]:
    """What sampling took, also where it was done before: tokens and seconds of all answers asked for."""
    rows = [one.kept[key_of(job)] for jobs in one.jobs for job in jobs]
    tokens, seconds = sum(len(row["ids"]) for row in rows), sum(row["seconds"] for row in rows)
    adapter = one.checkpoint.adapter
    size = sum(path.stat().st_size for path in adapter.glob("*.safetensors")) if adapter else 0
    return {"tokens": tokens, "seconds": round(seconds, 2), "tokens_per_second": round(tokens / max(seconds, 1e-9), 1),
            "peak_mb": max(row["peak_mb"] for row in rows), "adapter_mb": round(size / 2**20, 2)}


# -- what the page's process that answers shares ----------------------------------------------------------------------


def hosted(own: list[Checkpoint], hold: HoldConfig) -> tuple[nn.Module, list[str | None]]:
    """The base that these checkpoints share, with their adapters on it, and each one's role."""
    from prefloop import models

    model: Any = models.load_base(own[0], model_config(own[0], hold))
    roles = [f"run{number}" if one.adapter else None for number, one in enumerate(own)]
    for one, role in zip(own, roles, strict=True):
        if role:
            model = models.add_adapter(model, role, one.adapter, model_config(one, hold))
    return model.eval(), roles


def model_config(one: Checkpoint, hold: HoldConfig) -> ModelConfig:
    from prefloop.models import ModelConfig

    return ModelConfig(path=one.path, four_bit=hold.four_bit, dtype=hold.dtype)


def reader(found: Sequence[Checkpoint], sampling: SamplingConfig) -> Callable[[Prompt], bool]:
    """Whether a prompt fits every run's tokenizer."""
    from prefloop import models

    chats = [models.load_chat(one) for one in found]
    return lambda prompt: all(len(chat.prompt_ids(prompt)) <= sampling.max_prompt_tokens for chat in chats)


def over_length(where: object, sampling: SamplingConfig) -> RequestError:
    return RequestError(f"{where}: every prompt is over sampling.max_prompt_tokens={sampling.max_prompt_tokens}")
