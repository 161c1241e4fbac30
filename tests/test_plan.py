"""What `prefloop plan` says, and that it loads nothing to say it."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from tiny_loop import Loop

from prefloop import config, footprint, models, pace, plan
from prefloop.errors import RequestError
from prefloop.footprint import LINEARS, ON_CPU, ON_GPU, Judge, Lengths, Load, Shape
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
    assert "train.micro_batch=1 train.sample_batch=1 takes" in out
    assert "even that does not: lower the lengths" in out


def test_requests_that_cannot_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("")
    for words, line in ((("plan",), "name the config of a stage"),
                        (("plan", tmp_path / "mine.yaml"), "which stage is it for? Say plan.stage"),
                        (("plan", ROOT / "configs/linear.yaml"), "no plan is made for reward of kind linear"),
                        (("plan", ROOT / "configs/encoder.yaml"), "no plan is made for reward of kind encoder"),
                        (("plan", ROOT / "configs/serve.yaml"), "no plan is made for serve; it takes configs of sft"),
                        (("plan", ROOT / "configs/export.yaml"), "no plan is made for export; it takes"),
                        (("plan", ROOT / "configs/ppo.yaml", "plan.stage=nonsense"), "no plan is made for nonsense"),
                        (("plan", tmp_path / "mine.yaml", "plan.stage=dpo", "model.path=./none", "data.path=x"),
                         "./none: neither a model folder, run or checkpoint here nor a base that configs/ name; name "
                         "one as plan.base"),
                        (("plan", ROOT / "configs/sft.yaml", "model.path=of/another"), "of/another: neither"),
                        (("plan", ROOT / "configs/sft.yaml", "model.lora_targets=.*q"), "lora_targets=.*q: reckoned"),
                        (("plan", ROOT / "configs/sft.yaml", "model.lora_targets=[lm_head]"), "reckoned are all-lin"),
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
    rows, steps = "train.per_device_train_batch_size", "train.gradient_accumulation_steps"
    assert plan.micro_batch(case, 1e12) == {rows: 24, steps: 1}
    of_three = case.changed({rows: 3}).need.total
    assert plan.micro_batch(case, 1.001 * of_three / plan.ROOM) == {rows: 3, steps: 8}
    assert plan.micro_batch(case, 1.0)[rows] == 1
    long = replace(case, lengths=replace(case.lengths, longest_prompt=plan.ENOUGH[False] // 2))
    assert plan.micro_batch(long, 1e12)[rows] == 1  # one row is enough for a pass
    ppo = case_of(loop, "ppo", "train.episodes=24", "train.minibatches=2")
    assert plan.micro_batch(ppo, 1e12) == {"train.micro_batch": 8, "train.sample_batch": 16}
    served = case_of(loop, "ppo", "train.episodes=24", "train.minibatches=2", "sampler.url=http://127.0.0.1:1")
    assert plan.micro_batch(served, 1e12) == {"train.micro_batch": 8}


def test_too_many_sampled_together_do_not_make_the_micro_batch_small(loop: Loop) -> None:
    case = case_of(loop, "ppo", "train.episodes=4096", "train.minibatches=256", "train.sample_batch=4096")
    free = 1.001 * case.changed({"train.micro_batch": 16, "train.sample_batch": 1}).need.total / plan.ROOM
    assert not plan.fits(case.changed({"train.micro_batch": 1}), free)  # what is sampled takes it all
    found = plan.micro_batch(case, free)
    assert found["train.micro_batch"] == 16
    assert 1 <= found["train.sample_batch"] < 4096
    assert plan.fits(case.changed(found), free)


def test_a_pass_by_hand() -> None:
    weights = 2 * (24 + 12 + 12 + 24 + 32 + 32 + 32) + 5
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


def test_an_adapter_is_the_runs_or_as_it_was_asked_for(tmp_path: Path) -> None:
    asked = models.ModelConfig("any", lora_targets=["v_proj", "q_proj"])
    assert plan.lora_of(str(tmp_path), asked) == plan.Lora(16, ("v_proj", "q_proj"))
    for folder in (tmp_path, tmp_path / "final"):
        folder.mkdir(exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "target_modules": ["q_proj", "mlp.up_proj"]}))
        assert plan.lora_of(str(tmp_path), asked) == plan.Lora(8, ("q_proj", "up_proj"))
    for told, found in (({"r": 8, "target_modules": ["qkv", "q_proj"]}, plan.Lora(8)), ({"r": 2}, plan.Lora(2))):
        (tmp_path / "final" / "adapter_config.json").write_text(json.dumps(told))
        assert plan.lora_of(str(tmp_path), asked) == found
    (tmp_path / "final" / "adapter_config.json").write_text(json.dumps({"r": "8"}))
    with pytest.raises(RequestError, match=r"adapter_config.json: r is '8'"):
        plan.lora_of(str(tmp_path), asked)


def test_fewer_adapted_maps_take_less(loop: Loop) -> None:
    every, some = case_of(loop, "sft"), case_of(loop, "sft", "model.lora_targets=[q_proj]")
    assert (every.lora, some.lora) == (plan.Lora(4), plan.Lora(4, ("q_proj",)))
    assert every.need.adapters == pytest.approx(every.each * 16)
    assert some.need.adapters < every.need.adapters / len(LINEARS)


def test_a_model_trained_whole_takes_all_its_weights_many_times(loop: Loop, capsys: pytest.CaptureFixture[str]
                                                                ) -> None:
    adapter, whole = case_of(loop, "sft"), case_of(loop, "sft", "model.whole=true")
    assert whole.need.adapters == 4 * whole.need.base == 4 * adapter.need.base
    assert plan.paced(whole, SLOW).turn > plan.paced(adapter, SLOW).turn
    asked = ("plan", ROOT / "configs/sft.yaml", "model.four_bit=false", "plan.device=cuda", "plan.gigabytes=24")
    assert tiny.launch(*asked) == 0
    assert "adapters of rank 16" in capsys.readouterr().out
    assert tiny.launch(*asked, "model.whole=true") == 0
    assert "million weights trained whole in fp32\n" in capsys.readouterr().out


def test_a_checkpoint_is_planned_as_its_run(loop: Loop, tmp_path: Path) -> None:
    given = {"model": {"path": str(loop.root / "runs/sft/final")}, "data": {"path": str(loop.root / "data")}}
    case = plan.case_of(tmp_path / "dpo.yaml", given, "dpo", "", gpu=False)
    assert (case.shape, case.lora, case.measured) == (case_of(loop, "dpo").shape, plan.Lora(4), True)


def test_the_models_beside_the_policy_are_those_asked_for(loop: Loop, tmp_path: Path) -> None:
    reward = loop.root / "runs/reward"
    assert case_of(loop, "ppo").judges == (Judge(1),)
    assert case_of(loop, "ppo", f"watch.reward={reward}").judges == (Judge(1), Judge(1))
    assert case_of(loop, "ppo", "reward.path=runs/none").judges == (Judge(1),)  # is to come, on this base
    assert case_of(loop, "ppo", "reward.path=null", "reward.url=http://127.0.0.1:1").judges == (Judge(),)
    assert case_of(loop, "ppo", "train.advantage=rloo", "train.answers=2").load.trained == 1
    other = tiny.tiny_adapter(tmp_path / "other", tiny.tiny_model(tmp_path / "base", seed=5), seed=1)
    foreign = case_of(loop, "ppo", f"reward.path={other}")
    assert foreign.judges == (Judge(beside=footprint.base_bytes(foreign.shape, ON_CPU)),)
    (tmp_path / "small").mkdir()
    for name, text in (("encoder.json", "{}"), ("model.safetensors", "x" * 70)):
        (tmp_path / "small" / name).write_text(text)
    assert case_of(loop, "ppo", f"reward.path={tmp_path / 'small'}").judges == (Judge(beside=70.0),)


def test_what_is_not_counted_is_said(loop: Loop) -> None:
    here = case_of(loop, "ppo", "watch.every=null")
    away = case_of(loop, "ppo", "watch.every=null", "sampler.url=http://127.0.0.1:1", "reward.path=null",
                   "reward.url=http://127.0.0.1:2")
    assert list(plan.left_out(here)) == []
    assert list(plan.left_out(away)) == ["sampling, which http://127.0.0.1:1 does",
                                         "scoring, which http://127.0.0.1:2 does"]
    near, far = plan.paced(here, SLOW), plan.paced(away, SLOW)
    assert (far.sampling, far.updating) == (0, near.updating)
    assert 0 < far.scoring < near.scoring
    assert (away.need.sampling, here.need.sampling > 0) == (0, True)
    alone = plan.paced(case_of(loop, "ppo", "train.advantage=rloo", "train.answers=2"), SLOW)
    assert alone.updating < near.updating
    watched = replace(here, judges=(Judge(1), Judge(beside=1.0)))
    assert "base of its own" in next(plan.left_out(watched))
    assert plan.paced(watched, SLOW) == near


def test_the_gpu_tests_foretell_as_the_plan_does(loop: Loop) -> None:
    import torch

    foretold = runpy.run_path(str(ROOT / "tests/gpu/foretold.py"))["foretold"]
    words = [word for word in loop.asked("ppo", "planned")[1:] if not word.startswith("run.")]
    said = foretold("ppo", ROOT / "configs/tiny/ppo.yaml", "", words, torch.device("cpu"))
    case = case_of(loop, "ppo")
    assert (said["episodes"], said["prompt"]) == (8, case.lengths.prompt)
    assert list(said["gb_by_phase"]) == list(case.need.phases)


def test_online_dpo_is_planned_as_what_it_is(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "online_dpo.yaml"
    path.write_text("online: {rounds: 3, prompts: 8, answers: 3, max_new_tokens: 6, sample_batch: 12}\n")
    words = [word for word in loop.asked("dpo", "planned")[1:] if "max_steps" not in word]
    assert tiny.launch("plan", path, *words, f"online.reward={loop.root / 'runs/reward'}") == 0
    out = capsys.readouterr().out
    for word in (": dpo on", "answers of 6,", "sampling", "seconds a round", "for 3 of them",
                 "online.sample_batch=16"):
        assert word in out
    online = case_of(loop, "dpo", f"online.reward={loop.root / 'runs/reward'}", "online.answers=3")
    offline = case_of(loop, "dpo")
    assert (online.load.frozen, offline.load.frozen) == (2, 1)
    assert (online.turn, offline.turn) == ("round", "step")
    both = plan.paced(online, SLOW)
    twice = plan.paced(online.changed({"online.prompts": 2 * online.told["online"].prompts}), SLOW)
    assert (both.turns, twice.scoring) == (20, pytest.approx(2 * both.scoring, rel=0.2))
    assert min(both.sampling, both.scoring, both.updating) > 0


def test_what_is_not_timed_is_not_probed(loop: Loop, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(pace, "probe", None)
    assert tiny.launch("plan", ROOT / "configs/sft.yaml", "plan.device=cpu", "plan.gigabytes=100") == 0
    assert "time: not reckoned: how many rows there are is not known; data.path and" in capsys.readouterr().out
    assert tiny.launch("plan", ROOT / "configs/score.yaml", "plan.device=cpu", "plan.gigabytes=100") == 0
    out = capsys.readouterr().out
    assert "time: not reckoned: of score only memory is" in out
    assert "\nscoring " in out
