"""The reference's log-probabilities, made once where that is cheaper, are those that TRL would make in every step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from trl import DPOConfig
from trl.trainer import dpo_trainer

from prefloop import config, models
from prefloop.ppo import dpo, pair_figures, reference_logprobs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("references")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data")
    tiny.sft_run(root / "runs", root / "base", root / "data")
    return root


def dpo_run(home: Path, name: str, *overrides: str, code: int = 0) -> Path:
    assert tiny.launch("dpo", f"model.path={home / 'runs' / 'sft'}", f"data.path={home / 'data'}",
                       f"run.root={home / 'runs'}", f"run.name={name}", "train.max_steps=6", "train.max_length=64",
                       "train.per_device_train_batch_size=4", "train.logging_steps=1", "train.learning_rate=1e-3",
                       *overrides) == code
    return home / "runs" / name


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often TRL has turned to the reference."""
    calls, use_adapter = [0], dpo_trainer.use_adapter

    def counted(*rest: Any, **named: Any) -> Any:
        calls[0] += 1
        return use_adapter(*rest, **named)

    monkeypatch.setattr(dpo_trainer, "use_adapter", counted)
    return lambda: calls[0]


def test_precomputed_is_the_same_run_without_the_reference_in_its_steps(home: Path, passes: Callable[[], int]) -> None:
    evaluated = ("train.eval_strategy=steps", "train.eval_steps=3", "train.num_train_epochs=1")
    each = dpo_run(home, "each", *evaluated)
    in_steps = passes()
    once = dpo_run(home, "once", *evaluated, "train.precompute_ref_log_probs=true")
    assert in_steps > 6
    assert passes() == in_steps
    assert (tiny.record(each)["reference"], tiny.record(once)["reference"]) == ("in every step", "precomputed")
    ours, theirs = (load_file(run / "final" / models.ADAPTER) for run in (once, each))
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-4) for key in theirs)
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").open()] for run in (once, each)]
    for mine, its in zip(*rows, strict=True):
        assert mine.get("loss") == pytest.approx(its.get("loss"), abs=1e-4)
        assert mine.get("eval_loss") == pytest.approx(its.get("eval_loss"), abs=1e-4)


@pytest.mark.parametrize(("overrides", "found"), [
    ({"num_train_epochs": 1.0}, False), ({"num_train_epochs": 2.0}, True), ({"max_steps": 4}, False),
    ({"max_steps": 30}, True), ({"max_steps": 30, "precompute_ref_log_probs": False}, False),
    ({"num_train_epochs": 1.0, "precompute_ref_log_probs": True}, True),
])
def test_it_is_precomputed_where_pairs_are_seen_again_unless_the_user_says(overrides: dict[str, Any],
                                                                           found: bool) -> None:
    args = DPOConfig("x", per_device_train_batch_size=4, gradient_accumulation_steps=2, use_cpu=True, bf16=False,
                     **overrides)
    assert reference_logprobs.wanted(config.Asked("dpo", {"train": overrides}), args, 100) == found


def test_by_trl_itself_also_where_long_answers_count_less(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    check_start = dpo.check_start

    def compared(run: Any, trainer: Any, model: Any, chat: Any, rows: Any) -> None:
        check_start(run, trainer, model, chat, rows)
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(rows))])
        found["ours"] = batch.pop("ref_chosen_logps"), batch.pop("ref_rejected_logps")
        found["theirs"] = trainer.compute_ref_log_probs(model, batch)

    monkeypatch.setattr(dpo, "check_start", compared)
    dpo_run(home, "ld", "train.max_steps=1", "train.ld_alpha=0.3", "train.precompute_ref_log_probs=true")
    assert len({len(row) for row in found["ours"]}) == 1
    for ours, theirs in zip(found["ours"], found["theirs"], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_in_four_bits(home: Path) -> None:
    own = tiny.record(dpo_run(home, "nf4", "model.four_bit=true", "train.max_steps=1",
                              "train.precompute_ref_log_probs=true"))
    assert all(check["passed"] for check in own["checks"].values())


def test_a_file_that_was_altered_is_made_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attach = dpo.training.attach

    def stopped(*rest: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dpo.training, "attach", stopped)
    run = dpo_run(home, "altered", "train.precompute_ref_log_probs=true", code=1)
    kept = (run / reference_logprobs.FILE).read_bytes()
    (run / reference_logprobs.FILE).write_bytes(kept.replace(b"-", b"-1", 1))
    monkeypatch.setattr(dpo.training, "attach", attach)
    assert tiny.launch("resume", run) == 0
    assert (run / reference_logprobs.FILE).read_bytes() == kept


BEFORE = {"chosen_logprob_before": -20.0, "kl": 1.5, "length_before": 10.0, "length_after": 10.5}


@pytest.mark.parametrize(("chosen", "rejected", "length", "said"), [
    (0.5, -3.0, 10.5, "nothing to do"),
    (-1.0, -3.0, 10.5, "lost 5.0% of their log-probability, less than 10%"),
    (-4.0, -9.0, 10.5, "lost 20.0% of their log-probability: read samples.jsonl"),
    (-1.0, -3.0, 20.0, "read samples.jsonl"),
    (-3.0, -1.0, 10.5, "the margin did not grow"),
    (1.0, 4.0, 10.5, "the margin did not grow"),
    (0.0, 0.0, 10.5, "the margin did not grow"),
])
def test_the_card_says_why_the_chosen_fell_and_what_helps(chosen: float, rejected: float, length: float,
                                                          said: str) -> None:
    told = pair_figures.story({**BEFORE, "length_after": length, "chosen_logprob_change": chosen,
                               "rejected_logprob_change": rejected})
    assert said in told
    assert f"{chosen:+.2f} nats" in told
    assert f"{rejected:+.2f}, so the margin by {chosen - rejected:+.2f}" in told
    assert ("train.loss_type=[sigmoid,sft]" in told) == ("samples.jsonl" in said)
    assert ("nothing to do" in told) == ("nothing to do" in said)


def test_the_card_of_a_run_tells_its_own_numbers(home: Path) -> None:
    run = dpo_run(home, "card", "train.learning_rate=1e-2")
    card, metrics = (run / "README.md").read_text(), tiny.record(run)["metrics"]
    assert pair_figures.story(metrics) in card
    assert f"{tiny.record(run)['trained_parameters']:,} trained weights" in card
    assert {"length_before", "length_after", "eos_rate_after", "kl"} <= metrics.keys()
