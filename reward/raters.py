"""Who said it: whom to believe is found out with the reward, and what they said is weighed by it.

First the raters are held against each other and against a linear model that did not see the prompt in question: that
takes seconds. Then a model is trained whose loss knows each judgement's reliability and the position bias. For a
neural one `raters.rounds` may do more: it is trained on each half of the prompts, and its scores of the other half
take the linear model's place. A round costs as much as one training, and two loads of the base.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit

from prefloop import checkpoints, ranks, runs, scoring
from prefloop.errors import RequestError

from . import linear, reliability
from .assess import fold_of
from .comparisons import Array, compared
from .judgements import Group, Judgement

RATERS, LABELS, ROUNDS = "raters.json", "labels.jsonl", "rounds.jsonl"
FIRST = "agreement between raters, and a linear model that did not see the prompt"
LEAST_SHARES = 2  # with few raters nobody is capped below so many times an equal share
Fit = Callable[[str, Sequence[Group]], scoring.Scorer]


@dataclass(frozen=True)
class RatersConfig:
    """`raters:`. With `reliability` false every judgement counts alike, but for the `cap` on one rater's share."""

    reliability: bool = True
    rounds: int = 0
    trusted: list[str] = field(default_factory=list)
    cap: float = 0.03

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError("raters.rounds is at least 0")
        if not 0 < self.cap <= 1:
            raise ValueError("raters.cap is a share, over 0 and up to 1")


@dataclass(frozen=True)
class Rater:
    """What is known of one rater. `low` and `high` hold the reliability with 95% probability; `share` is of the weight
    in training, which the cap may have lowered to `counts` of each judgement."""

    name: str
    reliability: float
    low: float
    high: float
    judgements: int
    share: float
    counts: float

    def told(self) -> dict[str, Any]:
        """As the report shows it; a reliability that was not looked for is left out."""
        known = {"value": self.reliability, "low": self.low, "high": self.high}
        return {"rater": self.name, "judgements": self.judgements} | ({"reliability": known} if self.low else {})


@dataclass(frozen=True)
class Heard:
    """Groups whose judgements say how reliable they are, and what was found out; `fit` is None where nothing was."""

    groups: list[Group]
    raters: list[Rater]
    fit: reliability.Fit | None = None
    how: str = "every judgement counts alike"

    def expected(self, groups: Sequence[Group]) -> list[Group]:
        """Other judgements with the reliabilities that were found; of a rater nobody knows, the average rater's."""
        if not self.fit:
            return list(groups)
        known, average = {one.name: one.reliability for one in self.raters}, self.fit.prior.mean
        return [replace(group, judgements=tuple(replace(one, reliability=known.get(one.rater, average))
                                                for one in group.judgements)) for group in groups]

    def position(self) -> dict[str, float] | None:
        """What standing a place earlier adds to an answer, in nats; None where nobody knows where answers stood."""
        if not self.fit or not self.fit.worth.gamma_interval:
            return None
        low, high = self.fit.worth.gamma_interval
        return {"value": self.fit.worth.gamma, "low": float(low), "high": float(high)}


def heard(groups: Sequence[Group], config: RatersConfig, seed: int = 0, scores_A: Array | None = None,
          how: str = "", by_prompt: bool = False) -> Heard:
    """Judgements with reliabilities, offsets and capped weights; `by_prompt` as in `capped`.

    `scores_A` are a model's, of all answers one after the other, from which it learned nothing about these prompts;
    without them the linear model gives them.
    """
    counts = capped(groups, config.cap, by_prompt)
    votes = compared(groups)
    unknown = set(config.trusted) - set(votes.raters)
    if unknown:
        raise RequestError(f"raters.trusted: {min(unknown)!r} ranked nothing in the training split; leave them out")
    if not config.reliability or len(votes.raters) < 2:
        return Heard(weighed(groups, counts, None), _raters(groups, counts, None, by_prompt))
    alone = None
    if scores_A is None:
        how, alone = FIRST, reliability.fitted(votes, np.zeros(len(votes.group_A)), config.trusted)
        scores_A = linear.aside(weighed(groups, counts, alone), seed)
    fit = reliability.fitted(votes, scores_A, config.trusted, alone)
    return Heard(weighed(groups, counts, fit), _raters(groups, counts, fit, by_prompt), fit, how)


