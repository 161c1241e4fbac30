"""What the stages on transformers.Trainer share: defaults, whole checkpoints, metrics, and a stop at the first NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from prefloop import checkpoints, config, ranks, runs
from prefloop.chat import Chat
from prefloop.errors import RunError
from prefloop.generate import SamplingConfig, sample_texts
from prefloop.records import Prompt

UNLOGGED = "unlogged.json"


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


def section(owner: type, **defaults: Any) -> config.Section:
    """`train:` of a stage on transformers.Trainer: no bf16 without a GPU, NaN shown, nothing sent anywhere."""
    cpu = {} if torch.cuda.is_available() else WITHOUT_GPU
    ours = {"logging_nan_inf_filter": False, "report_to": "none", "disable_tqdm": False, "save_total_limit": 2}
    return config.Section(owner, {**ours, **cpu, **defaults},
                          {"output_dir": "the run's folder is named by run.root and run.name",
                           "save_only_model": "a stopped run continues from its checkpoints, which must be whole"})


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
        require_finite(self.run, "gradient", [p.grad for p in model.parameters() if p.grad is not None],
                       state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        folder = self.run.path / f"checkpoint-{state.global_step}"

        def make_whole() -> None:
            checkpoints.write_json(folder / UNLOGGED, unlogged(self.trainer))
            self.finish(folder)
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
    run.rewind(int(run.resumed_from.name.removeprefix("checkpoint-")) if run.resumed_from else 0)
    keep, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Recorder(trainer, run, finish, keep))
    trainer.add_callback(Progress())


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


class Moved:
    """How far the trained weights are from where they began."""

    def __init__(self, model: nn.Module) -> None:
        self.before = {key: p.detach().clone().cpu() for key, p in model.named_parameters() if p.requires_grad}

    def check(self, run: runs.Run, model: nn.Module, what: str = "weights") -> None:
        now = {key: p.detach().cpu() for key, p in model.named_parameters() if key in self.before}
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
