"""Out of memory, simulated: a forward pass that raises what torch raises when more than so many rows come."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny_loop import Loop
from transformers.models.llama.modeling_llama import LlamaModel

from prefloop import heads, memory, models
from prefloop.chat import probe_rows
from prefloop.errors import RunError

forward = LlamaModel.forward


def hold(monkeypatch: pytest.MonkeyPatch, rows: int, work: str = "training", after: int = 0) -> list[int]:
    """Memory for `rows` rows in passes of this kind of work, from call `after` on; the sizes that came."""
    came: list[int] = []

    def limited(self: Any, input_ids: Any = None, *given: Any, **named: Any) -> Any:
        kind = "training" if torch.is_grad_enabled() else "sampling" if named.get("use_cache") else "scoring"
        if kind == work:
            came.append(len(input_ids))
            if len(input_ids) > rows and len(came) > after:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (simulated)")
        return forward(self, input_ids, *given, **named)

    monkeypatch.setattr(LlamaModel, "forward", limited)
    return came


# Rows of a micro-batch of 4: a ranking's answers share one, and TRL lays chosen and rejected on top of each other.
ROWS = {"sft": 1, "reward": 1, "dpo": 2}
ASKED = "train.per_device_train_batch_size={}", "train.gradient_accumulation_steps={}"


@pytest.mark.parametrize("stage", ROWS)
def test_halved_from_the_start_it_ends_as_if_asked_so(loop: Loop, stage: str, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    small = loop.run(stage, "small", *(one.format(2) for one in ASKED), root=tmp_path)
    with monkeypatch.context() as patch:
        hold(patch, 2 * ROWS[stage])
        halved = loop.run(stage, "halved", root=tmp_path)
    assert "out of memory with micro-batches of 4; going on with 2 x 2 accumulation, from the start" in (
        capsys.readouterr().out)
    assert (halved / "final" / models.ADAPTER).read_bytes() == (small / "final" / models.ADAPTER).read_bytes()
    whole = loop.root / "runs" / stage / "final" / models.ADAPTER
    assert load_file(whole).keys() == load_file(halved / "final" / models.ADAPTER).keys()
    assert tiny.record(halved)["micro_batch"] == 2
    assert tiny.record(halved)["status"] == "done"


def test_halved_later_it_goes_on_from_the_last_checkpoint_and_a_resumed_run_knows(
        loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with monkeypatch.context() as patch:
        hold(patch, 2, after=2)
        tiny.killed_in_save(patch, 4)
        cut = loop.run("sft", "cut", root=tmp_path, steps=5, code=1)
    assert f"2 x 2 accumulation, from {cut / 'checkpoint-2'}" in capsys.readouterr().out
    came = hold(monkeypatch, 99)
    assert tiny.launch("resume", cut) == 0
    assert set(came) == {2}  # not 4, which would run out again
    whole = loop.run("sft", "whole", *(one.format(2) for one in ASKED), root=tmp_path, steps=5)
    ours, theirs = (load_file(run / "final" / models.ADAPTER) for run in (cut, whole))
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in theirs)


def test_one_row_that_does_not_fit_is_one_line(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               said: Callable[[], str]) -> None:
    hold(monkeypatch, 0)
    loop.run("sft", "r", root=tmp_path, code=1)
    line = said()
    for part in ("micro-batches of 1", "train.max_length", "model.four_bit", "gradient_checkpointing"):
        assert part in line
    assert tiny.record(tmp_path / "r")["status"] == "failed"


def test_ppo_does_a_minibatch_again(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    """Equal to 1e-6 and not bit for bit: old log-probabilities came from micro-batches of 4, padded differently."""
    small = loop.run("ppo", "small", "train.micro_batch=2", "train.sample_batch=4", root=tmp_path)
    with monkeypatch.context() as patch:
        hold(patch, 2)
        halved = loop.run("ppo", "halved", root=tmp_path)
    assert capsys.readouterr().out.count("out of memory with micro-batches of 4; going on with 2") == 1
    assert tiny.record(halved)["fitting"] == {"micro_batch": 2}
    ours, theirs = (load_file(run / "final" / models.ADAPTER) for run in (halved, small))
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-6) for key in theirs)
    with monkeypatch.context() as patch:
        hold(patch, 3, "sampling")
        sampled = loop.run("ppo", "sampled", root=tmp_path)
    assert tiny.record(sampled)["fitting"] == {"sample_batch": 2}
    hold(monkeypatch, 0)
    loop.run("ppo", "none", root=tmp_path, code=1)


def test_scores_are_made_by_halves(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    reward = models.resolve(str(loop.root / "runs/reward"))
    assert reward.folder is not None
    config = models.ModelConfig(reward.path)
    model, chat = models.load_base(reward, config), models.load_chat(reward)
    model = models.add_adapter(model, "reward", reward.adapter, config)
    head, rows = heads.Head.load(reward.folder, models.device()), probe_rows(chat)
    whole = heads.score(model, head, "reward", *rows, chat.pad_id, batch=2)
    came = hold(monkeypatch, 2, "scoring")
    assert torch.equal(heads.score(model, head, "reward", *rows, chat.pad_id, batch=8), whole)
    assert came == [8, 4, 2, 2, 2, 2]


def test_what_ran_out_is_freed_before_the_next_try() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work(rows: list[int]) -> None:
        assert all(one() is None for one in held)
        mine = torch.zeros(len(rows))
        held.append(weakref.ref(mine))
        if len(rows) > 1:
            torch.empty(10**15)  # a real one, of the CPU's allocator

    gc.disable()
    try:
        assert memory.at_once([1, 2, 3], 3, work) == 1
    finally:
        gc.enable()
    assert len(held) == 5
    with pytest.raises(RunError, match="one of the rows at a time"):
        memory.at_once([1], 1, lambda rows: torch.empty(10**15 * len(rows)))
    with pytest.raises(RuntimeError, match="shape"):
        memory.at_once([1, 2], 2, lambda rows: torch.zeros(2, 3) @ torch.zeros(2, 3))


@pytest.mark.parametrize(("asked", "next_one"), [
    ((8, 1), (4, 2)), ((8, 4), (4, 8)), ((3, 1), (1, 3)), ((9, 1), (3, 3)), ((5, 2), (2, 5)), ((6, 1), (3, 2)),
    ((7, 1), (1, 7)), ((1, 8), None)])
def test_the_global_batch_stays(asked: tuple[int, int], next_one: tuple[int, int] | None) -> None:
    assert memory.smaller(*asked) == next_one
