"""A reward model from rankings: who said what is gathered, learned from by one of three kinds, and judged."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from prefloop import config, models, runs, scoring
from prefloop.errors import RequestError
from prefloop.formats import snapshot

from . import assess, convex, evaluate, gradient, linear, raters, report
from .examine import examine
from .judgements import Group, gathered
from .settings import Settings, built, sections

__all__ = ["main", "sections"]


def main(asked: config.Asked, resume: Path | None = None) -> None:
    settings = built(asked)
    source = snapshot.read(Path(settings.data.path))
    checkpoint = begins_with(settings)
    parents = {"policy": checkpoint.lineage()} if checkpoint else {}
    with runs.start(asked, settings.run, resume, **parents, data=source.lineage()) as run:  # type: ignore
        run.resolved(**settings.parts())
        told = source.rankings_of("train")[: settings.data.limit]
        train = gathered(assess.learned_from(told, settings.evaluate.held_out_raters))
        held_out = gathered(source.rankings_of("test") or source.rankings_of("validation"))
        warnings = examined(train, settings)
        found = heard(run, settings, checkpoint, train)
        folds = cross_validated(run, settings, checkpoint, found)
        scorer = learn(run, settings, checkpoint, found.groups)
        raters.write(run, found)  # of a request that turned out wrong, nothing stays
        judge(run, settings, scorer, found, held_out, {"warnings": warnings, **folds})


def examined(train: Sequence[Group], settings: Settings) -> list[str]:
    if not train:
        held = ", or evaluate.held_out_raters holds out who ranked there" if settings.evaluate.held_out_raters else ""
        raise RequestError(f"{settings.data.path}: no ranking to train on: none is in its training split{held}")
    warnings = examine(train, settings.data.path)
    for one in warnings:
        print(f"warning: {one}", flush=True)
    return warnings


def begins_with(settings: Settings) -> models.Checkpoint | None:
    """What is trained further: a policy, an encoder, or for the linear kind nothing."""
    if settings.model.kind == "linear":
        return None
    return models.resolve_policy(settings.model.path, settings.model.revision)


def heard(run: runs.Run, settings: Settings, checkpoint: models.Checkpoint | None, train: list[Group]) -> raters.Heard:
    """Whom to believe, before anything is trained; and for a neural model as often again as raters.rounds says."""
    def half(name: str, groups: Sequence[Group]) -> scoring.Scorer:
        return learn(aside(run, f"raters/{name}"), settings, checkpoint, list(groups))

    found = raters.heard(train, settings.raters, settings.train.seed, by_prompt=checkpoint is not None)
    if checkpoint is not None:
        found = raters.again(run, train, settings.raters, found, half)
        shutil.rmtree(run.path / "raters", ignore_errors=True)
    return found


def aside(run: runs.Run, name: str) -> runs.Run:
    """For a model that is only asked for scores: a folder of the run, empty even where a killed try had begun it."""
    other = runs.Run(run.path / name, {"stage": "reward"}, stop=run.stop)
    shutil.rmtree(other.path, ignore_errors=True)
    other.path.mkdir(parents=True)
    return other


def learn(run: runs.Run, settings: Settings, checkpoint: models.Checkpoint | None,
          groups: list[Group]) -> scoring.Scorer:
    if checkpoint is None:
        return convex.learn(run, settings, groups)
    return gradient.learn(run, settings, checkpoint, groups)


def cross_validated(run: runs.Run, settings: Settings, checkpoint: models.Checkpoint | None,
                    found: raters.Heard) -> dict[str, object]:
    """Before the model that is kept, so that no two are in memory."""
    if not settings.evaluate.folds:
        return {}

    def fit(fold: int, others: Sequence[Group]) -> scoring.Scorer:
        return learn(aside(run, f"folds/fold-{fold + 1}"), settings, checkpoint, list(others))

    figures = assess.cross_validated(run, fit, found.groups, settings.evaluate.folds)
    shutil.rmtree(run.path / "folds", ignore_errors=True)
    return {"folds": figures}


def judge(run: runs.Run, settings: Settings, scorer: scoring.Scorer, found: raters.Heard, held_out: list[Group],
          facts: dict[str, object]) -> None:
    """The report: how good the model is on prompts it did not learn from, and who taught it."""
    own = assess.judged(scorer, found.expected(held_out))
    simple = linear.learn(found.groups, settings.train.seed)
    baselines = {} if settings.model.kind == "linear" else {"words and style": simple.scorer}

    def simply(groups: Sequence[Group]) -> scoring.Scorer:
        return linear.learn(groups, settings.train.seed, prior=simple.prior).scorer

    turned = assess.influence(simply, found.groups, own.groups) if settings.evaluate.influence else {}
    scores = [float(score) for scores in own.scores for score in scores]
    figures = assess.figures(own, baselines, frozenset(one.name for one in found.raters))
    agrees = {one["name"]: one["accuracy"] for one in figures.get("slices", {}).get("rater", [])}
    assess.told(run, {"run": run.path.name, "kind": settings.model.kind, **facts, "held_out": figures,
                      "raters": [one.told() | {"influence": turned.get(one.name), "accuracy": agrees.get(one.name)}
                                 for one in found.raters[: evaluate.SHOWN]], "position": found.position(),
                      "scores": report.histogram(scores) if scores else {},
                      "parents": run.record.get("parents", {})})
