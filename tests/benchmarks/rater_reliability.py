"""Learning from imperfect people: `make bench NAME=rater_reliability`.

The linear kind of reward model, fitted the same way (its penalty chosen by held-out likelihood of whole prompts) on
judgements that all count alike (pooled), on the majority of each pair, and on judgements whose raters were estimated
with the reward (heard). Every accuracy is on prompts that were not trained on. Three sources:

- ukpconvarg1: real votes by 3,675 people, one and three a pair; folds of topics, reseeded; against strict gold
  labels. Intervals are a bootstrap over topics of the difference on the same pairs.
- finegrained_qa: real rankings of four answers; against the same rankings as expanded pairs.
- the demo's world: made-up raters of several kinds, one a prompt of two answers; against the truth. Words cannot tell
  there whether an answer fits its prompt, so the model is a linear head on the demo's base, held still: on its hidden
  states and the answer's likelihood. Intervals are over seeds. Beside them what the careful raters alone would teach.

How the estimator was found: variants of it were compared on seed 0 of ukpconvarg1, so the figures of seeds 1 to 4,
which were not looked at, are given beside those of all.
"""

from __future__ import annotations

import gzip
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from scipy import sparse

from prefloop import heads, models, passes
from prefloop import linear as kind
from prefloop.launch.world import grammar, raters
from prefloop.records import Message, Prompt, decided
from prefloop.reward import linear
from prefloop.reward.comparisons import compared
from prefloop.reward.judgements import Group, Judgement
from prefloop.reward.raters import RatersConfig, heard

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SEEDS, FOLDS = 5, 5
VOTES = (1, 3)
WORLD_PROMPTS, WORLD_HELD_OUT, CREW, ROUNDS = 1000, 500, 20, 2
BASE = Path(grammar.__file__).with_name("base")
MIXES = {
    "0% spammers": ((raters.CAREFUL, CREW),),
    "25% spammers": ((raters.CAREFUL, 15), (raters.RANDOM, 5)),
    "50% spammers": ((raters.CAREFUL, 10), (raters.RANDOM, 10)),
    "25% left-clickers": ((raters.CAREFUL, 15), (raters.LEFTMOST, 5)),
    "25% length-lovers": ((raters.CAREFUL, 15), (raters.LONGEST, 5)),
    "half of them tire": ((raters.CAREFUL, 10), (raters.TIRED, 10)),
    "20% colluders": ((raters.CAREFUL, 16), (raters.COLLUDER, 4)),
    "the demo's crew": raters.MIX,
}


@dataclass
class Cell:
    """What one fit of every arm came to: `right[arm]` per held-out pair, with its cluster."""

    setting: str
    seed: int
    clusters: list[str] = field(default_factory=list)
    right: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    shorter: list[bool] = field(default_factory=list)
    known: list[tuple[float, float]] = field(default_factory=list)  # estimated and true reliability
    seconds: float = 0.0


@dataclass(frozen=True)
class Gold:
    """A held-out pair: the first answer is the better one."""

    cluster: str
    prompt: Prompt
    better: str
    worse: str


def judged(cell: Cell, arms: dict[str, kind.LinearScorer], pairs: Sequence[Gold]) -> None:
    asked = list(dict.fromkeys((pair.prompt, text) for pair in pairs for text in (pair.better, pair.worse)))
    place = {one: n for n, one in enumerate(asked)}
    for arm, scorer in arms.items():
        scores = scorer.score(asked).mean_N
        cell.right[arm] += [0.5 + 0.5 * float(np.sign(scores[place[pair.prompt, pair.better]]
                                                      - scores[place[pair.prompt, pair.worse]])) for pair in pairs]
    cell.clusters += [pair.cluster for pair in pairs]
    cell.shorter += [len(kind.words(pair.better)) < len(kind.words(pair.worse)) for pair in pairs]


