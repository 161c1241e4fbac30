"""Kill each stage 20 times with SIGKILL, resume it each time, and hold what it ends with against a run left alone.

    make soak NAME=resume                  all four stages
    make soak NAME=resume STAGE=ppo        one

Every process is a real `prefloop`. Kills are aimed by what appears in the run's folder and on the screen, at moments
drawn from a seed; where each one fell is read from the process's own stack, asked for an instant before. At the end
every file of final/, every sample, figure and check, and every row of metrics must be the same, but for times.
The last line is one JSON object; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import tiny
from twins import differences

from prefloop import checkpoints, runs

# prefloop itself, which writes its stack to a file when it is asked to.
TOLD = """
import faulthandler, signal, sys
faulthandler.register(signal.SIGUSR1, open(sys.argv.pop(1), "w"), all_threads=False)
from prefloop.cli import main
sys.exit(main())
"""
# Where a kill fell, by the functions on the stack; the first that is there.
PHASES = (("rotating", {"rotate", "discard"}), ("saving", {"on_save", "_save_checkpoint", "save"}),
          ("final", {"finish"}), ("sampling", {"sample", "sample_texts", "sample_ids", "samples"}),
          ("evaluating", {"nll", "accuracy", "compared", "summarise"}),
          ("stepping", {"_run_epoch", "learn"}), ("scoring", {"collect"}),
          ("checking", {"check_start", "before", "check_scores", "check"}),
          ("ending", {"end"}), ("resuming", {"_resumed", "restore", "_load_from_checkpoint", "rewind"}))
COMMON = ("train.per_device_train_batch_size=2", "train.gradient_accumulation_steps=2", "train.max_steps=80",
          "train.save_steps=3", "train.logging_steps=2", "train.max_length=64", "train.learning_rate=1e-3",
          "model.lora_r=4")
PPO = ("train.rollouts=32", "train.save_every=2", "train.episodes=16", "train.minibatches=2", "train.micro_batch=4",
       "train.max_prompt_tokens=48", "train.max_new_tokens=24", "train.critic_warmup=1", "train.learning_rate=1e-3",
       "train.kl_target=1.0", "train.kl_horizon=100", "watch.every=3", "watch.prompts=8", "watch.patience=100")
ROOT = Path(__file__).resolve().parents[2]
STAGES = ("sft", "reward", "dpo", "ppo")


@dataclass
class Process:
    """A `prefloop` at work on the run at `path`, and what it has shown so far."""

    path: Path
    words: list[str]
    notes: Path
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.first, self.clock = newest_step(self.path), time.time()
        (self.notes / "stack").write_text("")
        self.screen = (self.notes / "screen").open("w+", encoding="utf-8", errors="replace")
        self.child = subprocess.Popen([sys.executable, "-c", TOLD, str(self.notes / "stack"), *self.words],
                                      stdout=self.screen, stderr=subprocess.STDOUT)

    def shown(self) -> str:
        return (self.notes / "screen").read_text(encoding="utf-8", errors="replace")

    def steps(self) -> int:
        """How many steps this process has logged."""
        rows = runs.read_lines(self.path / "metrics.jsonl")
        return max((row["step"] for row in rows), default=0) - self.first if "it/s" in self.shown() or (
            "rollout" in self.shown()) else 0

    def kill(self) -> str:
        """SIGKILL, and the phase that it hit."""
        self.child.send_signal(signal.SIGUSR1)
        until = time.monotonic() + 0.1
        while time.monotonic() < until and "<string>" not in (self.notes / "stack").read_text():
            time.sleep(0.0005)
        self.child.kill()
        self.child.wait()
        return phase((self.notes / "stack").read_text())


def phase(stack: str) -> str:
    """By the functions of prefloop and of transformers' loop: other libraries have a `finish` of their own."""
    ours = [line for line in stack.splitlines() if "transformers/trainer.py" in line or (
        f'File "{ROOT}/' in line and "/.venv/" not in line)]
    functions = {line.rsplit(" in ", 1)[-1] for line in ours}
    return next((name for name, signs in PHASES if functions & signs), "loading")


def newest_step(path: Path) -> int:
    return max((int(folder.name[11:]) for folder in checkpoints.steps(path)), default=0)


def unsealed(process: Process, name: str) -> bool:
    """Whether a folder without its manifest is there, made by this process and not left by one that was killed."""
    return any(not (folder / checkpoints.MANIFEST).exists() and made(folder) > process.clock
               for folder in process.path.glob(name))


def made(path: Path) -> float:
    """When it was last written to; never, where it is gone."""
    return path.stat().st_mtime if path.exists() else 0.0


@dataclass(frozen=True)
class Aim:
    """When to kill: once `seen`, and then so many seconds later."""

    name: str
    seen: Callable[[Process], bool]
    seconds: float


