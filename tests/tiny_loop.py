"""A tiny run of each stage, as tests ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tiny

SHORT = {
    "sft": ("train.per_device_train_batch_size=4", "train.max_length=64", "train.learning_rate=0.01",
            "model.lora_r=4"),
    "reward": ("train.per_device_train_batch_size=4", "train.max_length=64", "train.learning_rate=0.01",
               "model.lora_r=4"),
    "dpo": ("train.per_device_train_batch_size=4", "train.max_length=64", "train.learning_rate=0.001"),
    "ppo": ("train.episodes=8", "train.ppo_epochs=1", "train.minibatches=1", "train.micro_batch=4",
            "train.max_prompt_tokens=48", "train.max_new_tokens=6", "train.critic_warmup=0",
            "train.learning_rate=0.001", "train.critic_learning_rate=0.001"),
}
STEPS = {"sft": "train.max_steps", "reward": "train.max_steps", "dpo": "train.max_steps", "ppo": "train.rollouts"}
EVERY = {"sft": "train.save_steps", "reward": "train.save_steps", "dpo": "train.save_steps", "ppo": "train.save_every"}


@dataclass(frozen=True)
class Loop:
    """A base, a snapshot, and a finished run of each stage, named as the stage, with a checkpoint at every step."""

    root: Path

    def asked(self, stage: str, name: str, *overrides: str, root: Path | None = None, steps: int = 2) -> list[str]:
        start = self.root / ("base" if stage == "sft" else "runs/sft")
        reward = [f"reward.path={self.root / 'runs/reward'}"] if stage == "ppo" else []
        return [stage, f"model.path={start}", *reward, f"data.path={self.root / 'data'}",
                f"run.root={root or self.root / 'runs'}", f"run.name={name}", f"{STEPS[stage]}={steps}",
                f"{EVERY[stage]}=1", *SHORT[stage], *overrides]

    def run(self, stage: str, name: str, *overrides: str, root: Path | None = None, steps: int = 2,
            code: int = 0) -> Path:
        assert tiny.launch(*self.asked(stage, name, *overrides, root=root, steps=steps)) == code
        return (root or self.root / "runs") / name
