"""A reward model from rankings: who said what is gathered, learned from by one of three kinds, and judged."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from prefloop import config, models, runs, scoring
from prefloop.errors import RequestError
from prefloop.formats import snapshot

from . import assess, convex, gradient, linear, report
from .examine import examine
from .judgements import Group, gathered
from .settings import Settings, built, sections

__all__ = ["main", "sections"]


def main(asked: config.Asked, resume: Path | None = None) -> None:
    settings = built(asked)
    source = snapshot.read(Path(settings.data.path))
    checkpoint = begins_with(settings)
    parents = {"policy": checkpoint.lineage()} if checkpoint else {}
    with runs.start(asked, settings.run, resume, **parents, data=source.lineage()) as run:
        run.resolved(**settings.parts())
        told = source.rankings_of("train")[: settings.data.limit]
        train = gathered(assess.learned_from(told, settings.evaluate.held_out_raters))
        held_out = gathered(source.rankings_of("test") or source.rankings_of("validation"))
        warnings = examined(train, settings)
        folds = cross_validated(run, settings, checkpoint, train)
        scorer = learn(run, settings, checkpoint, train)
        judge(run, settings, scorer, train, held_out, {"warnings": warnings, **folds})


def examined(train: Sequence[Group], settings: Settings) -> list[str]:
    if not train:
        raise RequestError(f"{settings.data.path}: no ranking to train on: none is in its training split")
    warnings = examine(train, settings.data.path)
    for one in warnings:
        print(f"warning: {one}", flush=True)
    return warnings


def begins_with(settings: Settings) -> models.Checkpoint | None:
    """What is trained further: a policy, an encoder, or for the linear kind nothing."""
    if settings.model.kind == "linear":
        return None
    return models.resolve_policy(settings.model.path, settings.model.revision)


def learn(run: runs.Run, settings: Settings, checkpoint: models.Checkpoint | None,
          train: list[Group]) -> scoring.Scorer:
    if checkpoint is None:
        return convex.learn(run, settings, train)
    return gradient.learn(run, settings, checkpoint, train)


def cross_validated(run: runs.Run, settings: Settings, checkpoint: models.Checkpoint | None,
                    train: list[Group]) -> dict[str, object]:
    """Before the model that is kept, so that no two are in memory."""
    if not settings.evaluate.folds:
        return {}

    def fit(fold: int, others: Sequence[Group]) -> scoring.Scorer:
        aside = runs.Run(run.path / "folds" / f"fold-{fold + 1}", {"stage": "reward"}, stop=run.stop)
        shutil.rmtree(aside.path, ignore_errors=True)  # what a killed try left
        aside.path.mkdir(parents=True)
        return learn(aside, settings, checkpoint, list(others))

    found = assess.cross_validated(run, fit, train, settings.evaluate.folds)
    shutil.rmtree(run.path / "folds", ignore_errors=True)
    return {"folds": found}


def judge(run: runs.Run, settings: Settings, scorer: scoring.Scorer, train: list[Group], held_out: list[Group],
          facts: dict[str, object]) -> None:
    """The report: how good the model is on prompts it did not learn from, and who taught it."""
    own = assess.judged(scorer, held_out)
    raters = frozenset(one.rater for group in train for one in group.judgements)
    simple = linear.learn(train, settings.train.seed)
    baselines = {} if settings.model.kind == "linear" else {"words and style": simple.scorer}

    def simply(groups: Sequence[Group]) -> scoring.Scorer:
        return linear.learn(groups, settings.train.seed, tau=simple.tau, prior=simple.prior).scorer

    turned = assess.influence(simply, train, own.groups) if settings.evaluate.influence else {}
    scores = [float(score) for scores in own.scores for score in scores]
    assess.told(run, {"run": run.path.name, "kind": settings.model.kind, **facts,
                      "held_out": assess.figures(own, baselines, raters),
                      "raters": [{"rater": name, "judgements": count, "influence": turned.get(name)}
                                 for name, count in busiest(train)],
                      "scores": report.histogram(scores) if scores else {},
                      "parents": run.record.get("parents", {})})


def busiest(groups: Sequence[Group]) -> list[tuple[str, int]]:
    return Counter(one.rater for group in groups for one in group.judgements).most_common(report.RATERS)
