"""Online DPO on a two-layer model: what a round is, who ranks, what is learnt, and when it stops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_serve import served

from prefloop import models, scoring
from prefloop.errors import RunError
from prefloop.ppo import online, rounds
from prefloop.ppo.rounds import Found, OnlineConfig
from prefloop.records import Prompt


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("online")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data")
    tiny.sft_run(root / "runs", root / "base", root / "data")
    assert tiny.launch("reward", f"model.path={root / 'runs' / 'sft'}", f"data.path={root / 'data'}",
                       f"run.root={root / 'runs'}", "run.name=reward", "train.max_steps=8", "train.max_length=64",
                       "train.learning_rate=0.01", "model.lora_r=4", "train.per_device_train_batch_size=8") == 0
    return root


def dpo_run(home: Path, name: str, *overrides: str, code: int = 0) -> Path:
    asked = ("dpo", f"model.path={home / 'runs' / 'sft'}", f"data.path={home / 'data'}", f"run.root={home / 'runs'}",
             f"run.name={name}", f"online.reward={home / 'runs' / 'reward'}", "online.rounds=2", "online.prompts=8",
             "online.answers=3", "online.max_new_tokens=8", "train.per_device_train_batch_size=4",
             "train.max_length=64", "train.logging_steps=1", "train.save_steps=2", "train.learning_rate=1e-2")
    assert tiny.launch(*asked, *overrides) == code
    return home / "runs" / name


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def test_a_run_samples_ranks_learns_and_tells(home: Path) -> None:
    run = dpo_run(home, "done")
    own = tiny.record(run)
    assert own["status"] == "done"
    assert all(check["passed"] for check in own["checks"].values())
    assert {"TRL's loss at step 0", "weights", "reference", "reload final"} <= own["checks"].keys()
    assert own["parents"]["reward"]["path"] == str(home / "runs" / "reward")
    told = [row for row in lines(run) if "round" in row]
    assert [(row["round"], row["step"]) for row in told] == [(1, 1), (2, 3)]
    assert told[0]["kl"] == 0  # policy and reference are still one
    assert told[1]["kl"] != 0
    assert {"score", "score_std", "kl_per_token", "length", "eos_rate", "score_length_correlation",
            "pairs"} <= told[0].keys()
    assert {"score_before", "score_after", "score_gain", "kl", "length_after", "eos_rate_after",
            "implicit_accuracy"} <= own["metrics"].keys()
    assert "2 rounds of 8 prompts with 3 answers each" in (run / "README.md").read_text()
    begun, kept = (load_file(folder / models.ADAPTER) for folder in (
        home / "runs" / "sft" / "final", run / "checkpoint-4" / "ref"))
    assert all(torch.equal(begun[key], kept[key]) for key in begun)
    assert not (run / "checkpoint-4" / scoring.ROLE).exists()
    models.resolve_policy(str(run))


@dataclass
class Likes:
    """A reward model with a tokenizer of its own, or none: it likes some letters."""

    letters: str
    objectives: tuple[str, ...] = ("overall",)

    def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> scoring.Scores:
        return scoring.of_one(np.array([float(answer.count(self.letters)) for _, answer in asked]))

    def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]:
        return [True for _ in asked]

    def taken_for_structure(self) -> int:
        return 0


class Met(Exception):
    """A process has come to where it tells the others what it has."""


def judged_by(monkeypatch: pytest.MonkeyPatch, scorer: scoring.Scorer) -> None:
    monkeypatch.setattr(online, "reader", lambda model, *_: (models.train_only(model, {"default"}), scorer)[1])


def test_the_policy_comes_to_write_what_the_reward_model_likes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judged_by(monkeypatch, Likes("e"))
    run = dpo_run(home, "likes", "online.rounds=8", "online.prompts=32", "online.answers=4",
                  "train.per_device_train_batch_size=8", "train.learning_rate=2e-2", "train.beta=0.05")
    metrics = tiny.record(run)["metrics"]
    assert metrics["score_gain_low"] > 0
    told = [row["score"] for row in lines(run) if "round" in row]
    assert sum(told[-2:]) > sum(told[:2])


def test_the_reward_model_stands_on_the_policys_base_where_it_can(home: Path) -> None:
    sft = models.resolve(str(home / "runs" / "sft"))
    reward = online.found(OnlineConfig(reward=str(home / "runs" / "reward")), sft)
    config = models.ModelConfig(path=str(home / "runs" / "sft"))
    model = online.dpo.start(sft, config, 0)
    shared = online.reader(model, reward, config)
    assert isinstance(shared, scoring.AdapterScorer)
    assert shared.model is model
    assert {name.split(".")[-2] for name, weight in model.named_parameters() if weight.requires_grad} == {"default"}
    beside = online.reader(model, replace(reward, on_base=False), config)
    assert isinstance(beside, scoring.AdapterScorer)
    assert beside.model is not model
    asked = [(tiny.tiny_prompt(n), "nice words") for n in range(3)]
    assert shared.score(asked).mean_N == pytest.approx(beside.score(asked).mean_N, abs=1e-5)


def test_a_linear_reward_model_ranks_too(home: Path) -> None:
    assert tiny.launch("reward", "model.kind=linear", f"data.path={home / 'data'}", f"run.root={home / 'runs'}",
                       "run.name=linear") == 0
    own = tiny.record(dpo_run(home, "by-linear", f"online.reward={home / 'runs' / 'linear'}"))
    assert own["status"] == "done"


def test_a_server_ranks_too(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that asks for a token."""
    (home / "token").write_text("0123456789abcdef\n")
    with served(home / "runs" / "reward", f"serve.token_file={home / 'token'}") as server:
        url = f"http://127.0.0.1:{server.port}"
        dpo_run(home, "no-token", f"online.reward={url}", code=1)
        assert "status 401" in capsys.readouterr().err
        run = dpo_run(home, "by-server", f"online.reward={url}", f"online.token_file={home / 'token'}")
    here = dpo_run(home, "by-itself")
    own, alone = tiny.record(run), [row for row in lines(here) if "round" in row]
    assert own["parents"]["reward"]["path"] == url
    for mine, there in zip([row for row in lines(run) if "round" in row], alone, strict=True):
        assert mine["score"] == pytest.approx(there["score"], abs=1e-3)