def again(run: runs.Run, groups: Sequence[Group], config: RatersConfig, first: Heard, fit: Fit) -> Heard:
    """`rounds` more, with the scores of `fit(name, groups)`: a model trained on half of the prompts, under that name.

    A half that is done is a line of rounds.jsonl, and is not done again by a run that is resumed.
    """
    done = {(row["round"], row["half"]): row["scores"] for row in runs.read_lines(run.path / ROUNDS)}
    found = first
    rounds = config.rounds if config.reliability else 0
    if rounds and {fold_of(group, 2) for group in groups} != {0, 1}:
        print("raters: too few prompts for halves of them, so no rounds", flush=True)
        return first
    for turn in range(1, rounds + 1):
        for half in (0, 1):
            if (turn, half) not in done:
                print(f"raters: round {turn} of {rounds}, half {half + 1} of 2", flush=True)
                scorer = fit(f"round-{turn}-{half + 1}", [one for one in found.groups if fold_of(one, 2) != half])
                done[turn, half] = _scores(scorer, [one for one in groups if fold_of(one, 2) == half])
                runs.append(run.path / ROUNDS, {"round": turn, "half": half, "scores": done[turn, half]})
        scores_A = np.array([done[turn, fold_of(group, 2)][group.prompt.id][n]
                             for group in groups for n in range(len(group.texts))])
        found = heard(groups, config, scores_A=scores_A, by_prompt=True,
                      how=f"agreement, and scores of each half of the prompts by a model trained on the other, round "
                          f"{turn} of {rounds}")
    return found


def _scores(scorer: scoring.Scorer, groups: Sequence[Group]) -> dict[str, list[float]]:
    """Of each prompt's answers; 0, which says nothing, for one that the model cannot read."""
    asked = [(group.prompt, text) for group in groups for text in group.texts]
    reads = scorer.reads(asked)
    found = iter(scoring.scored(scorer, [one for one, read in zip(asked, reads, strict=True) if read]).mean_N)
    flat = iter([float(next(found)) if read else 0.0 for read in reads])
    return {group.prompt.id: [next(flat) for _ in group.texts] for group in groups}


def capped(groups: Sequence[Group], cap: float, by_prompt: bool = False) -> dict[str, float]:
    """What each rater's judgements are multiplied by, so that no one has more than `cap` of all weight.

    Where raters are so few that this cannot be, more than twice an equal share is what is cut. `by_prompt`: all
    judgements of a prompt weigh 1 together, as in the loss of a neural model; in the linear one each weighs 1.
    """
    own = shares(groups, by_prompt)
    cap = max(cap, LEAST_SHARES / len(own)) if own else 1.0
    weights = np.array(list(own.values()), dtype=np.float64)
    over = np.zeros(len(own), dtype=bool)
    while cap * over.sum() < 1 and (new := ~over & (weights > cap * _total(weights, over, cap))).any():
        over |= new
    limit = cap * _total(weights, over, cap)
    return dict(zip(own, np.where(over, limit / weights, 1.0).tolist(), strict=True))


def shares(groups: Sequence[Group], by_prompt: bool) -> dict[str, float]:
    """The weight of each rater's judgements."""
    own: dict[str, float] = {}
    for group in groups:
        for one in group.judgements:
            own[one.rater] = own.get(one.rater, 0.0) + one.weight / (len(group.judgements) if by_prompt else 1)
    return own


def _total(weights: Array, over: np.ndarray, cap: float) -> float:
    """The sum of all weights once those over the cap have exactly it: rest + n * cap * total = total."""
    return float(weights[~over].sum() / (1 - cap * over.sum()))


def weighed(groups: Sequence[Group], counts: dict[str, float], fit: reliability.Fit | None) -> list[Group]:
    known = dict(zip(fit.names, fit.eta_R.tolist(), strict=True)) if fit else {}
    gamma = fit.worth.gamma if fit else 0.0

    def said(one: Judgement) -> Judgement:
        offsets = tuple(-gamma * place for place in one.shown) if gamma and one.shown else ()
        return replace(one, weight=one.weight * counts[one.rater], reliability=known.get(one.rater, 1.0),
                       offsets=offsets)

    return [replace(group, judgements=tuple(said(one) for one in group.judgements)) for group in groups]


