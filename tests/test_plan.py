"""What `prefloop plan` says, and that it loads nothing to say it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from tiny_loop import Loop

from prefloop import config, footprint, models, pace, plan
from prefloop.footprint import ON_CPU, ON_GPU, Lengths, Load, Shape
from prefloop.pace import Machine

ROOT = Path(__file__).resolve().parent.parent
SHAPE = Shape(hidden=4, layers=2, heads=2, kv_heads=1, head=3, inner=8, vocab=10, tied=False)
SLOW = Machine(dense=1e3, narrow=1e2, numbers=1e3, call=1e-3)


def case_of(loop: Loop, stage: str, *overrides: str) -> plan.Case:
    words = loop.asked(stage, "planned", *overrides)[1:]
    given = config.read(stage, None, [word for word in words if not word.startswith("run.")]).sections
    return plan.case_of(Path(f"{stage}.yaml"), given, stage, "", gpu=False)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo"])
def test_a_plan_loads_no_weights_and_says_all(stage: str, loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{stage}.yaml").write_text("")
    monkeypatch.setattr(models, "load_base", None)
    words = loop.asked(stage, "planned")[1:]
    assert tiny.launch("plan", tmp_path / f"{stage}.yaml", *words) == 0
    out = capsys.readouterr().out
    assert "as the data has them" in out
    assert "rank 4" in out  # the adapter's that the run begins with, or model.lora_r
    for word in ("loading", "updating", "saving", "it fits in", "micro-batch: ", "time: ", "An estimate"):
        assert word in out
    assert ("sampling" in out) == (stage == "ppo")


def test_what_runs_was_asked_for_is_planned_by_its_file(loop: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.launch("plan", loop.root / "runs/dpo/run.yaml") == 0
    assert ": dpo on this CPU" in capsys.readouterr().out


def test_without_data_the_settings_limits_count(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("plan", ROOT / "configs/8b/ppo.yaml", "plan.device=cuda", "plan.gigabytes=24")
    assert tiny.launch(*asked) == 0
    out = capsys.readouterr().out
    assert "8,190 million weights in NF4" in out
    assert "at most 768 together, as long as the settings allow" in out
    assert "fits in the 24.0 GB" in out
    assert tiny.launch(*asked[:-1], "plan.gigabytes=6") == 1
    out = capsys.readouterr().out
    assert "does not fit in the 6.0 GB" in out
    assert "micro_batch=1 train.sample_batch=1 takes" in out
    assert "even that does not: lower the lengths" in out


def test_requests_that_cannot_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("")
    for words, line in ((("plan",), "name the config of a stage"),
                        (("plan", tmp_path / "mine.yaml"), "which stage is it for? Say plan.stage"),
                        (("plan", ROOT / "configs/linear.yaml", "plan.stage=reward"), "takes no GPU memory"),
                        (("plan", ROOT / "configs/ppo.yaml", "train.micro_bach=1"), "did you mean train.micro_batch"),
                        (("plan", ROOT / "configs/ppo.yaml", "plan.gigabytes=0"), "above 0")):
        assert tiny.launch(*words) == 2
        assert line in capsys.readouterr().err


def test_lengths_are_those_of_the_data(loop: Loop) -> None:
    sft, dpo, reward = (case_of(loop, stage).lengths for stage in ("sft", "dpo", "reward"))
    chat = models.load_chat(models.resolve(str(loop.root / "base")))
    prompt = len(chat.prompt_ids(tiny.tiny_prompt(0)))
    assert sft.prompt == pytest.approx(prompt, abs=4)
    assert sft.longest <= 64  # train.max_length
    assert (sft.answers, dpo.answers, reward.answers) == (1, 2, 3)
    assert dpo.rows == 3 * reward.rows  # pairs of three answers
    ppo = case_of(loop, "ppo")
    assert (ppo.lengths.answer, ppo.load.answer, ppo.lengths.rows) == (6, 6, sft.rows)


def test_the_micro_batch_is_the_largest_that_fits_and_keeps_the_global_batch(loop: Loop) -> None:
    case = case_of(loop, "sft", "train.gradient_accumulation_steps=6")  # micro-batches of 4
    assert plan.micro_batch(case, 1e12) == {"per_device_train_batch_size": 24, "gradient_accumulation_steps": 1}
    of_three = case.with_train(per_device_train_batch_size=3).need.total
    assert plan.micro_batch(case, 1.001 * of_three / plan.ROOM) == {"per_device_train_batch_size": 3,
                                                                   "gradient_accumulation_steps": 8}
    assert plan.micro_batch(case, 1.0)["per_device_train_batch_size"] == 1
    long = replace(case, lengths=replace(case.lengths, longest_prompt=plan.ENOUGH[False] // 2))
    assert plan.micro_batch(long, 1e12)["per_device_train_batch_size"] == 1  # one row is enough for a pass
    ppo = case_of(loop, "ppo", "train.episodes=24", "train.minibatches=2")
    assert plan.micro_batch(ppo, 1e12) == {"micro_batch": 8, "sample_batch": 16}


def test_a_pass_by_hand() -> None:
    weights = 2 * (24 + 12 + 12 + 24 + 32 + 32 + 32) + 5 * footprint.adapter_width(SHAPE)
    multiplied = 2 * 30 * (weights + 2 * 2 * 2 * 3 * 10) / 1e3
    numbers = 30 * 2 * pace.TOUCHED * (7 * 4 + 2 * 3 + 4 * 8) / 1e3
    called = 3 * 2 * pace.CALLS * 1e-3
    quiet = pace.pass_seconds(SHAPE, ON_CPU, SLOW, 30, 10, 3, 5)
    assert quiet == pytest.approx(multiplied + numbers + called)
    assert pace.pass_seconds(SHAPE, ON_CPU, SLOW, 30, 10, 3, 5, "kept") == pytest.approx(
        2 * multiplied + 4 * numbers + 3 * called)
    assert pace.pass_seconds(SHAPE, ON_CPU, SLOW, 30, 10, 3, 5, narrow=True) == pytest.approx(
        10 * multiplied + numbers + called)
    logits = pace.logit_seconds(SHAPE, SLOW, 30, "ours", learns=False)
    assert logits == pytest.approx(30 * 10 * (2 * 4 + pace.VOCABULARY["ours"]) / 1e3)
    assert pace.logit_seconds(SHAPE, SLOW, 30, "ours", learns=True) == pytest.approx(3 * logits)


def test_twice_the_work_takes_twice_as_long() -> None:
    load, lengths = Load(0, 2, sampled=4, prompt=8, answer=6, learns=False), Lengths(8, 6, 8, 6)
    once, twice = (pace.sampled_seconds(SHAPE, ON_GPU, SLOW, load, lengths, rows, 4) for rows in (8, 16))
    assert twice == pytest.approx(2 * once)


def test_the_probe_measures_by_the_clock_it_is_given() -> None:
    import torch

    ticks = iter(range(10**6))
    machine = pace.probe(SHAPE, ON_CPU, 2, torch.device("cpu"), clock=lambda: next(ticks))
    # A tick passes at every look at the clock: each round of work takes one, the last look before it one more.
    assert machine.dense == pytest.approx(2 * 4 * 8 * pace.ROWS, rel=0.5)
    assert machine.numbers == pytest.approx(2**22, rel=0.5)
    assert machine.call == pytest.approx(1 / 100, rel=0.5)


def test_a_span_in_words() -> None:
    assert [plan.span(seconds) for seconds in (0.123, 90, 300, 9000, 200000)] == [
        "0.12 seconds", "90 seconds", "5.0 minutes", "2.5 hours", "2.3 days"]


def test_a_plan_of_a_run_reads_only_its_own_numbers(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    assert plan.rank_of(tmp_path, 16) == 16
    (tmp_path / "final" / "adapter_config.json").write_text(json.dumps({"r": 8}))
    assert plan.rank_of(tmp_path, 16) == 8
