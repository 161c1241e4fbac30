"""What reward models say of the answers: scored once each, then contests and figures of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prefloop import stats
from prefloop.compare.cache import Kept, text_key
from prefloop.compare.figures import estimate, mean
from prefloop.compare.question_sets import MUST_PASS
from prefloop.compare.records import HELD_OUT, Contestant, Contests, Question, Rewards, by_rule, length_gap
from prefloop.errors import RunError
from prefloop.records import Prompt

if TYPE_CHECKING:
    from prefloop.compare.answering import Held, Setting
    from prefloop.models import Checkpoint

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
EXTREME = 0.99  # of the baseline's rewards; what is above is extreme
BINS = 24
ROUNDING = 1e-9


def scored(rewards: Sequence[Checkpoint], contestants: Sequence[Contestant], setting: Setting,
           held: Held) -> list[Rewards]:
    """Every reward model in turn. `held` is a base in memory that adapters of them may stand on; it is taken."""
    found = []
    for one in rewards:
        kept = setting.cache.of("rewards", one.checksum, one.base_checksum, setting.hold)
        asked = [(question.prompt, answer.text) for n, question in enumerate(setting.questions)
                 for contestant in contestants for answer in contestant.answers[n]]
        asked += [(question.prompt, question.reference) for question in setting.questions if question.set == MUST_PASS]
        owed = [pair for pair in dict.fromkeys(asked) if text_key(*pair) not in kept]
        if owed:
            held[:] = score(one, owed, kept, setting, held)
        found.append(gathered(one, contestants, setting.questions, kept))
    held.clear()
    return found


def score(reward: Checkpoint, owed: list[tuple[Prompt, str]], kept: Kept, setting: Setting, held: Held) -> Held:
    """Scores answers as people would read them: text, and the end of the turn. What is too long to read is kept as
    unread. Returns the base that is in memory afterwards, without the reward's adapter."""
    from prefloop import scoring
    from prefloop.compare.answering import model_config

    checksum, model = held.pop() if held else ("", None)
    if not reward.adapter or reward.base_checksum != checksum:
        model = None  # it makes room for the reward model's own
    scorer = scoring.load(reward, model_config(reward, setting.hold), model)
    read = scorer.reads(owed)
    short = [pair for pair, fits in zip(owed, read, strict=True) if fits]
    found = scoring.scored(scorer, short, what=f"rewards of {reward.path}")
    kept.add({"key": text_key(*pair), "mean": None, "spread": None}
             for pair, fits in zip(owed, read, strict=True) if not fits)
    kept.add({"key": text_key(*pair), "mean": float(mean), "spread": float(spread)}
             for pair, mean, spread in zip(short, found.mean_N, found.spread_N, strict=True))
    if not isinstance(scorer, scoring.AdapterScorer):
        return []
    scorer.model.delete_adapter(scoring.ROLE)
    return [(reward.base_checksum, scorer.model)]


def gathered(reward: Checkpoint, contestants: Sequence[Contestant], questions: Sequence[Question],
             kept: Kept) -> Rewards:
    """A question on which some answer was too long to be read has no rewards at all: it would favour the others."""
    scores, spreads = [], []
    rows = [[[kept[text_key(question.prompt, answer.text)] for answer in one.answers[n]] for one in contestants]
            for n, question in enumerate(questions)]
    whole = [all(row["mean"] is not None for own in each for row in own) for each in rows]
    if not any(fits for fits, question in zip(whole, questions, strict=True) if question.set == HELD_OUT):
        raise RunError(f"{reward.path}: on every prompt some answer is longer than this reward model reads; name "
                       "another reward model, or lower sampling.max_new_tokens")
    for c in range(len(contestants)):
        scores.append(tuple(tuple(row["mean"] for row in each[c]) if fits else ()
                            for each, fits in zip(rows, whole, strict=True)))
        spreads.append(tuple(tuple(row["spread"] for row in each[c]) if fits else ()
                             for each, fits in zip(rows, whole, strict=True)))
    of_one = not any(spread for own in spreads for each in own for spread in each)
    recorded = {n: kept[text_key(one.prompt, one.reference)]["mean"] for n, one in enumerate(questions)
                if one.set == MUST_PASS}
    return Rewards(reward.path, reward.checksum, tuple(scores), () if of_one else tuple(spreads),
                   {n: mean for n, mean in recorded.items() if mean is not None})


def contests(rewards: Rewards, contestants: Sequence[Contestant], questions: Sequence[Question]) -> Contests:
    """Every two contestants' answers of the same seed to each held-out question: the higher reward wins."""
    rows: list[tuple[int, int, int, float, float]] = []
    for n, question in enumerate(questions):
        if question.set != HELD_OUT or not rewards.scores[0][n]:
            continue
        for i, one in enumerate(contestants):
            for j in range(i + 1, len(contestants)):
                for k, (mine, its) in enumerate(zip(one.answers[n], contestants[j].answers[n], strict=True)):
                    ruled = by_rule(mine, its)
                    gap = rewards.scores[i][n][k] - rewards.scores[j][n][k]
                    won = ruled if ruled is not None else 0.5 + 0.5 * float(np.sign(gap))
                    rows.append((n, i, j, won, length_gap(mine, its)))
    columns = list(zip(*rows, strict=True)) or [()] * 5
    prompt, first, second = (np.array(column, dtype=np.int64) for column in columns[:3])
    won, gap = (np.array(column, dtype=np.float64) for column in columns[3:])
    return Contests(tuple(one.name for one in contestants), (rewards.name,), prompt, np.zeros_like(prompt), first,
                    second, won, gap)


def figures(rewards: Rewards, contestants: Sequence[Contestant], questions: Sequence[Question],
            level: float) -> dict[str, Any]:
    """Rewards of each, on held-out questions, and the paired gain over the baseline, the first."""
    kept = [n for n, question in enumerate(questions) if question.set == HELD_OUT and rewards.scores[0][n]]
    means = {one.name: [mean(own[n]) for n in kept] for one, own in zip(contestants, rewards.scores, strict=True)}
    flat = {one.name: np.array([value for n in kept for value in own[n]])
            for one, own in zip(contestants, rewards.scores, strict=True)}
    first = contestants[0].name
    edges = edges_of(np.concatenate(list(flat.values())))
    told: dict[str, Any] = {
        "checksum": rewards.checksum, "unread": sum(one.set == HELD_OUT for one in questions) - len(kept),
        "reward": {name: estimate(own, level) for name, own in means.items()},
        "gain": {name: stats.paired_difference(own, means[first], level=level)._asdict()
                 for name, own in means.items() if name != first},
        "quantiles": {name: np.quantile(own, QUANTILES).tolist() for name, own in flat.items()},
        "histogram": {"edges": edges.tolist(),
                      "counts": {name: np.histogram(own, edges)[0].tolist() for name, own in flat.items()}},
        "extreme": {name: float((own > np.quantile(flat[first], EXTREME)).mean()) for name, own in flat.items()}}
    if rewards.spreads:
        told["disagreement"] = {one.name: estimate([mean(own[n]) for n in kept], level)
                                for one, own in zip(contestants, rewards.spreads, strict=True)}
    return told


def edges_of(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of bars as wide as each other. Rewards that differ by rounding alone are drawn as the same one is."""
    low, high = float(rewards.min()), float(rewards.max())
    alike = high - low <= ROUNDING * max(1.0, abs(low), abs(high))
    return np.histogram_bin_edges(rewards, BINS, (low - 0.5, high + 0.5) if alike else None)
