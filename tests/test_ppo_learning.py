"""Twenty updates of PPO: who learns has learnt, who is frozen has not moved by a bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft.utils import get_peft_model_state_dict
from ppo_place import Place, make_place
from safetensors.torch import load_file

from prefloop import models
from prefloop.ppo.trainer import Trainer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("ppo-learning"))


def held(made: Trainer, role: str) -> dict[str, torch.Tensor]:
    weights = get_peft_model_state_dict(made.actors.model, adapter_name=role)
    return {key: weight.detach().clone() for key, weight in weights.items()}


def saved(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / models.ADAPTER)


def test_after_twenty_updates(place: Place) -> None:
    made = place.trainer("twenty", rollouts=20, episodes=32, micro_batch=16, critic_learning_rate=3e-3)
    began = {role: held(made, role) for role in ("policy", "value")}
    critic = made.actors.critic
    assert critic is not None
    head = critic.head.linear.weight.detach().clone()
    told = [made.learn(made.collect()) for _ in range(20)]
    for role, weights in began.items():
        now = held(made, role)
        moved = [float((now[key] != weight).float().mean()) for key, weight in weights.items()]
        assert min(moved) > 0.95, role
    assert not torch.equal(critic.head.linear.weight, head)
    for role, run in (("sft", place.sft), ("reward", place.reward)):
        now, disk = held(made, role), saved(run)
        assert now.keys() == disk.keys()
        assert all(torch.equal(now[key], weight) for key, weight in disk.items()), role
    assert sum(row["explained_variance"] for row in told[-5:]) / 5 > 0.2
    assert told[-1]["score"] > told[0]["score"]
