"""Whether a verdict's statistics hold, and how long a verdict takes: `make bench NAME=verdict`.

Simulated raters judge two checkpoints. Which answer is better differs from prompt to prompt, and so do the lengths;
each rater leans to the left, to longer answers and to ties in a way of their own, and where the checkpoints differ has
a taste of their own for either. A crew of 20 recurs across prompts. The simulated votes go through what a report goes
through, and the interval that is looked at is the one that decides. The truth is that of all such prompts and raters.

- false_positive_rate: of 200 comparisons of a checkpoint with its equal (200 prompts, 5 raters each), how many differ.
- power: a win rate of 55% with 784 decisive votes, one per prompt; how many of 200 find it.
- coverage: 600 comparisons (200 prompts, 5 raters each, tastes); how many 95% intervals hold the truth. Beside it that
  of the length-controlled win rate, and of a bootstrap over votes, which does not know of prompts and raters.
- peeking: of 200 equals, looked at after every 12 prompts, how many were ever called different, by either rule.
- bt_gap, alpha_gap: the largest difference from scikit-learn's logistic regression, and from the krippendorff package
  (GPL: in an environment of its own).
- seconds_500x3: `prefloop compare compare.answers=...` of 500 prompts, 3 checkpoints and 3 judges, in a fresh process;
  seconds_500x3_inside is without starting Python and importing, seconds_500x3_cpu what its processors worked.
- generation_speedup: the demo's model, sampling.batch=64 against one prompt at a time; generation_same is how many of
  the answers are the same to the last token (a batch rounds otherwise, which now and then turns a close draw).
"""

from __future__ import annotations

import json
import resource
import statistics as of
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from prefloop import agreement, stats
from prefloop.compare import kept
from prefloop.compare.records import Answer, Contestant, Contests, Judge, Question, Rewards
from prefloop.compare.statistics import Votes, against, anytime, judged, win_rate

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".venv" / "krippendorff-0.9.0"
LEVEL, EFFECT = 0.95, 0.55
DRAWS = 4_000_000  # that the truth is an average of
PLAYERS = ("baseline", "candidate")


@dataclass(frozen=True)
class World:
    """How much better the candidate is, in nats, how much raters' tastes for it differ, and who judges how much."""

    better: float = 0.0
    taste: float = 0.0
    ties: float = 0.3  # the most that a rater leans to ties
    prompts: int = 200
    votes: int = 5
    crew: int = 20
    longer: float = 0.0  # the candidate's answers are, on average, in log tokens

    def comparison(self, seed: int) -> Judge:
        """Raters of their own, and what they say of prompts of their own."""
        draw = np.random.default_rng(seed)
        good_N, gap_N = draw.normal(self.better, 0.7, self.prompts), draw.normal(self.longer, 0.4, self.prompts)
        left_C, long_C = draw.normal(0.0, 0.5, self.crew), draw.normal(0.3, 0.5, self.crew)
        taste_C, ties_C = draw.normal(0.0, self.taste, self.crew), draw.uniform(0.0, self.ties, self.crew)
        rater_D = np.argsort(draw.random((self.prompts, self.crew)), axis=1)[:, : self.votes].ravel()
        prompt_D = np.repeat(np.arange(self.prompts), self.votes)
        first_D = draw.integers(0, 2, len(prompt_D))  # the player on the left
        felt_D = good_N[prompt_D] + long_C[rater_D] * gap_N[prompt_D] + taste_C[rater_D]
        sign_D = 2.0 * first_D - 1
        won_D = (draw.random(len(prompt_D)) < expit(sign_D * felt_D + left_C[rater_D])).astype(float)
        won_D[draw.random(len(prompt_D)) < ties_C[rater_D]] = 0.5
        return Judge("people", "people", Contests(PLAYERS, tuple(f"rater {n}" for n in range(self.crew)), prompt_D,
                                                  rater_D, first_D, 1 - first_D, won_D, sign_D * gap_N[prompt_D]))

    def truth(self, long: bool = True) -> float:
        """The win rate over all such prompts and raters; without `long`, between answers as long."""
        draw = np.random.default_rng(0)
        felt = self.better + draw.normal(0.0, (0.7**2 + self.taste**2) ** 0.5, DRAWS)
        if long:
            felt += draw.normal(0.3, 0.5, DRAWS) * draw.normal(self.longer, 0.4, DRAWS)
        felt += draw.normal(0.0, 0.5, DRAWS)  # the left is as often one's as the other's
        ties = self.ties / 2
        return float(ties / 2 + (1 - ties) * expit(felt).mean())


