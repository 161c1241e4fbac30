"""What a reward model is asked to make likely: the `loss:` section, the numbers learned with it, and their sum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import softplus

from prefloop.heads import OVERALL
from prefloop.records import STRENGTHS

from . import loss
from .groups import Judged, Tokens, levels_of
from .judgements import Judgement

LEARNED = "loss.safetensors"


@dataclass(frozen=True)
class LossConfig:
    """`loss:`. What each choice means stands in configs/reward.yaml."""

    kind: Literal["pairs", "plackett_luce"] = "pairs"
    ties: Literal["ignore", "davidson", "rao_kupper"] = "davidson"
    strength: Literal["ignore", "thresholds", "margin", "scaled"] = "thresholds"
    margins: tuple[float, ...] = (0.0, 0.33, 0.67, 1.0)
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25)
    acceptable: bool = False
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.kind == "plackett_luce" and self.ties == "rao_kupper":
            raise ValueError("loss.ties=rao_kupper is a model of pairs; with loss.kind=plackett_luce take davidson")
        for name in ("margins", "scales"):
            given = getattr(self, name)
            if len(given) != len(STRENGTHS) or not all(
                    isinstance(one, int | float) and 0 <= one < math.inf for one in given):
                raise ValueError(f"loss.{name} has a number from 0 for each of {', '.join(STRENGTHS)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError("loss.learning_rate is above 0")


class Criterion(nn.Module):
    """The loss of a batch, with what is learned beside the head: how easily raters tie, when they call a preference
    strong, and how good the acceptable is. D objectives, each with ties of its own.

    Learned numbers begin where the training data says, as if all answers were alike: `loss.learning_rate` is theirs.
    """

    def __init__(self, config: LossConfig, objectives: Sequence[str], groups: Sequence[Tokens]) -> None:
        super().__init__()
        self.config, self.objectives = config, tuple(objectives)
        found = [_ties(groups, name) for name in self.objectives]
        self.largest = max(size for size, _ in found) if config.ties != "ignore" else 1
        sizes = 0 if self.largest == 1 else self.largest - 1 if config.kind == "plackett_luce" else 1
        shares = torch.tensor([share for _, share in found])
        begin_D = {"davidson": torch.log(2 * shares / (1 - shares)),  # P(tie) = nu / (2 + nu)
                   "rao_kupper": _unsoftplus(torch.log((1 + shares) / (1 - shares))),  # (theta - 1) / (theta + 1)
                   "ignore": shares}[config.ties]
        self.ties_DS = nn.Parameter(begin_D[:, None].repeat(1, sizes), requires_grad=sizes > 0)
        steps = _unsoftplus(torch.full((len(STRENGTHS) - 1,), 0.5))
        self.steps_3 = nn.Parameter(steps) if config.strength == "thresholds" else None
        self.tau = nn.Parameter(torch.zeros(())) if config.acceptable else None

    def cuts(self) -> Tensor:
        """The ordered thresholds of strength, in nats of score above an even choice."""
        assert self.steps_3 is not None
        return (softplus(self.steps_3) + 1e-3).cumsum(0)

    def forward(self, scores_RDE: Tensor, judged: Judged) -> Tensor:
        """The sum over a batch's prompts, each the mean over its judgements; a mean over the ensemble's members.

        scores_RDE: raw scores of the batch's rows. Divide by the prompts of the whole step.
        """
        total = scores_RDE.new_zeros(())
        for d, name in enumerate(self.objectives):
            scores_EJK = scores_RDE[:, d].T[:, judged.rows_JK]
            nll_EJ = self._of(scores_EJK + judged.offsets_JK, judged.levels_DJK[d], judged, d)
            if name == OVERALL:
                nll_EJ = nll_EJ + self._beside(scores_EJK + judged.offsets_JK, scores_EJK, judged)
            total = total + (nll_EJ * judged.shares_EJ).sum() / len(judged.shares_EJ)
        return total

    def _of(self, scores_EJK: Tensor, levels_JK: Tensor, judged: Judged, d: int) -> Tensor:
        eta_J, strength_J = judged.reliability_J, judged.strength_J
        if self.config.strength == "margin" and self.objectives[d] == OVERALL:
            scores_EJK = scores_EJK + loss.margins(levels_JK, _by_strength(self.config.margins, strength_J, 0.0))
        ties_S = self.ties_DS[d]
        if self.config.kind == "plackett_luce":
            nll_EJ = loss.plackett_luce(scores_EJK, levels_JK, eta_J, log_outcomes(levels_JK, self.largest),
                                        ties_S if len(ties_S) else None)
        elif len(ties_S) and self.config.ties == "rao_kupper":
            nll_EJ = loss.pairs(scores_EJK, levels_JK, eta_J, rao_kupper=softplus(ties_S[0]) + 1e-3)
        else:
            nll_EJ = loss.pairs(scores_EJK, levels_JK, eta_J, davidson=ties_S[0] if len(ties_S) else None)
        if self.config.strength == "scaled" and self.objectives[d] == OVERALL:
            nll_EJ = nll_EJ * _by_strength(self.config.scales, strength_J, 1.0)
        return nll_EJ

    def _beside(self, scores_EJK: Tensor, plain_EJK: Tensor, judged: Judged) -> Tensor:
        """What a ranking says besides its order. Where an answer stood on the page makes it no more acceptable."""
        levels_JK, eta_J = judged.levels_DJK[self.objectives.index(OVERALL)], judged.reliability_J
        nll_EJ = scores_EJK.new_zeros(())
        if self.steps_3 is not None:
            nll_EJ = nll_EJ + loss.strength(scores_EJK, levels_JK, judged.strength_J, eta_J, self.cuts())
        if self.tau is not None:
            nll_EJ = nll_EJ + loss.acceptable(plain_EJK, levels_JK, judged.none_J, eta_J, self.tau)
        return nll_EJ

    def learned(self) -> dict[str, float | list[float]]:
        """The learned numbers as people read them, for the run's record."""
        found: dict[str, float | list[float]] = {}
        for name, ties_S in zip(self.objectives, self.ties_DS.detach(), strict=True):
            if len(ties_S) and self.config.ties == "davidson":
                found[f"tie nu of {name}"] = [round(value, 4) for value in ties_S.exp().tolist()]
            elif len(ties_S):
                found[f"tie theta of {name}"] = round(float((softplus(ties_S[0]) + 1e-3).exp()), 4)
        if self.steps_3 is not None:
            found["strength thresholds"] = [round(value, 4) for value in self.cuts().tolist()]
        if self.tau is not None:
            found["acceptable above"] = round(float(self.tau), 4)
        return found

    def save(self, folder: Path) -> None:
        save_file({key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()},
                  folder / LEARNED)

    def restore(self, folder: Path) -> None:
        self.load_state_dict(load_file(folder / LEARNED))


