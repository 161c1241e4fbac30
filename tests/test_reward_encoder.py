"""The encoder kind through the command line: it learns, survives, scores and compares; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny_loop import Loop

from prefloop import checkpoints, encoders, models
from prefloop.heads import Head


@pytest.fixture(scope="module")
def home(loop: Loop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and a reward run `judge` of two members on it."""
    root = tmp_path_factory.mktemp("encoders")
    tiny.tiny_encoder(root / "encoder")
    assert tiny.launch(*asked(loop, root, "judge", "train.max_steps=40", "head.members=2")) == 0
    return root


def asked(loop: Loop, root: Path, name: str, *more: str) -> list[str]:
    return ["reward", "model.kind=encoder", f"model.path={root / 'encoder'}", f"data.path={loop.root / 'data'}",
            f"run.root={root}", f"run.name={name}", "train.max_steps=2", "train.learning_rate=0.003",
            "train.max_length=48", "train.per_device_train_batch_size=4", "train.save_steps=10", *more]


def test_it_learns_whole_in_fp32_and_is_sealed(home: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tiny.record(home / "judge")
    assert record["metrics"]["accuracy"] > 0.9
    assert {"padding", "end of answer", "weights", "spread", "reload final"} <= set(record["checks"])
    assert record["checks"]["reload final"]["passed"]
    checkpoints.verify(home / "judge/final")
    weights = load_file(home / "judge/final/model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    before = load_file(home / "encoder/model.safetensors")
    moved = [name for name, weight in weights.items() if not torch.equal(weight, before[f"bert.{name}"])]
    assert len(moved) == len(weights)
    assert "README.md" in {path.name for path in (home / "judge").iterdir()}
    assert models.reward_kind(models.resolve(str(home / "judge"))) == "encoder"


def test_a_limit_that_most_probes_are_over_is_no_error(home: Path, loop: Loop) -> None:
    assert tiny.launch(*asked(loop, home, "short", "train.max_length=12")) == 0
    assert tiny.record(home / "short")["checks"]["reload final"]["passed"]


def test_scores_of_a_file_have_their_spread(home: Path, tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"prompt": "Say something about cat 1", "answer": text}
                                   for text in ("red nice", "red nasty", "x " * 60)]
    lines.append({"prompt": [{"role": "user", "content": "Hi"}], "answer": "lone \ud800 half"})
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "scores.jsonl"
    assert tiny.launch("score", f"model.path={home / 'judge'}", f"score.answers={tmp_path / 'asked.jsonl'}",
                       f"score.out={out}") == 0
    nice, nasty, long, _ = (json.loads(line) for line in out.read_text().splitlines())
    assert nice["score"] > nasty["score"]
    assert nice["spread"] > 0
    assert long["score"] is None
    assert "objectives" not in nice  # of one objective there is only the score
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_scores_of_a_snapshot_are_of_each_answer_once(home: Path, loop: Loop, tmp_path: Path) -> None:
    assert tiny.launch("score", f"model.path={home / 'judge'}", f"score.answers={loop.root / 'data'}",
                       f"score.out={tmp_path / 's.jsonl'}") == 0
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert len(rows) == 90
    assert len({(row["prompt_id"], row["response_id"]) for row in rows}) == 90


def test_compare_takes_it_and_tells_its_disagreement(home: Path, loop: Loop, tmp_path: Path) -> None:
    code = tiny.launch("compare", f"compare.runs=[{loop.root / 'runs/sft'},{loop.root / 'base'}]",
                       f"compare.reward={home / 'judge'}", f"data.path={loop.root / 'data'}", "compare.split=train",
                       "compare.allow_overlap=true",
                       "compare.limit=5", "sampling.max_new_tokens=8", f"run.root={tmp_path}",
                       f"compare.out={tmp_path / 'out'}")
    assert code in (0, 3, 4)
    report = json.loads((tmp_path / "out/report.json").read_text())
    judged = report["judges"][str(home / "judge")]
    assert all(own["value"] > 0 for own in judged["disagreement"].values())
    assert "win_rate" in judged["runs"][str(loop.root / "base")]


def test_a_weight_that_comes_back_changed_fails_the_run(home: Path, loop: Loop, monkeypatch: pytest.MonkeyPatch,
                                                        said: Callable[[], str]) -> None:
    load = Head.load

    def changed(folder: Path, where: Any) -> Head:
        head = load(folder, where)
        head.linear.bias.data += 1e-3
        return head

    monkeypatch.setattr(encoders.Head, "load", changed)
    assert tiny.launch(*asked(loop, home, "changed")) == 1
    assert "self-check failed: reload" in said()
    assert tiny.record(home / "changed")["status"] == "failed"
    assert not (home / "changed/final/manifest.json").exists()


@pytest.mark.parametrize(("override", "told"), [
    ("model.path=ROOT/base", "a model of type llama"), ("model.path=ROOT/runs/sft", "a run of sft|a sft run"),
    ("model.path=HOME/judge", "writes no answers"), ("train.max_length=500", "this encoder reads 128"),
    ("model.four_bit=true", "in fp32"), ("model.dtype=bfloat16", "in fp32"),
    ("head.likelihood=true", "leave out head"), ("head.pooling=last", "leave out head"),
    ("model.kind=enocder", "expected 'adapter' or 'encoder'"),
    ("train.max_length=4", "no ranking to train on"),
    ("train.neftune_noise_alpha=5", "noise on embeddings"), ("model.path=HOME/bare", "it has no tokenizer"),
])
def test_a_wrong_request_is_one_line(home: Path, loop: Loop, tmp_path: Path, said: Callable[[], str], override: str,
                                     told: str) -> None:
    if override.endswith("bare") and not (home / "bare").exists():
        tiny.tiny_encoder(home / "bare")
        (home / "bare/tokenizer.json").unlink()
    override = override.replace("ROOT", str(loop.root)).replace("HOME", str(home))
    assert tiny.launch(*asked(loop, home, "wrong", override, f"run.root={tmp_path}")) == 2
    line = said()
    assert any(part in line for part in told.split("|")), line
    assert list(tmp_path.iterdir()) == []
