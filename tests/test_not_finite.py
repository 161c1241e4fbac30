"""NaN in weights, loss, gradient, reward and value: the run stops before the step, and its last checkpoint is good."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny_loop import Loop
from transformers import Trainer

from prefloop import checkpoints, models, training
from prefloop.heads import HEAD
from prefloop.ppo import rollout, trainer, update

training_step = Trainer.training_step
NAN = torch.tensor(math.nan)


def trained(trainer: Any) -> torch.nn.Parameter:
    return next(p for p in trainer.model.parameters() if p.requires_grad)


def spoil(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """From the second step on, with a checkpoint behind it."""
    def step(self: Any, *given: Any, **named: Any) -> torch.Tensor:
        loss = training_step(self, *given, **named)
        if self.state.global_step == 1 and what == "gradient":
            trained(self).grad = torch.full_like(trained(self), math.inf)
        return loss * NAN if self.state.global_step == 1 and what == "loss" else loss

    monkeypatch.setattr(Trainer, "training_step", step)


def spoil_ppo(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    collect, step = rollout.collect, update.Learner.step

    def collected(actors: Any, prompts: Any, number: int, *given: Any) -> rollout.Rollout:
        if number == 1 and what == "reward":
            actors.judge.head.linear.bias.data.fill_(math.nan)
        if number == 1 and what == "value":
            actors.critic.head.linear.bias.data.fill_(math.nan)
        return collect(actors, prompts, number, *given)

    def stepped(self: Any, number: int, *given: Any) -> None:
        if what == "gradient" and of_second_rollout(self, number):
            self.critic[0].grad.fill_(math.nan)
        step(self, number, *given)

    monkeypatch.setattr(trainer, "collect", collected)
    monkeypatch.setattr(update.Learner, "step", stepped)


def of_second_rollout(learner: update.Learner, step: int) -> bool:
    return step // (learner.settings.ppo_epochs * learner.settings.minibatches) == 1


@pytest.mark.parametrize(("stage", "what"), [
    ("sft", "loss"), ("sft", "gradient"), ("reward", "loss"), ("dpo", "loss"), ("dpo", "gradient"), ("ppo", "reward"),
    ("ppo", "value"), ("ppo", "gradient")])
def test_the_step_is_not_taken_and_the_run_goes_on_from_the_one_before(
        loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str], stage: str,
        what: str) -> None:
    with monkeypatch.context() as patch:
        (spoil_ppo if stage == "ppo" else spoil)(patch, what)
        run = loop.run(stage, "r", root=tmp_path, code=1)
    line = said()
    assert f"{what} is not finite at step 2" in line
    assert str(run / "checkpoint-1") in line
    check_stopped(run)
    assert tiny.launch("resume", run) == 0
    whole = loop.root / "runs" / stage / "final" / models.ADAPTER
    assert (run / "final" / models.ADAPTER).read_bytes() == whole.read_bytes()


def check_stopped(run: Path) -> None:
    assert tiny.record(run)["status"] == "failed"
    assert checkpoints.newest(run) == run / "checkpoint-1"
    assert not (run / "final").exists()
    assert not (run / "checkpoint-2").exists()


@pytest.mark.parametrize("stage", ["sft", "whole", "reward", "dpo", "ppo"])
def test_weights_that_are_not_finite_are_never_kept(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    said: Callable[[], str], stage: str) -> None:
    """Spoilt between the second step and its checkpoint."""
    on_step_end, step = training.Recorder.on_step_end, update.Learner.step

    def ended(self: Any, args: Any, state: Any, *given: Any, **named: Any) -> None:
        if state.global_step == 2:
            trained(self.trainer).data.fill_(math.nan)
        on_step_end(self, args, state, *given, **named)

    def stepped(self: Any, number: int, *given: Any) -> None:
        step(self, number, *given)
        if of_second_rollout(self, number):
            self.policy[0].data.fill_(math.nan)

    monkeypatch.setattr(training.Recorder, "on_step_end", ended)
    monkeypatch.setattr(update.Learner, "step", stepped)
    whole = stage == "whole"
    run = loop.run("sft" if whole else stage, "r", *(["model.whole=true"] * whole), root=tmp_path, code=1)
    line = said()
    assert str(run / "checkpoint-2" / ("model.safetensors" if whole else models.ADAPTER)) in line
    assert ("embed_tokens" if whole else "lora_A") in line
    assert "not finite" in line
    check_stopped(run)


@pytest.mark.parametrize("four_bit", [False, True])
def test_a_base_with_a_nan_is_named_by_file_and_key(loop: Loop, tmp_path: Path, said: Callable[[], str],
                                                    four_bit: bool) -> None:
    base = shutil.copytree(loop.root / "base", tmp_path / "base")
    poison(base / "model.safetensors", "model.layers.1.mlp.up_proj.weight")
    asked = loop.asked("sft", "r", f"model.path={base}", f"model.four_bit={four_bit}".lower(), root=tmp_path)
    assert tiny.launch(*asked) == 1
    assert f"{base}/model.safetensors: model.layers.1.mlp.up_proj.weight holds values that are not finite" in said()
    assert not (tmp_path / "r" / "final").exists()


@pytest.mark.parametrize(("stage", "parent", "file"), [
    ("reward", "sft", models.ADAPTER), ("ppo", "reward", HEAD), ("generate", "sft", models.ADAPTER)])
def test_a_parent_with_a_nan_is_named(loop: Loop, tmp_path: Path, said: Callable[[], str], stage: str, parent: str,
                                      file: str) -> None:
    run = shutil.copytree(loop.root / "runs" / parent, tmp_path / parent)
    poison(run / "final" / file)
    facts = checkpoints.read_json(run / "final" / checkpoints.MANIFEST)
    checkpoints.seal(run / "final", **{key: facts[key] for key in facts.keys() - {"files", "sha256"}})
    key = "reward.path" if parent == "reward" else "model.path"
    asked = [stage, f"{key}={run}", f"data.path={loop.root / 'data'}", f"run.root={tmp_path}"]
    assert tiny.launch(*(asked if stage == "generate" else loop.asked(stage, "r", f"{key}={run}", root=tmp_path))) == 1
    assert f"{run / 'final' / file}: " in said()


def poison(path: Path, key: str = "") -> None:
    weights = load_file(path)
    weights[key or next(iter(weights))].view(-1)[0] = math.nan
    save_file(weights, path, metadata={"format": "pt"})