def says(config: LossConfig, objectives: Sequence[str], judgement: Judgement) -> bool:
    """Whether a judgement says anything to this loss: that an answer is better, perhaps that two are alike, perhaps
    that none is acceptable."""
    def speaks(own: Sequence[int | None]) -> bool:
        ranked = [rank for rank in own if rank is not None]
        decides = len(set(ranked)) > 1 or 0 < len(ranked) < len(own)
        return decides or (config.ties != "ignore" and len(ranked) > 1)

    dimensions = {OVERALL: judgement.ranks, **judgement.dimensions}
    return (config.acceptable and OVERALL in objectives) or any(
        speaks(dimensions[name]) for name in objectives if name in dimensions)


def log_outcomes(levels_JK: Tensor, largest: int) -> Tensor:
    """How many rankings of as many answers there could have been, in logarithms."""
    real_J = (levels_JK != loss.NOBODY).sum(-1).tolist()
    left_J = (levels_JK == loss.UNRANKED).sum(-1).tolist()
    counted = [loss.outcomes(*one, largest) for one in zip(real_J, left_J, strict=True)]
    return torch.tensor([math.log(count) for count in counted], device=levels_JK.device)


def _ties(groups: Sequence[Tokens], objective: str) -> tuple[int, float]:
    """The largest tie, and the share of ties among two ranked answers, one pair added to each side."""
    largest, tied, pairs = 1, 1, 2
    for group in groups:
        for judgement in group.judgements:
            own = levels_of(judgement, objective)
            ranked = [level for level in own if level not in (loss.UNRANKED, loss.NOBODY)]
            sizes = [ranked.count(level) for level in set(ranked)]
            largest = max([largest, *sizes])
            tied += sum(math.comb(size, 2) for size in sizes)
            pairs += math.comb(len(ranked), 2)
    return largest, tied / pairs


def _by_strength(values: Sequence[float], strength_J: Tensor, otherwise: float) -> Tensor:
    """The value of each judgement's strength, or `otherwise` where none was said."""
    return torch.tensor([*values, otherwise], device=strength_J.device)[strength_J]


def _unsoftplus(value: Tensor) -> Tensor:
    return torch.log(torch.expm1(value))
