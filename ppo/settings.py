"""What PPO is asked for: the sections `train:`, `reward:`, `watch:` and `sampler:`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefloop import remote

LEAST_WATCHED = 8  # held-out prompts


@dataclass(frozen=True)
class RewardConfig:
    """`reward:` names the reward model whose scores PPO raises: a run of any kind, or a server as `prefloop serve`."""

    path: str | None = None
    url: str | None = None
    token_file: str | None = None
    timeout: float = 60.0
    patience: float = 300.0
    rows: int = 64
    rescale: bool | None = None

    def __post_init__(self) -> None:
        if not self.path and not self.url:
            raise ValueError("reward.path is missing: name a reward run, as `prefloop reward` makes them; or give "
                             "reward.url, a server as `prefloop serve` is one")
        if self.path and self.url:
            raise ValueError("reward.path and reward.url name two reward models; give one of them")
        if self.url:
            remote.require_url(self.url, "reward.url")
        if not 0 < self.timeout < float("inf") or not 0 <= self.patience < float("inf") or self.rows < 1:
            raise ValueError("reward.timeout is above 0 seconds, reward.patience at least 0, reward.rows at least 1")


@dataclass(frozen=True)
class WatchConfig:
    """`watch:` looks at held-out prompts every so many rollouts, if it can with a second reward model's eyes."""

    reward: str | None = None
    every: int | None = 10
    prompts: int = 64
    patience: int = 3
    max_kl: float = 10.0

    def __post_init__(self) -> None:
        if self.every is None and self.reward:
            raise ValueError("watch.reward never looks where watch.every is null; give a number of rollouts")
        if (self.every is not None and self.every < 1) or self.patience < 1:
            raise ValueError("watch.every and watch.patience are at least 1; watch.every=null does not watch")
        if self.prompts < LEAST_WATCHED:
            raise ValueError(f"watch.prompts is at least {LEAST_WATCHED}: fewer say nothing")
        if not 0 < self.max_kl < float("inf"):
            raise ValueError(f"watch.max_kl is a number of nats above 0, not {self.max_kl}")


@dataclass(frozen=True)
class SamplerConfig:
    """`sampler:` names a vLLM server that samples the rollouts; without one they are sampled in this process.

    Where the server's log-probabilities differ from ours by more than `max_gap` on average, the run stops.
    """

    url: str | None = None
    token_file: str | None = None
    timeout: float = 600.0
    patience: float = 300.0
    connections: int = 64
    importance_cap: float = 2.0
    max_gap: float = 0.05

    def __post_init__(self) -> None:
        if self.url is not None:
            remote.require_url(self.url, "sampler.url")
        if not 0 < self.timeout < float("inf") or not 0 <= self.patience < float("inf") or self.connections < 1:
            raise ValueError("sampler.timeout is above 0 seconds, sampler.patience at least 0, sampler.connections at "
                             "least 1")
        if not 1 <= self.importance_cap < float("inf") or not 0 < self.max_gap < float("inf"):
            raise ValueError("sampler.importance_cap is at least 1, and sampler.max_gap above 0")


@dataclass(frozen=True)
class PPOConfig:
    """`train:` of PPO. Rewards are in units of the reward run's spread; lengths are in tokens."""

    # How much is sampled, and how often each sample is used.
    rollouts: int = 200
    episodes: int = 256
    ppo_epochs: int = 2
    minibatches: int = 4
    micro_batch: int = 8
    sample_batch: int = 64
    max_prompt_tokens: int = 512
    max_new_tokens: int = 256
    temperature: float = 1.0

    # What an answer is held against: what a critic expected (PPO), or the other `answers` to its prompt.
    advantage: Literal["critic", "rloo", "grpo"] = "critic"
    answers: int | None = None

    # The two optimizers in one: policy and critic. Rates rise over `warmup` (a share of the run), then fall to 0.
    learning_rate: float = 2e-5
    critic_learning_rate: float = 1e-4
    warmup: float = 0.03
    critic_warmup: int = 2
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False

    # The reward of an episode, and how far the policy may go for it. With a target (nats per answer), kl_coef adapts.
    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: int = 10_000
    missing_eos_penalty: float = 1.0
    reward_clip: float = 5.0

    # PPO's own (Schulman et al. 2017). Past `target_approx_kl` the policy rests until the next rollout.
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    value_clip: float = 0.2
    target_approx_kl: float | None = 0.03

    seed: int = 0
    save_every: int = 10
    save_total_limit: int | None = 2

    def __post_init__(self) -> None:
        for name in ("rollouts", "episodes", "ppo_epochs", "minibatches", "micro_batch", "sample_batch",
                     "max_prompt_tokens", "max_new_tokens", "kl_horizon", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name} is at least 1, not {getattr(self, name)}")
        for name in ("temperature", "learning_rate", "critic_learning_rate", "max_grad_norm", "reward_clip", "clip",
                     "value_clip"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"train.{name} is a finite number above 0, not {getattr(self, name)}")
        for name in ("gamma", "lam", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"train.{name} is between 0 and 1, not {getattr(self, name)}")
        for name in ("kl_coef", "missing_eos_penalty", "critic_warmup"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"train.{name} is at least 0, not {getattr(self, name)}")
        for name in ("kl_target", "target_approx_kl", "save_total_limit"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"train.{name} is above 0, or null for none, not {getattr(self, name)}")
        if self.minibatches > self.episodes:
            raise ValueError(f"train.minibatches={self.minibatches} is more than train.episodes={self.episodes}")
        if self.per_prompt < (1 if self.critic else 2) or self.episodes % self.per_prompt:
            raise ValueError(f"train.answers={self.per_prompt}: train.advantage={self.advantage} takes "
                             f"{1 if self.critic else 2} or more answers to a prompt, and train.episodes="
                             f"{self.episodes} is a multiple of them")
        if self.kl_target is not None and self.kl_horizon < self.episodes:
            raise ValueError(f"train.kl_horizon={self.kl_horizon} is at least train.episodes={self.episodes}: one "
                             f"rollout would change kl_coef by more than it is")
        if self.critic and self.critic_warmup >= self.rollouts:
            raise ValueError(f"train.critic_warmup={self.critic_warmup} leaves no rollout of "
                             f"{self.rollouts} to train the policy")

    @property
    def critic(self) -> bool:
        """Whether there is one."""
        return self.advantage == "critic"

    @property
    def per_prompt(self) -> int:
        """How many answers each prompt of a rollout gets."""
        return self.answers if self.answers is not None else 1 if self.critic else 4
