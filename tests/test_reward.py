"""The reward stage: its arithmetic by hand, its groups, and a run through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny import launch, sft_run, tiny_model, tiny_snapshot, watch

from prefloop import checkpoints, heads, models, passes
from prefloop.chat import probe_rows
from prefloop.records import Message, Prompt, Ranking, Response
from prefloop.reward.adapter import Adapter
from prefloop.reward.criterion import LossConfig, says
from prefloop.reward.groups import collated, encoded
from prefloop.reward.judgements import gathered
from prefloop.reward.loss import UNRANKED


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_snapshot(tmp_path_factory.mktemp("data") / "snap")


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, base: Path, data: Path) -> Path:
    return sft_run(tmp_path_factory.mktemp("runs"), base, data)


def words(sft: Path, data: Path, root: Path, name: str, *more: str) -> tuple[str, ...]:
    return ("reward", f"model.path={sft}", f"data.path={data}", f"run.root={root}", f"run.name={name}",
            "train.max_steps=30", "train.learning_rate=0.01", "train.save_steps=10", "train.max_length=64",
            "train.per_device_train_batch_size=4", "model.lora_r=4", *more)


def test_raters_of_one_prompt_share_its_answers(base: Path) -> None:
    checkpoint = models.resolve(str(base))
    kind, short = (Adapter.of(checkpoint, models.ModelConfig(str(base)), longest) for longest in (64, 3))
    chat = kind.chat
    prompt = Prompt((Message("user", "Q"),))
    answers = tuple(Response(t) for t in ("a", "b", "c", "d"))
    rankings = [Ranking(prompt, answers[:3], (1, 3, None), "ann"), Ranking(prompt, answers[2::-1], (2, 2, 5), "bob"),
                Ranking(prompt, answers[:2], (1, 1), "cat"), Ranking(prompt, answers[2:], (1, 1), "dan")]
    ignoring = LossConfig(ties="ignore")
    found = encoded(kind.rows, gathered(rankings), lambda one: says(ignoring, ["overall"], one))
    (group,) = found.groups
    assert (found.rankings, found.over_length, found.undecided) == (2, 0, 2)
    assert [row[start:] for row, start in group.rows] == [chat.answer_ids(text) for text in "abc"]  # not d
    batch = collated([group, group], ["overall"])
    assert (batch.prompts, len(batch.rows), batch.starts) == (2, 6, [len(chat.prompt_ids(prompt))] * 6)
    assert batch.judged.rows_JK.tolist() == [[0, 1, 2], [2, 1, 0], [3, 4, 5], [5, 4, 3]]
    assert batch.judged.levels_DJK[0, :2].tolist() == [[1, 2, UNRANKED], [1, 1, 2]]
    assert batch.judged.shares_EJ.tolist() == [[0.5] * 4]
    tied = encoded(kind.rows, gathered(rankings), lambda one: says(LossConfig(), ["overall"], one))
    assert (tied.rankings, tied.undecided, len(tied.groups[0].rows)) == (4, 0, 4)
    assert encoded(short.rows, gathered(rankings), lambda _: True).over_length == 4


def test_a_run_learns_is_scaled_and_is_sealed(sft: Path, data: Path, tmp_path: Path) -> None:
    assert launch(*words(sft, data, tmp_path, "r")) == 0
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["metrics"]["accuracy"] > 0.9
    assert all(check["passed"] for check in record["checks"].values())
    assert {"padding", "end of answer", "weights", "spread", "reload final"} <= set(record["checks"])
    checkpoints.verify(tmp_path / "r" / "final")
    resolved = json.loads((tmp_path / "r" / "resolved.json").read_text())
    assert (resolved["head"]["pooling"], resolved["train"]["max_steps"], resolved["model"]["lora_alpha"]) == (
        "mean", 30, 32)
    head = heads.Head.load(tmp_path / "r" / "final", models.device())
    assert head.scale > 0
    assert models.resolve(str(tmp_path / "r")).base_checksum == models.resolve(str(sft)).base_checksum


def test_a_head_that_reads_likelihoods_learns_and_survives(sft: Path, data: Path, tmp_path: Path) -> None:
    assert launch(*words(sft, data, tmp_path, "r", "head.likelihood=true")) == 0
    assert json.loads((tmp_path / "r" / "run.json").read_text())["metrics"]["accuracy"] > 0.9
    head = heads.Head.load(tmp_path / "r" / "final", models.device())
    assert head.likelihood is not None
    assert float(head.likelihood) != heads.LIKELIHOOD


def test_the_likelihood_is_the_mean_over_the_answer(base: Path) -> None:
    checkpoint = models.resolve(str(base))
    chat, model = models.load_chat(checkpoint), models.load_base(checkpoint, models.ModelConfig(str(base)))
    rows, starts = probe_rows(chat)
    head = heads.Head(passes.plain(model).config.hidden_size, likelihood=True)  # hidden states begin silent
    with torch.no_grad():
        means = torch.stack([own.mean() for own in passes.answer_logprobs(model, rows, starts, chat.pad_id)])
        got_B = heads.score_rows(model, head, rows, starts, chat.pad_id)
    torch.testing.assert_close(got_B.squeeze(1), heads.LIKELIHOOD * means)


def test_in_four_bits_adapter_and_head_stay_fp32(sft: Path, data: Path, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watch(monkeypatch)
    assert launch(*words(sft, data, tmp_path, "r", "model.four_bit=true", "train.max_steps=2")) == 0
    assert seen.linear4bit == [14, 14]
    assert seen.dtypes == [{torch.float32}, {torch.float32}]
    assert any(not torch.equal(seen.weights[0][key], seen.weights[1][key]) for key in seen.weights[0])


def test_scores_of_a_file_are_those_of_the_model(sft: Path, data: Path, tmp_path: Path) -> None:
    assert launch(*words(sft, data, tmp_path, "r")) == 0
    answers = tmp_path / "answers.jsonl"
    prompt = Prompt((Message("user", "Say something about cat 1"),))
    row = {"prompt": prompt.to_json(), "responses": [Response(t).to_json() for t in ("red nice", "red nasty")]}
    answers.write_text(json.dumps(row) + "\n")
    out = tmp_path / "scores.jsonl"
    assert launch("score", f"model.path={tmp_path / 'r'}", f"score.answers={answers}", f"score.out={out}") == 0
    nice, nasty = (json.loads(line)["score"] for line in out.read_text().splitlines())
    assert nice > nasty


def test_only_ties_is_an_error_that_says_so(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from prefloop.formats import snapshot

    prompt = next(p for p in (Prompt((Message("user", str(n)),)) for n in range(99)) if p.split == "train")
    data = snapshot.write(tmp_path / "s", [Ranking(prompt, (Response("a"), Response("b")), (1, 1), "ann")])
    assert launch(*words(base, data, tmp_path, "r", "loss.ties=ignore")) == 2
    assert "no ranking to train on" in capsys.readouterr().err


def test_a_policy_is_no_reward_model(sft: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"prompt": Prompt((Message("user", "Q"),)).to_json(), "responses": [Response("a").to_json()]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert launch("score", f"model.path={sft}", f"score.answers={tmp_path / 'a.jsonl'}", "score.out=x.jsonl") == 2
    assert "no reward model" in capsys.readouterr().err


def test_the_linear_kind_needs_no_model(data: Path, tmp_path: Path) -> None:
    words = ("reward", "configs/linear.yaml", f"data.path={data}", f"run.root={tmp_path}", "run.name=r",
             "evaluate.folds=2", "head.members=3")
    assert launch(*words) == 0
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["metrics"]["accuracy"] > 0.9
    assert list(record["parents"]) == ["data"]
    told = json.loads((tmp_path / "r" / "report.json").read_text())
    assert told["folds"]["accuracy"]["value"] > 0.9
    assert told["raters"]
    assert record["summary"] in (tmp_path / "r" / "README.md").read_text()
    assert not (tmp_path / "r" / "folds").exists()
    row = {"prompt": Prompt((Message("user", "Say something about cat 1"),)).to_json(),
           "responses": [Response(t).to_json() for t in ("red nice", "red nasty")]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert launch("score", f"model.path={tmp_path / 'r'}", f"score.answers={tmp_path / 'a.jsonl'}",
                  f"score.out={tmp_path / 'scores.jsonl'}") == 0
    nice, nasty = (json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines())
    assert nice["score"] > nasty["score"]
    assert nice["spread"] > 0
    checkpoints.verify(tmp_path / "r" / "final")


def test_an_objective_of_which_nobody_said_anything(base: Path, data: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(*words(base, data, tmp_path, "r", "head.objectives={overall: 1, helpfull: 0.5}")) == 2
    assert "says anything of 'helpfull'; known: overall" in capsys.readouterr().err
