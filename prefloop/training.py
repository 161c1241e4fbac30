"""What the stages on transformers.Trainer share: defaults, whole checkpoints, metrics, and a stop at the first NaN."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from prefloop import checkpoints, config, memory, ranks, runs
from prefloop.chat import Chat
from prefloop.errors import RequestError, RunError, disk_is_full
from prefloop.generate import SamplingConfig, sample_texts
from prefloop.records import Prompt

UNLOGGED = "unlogged.json"
SIZE = "per_device_train_batch_size"
A = TypeVar("A", bound=TrainingArguments)


@dataclass(frozen=True)
class DataConfig:
    """`data:` names a snapshot. `limit` takes the first so many rows of the training split."""

    path: str = ""
    limit: int | None = None

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("data.path is missing: name a snapshot, as `prefloop import` makes them")
        if self.limit is not None and self.limit < 1:
            raise ValueError("data.limit is at least 1")


# What differs on a machine without a GPU.
WITHOUT_GPU = {"use_cpu": True, "bf16": False, "dataloader_pin_memory": False, "gradient_checkpointing": False}


# What transformers would trip over only when the model is loaded and the first step is taken.
RANGES = {
    **dict.fromkeys((SIZE, "per_device_eval_batch_size", "gradient_accumulation_steps", "max_length",
                     "save_total_limit"), config.Range(least=1)),
    **dict.fromkeys(("weight_decay", "dataloader_num_workers", "warmup_steps", "max_grad_norm", "neftune_noise_alpha",
                     "center_rewards_coefficient"), config.Range(least=0)),
    **dict.fromkeys(("learning_rate", "num_train_epochs", "save_steps", "logging_steps", "beta"),
                    config.Range(above=0)),
    **dict.fromkeys(("adam_beta1", "adam_beta2"), config.Range(least=0, most=0.999999)),
    "label_smoothing": config.Range(least=0, most=0.5),
    "ld_alpha": config.Range(least=0, most=1),
    "discopop_tau": config.Range(above=0),
    "seed": config.Range(least=0, most=2**32 - 1),
}


SHARING = "accelerate is asked to share weights out: configs/accelerate/fsdp_qlora.yaml says how"


def section(owner: type, closed: Mapping[str, str] | None = None, **defaults: Any) -> config.Section:
    """`train:` of a stage on transformers.Trainer: no bf16 without a GPU, NaN shown, nothing sent anywhere.

    `closed` are keys that the stage closes beside those that all close, with the reason for each.
    """
    cpu = {} if torch.cuda.is_available() else WITHOUT_GPU
    ours = {"logging_nan_inf_filter": False, "report_to": "none", "disable_tqdm": False, "save_total_limit": 2}
    return config.Section(owner, {**ours, **cpu, **defaults},
                          {"output_dir": "the run's folder is named by run.root and run.name",
                           "save_only_model": "a stopped run continues from its checkpoints, which must be whole",
                           "resume_from_checkpoint": "`prefloop resume RUN` continues a run",
                           "auto_find_batch_size": "micro-batches halve by themselves where memory runs out",
                           "push_to_hub": "nothing is sent anywhere",
                           "fsdp": SHARING, "fsdp_config": SHARING,
                           "deepspeed": "it was not tried; configs/accelerate/ has DDP and FSDP",
                           "packing": "every row stays whole, and by itself", **(closed or {})},
                          RANGES)


class Trained(Exception):
    """A resumed run has its last step behind it already; transformers would take one more."""


class Recorder(TrainerCallback):
    """Metrics to the run, a stop before a gradient that is not finite is applied, and checkpoints made whole."""

    def __init__(self, trainer: Trainer, run: runs.Run, finish: Callable[[Path], None], keep: int | None) -> None:
        self.trainer, self.run, self.finish, self.keep = trainer, run, finish, keep
        self.stopping = False

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.run.resumed_from:
            if state.global_step >= state.max_steps:
                raise Trained
            put_back(self.trainer, checkpoints.read_json(self.run.resumed_from / UNLOGGED))

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
               logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "train_runtime" not in logs:  # transformers' last words: times, and means since the last resume
            self.run.log({"step": state.global_step, **logs})

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if ranks.any_of(self.run.stop.asked):
            control.should_save = self.stopping = True
        if state.global_step >= state.max_steps:
            control.should_log = True

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
                              model: nn.Module | None = None, **_: Any) -> None:
        assert model is not None
        # Of all micro-batches since the last row of metrics: a loss may be NaN where its gradient is not.
        require_finite(self.run, "loss", [self.trainer._tr_loss], state.global_step)  # type: ignore[attr-defined]
        if not args.fp16:  # whose scaler tries large scales, and leaves out the steps that overflow
            require_finite(self.run, "gradient", [p.grad for p in model.parameters() if p.grad is not None],
                           state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = self.run.path / f"checkpoint-{state.global_step}"

        def make_whole() -> None:
            if ranks.first():
                checkpoints.write_json(folder / UNLOGGED, unlogged(self.trainer))
            self.finish(folder)
            if ranks.first():
                checkpoints.rotate(self.run.path, self.keep)

        ranks.by_first(folder.name, make_whole)  # every process has put its random state there
        if self.stopping:
            raise KeyboardInterrupt


class Progress(ProgressCallback):
    """The bar with its time left; figures go to metrics.jsonl and, the loss, beside the bar."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
               logs: dict[str, Any] | None = None, **_: Any) -> None:
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def close(self) -> None:
        """Before the last line of a run that stops, not after it."""
        for bar in (self.training_bar, self.prediction_bar):
            if bar is not None:
                bar.close()


