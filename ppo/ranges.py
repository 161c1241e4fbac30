"""What is healthy: one table of PPO's metrics, warnings in words when one leaves its range, and reasons to stop.

docs/ppo.md has the table as `python -m prefloop.ppo.ranges` prints it. Sources: the questions and answers in TRL's
documentation, NeMo's and axolotl's notes on stable training, Ziegler et al. 2019 for the KL, and runs of our own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

Row = Mapping[str, float]
STRETCH = 5  # rows: what was outside in one of them is still the same stretch, so a value at the edge is told once
EXPLODED = 10.0  # times watch.max_kl


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, in a metric's own unit or against its first row: the ratio to it, or the difference.

    `low_says` and `high_says` are what it means to be outside, and what to do. `after` so many rollouts in which the
    policy learned it begins to count.
    """

    metric: str
    what: str
    low: float = -inf
    high: float = inf
    low_says: str = ""
    high_says: str = ""
    against: Literal["", "ratio", "difference"] = ""
    after: int = 0

    def value(self, row: Row, first: Row) -> float | None:
        if self.metric not in row or (self.against and self.metric not in first):
            return None
        value = row[self.metric]
        if self.against == "ratio":
            return value / first[self.metric] if first[self.metric] else None
        return value - first[self.metric] if self.against else value

    def told(self) -> str:
        """The range in words."""
        of = {"ratio": " times its first value", "difference": " from its first value", "": ""}[self.against]
        if self.low == -inf:
            return f"at most {self.high:g}{of}"
        return f"at least {self.low:g}{of}" if self.high == inf else f"{self.low:g} to {self.high:g}{of}"


FAST = "lower train.learning_rate"
HACKED = "read samples of it; the policy may have found what fools the reward: a second reward model (watch.reward)"
TABLE = (
    Range("score", "mean score of the answers, in spreads of the SFT model's", -1.0, 4.0,
          "the policy writes worse than where it began: lower train.learning_rate, or warm the critic up for longer",
          f"no model is so much better than the one it came from: {HACKED} would show it"),
    Range("score_std", "spread of the scores within a rollout", 0.05, 3.0,
          "answers hardly differ, so there is little to learn: the policy has collapsed, or the reward tells them "
          "apart by little",
          "a few answers have scores far from the others: look at them, and lower train.reward_clip"),
    Range("reward_clipped", "share of scores beyond train.reward_clip", high=0.05,
          high_says="differences beyond the clip teach nothing: look at what scores so far out"),
    Range("unread", "share of answers longer than the reward model reads", high=0.0,
          high_says="they count as bad ones; lower train.max_new_tokens, or take a reward model that reads more"),
    Range("kl", "KL from the SFT model, nats per answer", -0.5, 10.0,
          "it cannot be negative: the answers were not sampled as their probabilities are computed",
          "far from the SFT model a reward model is not to be believed: raise train.kl_coef, set train.kl_target=6, "
          "or lower train.learning_rate"),
    Range("kl_per_token", "the same per token", -0.05, 0.5,
          "it cannot be negative: the answers were not sampled as their probabilities are computed",
          "short answers that are far from the SFT model: raise train.kl_coef, or set train.kl_target"),
    Range("kl_coef", "price of a nat of KL", 0.001, 1.0,
          "the KL hardly costs anything: raise train.kl_coef, or lower train.kl_target where it is set",
          "the KL outweighs the reward: raise train.kl_target where it is set, or the policy runs away: "
          f"{FAST}"),
    Range("entropy", "nats per token of the answers' distribution", 0.02, inf,
          "the policy writes one answer to each prompt: it has collapsed; raise train.kl_coef, or go back"),
    Range("length", "mean length of the answers", 0.5, 1.5,
          "answers shrink: the reward may like short ones; look at score_length_correlation",
          "answers grow: the reward may like long ones; look at score_length_correlation", "ratio"),
    Range("eos_rate", "share of answers that ended by themselves", 0.7, inf,
          "many answers are cut: raise train.max_new_tokens or train.missing_eos_penalty, or train SFT for longer"),
    Range("score_length_correlation", "of scores and lengths within a rollout", -0.6, 0.6,
          "the reward likes short answers: its scores tell more about length than about quality",
          "the reward likes long answers: its scores tell more about length than about quality"),
    Range("explained_variance", "share of the returns' variance that the critic foresees", 0.0, 1.0,
          "the critic is worse than a constant: raise train.critic_warmup or train.critic_learning_rate", after=10),
    Range("value_loss", "half the critic's squared error", high=5.0, after=10,
          high_says="the critic is far off: lower train.critic_learning_rate, or raise train.critic_warmup"),
    Range("value_clip_fraction", "share of tokens where train.value_clip decides the critic's loss", high=0.5,
          after=10, high_says="the critic wants to move further than it may: lower train.critic_learning_rate"),
    Range("approx_kl", "KL of the policy from the one that sampled, per token", high=0.05,
          high_says=f"steps are too long for one rollout: {FAST}, or train.ppo_epochs"),
    Range("clip_fraction", "share of tokens where train.clip decides the policy's loss", high=0.3,
          high_says=f"steps are too long for one rollout: {FAST}, or train.ppo_epochs"),
    Range("ratio_max", "largest ratio to the policy that sampled", high=10.0,
          high_says=f"a token's probability has changed tenfold within one rollout: {FAST}"),
    Range("policy_steps", "steps that the policy took in a rollout", low=1.0,
          low_says=f"it rested at once: one step already goes past train.target_approx_kl; {FAST}"),
    Range("policy_grad_norm", "before clipping to train.max_grad_norm", high=10.0,
          high_says=f"gradients are clipped to a tenth and less: {FAST}, or larger rollouts (train.episodes)"),
    Range("critic_grad_norm", "before clipping to train.max_grad_norm", high=10.0, after=10,
          high_says="gradients are clipped to a tenth and less: lower train.critic_learning_rate"),
    Range("sampler_gap", "of the server's log-probabilities from ours, per token", high=0.02,
          high_says="the server holds another base, or holds it otherwise: sampler.max_gap ends the run"),
    Range("watch_score", "score on held-out prompts, against before training", -0.3, inf,
          "on prompts that it does not train on the policy is worse than the SFT model", "", "difference"),
    Range("watch_second", "the second reward model's score of the same answers", -0.1, inf,
          "by the second reward model the policy is worse than the SFT model: read samples of it; the policy may have "
          "found what fools the reward",
          "", "difference"),
    Range("watch_kl", "KL on held-out prompts, nats per answer", -0.5, 10.0,
          "it cannot be negative: the answers were not sampled as their probabilities are computed",
          "farther than watch.max_kl by default: such a policy is not kept as the best"),
    Range("watch_length", "length on held-out prompts", 0.5, 1.5, "answers shrink: read some",
          "answers grow: read some", "ratio"),
    Range("watch_eos_rate", "share of held-out answers that ended by themselves", 0.7, inf,
          "many answers are cut: raise train.max_new_tokens or train.missing_eos_penalty"),
    Range("watch_distinct", "share of distinct token pairs within an answer", 0.7, inf,
          "answers repeat themselves: raise train.kl_coef, and ask people about such answers", "", "ratio"),
    Range("watch_diversity", "share of distinct token pairs over all held-out answers", 0.5, inf,
          "answers to different prompts become alike: raise train.kl_coef, or go back", "", "ratio"),
)