def fitted(groups: list[Group], seed: int) -> tuple[dict[str, kind.LinearScorer], dict[str, float]]:
    """A model of each arm, and the reliabilities that one of them found."""
    found = heard(groups, RatersConfig(), seed)
    arms = {"pooled": linear.learn(groups, seed).scorer,
            "heard": linear.learn(found.groups, seed).scorer}
    arms["majority"] = linear.learn([by_majority(group) for group in groups], seed).scorer
    return arms, {one.name: one.reliability for one in found.raters}


def by_majority(group: Group) -> Group:
    """One judgement of each two answers, as most had it; a draw is a tie."""
    net: dict[tuple[int, int], int] = defaultdict(int)
    for one in group.judgements:
        for better, worse in decided(one.ranks):
            i, j = one.places[better], one.places[worse]
            net[min(i, j), max(i, j)] += 1 if i < j else -1
        for i, j in {tuple(sorted(one.places[:2]))} if len(set(one.ranks)) == 1 else ():
            net[i, j] += 0
    ranks = {1: (1, 2), -1: (2, 1), 0: (1, 1)}
    return replace(group, judgements=tuple(Judgement(pair, ranks[int(np.sign(votes))], "majority")
                                           for pair, votes in net.items()))


# ukpconvarg1


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def arguments(votes: int, seed: int) -> Iterator[Cell]:
    """`votes` of each pair, drawn by the seed, which also deals the topics."""
    folder = SHARED / "ukpconvarg1"
    texts = {row["id"]: row for row in rows(folder / "arguments.jsonl.gz")}
    comparisons = rows(folder / "comparisons.jsonl.gz")
    rng = Random(seed)
    by_topic: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in comparisons:
        by_topic[row["topic"]].append(row | {"votes": rng.sample(row["votes"], min(votes, len(row["votes"])))})
    topics = sorted(by_topic)
    rng.shuffle(topics)
    truth = accuracy_of_raters(comparisons)
    cell, begun = Cell(f"ukpconvarg1, {votes} a pair", seed), time.monotonic()
    for fold in range(FOLDS):
        train = [argued(by_topic[topic], texts) for n, topic in enumerate(topics) if n % FOLDS != fold]
        arms, known = fitted(train, seed)
        judged(cell, arms, [pair for n, topic in enumerate(topics) if n % FOLDS == fold
                            for pair in strict(by_topic[topic], texts)])
        cell.known += [(known[name], truth[name]) for name in known if name in truth]
    cell.seconds = time.monotonic() - begun
    yield cell


def argued(comparisons: list[dict[str, Any]], texts: dict[str, dict[str, Any]]) -> Group:
    place: dict[str, int] = {}
    judgements = []
    for row in comparisons:
        pair = tuple(place.setdefault(row[side], len(place)) for side in ("a", "b"))
        judgements += [Judgement(pair, {1: (1, 2), 2: (2, 1), 0: (1, 1)}[vote], rater) for rater, vote in row["votes"]]
    first = texts[comparisons[0]["a"]]
    return Group(Prompt((Message("user", first["prompt"]),)), tuple(texts[name]["text"] for name in place),
                 tuple(judgements))


def strict(comparisons: list[dict[str, Any]], texts: dict[str, dict[str, Any]]) -> list[Gold]:
    sides = [(row, *(("a", "b") if row["gold"] == 1 else ("b", "a"))) for row in comparisons if row["strict"]]
    return [Gold(row["topic"], Prompt((Message("user", texts[row["a"]]["prompt"]),)), texts[row[better]]["text"],
                 texts[row[worse]]["text"]) for row, better, worse in sides]


def accuracy_of_raters(comparisons: list[dict[str, Any]]) -> dict[str, float]:
    """Of raters with at least 20 votes on strict pairs: how many are as the gold label has it (ties half)."""
    right: dict[str, list[float]] = defaultdict(list)
    for row in comparisons:
        for rater, vote in row["votes"] if row["strict"] else ():
            right[rater].append(0.5 if vote == 0 else float(vote == row["gold"]))
    return {rater: sum(own) / len(own) for rater, own in right.items() if len(own) >= 20}