def main() -> None:
    found: dict[str, Any] = {}
    for part in (false_positives, power, coverage, peeking, references, mirrored, seconds, generation):
        told = part()
        print(json.dumps(told), flush=True)
        found |= told
    print(json.dumps(found))


def judging(world: World, comparisons: int, start: int) -> Iterator[tuple[Judge, dict[str, Any]]]:
    """Comparisons of a world, each with the figures that a report would have of it, at a planned number of votes."""
    for seed in range(start, start + comparisons):
        judge = world.comparison(seed)
        yield judge, judged(judge, 0, LEVEL, EFFECT, {}, planned=1)["runs"]["candidate"]


def differs(estimate: dict[str, float]) -> bool:
    return not estimate["low"] <= 0.5 <= estimate["high"]


def holds(estimate: dict[str, float], truth: float) -> bool:
    return estimate["low"] <= truth <= estimate["high"]


def false_positives() -> dict[str, float]:
    return {"false_positive_rate": of.mean(differs(run["decide"]) for _, run in judging(World(), 200, 0))}


def power() -> dict[str, float]:
    """Without ties, so that all votes are decisive."""
    world = World(ties=0.0, prompts=784, votes=1)
    better = brentq(lambda better: replace(world, better=better).truth() - EFFECT, 0.0, 1.0, xtol=1e-4)
    planted = replace(world, better=float(better))  # type: ignore[arg-type]
    return {"power": of.mean(run["decide"]["low"] > 0.5 for _, run in judging(planted, 200, 10_000)),
            "power_planted": round(planted.truth(), 4)}


def coverage() -> dict[str, float]:
    world = World(better=0.3, taste=0.3)
    truth, level = world.truth(), world.truth(long=False)
    all_told = list(judging(world, 600, 20_000))
    of_longer = [run["length_controlled"] for _, run in judging(replace(world, longer=0.49), 600, 20_000)]
    naive = [stats.bootstrap_interval(np.where(judge.contests.first_D == 1, judge.contests.won_D,
                                               1 - judge.contests.won_D)) for judge, _ in all_told]
    return {"coverage": of.mean(holds(run["win_rate"], truth) for _, run in all_told),
            "coverage_truth": round(truth, 4),
            "coverage_length_controlled": of.mean(holds(run["length_controlled"], level) for _, run in all_told),
            "coverage_length_controlled_longer": of.mean(holds(one, level) for one in of_longer if one),
            "coverage_over_votes": of.mean(low <= truth <= high for low, high in naive)}


def peeking() -> dict[str, float]:
    """As people's votes come in, prompt by prompt."""
    ever: dict[str, list[bool]] = {"decide": [], "anytime": []}
    for seed in range(200):
        contests = World().comparison(30_000 + seed).contests
        looks = [(votes, win_rate(votes)) for prompts in range(8, 201, 12) for votes in [until(contests, prompts)]]
        ever["decide"].append(any(differs(won.share(LEVEL)._asdict()) for _, won in looks))
        ever["anytime"].append(any(differs(anytime(won, len(votes.won_D), LEVEL, EFFECT)._asdict())
                                   for votes, won in looks))
    return {"peeking_false_positive_rate": of.mean(ever["anytime"]),
            "peeking_false_positive_rate_fixed": of.mean(ever["decide"])}


def until(contests: Contests, prompts: int) -> Votes:
    """The votes on the first so many prompts."""
    every = against(contests, 1, 0, contests.prompt_D, stats.resample_weights(prompts))
    return every.only(contests.prompt_D < prompts)


