"""The figures of every run, and the verdict."""

from __future__ import annotations

from typing import Any

from prefloop import stats
from prefloop.compare.answering import Contestant


def judge(contestants: list[Contestant], level: float) -> dict[str, Any]:
    """The figures of every run, and the verdict."""
    baseline, *others = contestants
    figures = {one.name: run_figures(one, baseline, level) for one in contestants}
    wins = {one.name: figures[one.name].get("win_rate") for one in others}
    verdict, line = decide(baseline.name, {name: win for name, win in wins.items() if win})
    return {"verdict": verdict, "line": line, "runs": figures}


def run_figures(one: Contestant, baseline: Contestant, level: float) -> dict[str, Any]:
    answers = [ids for own in one.ids for ids in own]
    figures: dict[str, Any] = {
        "checksum": one.checkpoint.checksum,
        "mean_length": sum(map(len, answers)) / len(answers),
        "ended": sum(ids[-1] == one.chat.end_id for ids in answers) / len(answers),
    }
    if one.baseline_logprobs is not None:
        lengths = [[len(ids) for ids in own] for own in one.ids]
        figures |= kl_figures(one.own_logprobs, one.baseline_logprobs, lengths, level)
    if one.rewards is not None:
        means = [mean(own) for own in one.rewards if own]
        figures["reward"] = mean_of(means, level)
        if one.spreads and any(map(any, one.spreads)):  # of one member there is none
            figures["disagreement"] = mean_of([mean(own) for own in one.spreads if own], level)
        if one is not baseline and baseline.rewards is not None:
            figures |= reward_figures(one.rewards, baseline.rewards, level)
    return figures


def kl_figures(own: list[list[float]], base: list[list[float]], lengths: list[list[int]],
               level: float) -> dict[str, Any]:
    """KL(run, baseline) in nats, of the run's own answers: the mean of log p_run - log p_baseline, over prompts.

    Each prompt's answers are averaged first: they are not independent. Per token is the ratio of the two means.
    """
    per_prompt = [mean([a - b for a, b in zip(x, y, strict=True)]) for x, y in zip(own, base, strict=True)]
    tokens = mean([mean([float(n) for n in row]) for row in lengths])
    return {"kl": mean_of(per_prompt, level), "kl_per_token": mean(per_prompt) / tokens}


def reward_figures(rewards: list[list[float]], baseline: list[list[float]], level: float) -> dict[str, Any]:
    """Win rate by reward over the baseline, answer against answer of the same seed, ties half; and the paired gain."""
    both = [(x, y) for x, y in zip(rewards, baseline, strict=True) if x and y]
    wins = [mean([float(a > b) + 0.5 * float(a == b) for a, b in zip(x, y, strict=True)]) for x, y in both]
    gain = stats.paired_difference([mean(x) for x, _ in both], [mean(y) for _, y in both], level=level)
    return {"win_rate": stats.win_rate(wins, level)._asdict(), "reward_gain": gain._asdict()}


def decide(baseline: str, wins: dict[str, dict[str, float]]) -> tuple[str, str]:
    """ship if some candidate's interval is above one half, reject if all are below, else undecided."""
    if not wins:
        return "undecided", "undecided: without compare.reward nothing says which answers are better"
    best = max(wins, key=lambda name: wins[name]["low"])
    shown = f"{wins[best]['value']:.1%} [{wins[best]['low']:.1%}, {wins[best]['high']:.1%}]"
    if wins[best]["low"] > 0.5:
        return "ship", f"ship {best}: by reward it wins {shown} against {baseline}"
    if all(win["high"] < 0.5 for win in wins.values()):
        return "reject", f"reject: the best, {best}, wins only {shown} against {baseline}"
    return "undecided", f"undecided: the best, {best}, wins {shown} against {baseline}; more prompts may tell"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def mean_of(per_prompt: list[float], level: float) -> dict[str, float]:
    return stats.Estimate(mean(per_prompt), *stats.bootstrap_interval(per_prompt, level=level))._asdict()
