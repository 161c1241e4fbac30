"""From figures to one word: ship, reject or undecided, with every gate that a candidate passed or did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefloop.compare.records import Judge
from prefloop.compare.settings import CompareConfig

Word = Literal["ship", "reject", "undecided"]
EXIT = {"ship": 0, "reject": 3, "undecided": 4}
UNIT = {"people": "votes", "ai": "pairs", "reward": "prompts"}  # what more of would tell
AUTO = ("people", "ai", "reward")  # the order in which judges are believed where `compare.by` names none


@dataclass(frozen=True)
class Gate:
    """Passed, failed, or None: it cannot be told yet."""

    passed: bool | None
    detail: str


@dataclass(frozen=True)
class Verdict:
    word: Word
    line: str
    reasons: tuple[str, ...]
    best: str | None
    gates: dict[str, dict[str, Gate]]  # by candidate and gate


def presiding(judges: Sequence[Judge], by: str) -> Judge | None:
    """The one judge whose word the verdict takes: what `by` asks for, or the first of people, AI, reward models, of
    those who judged the baseline, player 0, at all."""
    spoke = [one for one in judges if ((one.contests.first_D == 0) | (one.contests.second_D == 0)).any()]
    if by == "auto" and any(one.kind == "people" and one not in spoke for one in judges):
        return None  # people were to decide: a reward model does not take their place in silence
    if by == "second":
        return next((one for one in spoke if one.kind == "reward" and not one.proxy), None)
    return next((one for kind in (AUTO if by == "auto" else (by,)) for one in spoke if one.kind == kind), None)


def decided(report: Mapping[str, Any], settings: CompareConfig) -> Verdict:
    """`ship` if some candidate passes every gate, `reject` if each fails one, else `undecided`."""
    by = report["by"]
    if by is None:
        return Verdict("undecided", f"undecided: {silence(report, settings)}", (), None, {})
    judged = report["judges"][by]
    names = [name for name in report["runs"] if name != report["baseline"]]
    gates = {name: gates_of(name, report, judged, settings) for name in names}
    best = max(judged["runs"], key=lambda name: (rank(gates[name]), judged["runs"][name]["decide"]["low"],
                                                 judged["runs"][name]["win_rate"]["value"]))
    state = max(map(rank, gates.values()))
    word: Word = "ship" if state == 2 else "reject" if state == 0 else "undecided"
    reasons = tuple(f"{name}: {gate.detail}" for name in names for gate in gates[name].values() if not gate.passed)
    return Verdict(word, in_words(word, best, report, judged, gates[best]), reasons, best, gates)


def silence(report: Mapping[str, Any], settings: CompareConfig) -> str:
    """Why no judge said anything."""
    if report["votes"]:
        told = ", ".join(f"{count} {why}" for why, count in report["votes"].items())
        return f"none of people's votes is on these answers ({told}); compare.by=reward goes by the reward model"
    if report["judges"]:
        return f"no judge of compare.by={settings.by} said anything of the baseline"
    return "without compare.reward, compare.votes or judge.url nothing says which answers are better"


def rank(gates: Mapping[str, Gate]) -> int:
    """2 where all gates are passed, 0 where one is not, 1 where that is open. Before a plan of votes is through
    nothing is decided, neither way."""
    states = [gate.passed for gate in gates.values()]
    return 1 if "plan" in gates else 0 if False in states else 1 if None in states else 2


def gates_of(name: str, report: Mapping[str, Any], judged: Mapping[str, Any], settings: CompareConfig
             ) -> dict[str, Gate]:
    own, its = judged["runs"].get(name), report["runs"][name]
    if own is None:
        return {"win rate": Gate(None, f"{report['by']} did not judge it")}
    gates = {"win rate": above_half(interval_to_decide(own), "wins")}
    if settings.length_gate:
        gates["equal length"] = length_gate(own)
    if settings.planned_votes is not None and judged["kind"] == "people" and own["votes"] < settings.planned_votes:
        gates["plan"] = Gate(None, f"{own['votes']} of the {settings.planned_votes} votes that were planned")
    if settings.max_kl is not None:
        gates["KL"] = kl_gate(its.get("kl"), settings.max_kl)
    if settings.max_tokens_ratio is not None:
        ratio = tokens_ratio(report, name)
        gates["length"] = Gate(ratio <= settings.max_tokens_ratio,
                               f"its answers are {ratio:.2f} times as long as the baseline's "
                               f"(compare.max_tokens_ratio is {settings.max_tokens_ratio:g})")
    passing = (report.get("regressions") or {}).get("must_pass")
    if passing:
        failed, unjudged = sum(row["run"] == name for row in passing["failed"]), passing["unjudged"][name]
        gates["must pass"] = Gate(False if failed else None if unjudged else True,
                                  f"{failed} of {passing['asked']} questions that must not get worse again did"
                                  + (f", and {unjudged} were not judged by {report['by']}" if unjudged else ""))
    hacked = report.get("overoptimisation") or {}
    if any(point["run"] == name and point["flagged"] for point in hacked.get("points", ())):
        gates["over-optimisation"] = Gate(None, f"the reward that it was trained on rose, and {hacked['other']} does "
                                                "not see it")
    return gates


def interval_to_decide(own: Mapping[str, Any]) -> Mapping[str, float]:
    """Widened for looking at any time, where no number of votes was planned."""
    return own.get("anytime") or own["decide"]


def length_gate(own: Mapping[str, Any]) -> Gate:
    estimate = own.get("length_controlled")
    if not estimate:
        return Gate(None, "its answers are nearly all longer, or all shorter, so what it would win at equal length "
                          "cannot be told (compare.length_gate=false goes without)")
    return above_half(widened(estimate, own), "at equal length it wins")


def widened(estimate: Mapping[str, float], own: Mapping[str, Any]) -> Mapping[str, float]:
    """An interval of the usual level, as much wider as that of the win rate is where it decides: for several
    candidates, and for looking at any time. Within 0..1."""
    usual, wide = own["win_rate"], interval_to_decide(own)

    def end(name: str, limit: float) -> float:
        reach = usual[name] - usual["value"]
        factor = max(1.0, (wide[name] - wide["value"]) / reach) if reach else 1.0
        return limit if wide[name] == limit else estimate["value"] + factor * (estimate[name] - estimate["value"])

    return {"value": estimate["value"], "low": max(0.0, end("low", 0.0)), "high": min(1.0, end("high", 1.0))}


def above_half(estimate: Mapping[str, float], verb: str) -> Gate:
    state = True if estimate["low"] > 0.5 else False if estimate["high"] < 0.5 else None
    return Gate(state, f"{verb} {shown(estimate)}")


def kl_gate(kl: Mapping[str, float] | None, most: float) -> Gate:
    if kl is None:
        return Gate(None, "its KL from the baseline is not defined: another tokenizer, or greedy answers")
    return Gate(kl["value"] <= most, f"KL {kl['value']:.1f} nats (compare.max_kl is {most:g})")


def tokens_ratio(report: Mapping[str, Any], name: str) -> float:
    runs = report["runs"]
    return runs[name]["mean_length"] / max(runs[report["baseline"]]["mean_length"], 1e-9)


def shown(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.1%} [{estimate['low']:.1%}, {estimate['high']:.1%}]"


def in_words(word: Word, best: str, report: Mapping[str, Any], judged: Mapping[str, Any],
         gates: Mapping[str, Gate]) -> str:
    """The verdict in one line: who, by whom, how much, at what price, and what is missing."""
    own, its = judged["runs"][best], report["runs"][best]
    count = own["votes"] if judged["kind"] == "people" else own["prompts"]
    told = [f"by {report['by']} it wins {shown(interval_to_decide(own))} against {report['baseline']} "
            f"({count} {UNIT[judged['kind']]})"]
    if own.get("length_controlled"):
        told.append(f"{shown(widened(own['length_controlled'], own))} at equal length")
    if "kl" in its:
        told.append(f"KL {its['kl']['value']:.1f} nats")
    told.append(f"{tokens_ratio(report, best):.2f}x tokens")
    if report.get("regressions"):
        told.append(f"{report['regressions']['counts'].get(best, 0)} regressions")
    open_or_failed = [gate.detail for name, gate in gates.items() if not gate.passed
                      and name not in ("win rate", "equal length")]
    if gates["win rate"].passed and "equal length" in gates and not gates["equal length"].passed:
        open_or_failed.insert(0, gates["equal length"].detail if not own.get("length_controlled") else
                              "it may win by length alone" if gates["equal length"].passed is None
                              else "it wins by length alone")
    if word == "undecided" and gates["win rate"].passed is None and own["power"]["more"]:
        open_or_failed.append(f"about {own['power']['more']} more {UNIT[judged['kind']]} would find a win rate of "
                              f"{report['effect']:.0%}")
    subject = {"ship": f"ship {best}", "reject": f"reject: the best, {best}",
               "undecided": f"undecided: the best, {best}"}[word]
    return "; ".join([f"{subject}: {', '.join(told)}", *open_or_failed])