def mirrored() -> dict[str, float]:
    """The largest difference between a figure and its mirror image, when candidate and baseline change places."""
    gaps = []
    for seed in range(20):
        judge = World(better=0.2).comparison(40_000 + seed)
        ahead = judged(judge, 0, LEVEL, EFFECT, {}, 1)["runs"]["candidate"]
        behind = judged(judge, 1, LEVEL, EFFECT, {}, 1)["runs"]["baseline"]
        for figure in ("win_rate", "decide", "length_controlled"):
            gaps += [abs(ahead[figure][one] + behind[figure][other] - 1)
                     for one, other in (("value", "value"), ("low", "high"), ("high", "low"))]
        gaps.append(abs(ahead["p"] - behind["p"]))
    return {"mirror_gap": max(gaps)}


def references() -> dict[str, float]:
    return {"bt_gap": bt_gap(), "alpha_gap": alpha_gap()}


def bt_gap() -> float:
    """Five players, wins and ties, against a logistic regression without a penalty."""
    from sklearn.linear_model import LogisticRegression

    gaps = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        true_K = draw.normal(0, 1, 5)
        ties_KK = np.triu(draw.integers(1, 6, (5, 5)), 1) / 2
        wins_KK = draw.poisson(20 * expit(true_K[:, None] - true_K)) + ties_KK + ties_KK.T
        i_G, j_G = np.nonzero(wins_KK)
        sides_GK = np.eye(5)[i_G] - np.eye(5)[j_G]
        fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000)
        fit.fit(np.concatenate([sides_GK, -sides_GK]), np.repeat([1, 0], len(i_G)),
                sample_weight=np.tile(wins_KK[i_G, j_G], 2))
        theirs_K = np.ravel(fit.coef_) - fit.coef_.mean()
        gaps.append(float(np.abs(stats.bradley_terry(wins_KK) - theirs_K).max()))
    return max(gaps)


def alpha_gap() -> float:
    """Tables with gaps, skewed values and agreement by degrees; nominal and ordinal."""
    if not (PEER / "ready").exists():
        print(f"installing krippendorff 0.9.0 into {PEER.relative_to(ROOT)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        subprocess.run([PEER / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check",
                        "krippendorff==0.9.0"], check=True)
        (PEER / "ready").touch()
    tables = []
    for seed in range(20):
        draw = np.random.default_rng(seed)
        said_UR = draw.integers(0, 5, (40, 1)) + draw.integers(0, 1 + seed % 4, (40, 6))
        tables.append(np.where(draw.random((40, 6)) < 0.4, np.nan, said_UR))
    theirs = ("import json, sys, krippendorff, numpy\n"
              "print(json.dumps([krippendorff.alpha(numpy.array(one, dtype=float).T, level_of_measurement=scale)\n"
              "                  for one in json.load(sys.stdin) for scale in ('nominal', 'ordinal')]))")
    done = subprocess.run([PEER / "bin" / "python", "-c", theirs], input=json.dumps([one.tolist() for one in tables]),
                          capture_output=True, text=True, check=True)
    ours = [agreement.alpha(one, scale) for one in tables for scale in ("nominal", "ordinal")]
    return max(abs(a - b) for a, b in zip(ours, json.loads(done.stdout), strict=True) if a is not None)


def seconds() -> dict[str, float]:
    """A comparison that was answered and scored by two reward models, and 2,500 rankings of its three answers."""
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        compared(root / "before", root / "votes")
        command = ["compare", str(ROOT / "configs" / "compare.yaml"), f"compare.answers=[{root / 'before'}]",
                   f"compare.votes=[{root / 'votes'}]", f"run.root={root / 'runs'}"]
        inside = ("import sys, time; from prefloop.cli import main; import prefloop.compare.recipe\n"
                  "started = time.perf_counter(); main(sys.argv[1:]); print(time.perf_counter() - started)")
        times: dict[str, list[float]] = {"seconds_500x3": [], "seconds_500x3_inside": [], "seconds_500x3_cpu": []}
        for _ in range(5):
            started, worked = time.perf_counter(), cpu_seconds()
            done = subprocess.run([sys.executable, "-c", inside, *command], capture_output=True, text=True, check=True)
            times["seconds_500x3"].append(time.perf_counter() - started)
            times["seconds_500x3_cpu"].append(cpu_seconds() - worked)
            times["seconds_500x3_inside"].append(float(done.stdout.split()[-1]))
        return {name: round(of.median(own), 2) for name, own in times.items()}