def outside(row: Row, first: Row, warmup: int = 0) -> dict[str, str]:
    """What is out of range in a row of metrics, in words; `first` are the first values of each metric.

    While only the critic learns, in the first `warmup` rollouts, the policy has nothing to be ill with.
    """
    if row["step"] <= warmup:
        return {}
    found = {}
    for one in TABLE:
        value = one.value(row, first)
        if value is not None and row["step"] > warmup + one.after and not one.low <= value <= one.high:
            says = one.low_says if value < one.low else one.high_says
            was = f" (first {first[one.metric]:.3g})" if one.against else ""
            found[one.metric] = f"{one.metric} is {row[one.metric]:.3g}{was}, and healthy is {one.told()}: {says}"
    return found


def warnings(rows: Sequence[Row], warmup: int = 0) -> Iterator[str]:
    """What the last of a run's rows has to warn of and none of the rows shortly before had: once for each stretch."""
    first: dict[str, float] = {}
    for row in rows:
        first = {**row, **first}
    metrics = set(rows[-1])
    alike = [row for row in rows[:-1] if metrics & {one.metric for one in TABLE} & set(row)]
    told = {name for row in alike[-STRETCH:] for name in outside(row, first, warmup)}
    yield from (words for name, words in outside(rows[-1], first, warmup).items() if name not in told)


def reason_to_stop(row: Row, episodes: int, max_kl: float) -> str:
    """Why learning from a rollout with these metrics would be in vain; empty where it would not."""
    if row["length"] <= 1 and row["eos_rate"] == 1:
        return ("every answer of this rollout is empty: the policy ends at once; train SFT for longer, raise "
                "train.kl_coef, or look at whether the reward likes silence")
    if row["score_std"] == 0 and episodes > 1:
        return (f"every answer of this rollout has the same score, {row['score']:.4g}: nothing can be learned from a "
                "reward that is constant; look at what the reward model says (prefloop score)")
    if row["kl"] > EXPLODED * max_kl:
        return (f"the KL has exploded: {row['kl']:.0f} nats per answer, more than {EXPLODED:g} times watch.max_kl; "
                f"{FAST}, raise train.kl_coef, or set train.kl_target")
    return ""


def table() -> str:
    """The table of docs/ppo.md."""
    lines = ["| metric | what it is | healthy | when it is lower | when it is higher |", "|---|---|---|---|---|"]
    for one in TABLE:
        later = f", after {one.after} rollouts" if one.after else ""
        lines.append(f"| `{one.metric}` | {one.what} | {one.told()}{later} | {one.low_says or '-'} | "
                     f"{one.high_says or '-'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
