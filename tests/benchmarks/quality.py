"""Whether the tests of raters find who clicks and who changes, and leave the others alone; and how exact and fast the
figures are.

Campaigns go through the real store and queue, with made-up raters (tests/simulated_raters.py): a fifth click at
random, or some begin to turn 30% of their rankings round after thirty items. Windows without a change are drawn
without a store: 1,000 of raters, of 40 items each, and 1,000 of campaigns, of 200 answers; and so are readers' long
careers, of 2,000 items. Agreement is held against the `krippendorff` package, in a virtual environment of its own, and
SciPy, on real votes where they are at hand.

    make bench NAME=quality
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import answered
from made_votes import Said, votes
from simulated_raters import CLICKER, HONEST, NAME, Clock, Kind, Seen, campaign, ranked, worked
from test_quality import months, table

from prefloop.quality import drift, figures, standing
from prefloop.store import Campaign, Store
from prefloop.store.quality import Reader
from prefloop.store.watching import Watch

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
RATERS, ROUNDS, CHANGES, WITHIN, WINDOWS = 25, 40, 30, 40, 1000
OVERLAP = 0.1  # as in configs/feedback.yaml: so many of the items go to three raters
CAREER, LOOK = 2000, 600  # items of a rater; answers of all of them between two looks
PEER = """
import json, sys, krippendorff
print(json.dumps(krippendorff.alpha(reliability_data=json.load(sys.stdin), level_of_measurement="ordinal",
                                    value_domain=[-1.0, 0.0, 1.0])))
"""


def campaigned(crew: dict[str, Kind], seed: int, places: int, need: int, rounds: int, overlap: float = 0.0) -> Seen:
    """`overlap`: the share of the items that three raters get where others get `need`."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        with Store(f"sqlite:///{folder}/feedback.db", seed=seed, clock=clock) as store:
            shared = random.Random(seed)
            campaign(store, len(crew) * rounds // need + 50, 60,
                     lambda row: 3 if shared.random() < overlap else need, places,
                     Campaign(NAME, gold_share=0.1, probation=0.5, repeats=0.05))
            return worked(store, crew, rounds, random.Random(seed), Watch(store), clock.pass_by)


def honest(dice: random.Random) -> Kind:
    """Readers differ: in what they agree on with others, and on gold."""
    return replace(HONEST, normal=dice.uniform(0.7, 0.9), gold=dice.uniform(0.9, 0.99))


def clicking(seed: int, places: int, need: int) -> dict[str, Any]:
    dice = random.Random(seed)
    crew = {f"r{n:02}": CLICKER if n % 5 == 0 else honest(dice) for n in range(RATERS)}
    seen = campaigned(crew, seed, places, need, ROUNDS)
    clickers = [name for name in crew if crew[name].clicks]
    readers = [name for name in crew if not crew[name].clicks]
    return {"answers_per_item": places, "raters_per_item": need, "clickers": len(clickers),
            "caught_by_40": sum(name in seen.proposed for name in clickers),
            "with_their_answer": sorted(seen.proposed.get(name, 0) for name in clickers), "honest": len(readers),
            "honest_touched": sum(name in seen.proposed for name in readers),
            "gold_of_the_honest": float(np.median([seen.gold[name] for name in readers]))}


def flipping(seed: int, places: int, need: int, overlap: float) -> dict[str, Any]:
    """The test is told nothing of when they change."""
    dice = random.Random(seed)
    crew = {f"r{n:02}": replace(honest(dice), flips=0.3, changes=CHANGES) if n % 4 == 0 else honest(dice)
            for n in range(20)}
    seen = campaigned(crew, seed, places, need, CHANGES + WITHIN, overlap)
    flippers = [name for name in crew if crew[name].flips]
    return {"answers_per_item": places, "raters_per_item": need, "overlap": overlap,
            "flippers": len(flippers), "after_items": sorted(seen.flagged.get(name, 9999) - CHANGES
                                                             for name in flippers),
            "flagged": sum(CHANGES < seen.flagged.get(name, 9999) <= CHANGES + WITHIN for name in flippers),
            "proposed": sum(CHANGES < seen.proposed.get(name, 9999) <= CHANGES + WITHIN for name in flippers),
            "others": len(crew) - len(flippers),
            "others_flagged": sum(name in seen.flagged for name in crew if name not in flippers)}


