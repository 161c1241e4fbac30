"""A comparison on one screen of text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefloop.compare.verdict import Gate, Word, rank

REASONS = 8  # of the gates that were not passed; the page has all
HEAD = ("run", "tokens", "ended", "KL from baseline", "win rate", "at equal length", "verdict")


def table(report: Mapping[str, Any]) -> str:
    """What was asked, a row for each run by the judge whose word the verdict takes, the other judges, the verdict."""
    rows = [HEAD, *(row(name, report) for name in report["runs"])]
    widths = [max(len(cells[place]) for cells in rows) for place in range(len(HEAD))]
    lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in rows]
    told = [*votes(report), *others(report), *missing(report), *report["reasons"][:REASONS]]
    return "\n".join([asked(report), *lines, *told, report["line"]])


def asked(report: Mapping[str, Any]) -> str:
    left_out = [f"{report['over_length']} over length left out"] if report["over_length"] else []
    judged = report["judges"].get(report["by"], {})
    if judged.get("unread"):
        left_out.append(f"{judged['unread']} without rewards: an answer is longer than the reward model reads")
    cut = sum(own["cut"] for own in report["runs"].values())
    empty = sum(own["empty"] for own in report["runs"].values())
    left_out += [f"{counted(cut, 'answer')} cut at {report['sampling']['max_new_tokens']} tokens"] if cut else []
    left_out += [f"{counted(empty, 'empty answer')}, which lose"] if empty else []
    more = f" ({'; '.join(left_out)})" if left_out else ""
    return (f"{counted(report['prompts'], 'prompt')} of split {report['split']}{more}, "
            f"{counted(report['sampling']['answers'], 'answer')} each, {report['level']:.0%} intervals")


def counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def row(name: str, report: Mapping[str, Any]) -> tuple[str, ...]:
    own = report["runs"][name]
    judged = report["judges"].get(report["by"], {}).get("runs", {}).get(name, {})
    gates = own.get("gates")
    word = "baseline" if name == report["baseline"] else state(gates) if gates else "-"
    return (name, f"{own['mean_length']:.1f}", f"{own['ended']:.0%}", interval(own.get("kl"), ".2f"),
            interval(judged.get("win_rate"), ".1%"), interval(judged.get("length_controlled"), ".1%"), word)


def state(gates: Mapping[str, Mapping[str, Any]]) -> Word:
    """A run's own verdict, from its gates as report.json holds them."""
    words: tuple[Word, ...] = ("reject", "undecided", "ship")
    return words[rank({name: Gate(gate["passed"], gate["detail"]) for name, gate in gates.items()})]


def votes(report: Mapping[str, Any]) -> list[str]:
    told = ", ".join(f"{count} {why}" for why, count in report["votes"].items())
    return [f"people's votes: {told}"] if told else []


def others(report: Mapping[str, Any]) -> list[str]:
    """What the judges say whose word the verdict does not take."""
    return [f"{judge}: " + ", ".join(f"{name} {interval(own['win_rate'], '.1%')}"
                                      for name, own in judged["runs"].items())
            for judge, judged in report["judges"].items() if judge != report["by"] and judged["runs"]]


def missing(report: Mapping[str, Any]) -> list[str]:
    """What an AI judge was asked and did not say."""
    return [f"{judge}: {judged['missing']} verdicts are missing{': ' if judged.get('complaint') else ''}"
            f"{judged.get('complaint', '')}"
            for judge, judged in report["judges"].items() if judged["kind"] == "ai" and judged["missing"]]


def interval(estimate: Mapping[str, float] | None, form: str) -> str:
    if not estimate:
        return "-"
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"
