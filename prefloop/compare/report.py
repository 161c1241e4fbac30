"""report.html: a comparison for a person to read. One file without scripts, which fetches nothing.

It shows what report.json holds and works nothing out anew: what is absent there is absent here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.compare import drawings
from prefloop.compare.drawings import Lanes, Shapes
from prefloop.compare.records import HELD_OUT
from prefloop.compare.wording import Part, changes
from prefloop.pages import rendered

TEMPLATE = Path(__file__).with_name("report.html")
SHOWN = 20  # regressions
GAINS = 5


@dataclass(frozen=True)
class Contrast:
    """A question on which two runs were judged apart, and what went and came from one answer to the other."""

    title: str
    said: str
    conversation: list[dict[str, str]]
    before: list[Part]
    after: list[Part]


@dataclass(frozen=True)
class Judged:
    """What one judge said, in plots. The slices and the fifths by length are the best run's."""

    name: str
    facts: dict[str, Any]
    best: dict[str, Any]
    win_rates: Lanes | None
    strengths: Lanes | None
    lengths: Lanes | None
    slices: list[tuple[str, Lanes]]
    rewards: Shapes | None


@dataclass(frozen=True)
class Cell:
    """A figure on one set of questions; `gap` is how far it is from the run's own on the held-out ones."""

    estimate: dict[str, Any] | None
    gap: float | None


def page(report: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The HTML of a report (as report.json holds it) and its answers (the rows of answers.jsonl)."""
    best = report.get("best")
    judges = [judged(name, own, best) for name, own in in_order(report).items()]
    regressions = (report.get("regressions") or {}).get("best") or []
    return rendered(TEMPLATE, report=report, best=best, judges=judges, headline=headline(report),
                    regressions=[regression(one, rows) for one in regressions[:SHOWN]], found=len(regressions),
                    gains=gains(report, rows), metrics=metric_tables(report), robustness=robustness_tables(report),
                    overoptimisation=drawings.overoptimisation(report.get("overoptimisation")))


def in_order(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The judges, the one that the verdict goes by first."""
    judges = report.get("judges") or {}
    by = report.get("by")
    return {name: judges[name] for name in [*([by] if by in judges else []), *(one for one in judges if one != by)]}


def judged(name: str, own: dict[str, Any], best: str | None) -> Judged:
    runs = own.get("runs") or {}
    of_best = runs.get(best) or {}
    return Judged(name, own, of_best, drawings.by_judge({"runs": runs}), drawings.strengths(own),
                  drawings.by_length(of_best), drawings.by_slice(of_best), drawings.rewards(own))


def headline(report: dict[str, Any]) -> dict[str, Any]:
    """What the verdict's judge says of the best run, and what that run takes."""
    best, runs = report.get("best"), report["runs"]
    if best is None:
        return {}
    of_judge = (report.get("judges") or {}).get(report.get("by"), {}).get("runs", {}).get(best, {})
    own, baseline = runs[best], runs[report["baseline"]]
    return {**{key: of_judge[key] for key in ("win_rate", "length_controlled", "power") if of_judge.get(key)},
            **({"kl": own["kl"]} if own.get("kl") else {}),
            **({"regressions": len(report["regressions"]["best"])} if report.get("regressions") else {}),
            **({"times": own["mean_length"] / baseline["mean_length"]} if baseline["mean_length"] else {})}


def regression(one: dict[str, Any], rows: list[dict[str, Any]]) -> Contrast:
    """One row of report.json's regressions, with the conversation where answers.jsonl has it."""
    number = one.get("number")
    asked = rows[number]["prompt"]["messages"] if isinstance(number, int) and 0 <= number < len(rows) else []
    return Contrast(str(one.get("title") or one.get("prompt", "")), f"lost {one['loss']:.2g}", asked,
                    *changes(one["before"], one["after"]))


def gains(report: dict[str, Any], rows: list[dict[str, Any]]) -> list[Contrast]:
    """The questions on which the best run's reward rose most, by the verdict's judge or the first reward model."""
    best, baseline = report.get("best"), report["baseline"]
    judge = next((name for name, own in in_order(report).items() if own.get("kind") == "reward"), None)
    risen = []
    for row in rows:
        own = (row.get("rewards") or {}).get(judge) or {}
        if row.get("set", HELD_OUT) == HELD_OUT and own.get(best) and own.get(baseline):
            risen.append((own[best][0] - own[baseline][0], row))
    risen.sort(key=lambda one: -one[0])
    return [Contrast("", f"reward {gain:+.2f} by {judge}", row["prompt"]["messages"],
                     *changes(row["answers"][baseline][0], row["answers"][best][0]))
            for gain, row in risen[:GAINS] if gain > 0]


def metric_tables(report: dict[str, Any]) -> list[tuple[str, list[str], list[tuple[str, list[Cell]]]]]:
    """For every metric its sets of questions, the held-out ones first, and a row of cells for every run."""
    runs = {name: own.get("metrics") or {} for name, own in report["runs"].items()}
    metrics = list(dict.fromkeys(metric for own in runs.values() for found in own.values() for metric in found))
    tables = []
    for metric in metrics:
        sets = list(dict.fromkeys(one for own in runs.values() for one in own if metric in own[one]))
        sets.sort(key=lambda one: one != HELD_OUT)
        tables.append((metric, sets, [(name, [cell(own, metric, one) for one in sets]) for name, own in runs.items()]))
    return tables


def cell(own: dict[str, Any], metric: str, of: str) -> Cell:
    here, held_out = own.get(of, {}).get(metric), own.get(HELD_OUT, {}).get(metric)
    return Cell(here, here["value"] - held_out["value"] if here and held_out and of != HELD_OUT else None)


def robustness_tables(report: dict[str, Any]) -> list[tuple[str, list[str], list[tuple[str, list[Any]]]]]:
    """For every variant of the prompts its measures, and a row of paired changes for every run."""
    found = report.get("robustness") or {}
    tables = []
    for variant in dict.fromkeys(variant for own in found.values() for variant in own):
        measures = list(dict.fromkeys(measure for own in found.values() for measure in own.get(variant, {})))
        tables.append((variant, measures, [(name, [own.get(variant, {}).get(one) for one in measures])
                                           for name, own in found.items()]))
    return tables