def cpu_seconds() -> float:
    """Of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def compared(folder: Path, votes: Path) -> None:
    """500 prompts of the demo, answers of as many words as people write, and what is said of them, all made up."""
    from prefloop import checkpoints
    from prefloop.formats import snapshot
    from prefloop.launch.world import grammar
    from prefloop.records import Ranking, Response

    draw, names = np.random.default_rng(0), ("runs/sft", "runs/dpo", "runs/ppo")
    questions = tuple(Question(prompt) for prompt in grammar.prompts(500, 0))
    words = [f"word{n}" for n in range(2000)]
    texts = [[" ".join(draw.choice(words, draw.integers(20, 200))) for _ in questions] for _ in names]
    contestants = tuple(
        Contestant(name, name * 4, tuple((Answer(text, len(text.split()), True, float(draw.normal(3, 1))),)
                                         for text in own)) for name, own in zip(names, texts, strict=True))
    good_KN = draw.normal(np.array([[0.0], [0.3], [0.5]]), 1.0, (3, 500))
    judges = tuple(Rewards(name, name * 4, tuple(tuple((float(one),) for one in own) for own in
                                                 good_KN + draw.normal(0, 1, good_KN.shape)))
                   for name in ("runs/reward", "runs/second"))
    rankings = []
    for n, question in enumerate(questions):
        responses = tuple(Response(own[n], name, name * 4) for name, own in zip(names, texts, strict=True))
        for rater in draw.choice(20, 5, replace=False):
            order = np.argsort(np.argsort(-(good_KN[:, n] + draw.gumbel(size=3))))
            rankings.append(Ranking(question.prompt, responses, tuple(int(place) + 1 for place in order), f"r{rater}"))
    snapshot.write(votes, rankings)
    folder.mkdir()
    kept.write(folder, kept.rows(kept.Compared(questions, contestants, judges, {})))
    checkpoints.write_json(folder / kept.REPORT, {
        "runs": {name: {"checksum": name * 4} for name in names}, "judges": {}, "split": "test", "over_length": 0,
        "sampling": {"answers": 1, "max_new_tokens": 64, "temperature": 1.0}, "hold": {},
        "proxies": ["runs/reward"], "provenance": {}})


def generation() -> dict[str, Any]:
    """Prompts of the demo, answered by its base; turns of either side alternate, the ratio is of medians."""
    from prefloop import models
    from prefloop.generate import SamplingConfig, sample_ids
    from prefloop.launch.world import grammar

    found = models.resolve(str(Path(grammar.__file__).with_name("base")))
    model, chat = models.load_base(found, models.ModelConfig(path=found.path)), models.load_chat(found)
    prompts = grammar.prompts(192, 0)
    seconds: dict[int, list[float]] = {1: [], 64: []}
    answers: dict[int, list[list[list[int]]]] = {}
    for _ in range(3):
        for batch, times in seconds.items():
            started = time.perf_counter()
            sampling = SamplingConfig(answers=1, max_new_tokens=96, batch=batch)
            answers[batch] = sample_ids(model, chat, prompts, sampling, None)
            times.append(time.perf_counter() - started)
    same = of.mean(one == other for one, other in zip(answers[1], answers[64], strict=True))
    return {"generation_speedup": round(of.median(seconds[1]) / of.median(seconds[64]), 1),
            "generation_same": round(same, 4),
            "generation_seconds": {batch: round(of.median(times), 2) for batch, times in seconds.items()}}


if __name__ == "__main__":
    main()
