"""report.html: a comparison for a person to read. One file without scripts, which fetches nothing.

It shows what report.json holds and works nothing out anew: what is absent there is absent here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.compare import drawings, screen
from prefloop.compare.drawings import Lanes, Shapes
from prefloop.compare.records import HELD_OUT
from prefloop.compare.verdict import UNIT, above_half, interval_to_decide, widened
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
    """What one judge said, in plots. The slices, the fifths by length and the power are the best run's."""

    name: str
    facts: dict[str, Any]
    power: dict[str, Any]
    strengths: Lanes | None
    lengths: Lanes | None
    slices: list[tuple[str, Lanes | None, Lanes | None]]
    rewards: Shapes | None


@dataclass(frozen=True)
class Table:
    """Figures of every run; None where a run has none."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[dict[str, Any] | None]]]


def page(report: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The HTML of a report (as report.json holds it) and its answers (the rows of answers.jsonl)."""
    best, ordered = report.get("best"), in_order(report)
    judges = [judged(name, own, best) for name, own in ordered.items()]
    wins = drawings.side_by_side(ordered, report.get("by"), report["runs"])
    worse = report.get("regressions") or {}
    kind = ordered.get(worse.get("by", ""), {}).get("kind")
    gates = {name: {"gates": own["gates"]} for name, own in report["runs"].items() if own.get("gates")}
    return rendered(TEMPLATE, report=report, best=best, judges=judges, wins=wins, headline=headline(report),
                    chip=chip(report), reasons=reasons(report), gates=tables(gates), kinds=drawings.KINDS,
                    reach=drawings.reach, learned=learned(report),
                    places_open=any("(" in row.note for one in judges if one.strengths for row in one.strengths.lanes),
                    regressions=[regression(one, rows, kind) for one in worse.get("best", [])[:SHOWN]],
                    gains=gains(report, rows), metrics=tables(by_metric(report)),
                    robustness=tables(report.get("robustness") or {}),
                    overoptimisation=drawings.overoptimisation(report.get("overoptimisation")))


def in_order(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The judges, the one that the verdict goes by first."""
    judges = report.get("judges") or {}
    by = report.get("by")
    return {name: judges[name] for name in [*([by] if by in judges else []), *(one for one in judges if one != by)]}


def judged(name: str, own: dict[str, Any], best: str | None) -> Judged:
    of_best = (own.get("runs") or {}).get(best) or {}
    power = of_best.get("power") or {}
    if of_best and above_half(interval_to_decide(of_best), "").passed is not None:
        power = {**power, "more": None}  # it is known which wins
    return Judged(name, own, power, drawings.strengths(own), drawings.by_length(of_best), drawings.by_slice(of_best),
                  drawings.rewards(own))


def headline(report: dict[str, Any]) -> dict[str, Any]:
    """What the verdict's judge says of the best run, in the intervals that decide, and what that run takes."""
    best, runs = report.get("best"), report["runs"]
    if best is None:
        return {}
    judge = (report.get("judges") or {}).get(report.get("by"), {})
    of_judge = judge.get("runs", {}).get(best, {})
    own, baseline = runs[best], runs[report["baseline"]]
    return {"unit": UNIT.get(judge.get("kind"), "votes"),
            **({"win_rate": interval_to_decide(of_judge), "wider": drawings.wider(of_judge)} if of_judge else {}),
            **({"length_controlled": widened(of_judge["length_controlled"], of_judge)}
               if of_judge.get("length_controlled") else {}),
            "power": of_judge.get("power"),
            **({"kl": own["kl"]} if own.get("kl") else {}),
            **({"regressions": report["regressions"]["counts"].get(best, 0)} if report.get("regressions") else {}),
            **({"times": own["mean_length"] / baseline["mean_length"]} if baseline["mean_length"] else {})}


def chip(report: dict[str, Any]) -> str:
    """What the best run is called: a run that fails a gate may win more."""
    runs = (report.get("judges") or {}).get(report.get("by"), {}).get("runs", {})
    lows = {name: own["decide"]["low"] for name, own in runs.items()}
    if lows.get(report.get("best"), 0.0) == max(lows.values(), default=0.0):
        return "best"
    return {"ship": "best that passes", "undecided": "best that may pass"}.get(report["verdict"], "best")


def reasons(report: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """The runs that do not pass: each with its word, and what it did not pass."""
    return [(name, screen.state(gates), [gate["detail"] for gate in gates.values() if not gate["passed"]])
            for name, own in report["runs"].items() if (gates := own.get("gates")) and screen.state(gates) != "ship"]


def learned(report: dict[str, Any]) -> dict[tuple[str, int, int], list[str]]:
    """By snapshot, and how many questions are in it word for word and nearly: who learned from it, each once."""
    found: dict[tuple[str, int, int], list[str]] = {}
    for one in (report.get("overlap") or {}).get("in", ()):
        runs = found.setdefault((one["snapshot"], one["exact"], one["near"]), [])
        if one["run"] not in runs:
            runs.append(one["run"])
    return found


def regression(one: dict[str, Any], rows: list[dict[str, Any]], kind: str | None) -> Contrast:
    """One row of report.json's regressions, with the conversation where answers.jsonl has it."""
    number = one.get("number")
    asked = rows[number]["prompt"]["messages"] if isinstance(number, int) and 0 <= number < len(rows) else []
    said = "became empty" if one.get("emptied") else {
        "reward": f"the reward fell by {one['loss']:.2f}", "ai": "lost in both orders"}.get(
        kind or "", f"lost {one['loss']:.0%} of the votes")
    of = one.get("set", HELD_OUT)
    return Contrast(str(one.get("title") or one.get("prompt", "")), said if of == HELD_OUT else f"{of}: {said}", asked,
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


def by_metric(report: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """For every run its metrics, and of each the figure on every set of questions but variants, which robustness
    tells of; where there is one set alone, that set and its metrics, which make one table."""
    variants = {variant for own in (report.get("robustness") or {}).values() for variant in own}
    by_set = {name: {of: metrics for of, metrics in (own.get("metrics") or {}).items() if of not in variants}
              for name, own in report["runs"].items()}
    if len({of for own in by_set.values() for of in own}) == 1:
        return by_set
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, own in by_set.items():
        for of, metrics in own.items():
            for metric, figure in metrics.items():
                found.setdefault(name, {}).setdefault(metric, {})[of] = figure
    return found


def tables(found: dict[str, dict[str, dict[str, Any]]]) -> list[Table]:
    """One table for each title of {run: {title: {column: figure}}}, with a row for every run."""
    made = []
    for title in dict.fromkeys(title for own in found.values() for title in own):
        columns = list(dict.fromkeys(column for own in found.values() for column in own.get(title, {})))
        made.append(Table(title, columns, [(name, [own.get(title, {}).get(one) for one in columns])
                                           for name, own in found.items()]))
    return made