def windows_of_raters() -> int:
    """Of WINDOWS stretches of WITHIN items by raters who stay as they are, how many are flagged: rankings of four
    by three raters, one in ten gold.
    """
    dice, flagged = random.Random(5), 0
    for crew in range(WINDOWS // 20):
        flagged += sum(one.flagged for one in standing.standings(votes(read(4, WITHIN, dice))))
        print(f"windows of raters: {20 * (crew + 1)}, of which {flagged} are flagged", end="\r", flush=True)
    return flagged


def careers(seed: int, places: int) -> dict[str, Any]:
    """Twenty readers of CAREER items each, looked at again and again: who is ever proposed, and by which test."""
    rows = read(places, CAREER, random.Random(seed))
    made, why, worked_before = votes(rows), dict[str, set[str]](), time.process_time()
    ends = range(LOOK, len(rows) + 1, LOOK)
    for end in ends:
        for one in standing.standings(made.where(np.arange(len(rows)) < end)):
            why.setdefault(one.rater, set()).update(one.why)
    return {"answers_per_item": places, "raters": len(why), "looks": len(ends),
            "by_first_test": sum(bool(one & {"random", "doubt"}) for one in why.values()),
            "by_drift": sum("drift" in one for one in why.values()),
            "seconds_a_look": round((time.process_time() - worked_before) / len(ends), 3)}


def read(places: int, items: int, dice: random.Random) -> list[Said]:
    """What twenty readers say of so many items each: three raters an item, one in ten gold."""
    kinds = {f"r{n:02}": honest(dice) for n in range(20)}
    return [Said(name, item, said(places, kinds[name], gold, dice), kind="gold" if gold else "normal",
                 key=tuple(range(1, places + 1)) if gold else ())
            for item in range(items * 20 // 3) for gold in [item % 10 == 0] for name in dice.sample(sorted(kinds), 3)]


def said(places: int, kind: Kind, gold: bool, dice: random.Random) -> tuple[int, ...]:
    order = ranked(places, kind, gold, dice)
    return tuple(order.index(place) + 1 for place in range(places))


def windows_of_campaigns() -> int:
    return sum(bool(drift.alarms(months(seed, drift.BEFORE + 1 + seed % 5))) for seed in range(WINDOWS))


# -- against peers ----------------------------------------------------------------------------------------------------


def arguments() -> list[Said]:
    with gzip.open(SHARED / "ukpconvarg1" / "comparisons.jsonl.gz", "rt", encoding="utf-8") as file:
        return [Said(rater, n, {1: (1, 2), 2: (2, 1), 0: (1, 1)}[vote])
                for n, row in enumerate(map(json.loads, file)) for rater, vote in row["votes"]]


def questions() -> list[Said]:
    """One person's order of four answers, and the order of their lengths as a second rater."""
    rows = []
    with gzip.open(SHARED / "finegrained_qa" / "quads.jsonl.gz", "rt", encoding="utf-8") as file:
        for n, row in enumerate(map(json.loads, file)):
            wins = [sum((winner == 1 and i == k) + (winner == 2 and j == k) + 0.5 * (winner == 0 and k in (i, j))
                        for i, j, winner in row["pairs"]) for k in range(4)]
            lengths = [len(text) for text in row["responses"]]
            rows += [Said(name, n, tuple(1 + sum(other > own for other in scores) for own in scores))
                     for name, scores in (("annotator", wins), ("length", lengths))]
    return rows


def gap(rows: list[Said], python: Path) -> float:
    found = figures.agreement(votes(rows))
    assert found.alpha is not None
    assert found.tau_b is not None
    units = by_place(rows)
    told = subprocess.run([python, "-c", PEER], input=json.dumps(units.T.tolist()), capture_output=True, text=True,
                          check=True)
    taus: list[Any] = [kendalltau(one.ranks, other.ranks)[0] for one, other in of_one_item(rows)]
    return max(abs(found.alpha.value - json.loads(told.stdout)), abs(found.tau_b.value - float(np.nanmean(taus))))


def of_one_item(rows: list[Said]) -> list[tuple[Said, Said]]:
    items: dict[int, list[Said]] = {}
    for row in rows:
        items.setdefault(row.item, []).append(row)
    return [pair for own in items.values() for pair in combinations(own, 2)]


def by_place(rows: list[Said]) -> np.ndarray:
    """Units by the n-th rater of an item: who they are does not matter to alpha, and thousands of columns do to it."""
    seen: dict[int, int] = {}
    for n, row in enumerate(rows):
        seen[row.item] = seen.get(row.item, 0) + 1
        rows[n] = replace(row, rater=f"{seen[row.item]:03}")
    return table(rows)


def agreement_gap() -> float | None:
    if not SHARED.is_dir():
        return None
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "krippendorff", "numpy"], check=True)
        return max(gap(rows, python) for rows in (arguments(), questions()))


def read_100k() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "feedback.db"
        answered.filled(place, 100_000)
        with Store(f"sqlite:///{place}", read_only=True) as store:
            reader, seconds = Reader(store), {}
            for name in ("first", "again"):
                began, worked_before = time.monotonic(), time.process_time()
                reader.votes()
                seconds[name] = round(time.monotonic() - began, 3)
                seconds[f"{name}_cpu"] = round(time.process_time() - worked_before, 3)
            return seconds


def main() -> None:
    wanted = sys.argv[1:] or ["clicking", "flipping", "windows", "careers", "agreement", "reading"]
    found: dict[str, Any] = {}
    if "clicking" in wanted:
        found["clicking"] = [clicking(seed, places, need) for seed, (places, need) in enumerate(
            ((4, 1), (4, 3), (2, 1), (2, 3)))]
        for name, part, whole in (("random_caught_by_40", "caught_by_40", "clickers"),
                                  ("honest_touched", "honest_touched", "honest")):
            found[name] = sum(one[part] for one in found["clicking"]) / sum(one[whole] for one in found["clicking"])
        print(json.dumps(found["clicking"]), flush=True)
    if "flipping" in wanted:
        found["flipping"] = [flipping(seed, places, need, overlap) for places in (4, 2)
                             for need, overlap in ((3, 0.0), (1, OVERLAP)) for seed in range(2)]
        for places in (4, 2):
            for need, who in ((3, "three_raters"), (1, "one_rater_overlap_0.1")):
                own = [one for one in found["flipping"] if (one["answers_per_item"], one["raters_per_item"]) == (
                    places, need)]
                found[f"flips_flagged_within_40_of_{places}_answers_{who}"] = sum(
                    one["flagged"] for one in own) / sum(one["flippers"] for one in own)
        print(json.dumps(found["flipping"]), flush=True)
    if "windows" in wanted:
        found["false_alarms"] = {"raters": windows_of_raters() / WINDOWS,
                                 "campaigns": windows_of_campaigns() / WINDOWS}
    if "careers" in wanted:
        found["careers"] = [careers(seed, places) for seed, places in enumerate((2, 2, 4))]
    if "agreement" in wanted:
        found["agreement_gap"] = agreement_gap()
    if "reading" in wanted:
        found["seconds_100k"] = read_100k()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
