"""Reports of comparisons as tests make them up: whole, or one section at a time."""

from __future__ import annotations

from typing import Any

HOSTILE = '<script>alert(1)</script><img src="http://example.com/x.png" onerror=alert(1)>{{ 7 * 7 }}'
SFT, DPO, PPO = "runs/sft", "runs/dpo", "runs/ppo"
NAMES = (SFT, DPO, PPO)


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


def against(value: float, **more: Any) -> dict[str, Any]:
    """One run's figures by one judge."""
    usual = estimate(value, value - 0.1, value + 0.1)
    return {"win_rate": usual, "decide": usual, "prompts": 40,
            "length_controlled": estimate(value - 0.05, value - 0.2, value + 0.1), "quintiles": [], "slices": [],
            "power": {"decisive": 64, "design_effect": 1.25, "detectable": 0.625, "needed": 784, "more": 720}, **more}


def judged(kind: str = "people", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "proxy": False, "raters": 3, "contests": 1234, "missing": 0, "votes": 1234,
            "runs": {DPO: against(0.55), PPO: against(0.6)}, **more}


def run(**figures: Any) -> dict[str, Any]:
    return {"checksum": "c" * 64, "mean_length": 30.0, "ended": 1.0, **figures}


def told(**more: Any) -> dict[str, Any]:
    runs = {SFT: run(), DPO: run(kl=estimate(0.3, 0.2, 0.4)), PPO: run(kl=estimate(3.0, 2.5, 3.5), mean_length=45.0)}
    return {"format": 2, "made": "2026-03-04T05:06:07Z", "prompts": 40, "over_length": 0, "split": "test",
            "level": 0.95, "sampling": {"answers": 1, "temperature": 1.0}, "baseline": SFT, "best": PPO,
            "by": "people", "verdict": "undecided", "line": f"undecided: {PPO} wins 60.0%", "runs": runs,
            "judges": {"people": judged()}, **more}


def row(number: int, before: float, after: float, text: str = "fine") -> dict[str, Any]:
    return {"prompt": {"messages": [{"role": "user", "content": f"question {number}"}]},
            "answers": {SFT: ["old"], PPO: [text], DPO: ["other"]},
            "rewards": {"runs/reward": {SFT: [before], PPO: [after], DPO: [0.0]}}}


ROWS = [row(0, 0.0, 1.0), row(1, 0.5, -1.5, HOSTILE), row(2, 0.0, 0.25)]
LOST = {"prompt": "p1", "number": 1, "set": "held out", "title": "question 1", "loss": 0.75,
        "before": "a dark night", "after": HOSTILE}

SECTIONS = {
    "Gates": {"runs": {SFT: run(), PPO: run(gates={"length": {"passed": None, "detail": "not yet"}})}},
    "All runs among themselves": {"judges": {"people": judged(strengths={
        name: {**estimate(n - 1.0, n - 1.5, n - 0.5), "rank": 3 - n, "rank_low": max(1, 2 - n), "rank_high": 3 - n}
        for n, name in enumerate(NAMES)})}},
    "Does it win by length?": {"judges": {"people": judged(runs={PPO: against(0.6, quintiles=[
        {"low": 0.5, "high": 0.9, "win_rate": estimate(0.4, 0.2, 0.6), "prompts": 40}])})}},
    "Where it wins, and where not": {"judges": {"people": judged(runs={PPO: against(0.6, slices=[
        {"by": "stratum", "name": "chat", "prompts": 12, "win_rate": estimate(0.9, 0.7, 1.0), "p": 0.01,
         "adjusted": None, "coloured": False}])})}},
    "How rewards are spread": {"judges": {"runs/reward": judged("reward", reward={SFT: estimate(0.1, 0.0, 0.2)},
                                                                 quantiles={SFT: [-1.0, -0.5, 0.0, 0.5, 1.0]},
                                                                 histogram={"edges": [-1.0, 0.0, 1.0],
                                                                            "counts": {SFT: [3, 1]}})},
                               "by": "runs/reward"},
    "Over-optimisation": {"overoptimisation": {
        "proxy": "runs/reward", "other": "people", "flagged": True, "words": "the reward rises alone",
        "points": [{"run": PPO, "kl": 9.0, "root_kl": 3.0, "proxy": estimate(1.0, 0.8, 1.2),
                    "other": estimate(0.5, 0.4, 0.6), "flagged": True}]}},
    "Metrics": {"runs": {SFT: run(metrics={"held out": {"rouge_l": estimate(0.5, 0.4, 0.6)}})}, "best": None},
    "Robustness": {"robustness": {SFT: {"typos": {"rouge_l": estimate(-0.1, -0.2, 0.0)}}}},
    "Got worse": {"regressions": {"best": [LOST], "counts": {PPO: 1}, "by": "people", "must_pass": None}},
    "Cost": {"runs": {SFT: run(cost={"tokens": 900, "seconds": 2.0, "tokens_per_second": 450.0, "peak_mb": None,
                                     "adapter_mb": 0.5})}, "best": None},
}


def whole() -> dict[str, Any]:
    """A report with every section, and two judges whose details are many."""
    facts = told()
    people = {key: value for section in SECTIONS.values() for key, value in section.get("judges", {}).get(
        "people", {}).items() if key in ("strengths",)}
    of_best = {key: one for section in SECTIONS.values() for key, one in section.get("judges", {}).get(
        "people", {}).get("runs", {}).get(PPO, {}).items() if key in ("quintiles", "slices") and one}
    judges = {name: judged(kind, **people, runs={DPO: against(0.55), PPO: against(0.6, **of_best)})
              for name, kind in (("people", "people"), ("gpt", "ai"))}
    runs = {name: {**own, **SECTIONS["Cost"]["runs"][SFT], **SECTIONS["Metrics"]["runs"][SFT]}
            for name, own in facts["runs"].items()}
    runs[PPO] |= SECTIONS["Gates"]["runs"][PPO]
    flat = {key: value for section in SECTIONS.values() for key, value in section.items()
            if key in ("overoptimisation", "robustness", "regressions")}
    return {**facts, **flat, "runs": runs, "judges": judges | SECTIONS["How rewards are spread"]["judges"]}