# finegrained_qa


def questions(seed: int) -> Iterator[Cell]:
    """Rankings of four, one person each: the six votes as one judgement, or as six that count alone."""
    groups = [group for row in rows(SHARED / "finegrained_qa" / "quads.jsonl.gz") if (group := asked_of(row))]
    Random(seed).shuffle(groups)
    cell, begun = Cell("finegrained_qa", seed), time.monotonic()
    for fold in range(FOLDS):
        train = [group for n, group in enumerate(groups) if n % FOLDS != fold]
        arms = {"rankings": linear.learn(train, seed).scorer,
                "heard": linear.learn(heard(train, RatersConfig(), seed).groups, seed).scorer,
                "pairs": linear.learn([expanded(group) for group in train], seed).scorer}
        judged(cell, arms, [Gold(group.prompt.id, group.prompt, group.texts[i], group.texts[j])
                            for n, group in enumerate(groups) if n % FOLDS == fold
                            for i, j in decided(group.judgements[0].ranks)])
    cell.seconds = time.monotonic() - begun
    yield cell


def asked_of(row: dict[str, Any]) -> Group | None:
    """None where the votes are no weak order, or two answers are one text."""
    wins = [sum((winner == 1 and i == n) + (winner == 2 and j == n) + 0.5 * (winner == 0 and n in (i, j))
                for i, j, winner in row["pairs"]) for n in range(len(row["responses"]))]
    ranks = tuple(1 + sum(other > own for other in wins) for own in wins)
    agreed = all((winner == 0) == (ranks[i] == ranks[j]) and (winner == 1) <= (ranks[i] < ranks[j])
                 for i, j, winner in row["pairs"])
    if not agreed or len(set(row["responses"])) < len(ranks) or len(set(ranks)) == 1:
        return None
    judgement = Judgement(tuple(range(len(ranks))), ranks, "annotator")
    return Group(Prompt((Message("user", row["prompt"]),)), tuple(row["responses"]), (judgement,))


def expanded(group: Group) -> Group:
    """What a trainer of pairs sees: each decided pair by itself; ties are dropped."""
    return replace(group, judgements=tuple(Judgement(pair, (1, 2), "annotator")
                                           for pair in decided(group.judgements[0].ranks)))


# the demo's world


def world(seed: int) -> Iterator[Cell]:
    """One rater a prompt, who ranks two answers shown in random order; every mix of raters sees the same answers."""
    rng = Random(seed)
    shown = [(prompt, answers(prompt, rng)) for prompt in grammar.prompts(WORLD_PROMPTS + WORLD_HELD_OUT, seed)]
    features_AF = read_by_base([(prompt, text) for prompt, texts in shown for text in texts])
    seen_AF, unseen_AF = features_AF[: 2 * WORLD_PROMPTS], features_AF[2 * WORLD_PROMPTS :]
    for mix in MIXES:
        begun, crew = time.monotonic(), raters.crew(seed, MIXES[mix])
        train = ranked(shown[:WORLD_PROMPTS], crew, Random(seed))
        found = heard(train, RatersConfig(), seed)
        for _ in range(ROUNDS):
            scores_A = linear.crossed(seen_AF, compared(found.groups), seed)
            found = heard(train, RatersConfig(), seed, scores_A, "a linear head on the demo's base")
        cell = Cell(f"world, {mix}", seed)
        for arm, own in (("pooled", train), ("heard", found.groups), ("careful alone", of_careful(train, crew))):
            votes = compared(own)
            true_to(cell, arm, shown[WORLD_PROMPTS:],
                    unseen_AF @ linear.weights_of(seen_AF, votes, linear.chosen(seen_AF, votes, seed)))
        cell.right["majority"] = cell.right["pooled"]  # of one rater
        truth = {rater.name: right_share(rater, [prompt for prompt, _ in shown[:200]], seed) for rater in crew}
        cell.known = [(one.reliability, truth[one.name]) for one in found.raters]
        yield replace(cell, seconds=time.monotonic() - begun)


