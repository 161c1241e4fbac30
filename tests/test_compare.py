"""Compare through the command line on two-layer models, and its arithmetic by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from prefloop import encoders, heads, models
from prefloop.compare import answering, figures, recipe, settings
from prefloop.formats import snapshot
from prefloop.generate import SamplingConfig
from prefloop.records import Prompt


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs (sft, other: adapters on one base; whole: a base of its own) and a reward run on the first base."""
    root = tmp_path_factory.mktemp("compare")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data")
    tiny.sft_run(root / "runs", root / "base", root / "data")
    tiny.sft_run(root / "runs", root / "base", root / "data", "train.max_steps=30", name="other")
    tiny.sft_run(root / "runs", root / "base", root / "data", "model.whole=true", "train.learning_rate=1e-3",
                 name="whole")
    for name, policy in (("reward", "sft"), ("whole-reward", "whole")):
        assert tiny.launch("reward", f"model.path={root / 'runs' / policy}", f"data.path={root / 'data'}",
                           f"run.root={root / 'runs'}", f"run.name={name}", "train.max_steps=2",
                           "train.max_length=64") == 0
    return root


def asked(home: Path, names: list[str], *overrides: str) -> list[str]:
    places = ",".join(str(home / "runs" / name) for name in names)
    return ["compare", f"compare.runs=[{places}]", f"data.path={home / 'data'}", f"run.root={home / 'verdicts'}",
            "compare.split=train", "compare.limit=20", "sampling.max_new_tokens=12", *overrides]


def verdict(home: Path, out: Path, names: list[str], *overrides: str) -> tuple[int, dict[str, Any]]:
    code = tiny.launch(*asked(home, names, f"compare.out={out}", *overrides))
    report = json.loads((out / "report.json").read_text())
    return code, {**report, "runs": {Path(name).name: own for name, own in report["runs"].items()}}


