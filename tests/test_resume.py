"""Every stage, killed with SIGKILL or stopped by a signal at named places, and resumed: as if nothing had happened.

The processes are real ones, forked from one that has the imports behind it, which take most of a start. A signal comes
from inside, at the n-th call of a function, so that a place is hit for certain; `make soak` hits them at random.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest
import tiny
from twins import differences

from prefloop import checkpoints, runs

NURSERY = """
import importlib, json, os, signal, sys
import prefloop.cli, prefloop.sft.train, prefloop.reward.train, prefloop.ppo.dpo, prefloop.ppo.train, prefloop.training
import prefloop.reward.gradient, prefloop.ppo.trainer, prefloop.ppo.held_out, prefloop.ppo.online, trl

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background is born to ignore

def trap(place, number, call):
    module, name = place.split(":")
    owner = importlib.import_module(module)
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    original, left = getattr(owner, last), [call]
    def trapped(*args, **named):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
        return original(*args, **named)
    setattr(owner, last, trapped)

print("ready", flush=True)
for line in sys.stdin:
    words, traps, screen = json.loads(line)
    child = os.fork()
    if child == 0:
        out = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        for one in traps:
            trap(*one)
        code = prefloop.cli.main(words)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
STEP = "transformers:Trainer.training_step"
SEAL, ROTATE, RELOAD = "prefloop.checkpoints:seal", "prefloop.checkpoints:rotate", "prefloop.models:check_reload"
SMALL = ("train.max_steps=8", "train.save_steps=3", "train.logging_steps=2", "train.per_device_train_batch_size=2",
         "train.gradient_accumulation_steps=2", "train.max_length=64", "train.learning_rate=1e-3", "model.lora_r=4")
REWARD = (*SMALL, "head.members=2", "loss.kind=plackett_luce", "loss.acceptable=true")  # all that is learned beside
PPO = ("train.rollouts=5", "train.save_every=2", "train.episodes=8", "train.minibatches=2", "train.micro_batch=4",
       "train.max_prompt_tokens=48", "train.max_new_tokens=8", "train.critic_warmup=1", "train.learning_rate=1e-3",
       "train.kl_target=1.0", "train.kl_horizon=100", "watch.every=1", "watch.prompts=8")
ONLINE = ("online.rounds=3", "online.prompts=12", "online.answers=3", "online.max_new_tokens=8", "train.save_steps=2",
          "train.logging_steps=2", "train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=2",
          "train.max_length=64", "train.learning_rate=1e-3")  # three rounds of three steps