def plan(kills: int, stage: str, choose: Random) -> list[Aim]:
    """First the beginning, then steps and saves, then the end, since no kill comes back to what is behind it."""
    def steps(least: int) -> Callable[[Process], bool]:
        return lambda process: process.steps() >= least

    def saves(least: int) -> Callable[[Process], bool]:
        return lambda process: process.steps() >= least and unsealed(process, "checkpoint-*")

    early = [Aim("start", lambda _: True, choose.uniform(0, 8)), Aim("begun", begun, choose.uniform(0, 0.2))]
    final = Aim("final", lambda process: unsealed(process, "final"), choose.uniform(0, 0.1))
    end = Aim("end", sealed_final, choose.uniform(0, 0.1))
    after = end if stage == "reward" else Aim("after", lambda process: "samples after" in process.shown(),
                                              choose.uniform(0, 0.05))
    late = [after, final, end] if stage == "ppo" else [final, after, end]
    middle, rollout = [], 0.8 if stage == "ppo" else 0.15
    for number in range(kills - len(early) - len(late)):
        least = choose.randint(1, 2) if stage == "ppo" else choose.randint(2, 6)
        middle.append(Aim("save", saves(least + 1), choose.uniform(0, 0.15)) if number % 2 else
                      Aim("step", steps(least), choose.uniform(0, rollout)))
    choose.shuffle(middle)
    return [*early, *middle, *late]


def begun(process: Process) -> bool:
    """Samples are being taken before the first step; in stages that take none, the first row is near."""
    return "samples before" in process.shown() or "it/s" in process.shown()


def sealed_final(process: Process) -> bool:
    return made(process.path / "final" / checkpoints.MANIFEST) > process.clock


def killed(process: Process, aim: Aim) -> str | None:
    """The phase in which the process was killed; None if it ended before."""
    while process.child.poll() is None:
        if aim.seen(process):
            until = time.monotonic() + aim.seconds
            while time.monotonic() < until and process.child.poll() is None:
                time.sleep(0.001)
            return process.kill() if process.child.poll() is None else None
        if time.monotonic() - process.began > 500:
            raise RuntimeError(f"nothing to kill in 500 seconds: {aim.name}\n{process.shown()[-2000:]}")
        time.sleep(0.002)
    return None


def campaign(stage: str, words: list[str], root: Path, kills: int, seed: int) -> dict[str, Any]:
    notes, path, choose = root / f"{stage}-notes", root / f"{stage}-killed", Random(f"{stage} {seed}")
    notes.mkdir()
    began = time.monotonic()
    alone = finished(Process(root / f"{stage}-alone", [*words, f"run.name={stage}-alone"], notes))
    uninterrupted = time.monotonic() - began
    hit: Counter[str] = Counter()
    asked = [*words, f"run.name={path.name}"]
    for number, aim in enumerate(plan(kills, stage, choose), start=1):
        process = Process(path, asked, notes)
        where = killed(process, aim)
        if where is None:
            if process.child.returncode:
                raise RuntimeError(f"{stage} failed by itself:\n{process.shown()[-3000:]}")
            break
        hit[where] += 1
        print(f"{stage} kill {number:2} aimed at {aim.name:5} +{aim.seconds:.3f}s: hit {where:10} checkpoint "
              f"{newest_step(path)}, {time.monotonic() - process.began:.1f}s", flush=True)
        asked = ["resume", str(path)] if (path / "run.json").exists() else asked
    finished(Process(path, asked, notes))
    found = differences(alone, path)
    return {"kills": hit.total(), "hit": dict(hit.most_common()), "identical": not found,
            "differences": found, "files": len(list((path / "final").rglob("*"))),
            "rows": len(runs.read_lines(path / "metrics.jsonl")), "seconds_uninterrupted": round(uninterrupted, 1),
            "seconds": round(time.monotonic() - began, 1), "seed": seed}


def finished(process: Process) -> Path:
    if process.child.wait():
        raise RuntimeError(f"{process.words}: exit code {process.child.returncode}\n{process.shown()[-3000:]}")
    return process.path


def requests(root: Path) -> dict[str, list[str]]:
    """The four stages' commands on a two-layer model; the later ones start from a fine-tuned run and a reward."""
    base, data = tiny.tiny_model(root / "base"), tiny.tiny_snapshot(root / "data")
    where = (f"data.path={data}", f"run.root={root}")
    begin, reward = root / "begin", root / "begin-reward"
    for words in (["sft", f"model.path={base}", *where, "run.name=begin", *COMMON],
                  ["reward", f"model.path={begin}", *where, "run.name=begin-reward", *COMMON]):
        subprocess.run([sys.executable, "-m", "prefloop.cli", *words], check=True, capture_output=True)
    return {"sft": ["sft", f"model.path={base}", *where, *COMMON],
            "reward": ["reward", f"model.path={begin}", *where, *COMMON],
            "dpo": ["dpo", f"model.path={begin}", *where, *COMMON, "train.eval_strategy=steps", "train.eval_steps=16"],
            "ppo": ["ppo", f"model.path={begin}", f"reward.path={reward}", f"watch.reward={reward}", *where,
                    *PPO]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", default=STAGES, choices=[*STAGES, []], metavar="STAGE")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="prefloop-soak-") as folder:
        commands = requests(Path(folder))
        for stage in asked.stages or STAGES:
            report[stage] = campaign(stage, commands[stage], Path(folder), asked.kills, asked.seed)
            print(json.dumps({stage: report[stage]}), flush=True)
    print(json.dumps(report))
    return 0 if all(own["identical"] and own["kills"] == asked.kills for own in report.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
