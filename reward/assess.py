"""What a trained reward model is worth, found out and told: held-out figures, folds, raters' influence, the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from prefloop import ranks, runs, scoring
from prefloop.records import Ranking, decided, digest

from . import evaluate, report
from .calibration import Array
from .held_out import paired
from .judgements import Group

INFLUENTIAL = 10  # raters whose absence is tried
FOLDS = "folds.jsonl"
Fit = Callable[[Sequence[Group]], scoring.Scorer]


@dataclass(frozen=True)
class EvaluateConfig:
    """`evaluate:`. `held_out_raters` is the share of raters, chosen by name, from whom nothing is learned."""

    folds: int = 0
    held_out_raters: float = 0.0
    influence: bool = True

    def __post_init__(self) -> None:
        if self.folds < 0 or self.folds == 1:
            raise ValueError("evaluate.folds is 0, for none, or at least 2")
        if not 0 <= self.held_out_raters < 1:
            raise ValueError("evaluate.held_out_raters is a share from 0 to less than 1")


@dataclass(frozen=True)
class Judged:
    """Groups with their scores: `scores` and `spreads` hold an array for each group."""

    groups: list[Group]
    scores: list[Array]
    spreads: list[Array]


def learned_from(rankings: Sequence[Ranking], held_out_raters: float) -> list[Ranking]:
    """The rankings of raters who are not held out: by a hash of their name, so that more rankings change nobody."""
    return [one for one in rankings if int(digest("rater", one.rater), 16) % 10_000 >= held_out_raters * 10_000]


def judged(scorer: scoring.Scorer, groups: Sequence[Group], what: str = "scoring held-out answers") -> Judged:
    """Every answer's score. Judgements of an answer that is too long to be read are left out."""
    asked = [(group.prompt, text) for group in groups for text in group.texts]
    read = iter(scorer.reads(asked))
    kept = [whole for group in groups if (whole := readable(group, [next(read) for _ in group.texts])).judgements]
    if not kept:
        return Judged([], [], [])
    found = scoring.scored(scorer, [(group.prompt, text) for group in kept for text in group.texts], what=what)
    ends = np.cumsum([len(group.texts) for group in kept])[:-1]
    return Judged(kept, np.split(found.mean_N, ends), np.split(found.spread_N, ends))


def readable(group: Group, read: Sequence[bool]) -> Group:
    """The group without the answers that cannot be read, and the judgements that name one."""
    if all(read):
        return group
    place = {old: new for new, old in enumerate(n for n, whole in enumerate(read) if whole)}
    kept = tuple(replace(one, places=tuple(place[n] for n in one.places))
                 for one in group.judgements if all(n in place for n in one.places))
    return replace(group, texts=tuple(group.texts[n] for n in place), judgements=kept)


def figures(own: Judged, baselines: Mapping[str, scoring.Scorer], trained_by: frozenset[str]) -> dict[str, Any]:
    """evaluate.report of these scores, beside other models' on the same answers; {} where nothing is decided."""
    held = paired(own.groups, own.scores, own.spreads)
    if not held.gaps_P.size:
        return {}
    asked = [(group.prompt, text) for group in own.groups for text in group.texts]
    others = {name: scoring.scored(scorer, asked, what=f"scoring by {name}").mean_N[held.answer_E]
              for name, scorer in baselines.items()}
    return evaluate.report(held, others, trained_by)


def influence(fit: Fit, train: Sequence[Group], held_out: Sequence[Group]) -> dict[str, float]:
    """How held-out accuracy changes when each of the busiest raters is left out of training.

    Of a model that is fitted in moments: one rater who turns a whole model shows there too.
    """
    def accuracy(groups: Sequence[Group]) -> float:
        own = judged(fit(groups), held_out)
        held = paired(own.groups, own.scores)
        return float(evaluate.ordered(held, held.scores_E).mean())

    counts = Counter(one.rater for group in train for one in group.judgements)
    decides = any(decided(one.ranks) for group in held_out for one in group.judgements)
    if len(counts) < 2 or not decides:
        return {}
    whole = accuracy(train)
    return {name: accuracy(without(train, name)) - whole for name, _ in counts.most_common(INFLUENTIAL)}


def without(groups: Sequence[Group], rater: str) -> list[Group]:
    left = [(group, tuple(one for one in group.judgements if one.rater != rater)) for group in groups]
    return [replace(group, judgements=judgements) for group, judgements in left if judgements]


def fold_of(group: Group, folds: int) -> int:
    return int(digest("fold", group.prompt.id), 16) % folds


def cross_validated(run: runs.Run, fit: Callable[[int, Sequence[Group]], scoring.Scorer], groups: Sequence[Group],
                    folds: int) -> dict[str, Any]:
    """Figures of every prompt, each judged by a model that learned from the other folds of prompts.

    A finished fold is a line of folds.jsonl, and is not done again by a run that is resumed.
    """
    path = run.path / FOLDS
    done = {row["fold"]: row["scores"] for row in runs.read_lines(path)}
    for fold in range(folds):
        own = [group for group in groups if fold_of(group, folds) == fold]
        others = [group for group in groups if fold_of(group, folds) != fold]
        if fold in done or not own or not others:
            continue
        print(f"fold {fold + 1} of {folds}: learning from {len(others)} prompts, to judge {len(own)}", flush=True)
        these = judged(fit(fold, others), own, f"scoring fold {fold + 1}")
        done[fold] = {group.prompt.id: dict(zip(group.texts, scores.tolist(), strict=True))
                      for group, scores in zip(these.groups, these.scores, strict=True)}
        runs.append(path, {"fold": fold, "scores": done[fold]})
    scores = {prompt: own for fold in done.values() for prompt, own in fold.items()}
    kept = [readable(group, [text in scores[group.prompt.id] for text in group.texts])
            for group in groups if group.prompt.id in scores]
    held = paired(kept, [[scores[group.prompt.id][text] for text in group.texts] for group in kept])
    if not held.gaps_P.size:
        return {}
    found = evaluate.report(held, {}, frozenset())
    shown = ("pairs", "prompts", "accuracy", "log_loss", "brier", "ece", "temperature")
    return {"folds": folds, **{name: found[name] for name in shown}}


def told(run: runs.Run, facts: dict[str, Any]) -> None:
    """The report's files, the figures in run.json, and a line on the screen."""
    if ranks.first():
        report.write(run, facts)
    held = facts.get("held_out")
    metrics: dict[str, Any] = {"held_out_prompts": held["prompts"] if held else 0}
    if held:
        metrics |= {"accuracy": held["accuracy"]["value"], "accuracy_low": held["accuracy"]["low"],
                    "accuracy_high": held["accuracy"]["high"], "log_loss": held["log_loss"]["value"],
                    "ece": held["ece"]["value"], "ece_of_chance": held["ece"]["chance_95"],
                    "temperature": held["temperature"]}
        metrics |= {f"accuracy of {name}": own["accuracy"]["value"] for name, own in held["baselines"].items()}
        if held["agreement"]:
            metrics["agreement of raters"] = held["agreement"]["value"]
    run.note(metrics=metrics, summary=report.line(facts))
    print(report.line(facts))
    print(f"report: {run.path / 'report.html'}")