def _raters(groups: Sequence[Group], counts: dict[str, float], fit: reliability.Fit | None,
            by_prompt: bool) -> list[Rater]:
    given = Counter(one.rater for group in groups for one in group.judgements)
    weight = {name: own * counts[name] for name, own in shares(groups, by_prompt).items()}
    total = sum(weight.values())
    found = dict.fromkeys(given, (1.0, 0.0, 1.0))
    if fit:
        found |= dict(zip(fit.names, zip(fit.eta_R.tolist(), fit.low_R.tolist(), fit.high_R.tolist(), strict=True),
                          strict=True))
    return [Rater(name, *found[name], given[name], weight[name] / total, counts[name]) for name, _ in
            given.most_common()]


def labels(groups: Sequence[Group], found: Heard) -> Iterator[dict[str, Any]]:
    """A line for each two answers that somebody compared: the one more probably seen to be better as `chosen`.

    What a rater of reliability eta saw was what they say with probability eta s / (eta s + (1 - eta) (1 - s)), s being
    how probable the others and the model find it: the E step of the mixture that the reward is trained by. Several
    judgements of a pair are averaged by their weight, and their weights added.
    """
    votes = compared(found.groups)
    s_P, eta_P = found.fit.others_P if found.fit else np.full(len(votes.first_P), 0.5), votes.reliability_P
    first_P = eta_P * s_P / (eta_P * s_P + (1 - eta_P) * (1 - s_P))
    second_P = (1 - eta_P) * s_P / ((1 - eta_P) * s_P + eta_P * (1 - s_P))  # had the second been put above the first
    saw_P = fairly(np.where(votes.outcome_P < 1, (first_P + second_P) / 2, first_P), s_P,
                   found.fit.worth.gamma * votes.left_P if found.fit else np.zeros(len(s_P)))
    pairs: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for i, j, saw, weight in zip(votes.first_P.tolist(), votes.second_P.tolist(), saw_P.tolist(),
                                 votes.weight_P.tolist(), strict=True):
        pairs.setdefault((min(i, j), max(i, j)), []).append((saw if i < j else 1 - saw, weight))
    owner = [(group.prompt.id, text) for group in groups for text in group.texts]
    for (i, j), said in pairs.items():
        weight = sum(own for _, own in said)
        share = sum(saw * own for saw, own in said) / weight
        (prompt, chosen), (_, rejected) = (owner[i], owner[j]) if share >= 0.5 else (owner[j], owner[i])
        yield {"prompt_id": prompt, "chosen": chosen, "rejected": rejected, "probability": round(max(share, 1 - share),
                                                                                                6),
               "weight": round(weight, 6)}


def fairly(saw_P: Array, s_P: Array, lift_P: Array) -> Array:
    """The probability that the first answer would have been seen to be better had both stood in the same place.

    Standing where it stood lifted its score by `lift_P` nats, and so s from what it would have been: who sees it as
    the worse all the same would see so in any place, and of those who see it as the better that share would not.
    """
    fair_P = expit(logit(s_P) - lift_P)
    return np.where(fair_P <= s_P, saw_P * fair_P / s_P, saw_P + (1 - saw_P) * (fair_P - s_P) / (1 - s_P))


def write(run: runs.Run, found: Heard) -> None:
    """raters.json and labels.jsonl, whose checksums the run's record keeps; a line on the screen."""
    if not ranks.first():
        return
    told = {"how": found.how, "raters": [asdict(one) for one in found.raters], "position_bias": found.position(),
            "prior": vars(found.fit.prior) if found.fit else None, "tau": found.fit.worth.tau if found.fit else None}
    checkpoints.write_json(run.path / RATERS, told)
    with checkpoints.replacing(run.path / LABELS) as file:
        file.writelines(map(runs.line, labels(found.groups, found)))
    run.note(files={name: checkpoints.file_sha256(run.path / name) for name in (RATERS, LABELS)})
    if found.fit:
        worst = min(found.raters, key=lambda one: one.reliability)
        print(f"raters: {len(found.raters)}, the least reliable {worst.name!r} at {worst.reliability:.2f} "
              f"[{worst.low:.2f}, {worst.high:.2f}]; {RATERS} has all")