def require_finite(run: runs.Run, what: str, tensors: list[torch.Tensor], step: int) -> None:
    if tensors and not torch.stack([t.detach().float().sum() for t in tensors]).isfinite().all():
        raise RunError(f"the {what} is not finite at step {step + 1}, so the step was not taken; {run.last_good()}")


def attach(trainer: Trainer, run: runs.Run, finish: Callable[[Path], None]) -> None:
    """Give the trainer its recorder and its bar; rotation of checkpoints is ours."""
    if ranks.sharded() and not trainer.is_fsdp_enabled:
        raise RequestError("accelerate was asked to share weights out (FSDP), which it does over GPUs only: each "
                           "process would hold them all")
    run.rewind(int(run.resumed_from.name.removeprefix("checkpoint-")) if run.resumed_from else 0)
    keep, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Recorder(trainer, run, finish, keep))
    trainer.add_callback(Progress())


@contextmanager
def settling() -> Iterator[None]:
    """What a trainer has against its settings when it is built, the request has wrong."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError, RuntimeError, NotImplementedError) as error:
        if memory.ran_out(error) or disk_is_full(error):
            raise
        raise RequestError(f"section train: {' '.join(str(error).split())[:300]}") from None


def train(trainer: Trainer, run: runs.Run) -> None:
    """Train, from the run's last checkpoint if it has one. The first Ctrl-C lets the step end, and saves it."""
    with run.stop.finishing("this step"):
        try:
            trainer.train(resume_from_checkpoint=str(run.resumed_from) if run.resumed_from else None)
        except Trained:
            print(f"all steps were taken before, up to {run.resumed_from}")
        finally:
            for callback in trainer.callback_handler.callbacks:
                if isinstance(callback, Progress):
                    callback.close()


def unlogged(trainer: Any) -> dict[str, Any]:
    """What the trainer has summed up since its last row of metrics: no checkpoint of transformers' has it."""
    sums = {"loss": float(trainer._tr_loss), "since": trainer._globalstep_last_logged}
    if hasattr(trainer, "_metrics"):  # TRL's trainers
        sums |= {"metrics": trainer._metrics["train"], "tokens": trainer._total_train_tokens}
    return sums


def put_back(trainer: Any, sums: dict[str, Any]) -> None:
    """So that the next row of metrics is the one that the uninterrupted run would have written."""
    trainer._tr_loss += sums["loss"]
    trainer._globalstep_last_logged = sums["since"]
    if "metrics" in sums:
        trainer._metrics["train"].update(sums["metrics"])
        trainer._total_train_tokens = sums["tokens"]


