"""From what a judge said of contests to figures, the same for people, an AI and reward models. Pure arithmetic.

Every figure is a share of contests won against the baseline, a tie half, over the questions that the verdict is about;
its interval is a bootstrap over prompts, each carrying all its votes, widened where raters recur (clusters.py).
Swapping a candidate and the baseline mirrors every figure, and a contestant against itself has exactly one half.

Dimensions: D contests of a candidate with the baseline, N prompts, R resamples, K players, S slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import special

from prefloop import stats
from prefloop.compare import lengths
from prefloop.compare.clusters import Array, Numbers, Resampled, spread
from prefloop.compare.records import Contests, Judge

POWER = 0.8  # how often a difference that is there should be found
LEAST = 30  # prompts of a slice that may be coloured
SMOOTHING = 0.5  # wins added to every direction of every pair, only where strengths have no finite value


@dataclass(frozen=True)
class Votes:
    """The contests of one candidate with the baseline, as the candidate sees them. `question_D` are the judge's
    numbers of the questions, `prompt_D` the columns of `weights_RN`."""

    question_D: Numbers
    prompt_D: Numbers
    rater_D: Numbers
    won_D: Array
    gap_D: Array
    weights_RN: Array

    @property
    def prompts(self) -> int:
        return len(np.unique(self.prompt_D))

    def only(self, keep_D: np.ndarray) -> Votes:
        return Votes(self.question_D[keep_D], self.prompt_D[keep_D], self.rater_D[keep_D], self.won_D[keep_D],
                     self.gap_D[keep_D], self.weights_RN)


def judged(judge: Judge, baseline: int, level: float, effect: float, slices: Mapping[str, Sequence[str]],
           planned: int | None) -> dict[str, Any]:
    """A judge's part of report.json. `baseline` is a number of a player; `slices` have a name for each question, by
    what they slice, "" where it is in none; `effect` is the win rate that a comparison should find, `planned` how many
    votes of a candidate and the baseline were to be had.
    """
    contests = judge.contests
    said_D = contests.rater_D >= 0  # the others were decided by rule
    votes = np.unique(np.stack([contests.prompt_D, contests.rater_D])[:, said_D], axis=1).shape[1]
    raters = len(np.unique(contests.rater_D[said_D]))
    told: dict[str, Any] = {"kind": judge.kind, "proxy": judge.proxy, "raters": raters,
                            "contests": len(contests), "missing": contests.asked, "votes": votes, "runs": {},
                            "table": {}, "strengths": {}}
    if not len(contests):
        return told
    decide = 1 - (1 - level) / max(1, len(contests.players) - 1)  # Bonferroni: the best of several is chosen
    questions_N, prompt_D = np.unique(contests.prompt_D, return_inverse=True)
    weights_RN = stats.resample_weights(len(questions_N))
    for number, name in enumerate(contests.players):
        own = against(contests, number, baseline, prompt_D.ravel(), weights_RN)
        if number != baseline and len(own.won_D):
            told["runs"][name] = run_figures(own, judge.kind, level, decide, effect, slices, planned)
    wins_KK = table(contests)
    games_KK = wins_KK + wins_KK.T
    told["table"] = {name: {other: float(wins_KK[i, j] / games_KK[i, j])
                            for j, other in enumerate(contests.players) if games_KK[i, j]}
                     for i, name in enumerate(contests.players) if games_KK[i].any()}
    told["strengths"] = ranked(contests, prompt_D.ravel(), weights_RN, level)
    return told


def against(contests: Contests, candidate: int, baseline: int, prompt_D: Numbers, weights_RN: Array) -> Votes:
    ahead_D = (contests.first_D == candidate) & (contests.second_D == baseline)
    behind_D = (contests.first_D == baseline) & (contests.second_D == candidate)
    every = Votes(contests.prompt_D, prompt_D, contests.rater_D, np.where(ahead_D, contests.won_D, 1 - contests.won_D),
                  np.where(ahead_D, contests.gap_D, -contests.gap_D), weights_RN)
    return every.only(ahead_D | behind_D)


def run_figures(votes: Votes, kind: str, level: float, decide: float, effect: float,
                slices: Mapping[str, Sequence[str]], planned: int | None) -> dict[str, Any]:
    """What one candidate did against the baseline. "anytime" is an interval to look at whenever one likes: where
    people vote without a plan, before it is reached, or when it is over."""
    won = win_rate(votes)
    controlled = length_controlled(votes, won)
    counts = [int((votes.won_D == outcome).sum()) for outcome in (1.0, 0.5, 0.0)]
    each = 1.0 if kind == "people" else len(votes.won_D) / won.prompts  # contests of a vote, or of a prompt
    said = won.prompts if kind == "reward" else int((votes.rater_D >= 0).sum())
    told = {"win_rate": won.share(level)._asdict(), "decide": won.share(decide)._asdict(), "p": won.p(), "votes": said,
            **dict(zip(("wins", "ties", "losses"), counts, strict=True)), "prompts": won.prompts,
            "length_controlled": controlled and controlled.share(level)._asdict(),
            "quintiles": quintiles(votes, level), "slices": sliced(votes, slices, level),
            "power": power(round((counts[0] + counts[2]) / each), won.spread.design_effect / each, decide, effect,
                           kind == "people" and passed(said, planned))}
    if kind == "people" and (passed(said, planned) or said < (planned or 0)):
        told["anytime"] = anytime(won, len(votes.won_D), decide, effect)._asdict()
    return told


def passed(votes: int, planned: int | None) -> bool:
    """Whether the one look that was planned, at so many votes or up to a tenth more, is over, or there is none."""
    return planned is None or 10 * votes > 11 * planned


def win_rate(votes: Votes) -> Resampled:
    """Contests won of all contests, a tie half."""
    prompts = votes.weights_RN.shape[1]
    won_N = np.bincount(votes.prompt_D, weights=votes.won_D, minlength=prompts)
    all_N = np.bincount(votes.prompt_D, minlength=prompts)
    value = float(won_N.sum() / all_N.sum())
    with np.errstate(invalid="ignore"):  # a resample without any of these prompts
        values_R = (votes.weights_RN @ won_N) / (votes.weights_RN @ all_N)
    influence_D = (votes.won_D - value) / len(votes.won_D)
    return Resampled(value, values_R, spread(influence_D, votes.prompt_D, votes.rater_D), votes.prompts)


def length_controlled(votes: Votes, won: Resampled) -> Resampled | None:
    """The win rate where both answers are as long (lengths.py). None where length cannot be told from who wrote."""
    if not votes.gap_D.any():
        return won
    known = lengths.between(votes.won_D, votes.gap_D, votes.prompt_D)
    if not known:
        return None
    if np.ptp(votes.won_D) == 0:
        return replace(won, prompts=known)  # length made no difference
    fitted = lengths.fitted(votes.won_D, votes.gap_D, votes.prompt_D, votes.weights_RN)
    return Resampled(fitted.value, fitted.values_R, spread(fitted.influence_D, votes.prompt_D, votes.rater_D), known)


def quintiles(votes: Votes, level: float) -> list[dict[str, Any]]:
    """Win rate by how long the candidate's answer is beside the baseline's: fifths of the contests, ratios the same
    staying together."""
    bin_D, told = lengths.fifths(votes.gap_D), []
    for one in np.unique(bin_D):
        own = votes.only(bin_D == one)
        low, high = np.exp([own.gap_D.min(), own.gap_D.max()])
        told.append({"low": float(low), "high": float(high), "win_rate": win_rate(own).share(level)._asdict(),
                     "prompts": own.prompts})
    return told


def sliced(votes: Votes, slices: Mapping[str, Sequence[str]], level: float) -> list[dict[str, Any]]:
    """Win rate by slice. Of those with 30 prompts or more, false discoveries are held to 1 - level; smaller ones are
    shown without a test ("adjusted" is null) and never coloured."""
    found: list[tuple[str, str, Resampled]] = []
    for by, names in slices.items():
        name_D = np.asarray(names, dtype=object)[votes.question_D]
        found += [(by, str(name), win_rate(votes.only(name_D == name))) for name in sorted(set(name_D) - {""})]
    p_S = [one.p() for _, _, one in found]
    large = [n for n, (_, _, one) in enumerate(found) if one.prompts >= LEAST]
    adjusted = dict(zip(large, map(float, stats.adjusted([p_S[n] for n in large])), strict=True)) if large else {}
    return [{"by": by, "name": name, "prompts": one.prompts, "win_rate": one.share(level)._asdict(), "p": p_S[n],
             "adjusted": adjusted.get(n), "coloured": adjusted.get(n, 1.0) <= 1 - level}
            for n, (by, name, one) in enumerate(found)]


def power(decisive: int, design: float, level: float, effect: float, sequence: bool = False) -> dict[str, Any]:
    """What so many decisive votes can find 80% of the time, and how many it takes to find `effect`: one_look() times
    the design effect, and about twice that where a confidence `sequence` has to exclude one half."""
    alpha, one = 1 - level, one_look(1 - level, effect)

    def errors(times: float) -> float:
        """How many standard errors away from 1/2 is found 80% of the time."""
        half = sequence_errors(times, alpha) if sequence else -special.ndtri(alpha / 2)
        return float(half + special.ndtri(POWER))

    times = 1.0
    for _ in range(20):  # errors() hardly moves: each round gains a digit or more
        times = errors(times) ** 2 / (4 * (effect - 0.5) ** 2 * one)
    needed = int(design * times * one)
    detectable = 0.5 + errors(decisive / design / one) * (design / decisive) ** 0.5 / 2 if decisive else 1.0
    return {"decisive": decisive, "design_effect": design, "detectable": min(1.0, detectable), "needed": needed,
            "more": max(0, needed - decisive)}


def one_look(alpha: float, effect: float) -> float:
    """The independent decisive votes that find `effect` 80% of the time, looked at once:
    (z_level + z_power)^2 / (4 (effect - 1/2)^2), which is 784 for 55% at 95%."""
    return float((special.ndtri(POWER) - special.ndtri(alpha / 2)) ** 2 / (4 * (effect - 0.5) ** 2))


def anytime(won: Resampled, votes: int, level: float, effect: float) -> stats.Estimate:
    """An interval that holds at every look, however often one looks: a confidence sequence of the clustered variance.

    Of few prompts the variance is taken to be the most that a share can have, with which no asymptotics are needed.
    """
    variance = max(won.spread.clustered, 0.25 / won.prompts) if won.few else won.spread.clustered
    # The independent votes that say as much as all these, of those that one look would take.
    times = votes / won.spread.design_effect / one_look(1 - level, effect)
    half = variance**0.5 * sequence_errors(times, 1 - level) * won.spread.student(level)
    return stats.Estimate(won.value, max(0.0, won.value - half), min(1.0, won.value + half))


def sequence_errors(times: float, alpha: float) -> float:
    """How many standard errors wide an asymptotic confidence sequence is, to either side (Waudby-Smith, Arbour, Sinha,
    Kennedy and Ramdas 2021, theorem 2.2). Its mixture is narrowest (their equation 24) at `times` = 1."""
    scale = times * (-2 * np.log(alpha) + np.log(1 - 2 * np.log(alpha)))  # t rho^2
    return float((2 * (scale + 1) / scale * np.log((scale + 1) ** 0.5 / alpha)) ** 0.5)


def table(contests: Contests, weight_D: Array | None = None) -> Array:
    """wins_KK of all contests between two players, a tie half to each."""
    players = len(contests.players)
    weight_D = np.ones(len(contests)) if weight_D is None else weight_D
    wins_KK = np.zeros((players, players))
    np.add.at(wins_KK, (contests.first_D, contests.second_D), weight_D * contests.won_D)
    np.add.at(wins_KK, (contests.second_D, contests.first_D), weight_D * (1 - contests.won_D))
    return wins_KK * (1 - np.eye(players))


def ranked(contests: Contests, prompt_D: Numbers, weights_RN: Array, level: float) -> dict[str, dict[str, float]]:
    """Bradley and Terry's strengths of the players who met others, in nats around 0, and their ranks in the resamples
    (1 is best; as good is the same rank)."""
    met = np.unique(np.concatenate([contests.first_D, contests.second_D]))
    wins_RKK = resampled_wins(contests, prompt_D, weights_RN)[:, met][:, :, met]
    value_K = scores(table(contests)[np.ix_(met, met)][None])[0]
    spread_K = [spread(influence_D, prompt_D, contests.rater_D) for influence_D in influences(contests, met, value_K)]
    widening_K = np.array([one.widening(level) for one in spread_K])
    values_RK = value_K + widening_K * (scores(wins_RKK) - value_K)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low_K, high_K = np.quantile(values_RK, tails, axis=0)
    first_K, last_K = np.quantile(ranks(values_RK), tails, axis=0, method="inverted_cdf")
    return {contests.players[player]: {
        "value": float(value_K[k]), "low": float(low_K[k]), "high": float(high_K[k]),
        "rank": int(ranks(value_K[None])[0, k]), "rank_low": int(first_K[k]), "rank_high": int(last_K[k])}
        for k, player in enumerate(met)}


def resampled_wins(contests: Contests, prompt_D: Numbers, weights_RN: Array) -> Array:
    """wins_RKK: what table() gives, of each resample of prompts."""
    players, prompts = len(contests.players), weights_RN.shape[1]
    pair_D = contests.first_D * players + contests.second_D
    cell_D = prompt_D * players**2 + pair_D
    shape = (prompts, players, players)
    won_NKK = np.bincount(cell_D, contests.won_D, minlength=prompts * players**2).reshape(shape)
    lost_NKK = np.bincount(cell_D, 1 - contests.won_D, minlength=prompts * players**2).reshape(shape)
    wins_NKK = won_NKK + lost_NKK.swapaxes(1, 2)
    return (weights_RN @ wins_NKK.reshape(prompts, -1)).reshape(-1, players, players) * (1 - np.eye(players))


def scores(wins_RKK: Array) -> Array:
    """Strengths of each table; half a win is added to every direction of every pair where they are not finite."""
    poor_R = ~stats.comparable(wins_RKK)
    return stats.strengths(wins_RKK + SMOOTHING * poor_R[:, None, None])


def influences(contests: Contests, met: Numbers, value_K: Array) -> Array:
    """Each contest's part in each strength's deviation, `KD`: the inverse information times its score."""
    place = np.zeros(len(contests.players), dtype=np.int64)
    place[met] = np.arange(len(met))
    first_D, second_D = place[contests.first_D], place[contests.second_D]
    chance_D = special.expit(value_K[first_D] - value_K[second_D])
    sides_KD = (np.arange(len(met))[:, None] == first_D) * 1.0 - (np.arange(len(met))[:, None] == second_D)
    information_KK = (sides_KD * (chance_D * (1 - chance_D))) @ sides_KD.T
    return np.linalg.pinv(information_KK) @ (sides_KD * (contests.won_D - chance_D))


def ranks(values_RK: Array) -> Numbers:
    """1 + how many are better; to within rounding."""
    return 1 + (values_RK[:, None, :] > values_RK[:, :, None] + 1e-9).sum(axis=2)
