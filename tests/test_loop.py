"""The loop's script: what is done is skipped, what was interrupted is resumed; and, as a soak, two whole rounds."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import simulated_rater
import tiny

from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.generate import write_answers
from prefloop.launch import loop
from prefloop.records import Answers, Response

ROOT = Path(__file__).resolve().parent.parent


def told(out: Path, *words: str) -> loop.Loop:
    return loop.asked(["base", str(out / "data"), "--out", str(out), *words])


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that the loop would have run."""
    commands: list[list[str]] = []
    monkeypatch.setattr(loop, "shell", lambda title, words, *rest, **more: commands.append(words))
    return commands


def run_folder(path: Path, **record: object) -> Path:
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"stage": "sft", "status": "done", **record}))
    return path


def test_what_is_done_is_skipped_and_what_stopped_goes_on(tmp_path: Path, ran: list[list[str]]) -> None:
    own = told(tmp_path, "--set", "sft:train.max_steps=3")
    loop.run(own, run_folder(tmp_path / "done"), "sft")
    assert ran == []
    loop.run(own, run_folder(tmp_path / "stopped", status="interrupted"), "sft")
    assert ran.pop() == [sys.executable, "-m", "prefloop.cli", "resume", str(tmp_path / "stopped")]
    loop.run(own, run_folder(tmp_path / "two", status="failed", processes=2), "sft")
    assert ran.pop()[2:] == ["prefloop.launch.several", "2", "resume", str(tmp_path / "two")]
    loop.run(own, tmp_path / "new", "sft", "model.path=base")
    assert ran.pop()[1:] == ["sft", "model.path=base", f"run.root={tmp_path}", "run.name=new", "train.max_steps=3"]
    loop.run(own, run_folder(tmp_path / "cut", stage="generate", status="interrupted", resumable=False), "generate")
    assert ran.pop()[1] == "generate"  # not resumed but made again, and the old one kept
    assert not (tmp_path / "cut").exists()
    assert len(list(tmp_path.glob("cut-*"))) == 1


def test_a_round_goes_on_from_what_was_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def run(told: loop.Loop, folder: Path, stage: str, *overrides: str) -> None:
        asked.append((stage, overrides))
        if stage == "compare":
            folder.mkdir(parents=True)
            report = {"verdict": "ship" if "round1" in folder.name else "undecided", "line": "",
                      "best": str(told.of_round(1, "dpo"))}
            (folder / "report.json").write_text(json.dumps(report))

    monkeypatch.setattr(loop, "run", run)
    monkeypatch.setattr(loop, "command", lambda *_: None)
    monkeypatch.setattr(loop, "rank", lambda *_: None)
    (tmp_path / "data").mkdir()
    assert loop.loop(told(tmp_path)) == 4  # the second round is undecided
    assert [stage for stage, _ in asked] == ["sft", *2 * ["generate", "reward", "dpo", "ppo", "compare"]]
    second = dict(asked[6:])
    assert f"model.path={tmp_path / 'round1-dpo'}" in second["ppo"]
    assert f"reward.path={tmp_path / 'round2-reward'}" in second["ppo"]
    assert second["compare"][0].startswith(f"compare.runs=[{tmp_path / 'round1-dpo'},")


def test_enough_counts_this_rounds_rankings_alone(tmp_path: Path) -> None:
    def answers(name: str, prompts: range) -> Path:
        path = tmp_path / f"{name}.jsonl"
        write_answers(path, [Answers(tiny.tiny_prompt(n), (Response("seen"), Response(f"no {name}")))
                             for n in prompts])
        return path

    own, few = told(tmp_path), told(tmp_path, "--rankings", "3")
    first, second = answers("first", range(4)), answers("second", range(4))
    assert not loop.enough(own, first)
    assert simulated_rater.rank(own.store, first) == 4
    assert loop.enough(own, first)
    assert not loop.enough(own, second)  # not even queued
    assert not loop.enough(few, second)
    assert simulated_rater.rank(own.store, second) == 4
    assert loop.enough(few, second)


@pytest.mark.parametrize("words", [["--set", "sft"], ["--set", "sft:train"]])
def test_a_mistyped_override_is_told(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(RequestError, match="expected COMMAND:section"):
        told(tmp_path, *words)


@pytest.mark.parametrize(("size", "config"), [
    ("tiny", "configs/tiny/sft.yaml"), ("small", "configs/sft.yaml"), ("8b", "configs/8b/sft.yaml")])
def test_a_size_chooses_the_config(size: str, config: str) -> None:
    told = subprocess.run([ROOT / "launch" / "sft.sh", "train.beta=1"], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "SIZE": size, "PYTHON": "/bin/echo"})
    assert told.stdout == (f"prefloop sft {config} train.beta=1\n"
                           f"-m prefloop.cli sft {ROOT / config} train.beta=1\n")


def test_every_command_with_a_script_is_a_command_and_an_unknown_size_is_refused() -> None:
    from prefloop.cli import COMMANDS

    thin = [path.stem for path in (ROOT / "launch").glob("*.sh") if path.stem in COMMANDS]
    assert {"sft", "generate", "feedback", "snapshot", "reward", "ppo", "dpo", "compare", "score"} <= set(thin)
    for name in thin:
        asked = subprocess.run([ROOT / "launch" / f"{name}.sh"], capture_output=True, text=True,
                               env={**os.environ, "SIZE": "9b", "PYTHON": "/bin/echo"})
        assert (asked.returncode, asked.stderr) == (2, f"launch/{name}.sh: SIZE is tiny, small or 8b, not 9b\n")


@pytest.mark.skipif("SOAK" not in os.environ, reason="some minutes: make soak")
def test_two_rounds_with_a_simulated_rater(tmp_path: Path) -> None:
    tiny.tiny_model(tmp_path / "base")
    tiny.tiny_snapshot(tmp_path / "data", prompts=200)
    rater = f"{shlex.quote(sys.executable)} {ROOT / 'tests' / 'simulated_rater.py'}"
    extra = ["sft:train.max_steps=60", "sft:data.from_rankings=false", "generate:data.limit=200",
             "generate:sampling.max_new_tokens=24", "reward:train.max_steps=60", "dpo:train.max_steps=20",
             "ppo:train.rollouts=12", "ppo:train.learning_rate=1e-2", "ppo:train.max_new_tokens=24",
             "compare:sampling.answers=4", "compare:sampling.max_new_tokens=24"]
    words = [str(ROOT / "launch" / "loop.sh"), str(tmp_path / "base"), str(tmp_path / "data"), "--size", "tiny",
             "--out", str(tmp_path / "loop"), "--rank-command", rater, "--go-on",
             *(word for one in extra for word in ("--set", one))]
    environment = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode in (0, 4), done.stderr  # 4: the second round was undecided or worse
    told = [json.loads((tmp_path / "loop" / f"round{n}-compare" / "run.json").read_text()) for n in (1, 2)]
    assert told[1]["parents"]["run0"]["path"] in {str(tmp_path / "loop" / f"round1-{way}") for way in ("ppo", "dpo")}
    rankings = [snapshot.read(tmp_path / "loop" / f"round{n}-rankings").rankings for n in (1, 2)]
    assert set(rankings[0]) < set(rankings[1])  # the second round learns from both
    again = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == done.returncode
    assert "seconds" not in again.stdout  # nothing was left to do
