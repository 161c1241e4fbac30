"""One way to score by a reward model of any kind: the order of what was asked, and everything that asks through it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny_loop import Loop

from prefloop import heads, linear, models, scoring
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Message, Prompt
from prefloop.reward import linear as learning
from prefloop.reward.judgements import gathered


@pytest.fixture(scope="module")
def judge(loop: Loop) -> Path:
    """A linear reward model, as its training leaves it."""
    folder = loop.root / "linear"
    linear.save(learning.learn(gathered(snapshot.read(loop.root / "data").rankings_of("train"))).scorer, folder)
    models.seal(folder, models.resolve(str(loop.root / "base")), "reward")
    return folder


def test_scores_come_back_in_the_order_asked_and_prompts_stay_together() -> None:
    prompts = [Prompt((Message("user", f"{'long ' * (n % 3)}question {n}"),)) for n in range(7)]
    asked = [(prompts[n % 7], "word " * (n * 5 % 11)) for n in range(60)]
    seen: list[Prompt] = []

    class Counting:
        objectives = ("overall",)

        def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> scoring.Scores:
            seen.extend(prompt for prompt, _ in asked)
            return scoring.of_one([len(prompt.messages[0].content) * 1000 + len(text) for prompt, text in asked])

    found = scoring.scored(Counting(), asked, 1)  # type: ignore[arg-type]
    assert found.mean_N.tolist() == [len(prompt.messages[0].content) * 1000 + len(text) for prompt, text in asked]
    assert found.objectives_ND.shape == (60, 1)
    changes = sum(one != other for one, other in pairwise(seen))
    assert changes == 6


def test_mean_spread_and_objectives_by_hand() -> None:
    """Two objectives, weighted 1 and 2, of three members; raw score minus zero, over unit; then shift and scale."""
    head = heads.Head(4, objectives={"overall": 1.0, "kind": 2.0}, members=3)
    head.zeros_DE, head.units_D = torch.tensor([[1.0, 1, 1], [0, 0, 0]]), torch.tensor([1.0, 2.0])
    head.shift, head.scale = 1.0, 2.0
    found = scoring.of_head(head, torch.tensor([[2.0, 3, 4, 2, 4, 6]]))
    members = [((2 - 1) + 2 * 1 - 1) / 2, ((3 - 1) + 2 * 2 - 1) / 2, ((4 - 1) + 2 * 3 - 1) / 2]
    assert found.mean_N[0] == pytest.approx(np.mean(members))
    assert found.spread_N[0] == pytest.approx(np.std(members))
    assert found.objectives_ND[0].tolist() == pytest.approx([2.0, 2.0])


def test_everything_takes_the_linear_kind(judge: Path, loop: Loop, tmp_path: Path) -> None:
    assert tiny.launch("score", f"model.path={judge}", f"score.answers={loop.root / 'data'}",
                       f"score.out={tmp_path / 'scores.jsonl'}") == 0
    by_text = {row["text"]: row["score"] for row in map(json.loads, (tmp_path / "scores.jsonl").open())}
    nice = [score for text, score in by_text.items() if text.endswith("nice")]
    nasty = [score for text, score in by_text.items() if text.endswith("nasty")]
    assert np.mean(nice) > np.mean(nasty) + 1
    assert tiny.launch("probe", f"model.path={judge}", f"probe.data={loop.root / 'data'}", "probe.split=train",
                       "probe.pairs=20", f"probe.out={tmp_path / 'p.json'}") == 0
    found = {row["name"]: row for row in json.loads((tmp_path / "p.json").read_text())["probes"]}
    assert found["position"]["verdict"] == "passed"
    assert tiny.launch("compare", f"compare.runs=[{loop.root / 'runs/sft'},{loop.root / 'base'}]",
                       f"compare.reward={judge}", f"data.path={loop.root / 'data'}", "compare.split=train",
                       "compare.allow_overlap=true",
                       "compare.limit=3", "sampling.max_new_tokens=4", f"run.root={tmp_path}") in (0, 3, 4)
    loop.run("ppo", "p", f"reward.path={judge}", f"watch.reward={loop.root / 'runs/reward'}", root=tmp_path)
    loop.run("ppo", "q", f"watch.reward={judge}", root=tmp_path)


@pytest.mark.parametrize(("path", "told"), [
    ("nowhere/at/all", "there is no such folder"), ("BASE", "a plain model is no reward model"),
    ("runs/sft", "is no reward model; name a reward run"), ("data", "a snapshot of data"),
    ("runs/reward/checkpoint-1/adapter_model.safetensors", "a file, where")])
def test_what_is_no_reward_model_is_told(loop: Loop, path: str, told: str) -> None:
    where = str(loop.root / path.replace("BASE", "base"))
    with pytest.raises(RequestError, match=told):
        scoring.load(where, models.ModelConfig(where))


def test_an_answer_past_the_context_is_not_read_in_silence(loop: Loop) -> None:
    path = str(loop.root / "runs/reward")
    scorer = scoring.load(path, models.ModelConfig(path))
    asked = [(Prompt((Message("user", "Q"),)), "x " * n) for n in (10, 600)]
    assert scorer.reads(asked) == [True, False]
    with pytest.raises(RequestError, match=r"answer '(x ){20}'\.\.\. to 'Q' is longer"):
        scorer.score(asked)
    assert scorer.taken_for_structure() == 0
