"""What a reward run can be asked for: its sections, and how they belong together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from trl import RewardConfig

from prefloop import config, heads, models, ranks, runs, training
from prefloop.errors import RequestError

from .assess import EvaluateConfig
from .criterion import LossConfig
from .raters import RatersConfig


@dataclass(frozen=True)
class KindConfig(models.ModelConfig):
    """`model:` of a reward run. `kind` is an adapter and a head on the policy's base, a small encoder trained whole,
    or a linear model on words and length, which starts from nothing."""

    kind: Literal["adapter", "encoder", "linear"] = "adapter"

    def __post_init__(self) -> None:
        if self.kind != "linear":
            super().__post_init__()
        if self.whole:
            raise ValueError("model.whole: a reward model is an adapter, or model.kind=encoder: leave it out")
        if self.kind == "encoder" and (self.four_bit or self.dtype == "bfloat16"):
            raise ValueError("model.kind=encoder is trained whole in fp32; leave out model.four_bit and model.dtype")


@dataclass(frozen=True)
class HeadConfig:
    """`head:`. A `mean` over the answer's tokens learns more from few rankings than the `last` token alone.

    `likelihood` also reads how likely the answer is to the model itself: for small bases, whose hidden states do not
    say by themselves whether an answer fits its prompt. `members` is the size of an ensemble, each member trained on
    a bootstrap of prompts. `objectives` are weighted: `overall` is the ranking, others are dimensions of rankings.
    """

    pooling: Literal["mean", "last"] = "mean"
    likelihood: bool = False
    members: int = 1
    objectives: dict[str, float] = field(default_factory=lambda: {heads.OVERALL: 1.0})

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError("head.members is at least 1")
        weights = list(self.objectives.values())
        if not all(isinstance(one, int | float) and math.isfinite(one) for one in weights) or not any(weights):
            raise ValueError("head.objectives gives each objective a weight, such as {overall: 1, helpful: 0.5}")

    def made(self, width: int) -> heads.Head:
        """A new head on hidden states of this width."""
        return heads.Head(width, self.pooling, self.likelihood, self.objectives, self.members)


@dataclass(frozen=True)
class Settings:
    """All sections of one request, as they were built."""

    model: KindConfig
    head: HeadConfig
    loss: LossConfig
    raters: RatersConfig
    data: training.DataConfig
    evaluate: EvaluateConfig
    train: RewardConfig
    run: runs.RunConfig

    def parts(self) -> dict[str, Any]:
        """What resolved.json holds."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "run"}


def sections() -> config.Sections:
    return {"model": config.Section(KindConfig), "head": config.Section(HeadConfig),
            "loss": config.Section(LossConfig), "raters": config.Section(RatersConfig),
            "data": config.Section(training.DataConfig), "evaluate": config.Section(EvaluateConfig),
            "train": training.section(RewardConfig, {"neftune_noise_alpha": "noise on embeddings is for models that "
                                                     "learn to write; leave it out"},
                                      learning_rate=1e-4, remove_unused_columns=False),
            "run": config.Section(runs.RunConfig)}


def built(asked: config.Asked) -> Settings:
    settings = Settings(*config.build(asked, sections()))
    if ranks.world() > 1 and (settings.evaluate.folds or settings.raters.rounds):
        key = "evaluate.folds: folds" if settings.evaluate.folds else "raters.rounds: rounds"
        raise RequestError(f"{key} are trained by one process; leave them out here")
    if ranks.world() > 1 and settings.model.kind == "linear":
        raise RequestError("model.kind=linear: it is fitted in seconds by one process; start it without torchrun")
    return settings