def test_three_runs_on_two_bases(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, load = [], models.load_base
    monkeypatch.setattr(models, "load_base", lambda one, settings: (loaded.append(one.base), load(one, settings))[1])
    code, report = verdict(home, tmp_path, ["sft", "other", "whole"], f"compare.reward={home / 'runs' / 'reward'}")
    assert len(loaded) == len(set(loaded)) == 2
    assert code == recipe.EXIT[report["verdict"]]
    assert report["prompts"] == 20
    assert "win_rate" not in report["runs"]["sft"]
    assert "kl" not in report["runs"]["sft"]
    for name in ("other", "whole"):
        own = report["runs"][name]
        assert own["kl"]["low"] > 0
        assert own["kl_per_token"] == pytest.approx(own["kl"]["value"] / own["mean_length"])
        assert own["win_rate"]["low"] < own["win_rate"]["value"] < own["win_rate"]["high"]
        assert own["reward_gain"]["value"] == pytest.approx(
            own["reward"]["value"] - report["runs"]["sft"]["reward"]["value"], abs=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    prompts = snapshot.read(home / "data").prompts_of("train")[:20]
    assert [row["prompt"]["id"] for row in rows] == [prompt.id for prompt in prompts]
    assert all([Path(name).name for name in row["answers"]] == ["sft", "other", "whole"] for row in rows)
    for name in ("sft", "other", "whole"):
        each = [own for row in rows for run, (own,) in row["rewards"].items() if Path(run).name == name]
        assert report["runs"][name]["reward"]["value"] == pytest.approx(sum(each) / 20)
    assert report["line"] in capsys.readouterr().out
    capsys.readouterr()
    assert tiny.launch("runs", f"run.root={home / 'verdicts'}") == 0
    assert f"verdict {report['verdict']}" in capsys.readouterr().out


def test_a_run_against_its_copy_is_a_draw(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "runs" / "sft", home / "runs" / "copy", dirs_exist_ok=True)
    code, report = verdict(home, tmp_path, ["sft", "copy"], f"compare.reward={home / 'runs' / 'reward'}",
                           "sampling.answers=2")
    assert code == 4
    assert abs(report["runs"]["copy"]["kl"]["value"]) < 1e-6
    assert report["runs"]["copy"]["win_rate"]["value"] == 0.5
    for row in map(json.loads, (tmp_path / "answers.jsonl").open()):
        first, second = row["answers"].values()
        assert first == second
        assert len(first) == 2


def test_a_reward_model_on_another_base_judges_too(home: Path, tmp_path: Path) -> None:
    """It is given texts: its scores are those that `prefloop score` gives to what was compared."""
    reward = home / "runs" / "whole-reward"
    _, report = verdict(home, tmp_path, ["sft", "other"], f"compare.reward={reward}")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    asked = [{"prompt": row["prompt"]["messages"], "answer": own}
             for row in rows for (own,) in row["answers"].values()]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    assert tiny.launch("score", f"model.path={reward}", f"score.answers={tmp_path / 'asked.jsonl'}",
                       f"score.out={tmp_path / 'scores.jsonl'}") == 0
    scores = [json.loads(line)["score"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    told = [own for row in rows for (own,) in row["rewards"].values()]
    assert told == pytest.approx(scores, abs=1e-5)
    assert "disagreement" not in report["runs"]["sft"]  # of one member there is none


def test_prompts_with_an_answer_too_long_for_the_reward_model_have_no_rewards(home: Path, tmp_path: Path) -> None:
    path = short_encoder(tmp_path, 8)
    _, report = verdict(home, tmp_path / "out", ["sft", "other"], f"compare.reward={path}", "sampling.answers=2")
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    scorer = encoders.load(models.resolve(str(path)))
    for row in rows:
        prompt = Prompt.from_json(row["prompt"])
        read = scorer.reads([(prompt, text) for own in row["answers"].values() for text in own])
        assert ("rewards" in row) == all(read)
    told = [row for row in rows if "rewards" in row]
    assert 0 < report["unread"] == 20 - len(told) < 20
    for name in ("sft", "other"):
        each = [sum(own) / 2 for row in told for run, own in row["rewards"].items() if Path(run).name == name]
        assert report["runs"][name]["reward"]["value"] == pytest.approx(sum(each) / len(told))
    assert f"{report['unread']} without rewards" in (tmp_path / "out" / "report.html").read_text()


def test_a_reward_model_that_reads_no_answer_says_so(home: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.launch(*asked(home, ["sft", "other"], f"compare.reward={short_encoder(tmp_path, 3)}")) == 1
    assert "longer than this reward model reads" in capsys.readouterr().err


def short_encoder(folder: Path, max_length: int) -> Path:
    """An untrained encoder that reads so many tokens."""
    found = models.resolve(str(tiny.tiny_encoder(folder / "encoder")))
    backbone, reader = encoders.backbone_of(found), encoders.reader_of(found, max_length, "train.max_length")
    head = heads.Head(backbone.config.hidden_size)
    encoders.save(encoders.Encoder(backbone, head, reader.pad_id), reader, folder / "reward")
    models.seal(folder / "reward", found, "reward")
    return folder / "reward"


def test_swapping_the_runs_mirrors_the_win_rate(home: Path, tmp_path: Path) -> None:
    reward = f"compare.reward={home / 'runs' / 'reward'}"
    _, there = verdict(home, tmp_path / "there", ["sft", "other"], reward)
    _, back = verdict(home, tmp_path / "back", ["other", "sft"], reward)
    assert there["runs"]["other"]["win_rate"]["value"] + back["runs"]["sft"]["win_rate"]["value"] == pytest.approx(1)
    assert there["runs"]["sft"]["mean_length"] == back["runs"]["sft"]["mean_length"]


def test_without_a_reward_or_a_sample_less_is_said(home: Path, tmp_path: Path) -> None:
    code, report = verdict(home, tmp_path, ["sft", "other"], "sampling.temperature=0")
    assert code == 4
    assert report["runs"]["other"].keys() == {"checksum", "mean_length", "ended"}
    assert "compare.reward" in report["line"]


def test_log_probabilities_are_those_of_the_saved_runs(home: Path) -> None:
    """Against PEFT's own loading, at the temperature of the sample, for both sides of the KL."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = [models.resolve(str(home / "runs" / name)) for name in ("sft", "other")]
    prompts = snapshot.read(home / "data").prompts_of("train")[:5]
    sampling = SamplingConfig(answers=2, max_new_tokens=8, temperature=0.7)
    _, other = answering.answered(found, None, prompts, settings.HoldConfig(), sampling)
    assert other.baseline_logprobs is not None
    for one, values in zip(found, (other.baseline_logprobs, other.own_logprobs), strict=True):
        base = AutoModelForCausalLM.from_pretrained(home / "base")
        model = PeftModel.from_pretrained(base, str(one.adapter)).eval()
        for prompt, own, wanted in zip(prompts, other.ids, values, strict=True):
            for answer, value in zip(own, wanted, strict=True):
                ids = other.chat.prompt_ids(prompt) + answer
                with torch.no_grad():
                    logprobs_TV = (model(torch.tensor([ids])).logits[0] / 0.7).log_softmax(-1)
                places = range(len(ids) - len(answer), len(ids))
                assert value == pytest.approx(sum(float(logprobs_TV[n - 1, ids[n]]) for n in places), abs=1e-3)


def test_kl_by_hand() -> None:
    found = figures.kl_figures([[-1.0, -3.0], [-2.0, -2.0]], [[-2.0, -4.0], [-5.0, -5.0]], [[2, 4], [5, 5]], 0.95)
    assert found["kl"]["value"] == 2.0  # prompts 1 and 3 nats
    assert found["kl_per_token"] == 0.5  # answers of 3 and 5 tokens
    assert 1.0 <= found["kl"]["low"] < found["kl"]["high"] <= 3.0


def test_win_rate_by_hand() -> None:
    found = figures.reward_figures([[1.0, 0.0], [2.0, 2.0]], [[0.0, 0.0], [3.0, 1.0]], 0.95)
    assert found["win_rate"]["value"] == pytest.approx((0.75 + 0.5) / 2)  # a win and a tie; a loss and a win
    assert found["reward_gain"]["value"] == pytest.approx(0.25)


@pytest.mark.parametrize(("intervals", "said"), [
    ([(0.51, 0.7)], "ship"),
    ([(0.2, 0.4), (0.51, 0.7)], "ship"),
    ([(0.2, 0.4), (0.3, 0.49)], "reject"),
    ([(0.2, 0.4), (0.4, 0.6)], "undecided"),
    ([(0.5, 0.7)], "undecided"),
])
def test_the_verdict(intervals: list[tuple[float, float]], said: str) -> None:
    wins = {f"run{n}": {"value": (low + high) / 2, "low": low, "high": high}
            for n, (low, high) in enumerate(intervals)}
    word, line = figures.decide("base", wins)
    assert word == said
    assert line.startswith(said)
    assert f"run{len(intervals) - 1}" in line  # the best of each list is its last


@pytest.mark.parametrize(("names", "override", "said"), [
    (["sft"], "", "two or more runs"),
    (["sft", "sft"], "", "twice"),
    (["sft", "sft/final"], "", "twice"),
    (["sft", "nowhere"], "", "no such folder"),
    (["sft", "reward"], "", "a reward model writes no answers"),
    (["sft", "other"], "compare.reward={home}/runs/other", "it is no reward model"),
    (["sft", "other"], "compare.split=validatoin", "split"),
    (["sft", "other"], "sampling.max_prompt_tokens=1", "every prompt is over"),
    (["sft", "other"], "compare.rewrd=x", "did you mean compare.reward?"),
])
def test_a_wrong_request_is_one_line_and_leaves_nothing(home: Path, tmp_path: Path, names: list[str], override: str,
                                                        said: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    overrides = [override.format(home=home)] if override else []
    assert tiny.launch(*asked(home, names, *overrides, f"run.root={tmp_path}")) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("prefloop compare: ")
    assert said in message
    assert not list(tmp_path.iterdir())