def ranked(shown: Sequence[tuple[Prompt, list[str]]], crew: Sequence[raters.Rater], rng: Random) -> list[Group]:
    groups, done = [], defaultdict[str, int](int)
    for n, (prompt, texts) in enumerate(shown):
        rater = crew[n % len(crew)]
        ranks = raters.rank(rater, prompt, texts, rng, done[rater.name])
        done[rater.name] += 1
        groups.append(Group(prompt, tuple(texts), (Judgement((0, 1), tuple(ranks), rater.name, (0, 1)),)))
    return groups


def of_careful(groups: Sequence[Group], crew: Sequence[raters.Rater]) -> list[Group]:
    """What one would train on who knew the others and left them out: about as far as hearing can get."""
    careful = {rater.name for rater in crew if rater.kind == raters.CAREFUL.kind}
    return [replace(group, judgements=tuple(one for one in group.judgements if one.rater in careful))
            for group in groups]


def true_to(cell: Cell, arm: str, shown: Sequence[tuple[Prompt, list[str]]], scores_A: np.ndarray) -> None:
    """Of each two answers that differ in truth, whether the scores order them right."""
    gaps = [grammar.truth(prompt, texts[0]) - grammar.truth(prompt, texts[1]) for prompt, texts in shown]
    cell.right[arm] = [0.5 + 0.5 * float(np.sign(one - other) * np.sign(gap))
                       for one, other, gap in zip(scores_A[::2], scores_A[1::2], gaps, strict=True) if gap]
    both = [(prompt, texts, gap) for (prompt, texts), gap in zip(shown, gaps, strict=True) if gap]
    cell.clusters = [prompt.id for prompt, _, _ in both]
    cell.shorter = [(len(kind.words(texts[0])) < len(kind.words(texts[1]))) == (gap > 0) for _, texts, gap in both]


def read_by_base(asked: Sequence[tuple[Prompt, str]]) -> sparse.csr_matrix:
    """features_AF, standardised: the mean hidden state of the answer, and its mean log probability a token."""
    found = models.resolve(str(BASE))
    chat, base = models.load_chat(found), models.load_base(found, models.ModelConfig(path=str(BASE))).eval()
    width = base.config.hidden_size
    head = heads.Head(width, "mean", members=width)
    head.linear.weight.data = torch.eye(width)
    starts = [len(chat.prompt_ids(prompt)) for prompt, _ in asked]
    rows_A = [chat.prompt_ids(prompt) + chat.answer_ids(text) for prompt, text in asked]
    hidden_AF = heads.outputs(base, head, None, rows_A, starts, chat.pad_id)
    told_A = passes.total_logprobs(base, None, rows_A, starts, chat.pad_id)
    tokens_A = torch.tensor([len(row) - start for row, start in zip(rows_A, starts, strict=True)])
    features_AF = torch.cat([hidden_AF, (told_A / tokens_A)[:, None]], dim=1).double().numpy()
    features_AF = (features_AF - features_AF.mean(axis=0)) / features_AF.std(axis=0)
    features_AF[:, -1] *= heads.LIKELIHOOD
    return sparse.csr_matrix(features_AF)


def answers(prompt: Prompt, rng: Random) -> list[str]:
    request, found = grammar.request_of(prompt), dict[str, None]()
    while len(found) < 2:
        found[grammar.sample_answer(request, grammar.CORPUS, rng)] = None
    return list(found)


def right_share(rater: raters.Rater, prompts: Sequence[Prompt], seed: int) -> float:
    """How often the rater, fresh, puts the truly better of two answers first; a tie is half."""
    rng, right = Random(seed), []
    for prompt in prompts:
        texts = answers(prompt, rng)
        gap = grammar.truth(prompt, texts[0]) - grammar.truth(prompt, texts[1])
        ranks = raters.rank(rater, prompt, texts, rng, 15)
        right += [0.5 + 0.5 * float(np.sign(gap) * np.sign(ranks[1] - ranks[0]))] if gap else []
    return sum(right) / len(right)


