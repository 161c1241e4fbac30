"""RLOO and GRPO in PPO's loop: TRL's trainers, given the same rows, find the same advantages, loss and gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from ppo_place import Place, make_place, record
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from prefloop import cli, models, runs
from prefloop.ppo import loss, rollout, update
from prefloop.ppo.settings import PPOConfig
from prefloop.ppo.trainer import Trainer

TRAINERS: dict[str, tuple[Any, Any]] = {"rloo": (RLOOTrainer, RLOOConfig), "grpo": (GRPOTrainer, GRPOConfig)}
ANSWERS, KL_COEF, CLIP = 4, 0.3, 0.2


def test_leave_one_out_by_hand() -> None:
    advantages_B = loss.leave_one_out(torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0]), 3)
    assert advantages_B.tolist() == [1 - 4, 2 - 3.5, 6 - 1.5, 0, 0, 0]


def test_group_relative_by_hand() -> None:
    advantages_B = loss.group_relative(torch.tensor([1.0, 3.0, 7.0, 7.0]), 2)
    spread = 2**0.5 + 1e-4  # of 1 and 3, with Bessel's correction
    assert advantages_B.tolist() == pytest.approx([-1 / spread, 1 / spread, 0, 0])


def test_penalised_by_hand() -> None:
    logprobs_BT, reference_BT = torch.tensor([[-1.0, -2.0], [-3.0, 9.0]]), torch.tensor([[-2.0, -4.0], [-2.0, 1.0]])
    mask_BT = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    assert loss.penalised(torch.tensor([5.0, 5.0]), logprobs_BT, reference_BT, mask_BT, 0.5).tolist() == [3.5, 5.5]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("ppo"))


@pytest.fixture
def moved(place: Place, request: pytest.FixtureRequest) -> Trainer:
    """Our trainer, whose policy is no longer its reference."""
    kind = request.node.callspec.params["kind"]
    made = place.trainer(f"oracle-{kind}", advantage=kind, episodes=16, micro_batch=16, kl_coef=KL_COEF, clip=CLIP,
                         target_approx_kl=None)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.learner.policy:
            weight += 0.02 * torch.randn(weight.shape, generator=noise)
    return made


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_trl_finds_the_same(kind: str, moved: Trainer, place: Place, tmp_path: Path) -> None:
    batch = moved.collect()
    theirs, inputs = trl_inputs(kind, moved, batch, place, tmp_path)
    assert torch.allclose(inputs["advantages"], batch.advantages_BT[:, 0], atol=1e-4)
    with torch.no_grad():  # a step later: the ratio is no longer 1
        for name, own in theirs.model.named_parameters():
            if ".default." in name:
                step = 0.01 * torch.randn(own.shape, generator=torch.Generator().manual_seed(own.numel()))
                own += step
                dict(moved.actors.model.named_parameters())[name.replace(".default.", ".policy.")].add_(step)
    their_loss = theirs._compute_loss(theirs.model, inputs)
    their_loss.backward()
    (part,) = rollout.split(list(map(len, batch.rows)), 0, 0, moved.settings)
    moved.learner.ratio_checked = True  # it is not 1 here, by design
    moved.learner.policy_gradients(batch, part, part, update.Tally())
    ours = {name.replace(".policy.", ".default."): own.grad for name, own in moved.actors.model.named_parameters()
            if ".policy." in name}
    compared = {name: own.grad for name, own in theirs.model.named_parameters() if ".default." in name}
    assert max(float(grad.abs().max()) for grad in compared.values()) > 1e-3
    for name, grad in compared.items():
        own = ours[name]
        assert own is not None
        assert torch.allclose(grad, own, atol=1e-5, rtol=1e-3), name


def trl_inputs(kind: str, ours: Trainer, batch: rollout.Rollout, place: Place,
               folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """TRL's trainer on a model of its own with our adapters' weights, and what it makes of our rows and rewards."""
    trainer_class, config_class = TRAINERS[kind]
    checkpoint, model_config = models.resolve(str(place.sft)), models.ModelConfig(path=str(place.sft))
    model: PeftModel = models.add_adapter(models.load_base(checkpoint, model_config), "default", checkpoint.adapter,
                                          model_config)
    models.train_only(model, {"default"})
    rewards_B = loss.terminal_rewards(batch.scores_B, batch.ended_B, ours.settings.reward_clip,
                                      ours.settings.missing_eos_penalty)
    count = len(batch.rows)
    args = config_class(output_dir=str(folder), num_generations=ANSWERS, per_device_train_batch_size=count,
                        beta=KL_COEF, epsilon=CLIP, max_completion_length=8, report_to="none", use_cpu=True,
                        bf16=False, gradient_checkpointing=False, num_iterations=2)
    theirs = trainer_class(model, reward_funcs=lambda **_: rewards_B.tolist(), args=args,
                           train_dataset=Dataset.from_dict({"prompt": ["w1"] * count}),
                           processing_class=ours.actors.chat.tokenizer)
    held = dict(ours.actors.model.named_parameters())
    with torch.no_grad():
        for name, own in theirs.model.named_parameters():
            for here, there in ((".default.", ".policy."), (".ref.", ".sft.")):
                if here in name:
                    own.copy_(held[name.replace(here, there)])
    prompts = [row[:start] for row, start in zip(batch.rows, batch.starts, strict=True)]
    answers = [row[start:] for row, start in zip(batch.rows, batch.starts, strict=True)]
    texts = ["" for _ in answers]
    told = {"rloo": (prompts, answers, texts), "grpo": (prompts, answers, None, texts, None, {}, None, None)}
    theirs._generate = lambda _: told[kind]
    theirs.current_gradient_accumulation_steps = 1
    theirs.model.train()
    return theirs, theirs._generate_and_score_completions([{"prompt": "w1"}] * count)


@pytest.mark.parametrize("kind", ["rloo", "grpo"])
def test_the_score_rises_without_a_critic(kind: str, place: Place) -> None:
    asked = place.asked(f"run.name={kind}", f"train.advantage={kind}", "train.rollouts=12", "train.episodes=64",
                        "train.micro_batch=32", "train.learning_rate=1e-2", "train.target_approx_kl=0.1",
                        "train.kl_coef=0.02", "train.critic_warmup=20")
    assert cli.main(asked) == 0
    run = place.folder / kind
    assert record(run)["metrics"]["score_gain_low"] > 0.5
    rows = [row for row in runs.read_lines(run / "metrics.jsonl") if "score" in row]
    assert rows[-1]["score"] > rows[0]["score"] + 0.5
    critics = {"explained_variance", "value_loss", "value_clip_fraction", "critic_grad_norm"}
    assert rows[0].keys() & critics == set()
    assert {"kl", "approx_kl", "clip_fraction", "policy_grad_norm", "eos_rate", "entropy"} <= rows[0].keys()
    assert not list(run.glob("checkpoint-*/value"))


def test_answers_to_one_prompt_stand_together() -> None:
    settings = PPOConfig(episodes=12, minibatches=2, advantage="rloo", answers=3)
    chosen = [one for number in range(5) for one in rollout.places(10, number, settings)]
    asked = chosen[::3]
    assert chosen == [one for one in asked for _ in range(3)]
    assert sorted(asked[:10]) == sorted(asked[10:20]) == list(range(10))


def test_settings_that_make_no_groups_are_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    for override in ("train.answers=1", "train.answers=3", "train.answers=0"):
        assert cli.main(place.asked("train.advantage=rloo", "train.episodes=16", override)) == 2
        assert "multiple of them" in capsys.readouterr().err
    assert cli.main(place.asked("train.advantage=gae")) == 2
    assert "critic" in capsys.readouterr().err
