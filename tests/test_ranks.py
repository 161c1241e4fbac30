"""Two CPU processes share a run: the weights of one process with the same global batch, one folder, one error."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from prefloop import checkpoints, cli, ranks, runs

ROOT = Path(__file__).resolve().parent.parent
ROWS = 48  # a multiple of every global batch below: at the end of an epoch, processes fill up what is missing
SETTINGS = ("train.max_steps=8", "train.save_steps=4", "train.learning_rate=0.001", "train.max_length=64",
            "train.gradient_checkpointing=false", "train.logging_steps=4", f"data.limit={ROWS}")
TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint",
            "127.0.0.1:0", "-m", "prefloop.cli")
SEVERAL = ("prefloop.launch.several", "2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ranks")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data")
    return root


def started(launcher: tuple[str, ...], *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", *launcher, *map(str, words)], text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def request(home: Path, stage: str, start: Path, name: str, batch: int) -> list[str]:
    return [stage, f"model.path={start}", "model.lora_r=4", f"data.path={home / 'data'}", f"run.root={home / 'runs'}",
            f"run.name={name}", f"train.per_device_train_batch_size={batch}", *SETTINGS]


def both_ways(home: Path, stage: str, start: Path, launcher: tuple[str, ...], name: str = "") -> tuple[Path, Path]:
    """One run with batches of 8, and one of two processes with batches of 4."""
    runs, stem = home / "runs", f"{stage}{name}"
    assert tiny.launch(*request(home, stage, start, f"{stem}-one", 8)) == 0
    two = started(launcher, *request(home, stage, start, f"{stem}-two", 4))
    out, err = two.communicate(timeout=300)
    assert two.returncode == 0, err
    assert out.count("check: weights:") == 1  # one process speaks for both
    return runs / f"{stem}-one", runs / f"{stem}-two"


def gap(one: Path, two: Path, name: str) -> float:
    """The farthest that two runs' weights lie apart. A head's bias is left out: no comparison of scores moves it, so
    what it gets is rounding noise, which Adam makes as large as any gradient."""
    ours, theirs = load_file(one / "final" / name), load_file(two / "final" / name)
    assert ours.keys() == theirs.keys()
    return max(float((ours[key] - theirs[key]).abs().max()) for key in ours if not key.endswith("bias"))


def test_two_processes_train_what_one_does(home: Path) -> None:
    one, two = both_ways(home, "sft", home / "base", TORCHRUN)
    assert gap(one, two, "adapter_model.safetensors") < 1e-4
    own = tiny.record(two)
    assert (own["status"], own["processes"]) == ("done", 2)
    assert checkpoints.verify(two / "checkpoint-8")["files"].keys() >= {"rng_state_0.pth", "rng_state_1.pth"}
    lines = (two / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [4, 8]
    assert tiny.launch("resume", two) == 0  # done already


def test_two_processes_share_a_rollout(home: Path) -> None:
    """Sampled, judged and learnt from by two, it has the losses that one process finds on the same global batch."""
    sft = tiny.sft_run(home / "runs", home / "base", home / "data", name="ppo-start")
    reward = home / "runs" / "ppo-reward"
    assert tiny.launch(*request(home, "reward", sft, reward.name, 4), "train.save_steps=8") == 0
    for kind in ("critic", "rloo"):
        words = ["ppo", f"model.path={sft}", f"reward.path={reward}", f"data.path={home / 'data'}",
                 f"run.root={home / 'runs'}", f"train.advantage={kind}", "train.rollouts=3", "train.save_every=2",
                 "train.episodes=12", "train.minibatches=2", "train.micro_batch=2", "train.max_prompt_tokens=48",
                 "train.max_new_tokens=8", "train.critic_warmup=1", "train.learning_rate=0.001", "watch.every=2"]
        assert tiny.launch(*words, f"run.name=ppo-{kind}-one") == 0
        two = started(SEVERAL, *words, f"run.name=ppo-{kind}-two")
        out, err = two.communicate(timeout=300)
        assert two.returncode == 0, err
        assert out.count("check: policy weights:") == 1
        alone, shared = (runs.read_lines(home / "runs" / f"ppo-{kind}-{n}" / "metrics.jsonl") for n in ("one", "two"))
        assert len(alone) == len(shared) == 3 + 3  # rollouts, and looks at held-out prompts
        for mine, ours in zip(alone, shared, strict=True):
            assert mine.keys() == ours.keys()
            assert all(ours[name] == pytest.approx(mine[name], abs=1e-4, rel=1e-4) for name in mine
                       if not name.startswith("seconds") and name != "warnings")
        one, other = home / "runs" / f"ppo-{kind}-one", home / "runs" / f"ppo-{kind}-two"
        assert gap(one, other, "adapter_model.safetensors") < 1e-4


def test_two_processes_share_a_round_of_online_dpo(home: Path) -> None:
    """What they sample, rank and learn is what one process does on the same global batch."""
    sft = tiny.sft_run(home / "runs", home / "base", home / "data", name="online-start")
    reward = home / "runs" / "online-reward"
    assert tiny.launch(*request(home, "reward", sft, reward.name, 4), "train.save_steps=8") == 0
    words = ["dpo", f"model.path={sft}", f"online.reward={reward}", f"data.path={home / 'data'}",
             f"run.root={home / 'runs'}", "online.rounds=2", "online.prompts=14", "online.answers=3",
             "online.max_new_tokens=8", "train.max_length=64", "train.learning_rate=0.001", "train.logging_steps=1"]
    assert tiny.launch(*words, "run.name=online-one", "train.per_device_train_batch_size=8") == 0
    two = started(SEVERAL, *words, "run.name=online-two", "train.per_device_train_batch_size=4")
    out, err = two.communicate(timeout=300)
    assert two.returncode == 0, err
    assert out.count("check: weights:") == 1
    one, other = home / "runs" / "online-one", home / "runs" / "online-two"
    alone, shared = ([row for row in runs.read_lines(run / "metrics.jsonl") if "round" in row] for run in (one, other))
    assert len(alone) == len(shared) == 2
    for mine, ours in zip(alone, shared, strict=True):
        assert all(ours[name] == pytest.approx(mine[name], abs=1e-4) for name in mine
                   if not name.startswith("seconds"))
    assert gap(one, other, "adapter_model.safetensors") < 1e-4


def test_an_error_of_all_processes_is_one_line(home: Path) -> None:
    (home / "runs" / "taken").mkdir(parents=True)
    (home / "runs" / "taken" / "run.json").write_text("{}")
    two = started(SEVERAL, *request(home, "sft", home / "base", "taken", 4))
    out, err = two.communicate(timeout=120)
    assert (two.returncode, out) == (2, "")
    assert [line for line in err.splitlines() if "prefloop" in line] == err.splitlines()
    assert err.count("\n") == 1
    assert "this run exists" in err


@pytest.mark.parametrize("command", ["generate", "compare", "import"])
def test_what_one_process_does_is_refused_to_two(command: str, monkeypatch: pytest.MonkeyPatch,
                                                 capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main([command, "section.key=1"]) == 2
    assert capfd.readouterr().err == (
        f"prefloop {command}: {command} runs in one process for now, and 2 were started: start it without torchrun "
        "(sft, reward, dpo, ppo can share several)\n")


def test_another_number_of_processes_is_refused_at_resume(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny.sft_run(home / "runs", home / "base", home / "data", name="alone")
    (run / "run.json").write_text(json.dumps({**tiny.record(run), "status": "interrupted", "processes": 2}))
    assert tiny.launch("resume", run) == 2
    assert "2 processes began it, and 1 would change its global batch" in capsys.readouterr().err


def test_the_gpu_of_a_process_is_its_local_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from prefloop import models

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert models.device() == torch.device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "6")
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert models.device() == torch.device("cuda", 2)
    assert not ranks.first()


@pytest.mark.skipif("SOAK" not in os.environ, reason="a minute and more: make soak")
def test_reward_and_dpo_too(home: Path) -> None:
    start = tiny.sft_run(home / "runs", home / "base", home / "data", name="start")
    one, two = both_ways(home, "reward", start, SEVERAL)
    assert gap(one, two, "adapter_model.safetensors") < 1e-4
    assert gap(one, two, "head.safetensors") < 1e-4
    assert gap(*both_ways(home, "dpo", start, SEVERAL), "adapter_model.safetensors") < 1e-4


@pytest.mark.skipif("SOAK" not in os.environ, reason="minutes: make soak")
def test_weights_shared_out_are_trained_as_whole_ones_are(home: Path) -> None:
    """FSDP2, plain and in NF4: no GPU is at hand, so two processes on a CPU are told to be devices."""
    accelerate = ("accelerate.commands.launch", "--config_file", str(ROOT / "configs/accelerate/fsdp_qlora.yaml"),
                  str(ROOT / "tests/fsdp_on_cpu.py"))
    start = tiny.sft_run(home / "runs", home / "base", home / "data", name="whole-start")
    for stage, base in (("sft", home / "base"), ("dpo", start)):
        one, two = both_ways(home, stage, base, accelerate, "shared")
        assert gap(one, two, "adapter_model.safetensors") < 1e-4
        if stage == "sft":  # go on from the first checkpoint
            for name in ("final", "checkpoint-8"):
                shutil.rmtree(two / name)
            (two / "run.json").write_text(json.dumps({**tiny.record(two), "status": "interrupted"}))
            assert started(accelerate, "resume", two).wait(200) == 0
            assert gap(one, two, "adapter_model.safetensors") < 1e-4
    words = [*request(home, "sft", home / "base", "shared-nf4", 4), "model.four_bit=true"]
    assert started(accelerate, *words).wait(200) == 0


@pytest.mark.parametrize(("stage", "told"), [("reward", "reward cannot share its weights out (FSDP) for now"),
                                             ("sft", "train.fsdp: accelerate is asked to share weights out")])
def test_sharing_out_is_refused_where_it_does_not_work(stage: str, told: str, monkeypatch: pytest.MonkeyPatch,
                                                       capfd: pytest.CaptureFixture[str]) -> None:
    if stage == "reward":
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert cli.main([stage, "train.fsdp=full_shard", "model.path=x", "data.path=y"]) == 2
    assert told in capfd.readouterr().err


@pytest.mark.skipif("SOAK" not in os.environ, reason="a minute and more: make soak")
def test_one_process_killed_ends_both_and_resume_is_exact(home: Path) -> None:
    words = [*request(home, "sft", home / "base", "killed", 4), "train.max_steps=60", "train.save_steps=20"]
    two, run = started(SEVERAL, *words), home / "runs" / "killed"
    while not (run / "checkpoint-20" / checkpoints.MANIFEST).exists():
        assert two.poll() is None
        time.sleep(0.05)
    children = subprocess.run(["pgrep", "-P", str(two.pid)], capture_output=True, text=True, check=True)
    os.kill(int(children.stdout.split()[-1]), signal.SIGKILL)
    _, err = two.communicate(timeout=60)
    assert two.returncode == 1
    assert "Traceback" not in err
    assert started(SEVERAL, "resume", run).wait(120) == 0
    words[words.index("run.name=killed")] = "run.name=whole"
    assert started(SEVERAL, *words).wait(120) == 0
    assert gap(run, home / "runs" / "whole", "adapter_model.safetensors") == 0
