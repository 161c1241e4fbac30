"""The watch against reward hacking: held-out prompts, always the same with the same random numbers, every so often.

The policy is trained to raise the first reward model's score, the proxy. Where a second model, which it never trained
against, does not follow while the proxy still rises, the policy has begun to please the first model only: the run
stops, and the best policy by the second model is kept. All that it knows is `seen`, which checkpoints hold.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from prefloop import stats

from .actors import Actors
from .held_out import judged, mean
from .judging import Judge
from .settings import PPOConfig, WatchConfig


@dataclass(frozen=True)
class Evaluation:
    """What was seen after `step` rollouts: scores by prompt, of the proxy and of the second model, if there is one."""

    step: int
    scores: list[float]
    seconds: list[float]
    kl: float
    length: float
    eos_rate: float
    distinct: float
    diversity: float

    def row(self) -> dict[str, float]:
        """For metrics.jsonl."""
        own = {"score": mean(self.scores)} | ({"second": mean(self.seconds)} if self.seconds else {})
        own |= {name: getattr(self, name) for name in ("kl", "length", "eos_rate", "distinct", "diversity")}
        return {"step": self.step, **{f"watch_{name}": value for name, value in own.items()}}


@dataclass
class Watch:
    settings: WatchConfig
    prompts: list[list[int]]
    second: Judge | None = None
    seen: list[Evaluation] = field(default_factory=list)

    def due(self, step: int, last: bool) -> bool:
        """Before training, every `every` rollouts, and at the end; each once."""
        every = self.settings.every
        if every is None or not self.prompts or (self.seen and self.seen[-1].step >= step):
            return False
        return last or step % every == 0

    def look(self, actors: Actors, step: int, settings: PPOConfig) -> dict[str, float]:
        """See how the policy does now; returns the row of metrics."""
        found = judged(actors, actors.policy, self.prompts, settings, self.second)
        self.seen.append(Evaluation(step, found.scores, found.seconds, mean(found.kls), mean(found.lengths),
                                    mean(found.ended), mean(list(map(distinct, found.answers))),
                                    distinct_over(found.answers)))
        return self.seen[-1].row()

    def hacked(self) -> str:
        return hacking(self.seen, self.settings.patience) if self.second else ""

    def best(self) -> int | None:
        """After how many rollouts the policy was best by the second model; None where there is none to say."""
        return best(self.seen, self.settings.max_kl) if self.second and self.seen else None

    def knows(self, row: dict[str, Any]) -> bool:
        """Whether this row of metrics is one that it has made, or none of its own."""
        return "watch_score" not in row or any(one.step == row["step"] for one in self.seen)

    def state(self) -> list[dict[str, Any]]:
        return [asdict(one) for one in self.seen]

    def restore(self, state: list[dict[str, Any]]) -> None:
        self.seen = [Evaluation(**one) for one in state]


def hacking(seen: list[Evaluation], patience: int) -> str:
    """In words, that the proxy has risen since the second model's best and the second has not, for `patience` looks.

    Scores are compared prompt by prompt, and the proxy's rise counts where its 95% interval is above 0: where both
    stand still there is no hacking, whatever the noise does.
    """
    peak = max(range(len(seen)), key=lambda n: mean(seen[n].seconds))
    last = seen[-1]
    if len(seen) - 1 - peak < patience:
        return ""
    rise = stats.paired_difference(last.scores, seen[peak].scores)
    if rise.low <= 0:
        return ""
    fall = stats.paired_difference(last.seconds, seen[peak].seconds)
    return (f"reward hacking: since rollout {seen[peak].step} the reward has risen by {rise.value:.2f} (at least "
            f"{rise.low:.2f}) and the second reward model's score has changed by {fall.value:.2f}, over "
            f"{len(seen) - 1 - peak} evaluations")


def best(seen: list[Evaluation], max_kl: float) -> int:
    """The step with the highest score of the second model, among those within `max_kl`; before training it is 0."""
    near = [one for one in seen if one.kl <= max_kl]
    return max(near, key=lambda one: mean(one.seconds)).step if near else seen[0].step


def pairs(answer: list[int]) -> list[tuple[int, int]]:
    return list(pairwise(answer))


def distinct(answer: list[int]) -> float:
    """Share of an answer's pairs of tokens that are distinct (distinct-2, Li et al. 2016); 1 where it has none."""
    own = pairs(answer)
    return len(set(own)) / len(own) if own else 1.0


def distinct_over(answers: list[list[int]]) -> float:
    """The same over all answers together: low where answers to different prompts are alike."""
    own = [pair for answer in answers for pair in pairs(answer)]
    return len(set(own)) / len(own) if own else 1.0