def within_memory(run: runs.Run, args: A, learn: Callable[[A], None]) -> None:
    """Learn; where memory runs out, again from the last checkpoint by smaller micro-batches. The global batch stays.

    Everything is made anew, in the order that it was: a run that was asked for these micro-batches goes the same way.
    """
    total = args.per_device_train_batch_size * args.gradient_accumulation_steps
    while True:
        sized, kept = copy.copy(args), run.record.get("micro_batch")
        if isinstance(kept, int) and kept > 0 and total % kept == 0:  # what an earlier try found
            sized.per_device_train_batch_size, sized.gradient_accumulation_steps = kept, total // kept
        if memory.suffices(lambda sized=sized: learn(sized)):
            return
        went_out = f"out of memory with micro-batches of {sized.per_device_train_batch_size}"
        smaller = memory.smaller(sized.per_device_train_batch_size, sized.gradient_accumulation_steps)
        if smaller is None or ranks.world() > 1:
            raise RunError(f"{went_out}: lower {'train.max_length' if smaller is None else SIZE}, or set "
                           f"train.gradient_checkpointing=true or model.four_bit=true; {run.last_good()}")
        checkpoints.clear_unfinished(run.path)
        run.resumed_from = checkpoints.newest(run.path)
        run.note(micro_batch=smaller[0])
        print(f"{went_out}; going on with {smaller[0]} x {smaller[1]} accumulation, from "
              f"{run.resumed_from or 'the start'}", flush=True)


class Moved:
    """How far the trained weights are from where they began."""

    def __init__(self, model: nn.Module) -> None:
        self.before = {key: p.detach().clone().cpu() for key, p in model.named_parameters() if p.requires_grad}

    def check(self, run: runs.Run, model: nn.Module, what: str = "weights") -> None:
        # Embeddings of tokens that no text has stay where they are.
        lookups = {id(one.weight) for one in model.modules() if isinstance(one, nn.Embedding)}
        now = {key: ranks.gathered(p.detach()).cpu() for key, p in model.named_parameters()
               if key in self.before and id(p) not in lookups}
        finite = all(bool(p.isfinite().all()) for p in now.values())
        changed = sum(int((p != self.before[key]).sum()) for key, p in now.items())
        share = changed / sum(p.numel() for p in now.values())
        run.check(what, finite and share > 0.5, f"{share:.1%} of the trained weights moved, "
                                                f"{'all' if finite else 'NOT all'} finite")


def fp32_adapters(run: runs.Run, model: nn.Module, began: Moved | None = None) -> None:
    """Undo TRL's cast of QLoRA weights to bf16: at small learning rates bf16 weights barely move.

    The cast has rounded them too, so a stage that begins with a trained adapter gives the weights as they `began`.
    """
    trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
    for key, weight in trained.items():
        weight.data = (began.before[key].clone().to(weight.device) if began else weight.data).float()
    run.note(trained_parameters=sum(p.numel() for p in trained.values()))


def samples(run: runs.Run, model: nn.Module, chat: Chat, prompts: list[Prompt], role: str | None, when: str,
            max_new_tokens: int) -> None:
    """Answers to fixed held-out prompts, to samples.jsonl: what a person reads before and after."""
    kept = [row for row in runs.read_lines(run.path / "samples.jsonl") if row["when"] != when]
    if not prompts:
        return
    settings = SamplingConfig(answers=1, max_new_tokens=max_new_tokens, temperature=0.0)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        texts = sample_texts(model, chat, prompts, settings, role, f"samples {when}")
    if not ranks.first():
        return
    own = [{"when": when, "prompt": prompt.chat(), "answer": text}
           for prompt, (text,) in zip(prompts, texts, strict=True)]
    with checkpoints.replacing(run.path / "samples.jsonl") as file:
        file.writelines(map(runs.line, [*kept, *own]))