@dataclass
class Nursery:
    """`prefloop WORDS` in a process of its own, whose n-th call of a place sends it a signal."""

    root: Path
    process: subprocess.Popen[str]

    def run(self, *words: object, traps: tuple[tuple[str, int, int], ...] = ()) -> int:
        assert self.process.stdin
        assert self.process.stdout
        asked = [[str(word) for word in words], traps, str(self.root / "screen")]
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def screen(self) -> str:
        return (self.root / "screen").read_text(errors="replace")

    def done(self, *words: object) -> None:
        assert self.run(*words) == 0, self.screen()

    def request(self, stage: str, name: str) -> list[str]:
        if stage == "encoder":
            start = ("model.kind=encoder", f"model.path={self.root / 'encoder'}", "train.disable_dropout=false")
            return ["reward", *start, f"data.path={self.root / 'data'}", f"run.root={self.root}", f"run.name={name}",
                    *SMALL]
        if stage == "online":
            return ["dpo", f"model.path={self.root / 'begin'}", f"online.reward={self.root / 'reward'}",
                    f"data.path={self.root / 'data'}", f"run.root={self.root}", f"run.name={name}", *ONLINE]
        start = self.root / ("base" if stage == "sft" else "begin")
        judges = (f"reward.path={self.root / 'reward'}", f"watch.reward={self.root / 'encoder-alone'}")
        more = {"ppo": (*judges, *PPO), "reward": REWARD,
                "dpo": (*SMALL, "train.precompute_ref_log_probs=true")}.get(stage, SMALL)
        return [stage, f"model.path={start}", f"data.path={self.root / 'data'}", f"run.root={self.root}",
                f"run.name={name}", *more]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    root = tmp_path_factory.mktemp("resume")
    tiny.tiny_model(root / "base")
    tiny.tiny_encoder(root / "encoder")
    tiny.tiny_snapshot(root / "data")
    errors: IO[str]
    with (root / "errors").open("w") as errors, subprocess.Popen(
            [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n", (root / "errors").read_text()
        found = Nursery(root, process)
        found.done(*found.request("sft", "begin"))
        found.done(*found.request("reward", "reward"))
        for stage in ("sft", "reward", "encoder", "dpo", "online", "ppo"):
            found.done(*found.request(stage, f"{stage}-alone"))
        yield found
        assert process.stdin
        process.stdin.close()


# One run after the other is killed at each of these places in turn. Calls are counted in each process anew.
KILLED = {
    "sft": [("prefloop.config:dump", 1), ("prefloop.runs:now", 1), ("prefloop.training:samples", 1), (STEP, 3),
            (SEAL, 1), (ROTATE, 1), (STEP, 5), ("prefloop.training:Moved.check", 1), (RELOAD, 1), (SEAL, 1),
            ("prefloop.training:samples", 1), ("prefloop.sft.train:nll", 1), ("prefloop.runs:Run.end", 1),
            ("prefloop.runs:card", 1)],
    "reward": [(STEP, 9), ("prefloop.heads:Head.save", 1), (STEP, 5), ("prefloop.reward.gradient:scale", 1),
               ("prefloop.heads:Head.save", 1), ("prefloop.reward.train:judge", 1)],
    "encoder": [(STEP, 9), ("prefloop.encoders:save", 1), (STEP, 5),
                ("prefloop.reward.encoder:Encoder.check_reload", 1), ("prefloop.reward.gradient:scale", 1),
                ("prefloop.heads:Head.save", 1)],
    "dpo": [("prefloop.ppo.reference_logprobs:with_columns", 1), (STEP, 11), ("prefloop.ppo.dpo:check_start", 1),
            ("prefloop.training:put_back", 1), ("prefloop.ppo.dpo:check_reference", 1), (SEAL, 1),
            ("prefloop.training:samples", 2)],
    "online": [("prefloop.generate:sample", 1), (STEP, 5), ("prefloop.ppo.rounds:judged", 1), (SEAL, 2),
               ("prefloop.ppo.rounds:Rounds.save", 1), ("prefloop.generate:sample", 2),
               ("prefloop.ppo.online:summarise", 1)],
    "ppo": [("prefloop.ppo.watch:Watch.look", 1), ("prefloop.ppo.rollout:sample", 2),
            ("prefloop.ppo.watch:Watch.look", 3), ("prefloop.ppo.update:Learner.critic_gradients", 10), (SEAL, 1),
            ("prefloop.generate:sample", 2), ("prefloop.ppo.checks:after", 1), ("prefloop.ppo.held_out:compared", 1)],
}


@pytest.mark.parametrize("stage", KILLED)
def test_killed_anywhere_a_run_ends_as_one_left_alone(nursery: Nursery, stage: str) -> None:
    run = nursery.root / f"{stage}-killed"
    asked: list[object] = [*nursery.request(stage, run.name)]
    for place, call in KILLED[stage]:
        assert nursery.run(*asked, traps=((place, signal.SIGKILL, call),)) == -signal.SIGKILL, (
            place, nursery.screen()[-2000:])
        if (run / "run.json").exists():
            assert runs.status_of(runs.load(run)) == "interrupted"
            asked = ["resume", run]
            runs.append(run / "metrics.jsonl", {"step": 99, "loss": 0.0})
            with (run / "metrics.jsonl").open("a") as file:
                file.write('{"step": 3, "lo')
    nursery.done(*asked)
    assert differences(nursery.root / f"{stage}-alone", run) == []


# Where Ctrl-C comes, and the checkpoint that must then be there: the step, or the rollout, that was begun.
STOPPED = [("sft", STEP, 5, 3), ("sft", "prefloop.sft.train:nll", 1, None), ("reward", STEP, 12, 6),
           ("online", "prefloop.generate:sample", 2, 3), ("online", STEP, 9, 5),
           ("ppo", "prefloop.generate:sample", 5, 1), ("ppo", "prefloop.ppo.watch:Watch.look", 2, 1),
           ("ppo", "prefloop.ppo.update:Learner.critic_gradients", 10, 3)]


@pytest.mark.parametrize(("stage", "place", "call", "saved"), STOPPED)
def test_ctrl_c_saves_says_how_to_resume_and_loses_nothing(nursery: Nursery, stage: str, place: str, call: int,
                                                           saved: int | None) -> None:
    run = nursery.root / f"{stage}-{place.rpartition(':')[2]}-stopped"
    assert nursery.run(*nursery.request(stage, run.name), traps=((place, signal.SIGINT, call),)) == 1
    said, own = nursery.screen(), tiny.record(run)
    assert "Traceback" not in said
    newest = checkpoints.newest(run)
    assert newest == (run / f"checkpoint-{saved}" if saved else None)
    kept = f"the last good checkpoint is {newest}" if saved else "there is no checkpoint yet"
    assert said.splitlines()[-1] == (
        f"prefloop {tiny.record(run)['stage']}: {run}: interrupted; `prefloop resume {run}` continues it; {kept}")
    assert (own["status"], own["reason"]) == ("interrupted", "stopped by Ctrl-C")
    nursery.done("resume", run)
    assert differences(nursery.root / f"{stage}-alone", run) == []


def test_a_second_ctrl_c_does_not_wait_for_the_save(nursery: Nursery) -> None:
    """The first comes in a step, the second while that step is saved: the checkpoint before it is kept."""
    run = nursery.root / "twice"
    slow = ("prefloop.training:unlogged", signal.SIGINT, 2)
    assert nursery.run(*nursery.request("sft", run.name), "train.save_steps=2",
                       traps=((STEP, signal.SIGINT, 7), slow)) == 1
    assert checkpoints.newest(run) in (run / "checkpoint-2", run / "checkpoint-4")
    assert nursery.screen().count("continues it") == 1


def test_ctrl_c_in_a_shell(nursery: Nursery) -> None:
    """A process started as from a shell, a signal from outside, at a moment that nobody chose."""
    run = nursery.root / "shell"
    words = [*nursery.request("sft", run.name), "train.max_steps=4000"]
    process = subprocess.Popen([sys.executable, "-m", "prefloop.cli", *words], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not runs.read_lines(run / "metrics.jsonl"):
        time.sleep(0.05)
    assert nursery.run("resume", run) == 2
    assert nursery.screen().endswith(f"as process {process.pid} on {os.uname().nodename}; wait for it, or stop it "
                                     f"with Ctrl-C there\n") or "it is running now" in nursery.screen()
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith(f"prefloop sft: {run}: interrupted; `prefloop resume {run}`")
    assert tiny.record(run)["reason"] == "stopped by SIGTERM"
    newest = checkpoints.newest(run)
    assert newest
    assert int(newest.name.removeprefix("checkpoint-")) >= runs.read_lines(run / "metrics.jsonl")[-1]["step"]
