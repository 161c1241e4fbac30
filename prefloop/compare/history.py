"""`prefloop verdicts`: the comparisons so far, oldest first, and verdicts.html, which shows whether it gets better."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefloop import checkpoints, config, plots, runs
from prefloop.errors import RequestError
from prefloop.pages import between, number, rendered, share
from prefloop.plots import Axis, Plot, Series
from prefloop.records import digest

TEMPLATE = Path(__file__).with_name("verdicts.html")
FORMAT = 2  # of report.json
LABELLED = 12  # points of a chart, over which their names would cover each other


@dataclass(frozen=True)
class Verdict:
    """What one comparison came to. `made` is in seconds since 1970; estimates are those of the verdict's judge.

    Two verdicts can be held against each other where `measure` is the same: the questions, who judged, and how the
    answers were sampled. `candidate` and `against` are checksums.
    """

    folder: Path
    made: float
    verdict: str
    line: str
    best: str
    baseline: str
    candidate: str
    against: str
    by: str
    measure: tuple[str, ...]
    prompts: int
    win_rate: dict[str, float] | None
    length_controlled: dict[str, float] | None
    kl: dict[str, float] | None

    @property
    def day(self) -> str:
        return datetime.fromtimestamp(self.made, UTC).strftime("%Y-%m-%d %H:%M")


def sections() -> config.Sections:
    return {"run": config.Section(runs.RunConfig, closed={"name": "all comparisons under run.root are listed"})}


def main(asked: config.Asked) -> None:
    """`prefloop verdicts [run.root=runs]`."""
    (where,) = config.build(asked, sections())
    root = Path(where.root)
    found = list(verdicts(root))
    if not found:
        print(f"no comparisons in {root}; `prefloop compare` makes one")
        return
    print(table(found))
    with checkpoints.replacing(root / "verdicts.html") as file:
        file.write(page(found).encode("utf-8", "backslashreplace").decode())
    print(f"{root / 'verdicts.html'} charts them over time")


def verdicts(root: Path) -> Iterator[Verdict]:
    """The comparisons under `root`, and those of its runs elsewhere, oldest first; what cannot be read is told."""
    known = []
    for folder in folders(root):
        try:
            known.append(read(folder))
        except RequestError as error:
            print(f"passed over {error}")
    yield from sorted(known, key=lambda one: (one.made, str(one.folder)))


def folders(root: Path) -> list[Path]:
    """Where reports of comparisons are: every report.json of ours under `root`, and what runs put elsewhere."""
    found = {path.parent.resolve(): path.parent for path in sorted(root.rglob("report.json")) if is_ours(path)}
    for path in sorted(root.rglob("run.json")):
        try:
            run = runs.load(path.parent)
        except RequestError:
            continue  # `prefloop runs` tells of it
        out = run.record.get("report")
        if run.record["stage"] == "compare" and run.record["status"] == "done" and isinstance(out, str):
            found.setdefault(Path(out).resolve(), Path(out))
    return list(found.values())


def is_ours(path: Path) -> bool:
    """Whether this is a comparison's report; reward models have a report.json too."""
    try:
        report = checkpoints.read_json(path)
    except RequestError:
        return True  # to be told of
    return isinstance(report, dict) and "verdict" in report


def read(folder: Path) -> Verdict:
    path = folder / "report.json"
    report = checkpoints.read_json(path)
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise RequestError(f"{path}: not a comparison's report in format {FORMAT}; compare again")
    try:
        return verdict(folder, report)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RequestError(f"{path}: no comparison's report: {type(error).__name__}: {error}") from None


