"""Learning the linear kind in a run: one fit of a few seconds, then scaled, saved, loaded back and checked."""

from __future__ import annotations

from dataclasses import replace

import torch

from prefloop import checkpoints, heads, models, runs
from prefloop.errors import RequestError
from prefloop.linear import LinearScorer, load, save
from prefloop.records import decided

from . import linear
from .judgements import Group
from .settings import Settings


def learn(run: runs.Run, settings: Settings, groups: list[Group]) -> LinearScorer:
    rankings = sum(bool(decided(one.ranks)) for group in groups for one in group.judgements)
    if not rankings:
        raise RequestError(f"{settings.data.path}: no ranking to train on: all say only ties")
    if list(settings.head.objectives) != [heads.OVERALL]:
        raise RequestError("head.objectives: the linear kind learns the ranking alone; leave them out")
    run.note(rows={"rankings": rankings, "prompts": len(groups)})
    print(f"{rankings} rankings of {len(groups)} prompts to train on", flush=True)
    found = linear.learn(groups, settings.train.seed, settings.head.members)
    asked = [(group.prompt, text) for group in groups for text in group.texts][: heads.SCALED_ON]
    raw_NM = torch.from_numpy(found.scorer.raw(asked))
    middle_M = raw_NM.quantile(0.5, 0)
    shift, scale = heads.unit((raw_NM - middle_M).mean(1))
    run.check("spread", scale > 1e-6, f"scores of {len(asked)} training answers have a spread of {scale:.3g}")
    model = replace(found.scorer, shift_M=(middle_M + shift).numpy(), scale=scale)
    checkpoints.discard(run.final)  # what an earlier try left
    save(model, run.final)
    again = load(models.Checkpoint(str(run.final), str(run.final), "", "", folder=run.final))
    gap = float(abs(model.score(asked).mean_N - again.score(asked).mean_N).max())
    run.check("reload final", gap < 1e-6, f"scores of the saved model differ by at most {gap:.1e}")
    checkpoints.seal(run.final, stage="reward")
    return model