def test_in_four_bits_every_two_answers_weighted(home: Path) -> None:
    run = dpo_run(home, "nf4", "model.four_bit=true", "online.pairs=all", "train.loss_type=[sigmoid,sft]",
                  "train.loss_weights=[1.0,0.1]", "online.rounds=1", "train.save_steps=1")
    kept = json.loads((run / "checkpoint-6" / rounds.FILE).read_text())
    assert kept["round"] == 0
    assert np.mean([pair["weight"] for pair in kept["pairs"]]) == pytest.approx(1)
    assert len({pair["weight"] for pair in kept["pairs"]}) > 1


def test_a_constant_reward_stops_the_run(home: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    judged_by(monkeypatch, Likes("no such word"))
    run = dpo_run(home, "constant", code=1)
    assert "round 1: no two answers to a prompt differ" in capsys.readouterr().err
    assert tiny.record(run)["status"] == "failed"


def test_a_policy_that_runs_away_stops_the_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = dpo_run(home, "away", "online.max_kl=0.05", "online.rounds=20", "train.learning_rate=0.1", code=1)
    assert "past online.max_kl=0.05" in capsys.readouterr().err
    assert tiny.record(run)["status"] == "failed"
    assert models.resolve(str(sorted(run.glob("checkpoint-*"))[-1])).adapter


def test_a_score_that_is_not_finite_stops_the_run(home: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    scorer = Likes("e")
    monkeypatch.setattr(scorer, "score", lambda asked, batch: scoring.of_one(np.full(len(asked), np.nan)))
    judged_by(monkeypatch, scorer)
    dpo_run(home, "nan", code=1)
    assert "not finite" in capsys.readouterr().err


def test_pairs_of_one_prompt_by_hand() -> None:
    assert rounds.better_than([1.0, 3.0, 2.0], 0.0, every=False) == [(1, 0)]
    assert rounds.better_than([1.0, 3.0, 2.0], 0.0, every=True) == [(1, 2), (1, 0), (2, 0)]
    assert rounds.better_than([1.0, 3.0, 2.0], 1.0, every=True) == [(1, 0)]  # by 1 is a tie
    assert rounds.better_than([2.0, 2.0, 2.0], 0.0, every=False) == []
    weighed = rounds.weighted([Found([1], [2], [3], 3.0), Found([1], [2], [4], 1.0)])
    assert [row["weight"] for row in weighed] == [1.5, 0.5]
    assert weighed[1]["rejected_ids"] == [4]


def test_a_cut_answer_is_worth_less() -> None:
    """Scores 0 and 2, spread 1: the better answer was cut, and at a penalty of 3 spreads it is the worse."""
    own = [rounds.Judged([1], [[5, 9], [6, 7]], [True, False], [0.0, 2.0], 0.5)]
    assert rounds.ranked(own, OnlineConfig(missing_eos_penalty=0)) == [Found([1], [6, 7], [5, 9], 2.0)]
    assert rounds.ranked(own, OnlineConfig(missing_eos_penalty=3)) == [Found([1], [5, 9], [6, 7], 1.0)]
    assert rounds.ranked(own, OnlineConfig(missing_eos_penalty=0, least_margin=2.0)) == []


def test_the_figures_of_a_round_by_hand() -> None:
    own = [rounds.Judged([1], [[5, 9], [6, 7, 8, 9]], [True, False], [0.0, 2.0], 0.5),
           rounds.Judged([1], [[5], [6]], [True, True], [1.0, 1.0], 0.1)]
    found = rounds.described(own)
    assert found == pytest.approx({"score": 1.0, "score_std": 0.5**0.5, "kl": 0.3, "kl_per_token": 0.2, "length": 2.0,
                                   "eos_rate": 0.75, "score_length_correlation": found["score_length_correlation"]})


def test_an_answer_that_the_reward_model_cannot_read_is_worth_no_more_than_the_least(home: Path) -> None:
    chat = models.load_chat(models.resolve(str(home / "base")))
    scorer = Likes("e")
    scorer.reads = lambda asked: ["x" not in answer for _, answer in asked]  # type: ignore[method-assign]
    answers = [[chat.answer_ids(text) for text in ("eee", "e", "exeee")]]
    assert rounds.filled(rounds.judged(chat, scorer, [tiny.tiny_prompt(0)], answers)) == [[3.0, 1.0, 1.0]]
    assert rounds.judged(chat, scorer, [], []) == []  # a process with no prompt of its own
    with pytest.raises(RunError, match="every answer is longer than the reward model can read"):
        rounds.filled([[nan, nan], []])


@pytest.mark.parametrize("count", [1, 4])
def test_several_processes_make_the_round_that_one_makes(home: Path, monkeypatch: pytest.MonkeyPatch,
                                                         count: int) -> None:
    """Of two, one has answers alone that cannot be read, or no prompt at all."""
    sft = models.resolve(str(home / "runs" / "sft"))
    model, chat = online.dpo.start(sft, models.ModelConfig(path=str(home / "runs" / "sft")), 0), models.load_chat(sft)
    models.add_adapter(model, "ref", sft.adapter, models.ModelConfig(path=str(home / "runs" / "sft")))
    prompts = [tiny.tiny_prompt(n) for n in range(count)]
    scorer = Likes("e")
    scorer.reads = lambda asked: [prompt not in prompts[1::2] for prompt, _ in asked]  # type: ignore[method-assign]

    def made() -> tuple[list[dict[str, Any]], dict[str, float]]:
        pairs, figures = rounds.made(model, chat, scorer, prompts, OnlineConfig(max_new_tokens=8), 7, 1)
        return pairs, {name: value for name, value in figures.items() if "seconds" not in name}

    def told(mine: list[rounds.Judged]) -> None:
        parts.append(mine)
        raise Met

    alone, parts = made(), []
    for rank in range(2):
        monkeypatch.setattr(rounds.ranks, "share", lambda things, rank=rank: list(things[rank::2]))
        monkeypatch.setattr(rounds.ranks, "from_all", told)
        with pytest.raises(Met):
            made()
    monkeypatch.setattr(rounds.ranks, "from_all", lambda mine: parts)
    pairs, figures = made()
    assert pairs == alone[0]
    assert figures == pytest.approx(alone[1], abs=1e-5)


def test_a_round_of_empty_answers_stops_the_run(home: Path) -> None:
    chat = models.load_chat(models.resolve(str(home / "base")))
    with pytest.raises(RunError, match="every answer is empty"):
        rounds.whole(chat, [rounds.Judged([1], [[chat.end_id]] * 2, [True, True], [0.0, 0.0], 0.0)])


def test_every_pair_is_dealt_before_one_comes_again() -> None:
    dealt = rounds.dealt(5, 12, 0, 3)
    assert sorted(dealt[:5]) == sorted(dealt[5:10]) == list(range(5))
    assert dealt != rounds.dealt(5, 12, 0, 4)
    assert dealt == rounds.dealt(5, 12, 0, 3)


@pytest.mark.parametrize(("overrides", "said"), [
    (["train.max_steps=3"], "online.rounds says how long"),
    (["train.precompute_ref_log_probs=true"], "pairs of its own"),
    (["data.majority=true"], "ranks answers of its own"),
    (["online.pairs=all", "train.loss_type=[ipo]"], "online.pairs=all: train.loss_type=ipo has no place"),
    (["online.answers=1"], "online.answers is at least 2"),
    (["online.temperature=0"], "above 0"),
    (["online.least_margin=-1"], "at least 0"),
    (["online.max_kl=0"], "above 0, or null"),
    (["online.pairs=best"], "expected 'extremes' or 'all'"),
    (["online.max_new_tokens=60"], "no prompt to train on"),
    (["online.reward=HOME/runs/sft"], "is no reward model"),
    (["online.reward=ftp://host"], "online.reward is such as http://HOST:PORT"),
    (["online.reward=http://127.0.0.1:9"], "online.reward: http://127.0.0.1:9: no answer"),
    (["online.reward=http://127.0.0.1:9", "online.token_file=HOME/none"],
     "online.token_file: HOME/none: No such file"),
    (["online.timeout=0"], "online.timeout is above 0"),
    (["online.patience=-1"], "online.patience at least 0"),
    (["online.rewards=x"], "did you mean online.reward?"),
    (["train.loss_type=[sft]"], "compares nothing"),
])
def test_a_wrong_request_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], overrides: list[str],
                                     said: str) -> None:
    capsys.readouterr()
    run = dpo_run(home, "wrong", *(one.replace("HOME", str(home)) for one in overrides), code=2)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("prefloop dpo: ")
    assert said.replace("HOME", str(home)) in message
    assert not run.exists()