# what they come to


def summary(cells: list[Cell]) -> dict[str, Any]:
    """Of one setting, over its seeds."""
    arms = sorted(cells[0].right)
    found: dict[str, Any] = {"accuracy": {arm: [round(float(np.mean(cell.right[arm])), 4) for cell in cells]
                                          for arm in arms},
                             "where the shorter won": {arm: round(float(np.mean([
                                 right for cell in cells for right, own in zip(cell.right[arm], cell.shorter,
                                                                               strict=True) if own])), 4)
                                 for arm in arms},
                             "seconds": round(sum(cell.seconds for cell in cells), 1)}
    ours, others = ("rankings", {"pairs": "gain_over_pairs"}) if "pairs" in arms else (
        "heard", {"pooled": "gain_over_pooled", "majority": "gain_over_majority"})
    for other, name in others.items():
        found[name], interval = gain(cells, ours, other)
        found["interval" if other != "majority" else "interval_over_majority"] = interval
        if cells[0].setting.startswith("ukp"):
            found[f"{name}, seeds 1 to 4"], found[f"interval of {name}, seeds 1 to 4"] = gain(
                [cell for cell in cells if cell.seed], ours, other)
    known = np.array([pair for cell in cells for pair in cell.known])
    if len(known) and known[:, 1].std() > 0.02:
        found["correlation of estimated and true reliability"] = round(float(np.corrcoef(known.T)[0, 1]), 3)
    return found


def gain(cells: list[Cell], ours: str, other: str, draws: int = 4000) -> tuple[float, list[float]]:
    """Mean difference per pair, and its 95% bootstrap interval: over clusters that all seeds share (topics,
    questions), over seeds where they have none in common."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for cell in cells:
        common = not cell.setting.startswith("world")
        for name, one, two in zip(cell.clusters, cell.right[ours], cell.right[other], strict=True):
            own = sums[name if common else str(cell.seed)]
            own[0] += one - two
            own[1] += 1
    table = np.array(list(sums.values()))
    drawn = table[np.random.default_rng(0).integers(0, len(table), (draws, len(table)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return round(float(table[:, 0].sum() / table[:, 1].sum()), 4), [round(float(low), 4), round(float(high), 4)]


def jobs() -> list[tuple[Callable[..., Iterator[Cell]], tuple[Any, ...]]]:
    real = [(arguments, (votes, seed)) for votes in VOTES for seed in range(SEEDS)]
    real += [(questions, (seed,)) for seed in range(SEEDS)]
    made_up = [(world, (seed,)) for seed in range(SEEDS)]
    return [*(real if SHARED.is_dir() else []), *made_up]


def run(job: tuple[Callable[..., Iterator[Cell]], tuple[Any, ...]]) -> list[Cell]:
    return [replace(cell, right=dict(cell.right)) for cell in job[0](*job[1])]


def main() -> None:
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    by_setting: dict[str, list[Cell]] = defaultdict(list)
    begun = time.monotonic()
    with ProcessPoolExecutor(2) as pool:
        waiting = [pool.submit(run, job) for job in jobs() if wanted in f"{job[0].__name__} {job[1]}"]
        for done in as_completed(waiting):
            for cell in done.result():
                by_setting[cell.setting].append(cell)
                shown = {arm: round(float(np.mean(right)), 4) for arm, right in sorted(cell.right.items())}
                print(f"{time.monotonic() - begun:6.0f} s  {cell.setting}, seed {cell.seed}: {shown}", flush=True)
    found = {name: summary(sorted(cells, key=lambda cell: cell.seed)) for name, cells in sorted(by_setting.items())}
    for name, figures in found.items():
        print(f"{name}: {json.dumps(figures)}")
    seconds = round(time.monotonic() - begun)
    print(json.dumps({"benchmark": "rater_reliability", "seconds": seconds, "settings": found}))


if __name__ == "__main__":
    main()