def verdict(folder: Path, report: dict[str, Any]) -> Verdict:
    best, by, provenance = report["best"] or "", report["by"] or "", report["provenance"]
    judged = report["judges"][by] if by else {}
    own = judged.get("runs", {}).get(best) or {}
    sampling = digest(*(f"{key}={value}" for key, value in sorted(report["sampling"].items())))
    measure = (provenance["held_out"], sampling, by, judged.get("checksum", ""))
    return Verdict(folder, datetime.fromisoformat(report["made"]).timestamp(), str(report["verdict"]),
                   str(report["line"]), str(best), str(report["baseline"]),
                   str(report["runs"][best]["checksum"]) if best else "",
                   str(report["runs"][report["baseline"]]["checksum"]), str(by), tuple(map(str, measure)),
                   int(report["prompts"]), estimate(own.get("win_rate")), estimate(own.get("length_controlled")),
                   estimate(report["runs"][best].get("kl")) if best else None)


def estimate(given: dict[str, Any] | None) -> dict[str, float] | None:
    return {end: float(given[end]) for end in ("value", "low", "high")} if given else None


def table(found: list[Verdict]) -> str:
    """One line for each."""
    heads = ("made (UTC)", "verdict", "best", "against", "by", "win rate", "at equal length", "KL", "report")
    rows = [heads, *((one.day, one.verdict, one.best or "-", one.baseline, one.by or "nobody",
                      told(one.win_rate, True), told(one.length_controlled, True), told(one.kl, False),
                      str(one.folder)) for one in found)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(heads))]
    return "\n".join("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def told(one: dict[str, float] | None, percent: bool) -> str:
    if one is None:
        return "-"
    return f"{share(one['value']) if percent else number(one['value'])} [{between(one, percent).replace(' to', ',')}]"


@dataclass(frozen=True)
class Chart:
    """The verdicts against one baseline, and the earlier one that shipped what is the baseline now."""

    baseline: str
    checksum: str
    shipped: Verdict | None
    plot: Plot


def page(found: list[Verdict]) -> str:
    return rendered(TEMPLATE, verdicts=found, charts=charts(found))


def charts(found: list[Verdict]) -> list[Chart]:
    """One for each baseline, in the order of their first verdicts; all have the same axes."""
    shown = [one for one in found if one.win_rate]
    if not shown:
        return []
    x = plots.times([one.made for one in shown])
    y = plots.numbers(plots.ends(one.win_rate for one in shown), share=True, hold=(0.5,), span=0.2)
    measures = list(dict.fromkeys(one.measure for one in shown))
    return [Chart(first.baseline, checksum, shipped(found, first), joined(x, y, own, measures))
            for checksum in dict.fromkeys(one.against for one in shown)
            for own in [[one for one in shown if one.against == checksum]] for first in own[:1]]


def shipped(found: list[Verdict], first: Verdict) -> Verdict | None:
    """The comparison, before `first`, that shipped what `first` takes as its baseline."""
    earlier = [one for one in found
               if one.verdict == "ship" and one.candidate == first.against and one.made < first.made]
    return earlier[-1] if earlier else None


def joined(x: Axis, y: Axis, own: list[Verdict], measures: list[tuple[str, ...]]) -> Plot:
    """Win rates over time. Only verdicts by one measure are joined: over other questions or by another judge, the
    figures are no steps on one way. A measure has the same mark in every chart."""
    series = []
    for place, measure in enumerate(measures):
        alike = [one for one in own if one.measure == measure]
        if alike:
            series.append(Series(named(alike[0]), place, tuple(
                plots.point(x, y, one.made, one.win_rate, f"{one.best}: {told(one.win_rate, True)}, {one.verdict}, "
                            f"{one.day}", shortened(one.best) if len(own) <= LABELLED else "")
                for one in alike if one.win_rate)))
    return Plot(x, y, "time (UTC)", "win rate of the best run", tuple(series), 0.5)


def shortened(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def named(one: Verdict) -> str:
    """Its measure in words: who judged, and over which questions and sampling, by the first of their checksums."""
    questions, sampling, by, checksum = one.measure
    model = f" ({checksum[:8]})" if checksum else ""
    return f"by {by}{model}, {one.prompts} prompts ({questions[:8]}), sampled as {sampling[:8]}"
