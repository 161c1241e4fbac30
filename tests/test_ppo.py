"""PPO through the command line, on a 2-layer model made on the spot whose reward likes one word."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from ppo_place import LIKED, Place, make_base, make_place, make_run, record
from transformers.models.llama.modeling_llama import LlamaMLP

from prefloop import checkpoints, cli, heads, models, runs
from prefloop.ppo import judging, rollout, trainer, update
from prefloop.ppo.actors import Actors, Critic
from prefloop.ppo.settings import PPOConfig


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("ppo"))


def adapter(path: Path) -> bytes:
    return (path / models.ADAPTER).read_bytes()


def test_ppo_raises_the_score(place: Place) -> None:
    asked = place.asked("run.name=learns", "train.rollouts=12", "train.episodes=64", "train.micro_batch=32",
                        "train.learning_rate=1e-2", "train.critic_learning_rate=1e-2", "train.save_every=5",
                        "train.target_approx_kl=0.1", "train.kl_coef=0.02")
    assert cli.main(asked) == 0
    path = place.folder / "learns"
    found = record(path)
    assert found["status"] == "done"
    assert found["metrics"]["score_gain_low"] > 0.5
    assert found["metrics"]["kl_low"] > 0
    assert set(found["checks"]) == {
        "KL at step 0", "log-probabilities", "EOS is scored", "scores and padding", "ratio", "policy weights",
        "critic weights", "sft is frozen", "reward is frozen", "reload checkpoint-5", "reload checkpoint-10",
        "reload checkpoint-12",
        "reload value", "reload final"}
    rows = runs.read_lines(path / "metrics.jsonl")
    assert [row["step"] for row in rows if "watch_score" in row] == [0, 10, 12]
    steps = [row for row in rows if "score" in row]
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert abs(steps[0]["kl"]) < 1e-4
    assert all(0 < row["entropy"] < math.log(22) and 0 <= row["eos_rate"] <= 1 for row in steps)
    assert steps[-1]["score"] > steps[0]["score"] + 0.5
    assert {row["when"] for row in runs.read_lines(path / "samples.jsonl")} == {"before", "after"}
    assert models.resolve(str(path)).stage == "ppo"
    liked = [row["answer"].split().count(LIKED) for row in runs.read_lines(path / "samples.jsonl")]
    assert sum(liked[len(liked) // 2 :]) > sum(liked[: len(liked) // 2])


def test_a_reward_that_is_not_finite_fails_the_run(place: Place, monkeypatch: pytest.MonkeyPatch,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    def poisoned(actors: Actors, prompts: Any, number: int, *given: Any) -> rollout.Rollout:
        if number == 2:
            assert isinstance(actors.judge, judging.OnBase)
            actors.judge.head.linear.bias.data.fill_(math.nan)
        return rollout.collect(actors, prompts, number, *given)

    monkeypatch.setattr(trainer, "collect", poisoned)
    assert cli.main(place.asked("run.name=nan", "train.save_every=1")) == 1
    path = place.folder / "nan"
    assert record(path)["status"] == "failed"
    assert checkpoints.newest(path) == path / "checkpoint-2"
    assert "checkpoint-2" in capsys.readouterr().err
    assert not (path / "final").exists()


def test_what_is_no_reward_model_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(place.asked("run.name=refused", f"reward.path={place.sft}")) == 2
    assert f"reward.path: {place.sft} is no reward model" in capsys.readouterr().err
    assert cli.main(place.asked("run.name=refused", f"watch.reward={place.sft}")) == 2
    assert f"watch.reward: {place.sft} is no reward model" in capsys.readouterr().err
    assert not (place.folder / "refused").exists()


@pytest.mark.parametrize(("override", "said"), [
    ("train.clip=0", "train.clip"), ("train.gamma=1.5", "train.gamma"), ("train.rollout=3", "train.rollouts"),
    ("train.critic_warmup=3", "critic_warmup"), ("train.minibatches=17", "minibatches"),
    ("train.kl_horizon=15 train.kl_target=6", "train.kl_horizon=15"),
    ("train.save_total_limit=0", "save_total_limit"), ("model.whole=true", "model.whole"),
    ("train.max_new_tokens=60", "context is 64"), ("train.max_prompt_tokens=2", "train.max_prompt_tokens=2")])
def test_a_wrong_request_is_one_line(place: Place, override: str, said: str,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(place.asked(*override.split())) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prefloop ppo:")]
    assert said in line


def test_a_base_fine_tuned_whole_is_its_own_reference(place: Place) -> None:
    whole = place.folder / "whole-sft"
    make_base(whole / "final", seed=2)
    models.seal(whole / "final", models.resolve(str(place.base)), "sft")
    checkpoints.write_json(whole / "run.json", {"stage": "sft", "status": "done"})
    reward = make_run(place.folder / "whole-reward", whole / "final", "reward")
    asked = place.asked("run.name=on-whole", f"model.path={whole}", f"reward.path={reward}", "train.rollouts=2")
    assert cli.main(asked) == 0
    checks = record(place.folder / "on-whole")["checks"]
    assert "reward is frozen" in checks
    assert "sft is frozen" not in checks


def test_four_bits(place: Place) -> None:
    """The base is NF4, what learns is fp32 before and after a step, and all of it survives the round trip."""
    made = place.trainer("nf4", four_bit=True, rollouts=1, save_every=1, critic_learning_rate=1e-3)
    assert sum(isinstance(module, Linear4bit) for module in made.actors.model.modules()) == 14
    assert {weight.dtype for weight in made.learner.policy + made.learner.critic} == {torch.float32}
    made.fit()
    assert {weight.dtype for weight in made.learner.policy + made.learner.critic} == {torch.float32}
    again = place.trainer("nf4-again", four_bit=True)
    again.restore(made.run.path / "checkpoint-1")
    learnt, read = made.learner, again.learner
    for own, loaded in zip(learnt.policy + learnt.critic, read.policy + read.critic, strict=True):
        assert torch.equal(own, loaded)
    assert again.done == 1


def gradients(made: trainer.Trainer) -> list[torch.Tensor]:
    """Of one minibatch, policy and critic."""
    batch, learner, tally = made.collect(), made.learner, update.Tally()
    (micros,) = rollout.split(list(map(len, batch.rows)), 0, 0, made.settings)
    assert abs(learner.policy_gradients(batch, micros, micros, tally)) < 1e-6
    learner.critic_gradients(batch, micros, micros, tally)
    return [weight.grad for weight in made.learner.policy + made.learner.critic if weight.grad is not None]


def test_gradients_do_not_depend_on_recomputing_or_on_micro_batches(place: Place) -> None:
    plain = gradients(place.trainer("plain"))
    assert len(plain) == 2 * (14 * 2) + 2
    recomputing = place.trainer("recomputed", gradient_checkpointing=True)
    recomputed: list[int] = []
    inner = next(m for m in recomputing.actors.model.modules() if isinstance(m, LlamaMLP))
    inner.register_forward_pre_hook(lambda *_: recomputed.append(torch._C._current_graph_task_id()))
    for own, other in zip(plain, gradients(recomputing), strict=True):
        assert torch.equal(own, other)
    assert sum(task >= 0 for task in recomputed) == 2 * 4  # in a backward pass: policy and critic, 4 micro-batches
    for own, other in zip(plain, gradients(place.trainer("by-ones", micro_batch=1)), strict=True):
        assert torch.allclose(own, other, atol=1e-6, rtol=1e-4)


def test_logits_in_chunks_change_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gradients(place.trainer("one-chunk"))
    monkeypatch.setattr("prefloop.passes.LOGITS_AT_ONCE", 22 * 5)
    for own, other in zip(plain, gradients(place.trainer("chunks")), strict=True):
        assert torch.allclose(own, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_critic_begins_as_the_reward_of_what_is_written_so_far(pooling: str) -> None:
    head = heads.Head(4, pooling)
    head.shift, head.scale = 0.3, 2.0
    critic = Critic(head)
    critic.span = 3.0
    hidden_BTH = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(0))
    before_BT = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0]]).bool()
    scaled_BT = ((head(hidden_BTH).squeeze(-1) - head.shift) / head.scale).tolist()
    own = [scaled_BT[0][2:7], scaled_BT[1][:2]]
    expected = [sum(row[: t + 1]) / max(t + 1, 3.0) if pooling == "mean" else row[t]
                for row in own for t in range(len(row))]
    assert critic(hidden_BTH, before_BT).tolist() == pytest.approx(expected, abs=1e-5)


def test_every_prompt_is_answered_once_a_pass_and_every_episode_learnt_from_once_an_epoch() -> None:
    settings = PPOConfig(episodes=6, minibatches=3, micro_batch=2)
    seen = [place for number in range(5) for place in rollout.places(10, number, settings)]
    for turn in range(3):
        assert sorted(seen[10 * turn : 10 * turn + 10]) == list(range(10))
    assert seen[:10] != seen[10:20]
    minibatches = rollout.split([5, 1, 4, 2, 3, 6], 0, 0, settings)
    assert sorted(n for part in minibatches for micro in part for n in micro) == list(range(6))
    assert len(minibatches) == 3
    assert minibatches != rollout.split([5, 1, 4, 2, 3, 6], 0, 1, settings)


def test_a_judging_that_ran_out_of_memory_is_known(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What judging sufficed for is what the update begins with, and the ratio is checked where cuts are alike."""
    made = place.trainer("cut", rollouts=2, micro_batch=8)
    logprobs = rollout.answer_logprobs

    def limited(actors: Actors, rows: list[list[int]], *given: Any, **named: Any) -> torch.Tensor:
        if len(rows) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return logprobs(actors, rows, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(rollout, "answer_logprobs", limited)
        first = made.collect()
        assert (first.cut, first.micro_batch, made.learner.micro_batch) == (True, 2, 2)
        made.learn(first)
        assert not made.learner.ratio_checked
        second = made.collect()
    assert not second.cut
    made.learn(second)
    assert made.learner.ratio_checked
    assert made.run.record["fitting"] == {"micro_batch": 2}
