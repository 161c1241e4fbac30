"""A GPU that really runs out: the process is allowed less memory than the micro-batch that was asked for needs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")

LONG = ("train.max_length=512", "train.per_device_train_batch_size=32", "train.gradient_checkpointing=false",
        "train.max_steps=2")


@pytest.fixture
def limited() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("limited")
def test_a_micro_batch_that_does_not_fit_is_halved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, data = tiny.tiny_model(tmp_path / "base"), tiny.tiny_snapshot(tmp_path / "data", prompts=2, long_rows=60)
    torch.cuda.reset_peak_memory_stats()
    tiny.sft_run(tmp_path, base, data, *LONG, name="whole")
    allowed = 0.7 * torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
    run = tiny.sft_run(tmp_path, base, data, *LONG, name="halved")
    assert "out of memory with micro-batches of 32; going on with 16 x 2 accumulation" in capsys.readouterr().out
    assert tiny.record(run)["micro_batch"] < 32
