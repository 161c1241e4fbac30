"""Figures of raters' work against brute force, SciPy and numbers by hand; tests of raters at their error rates."""

import gzip
import json
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_votes import Said, votes
from scipy.stats import kendalltau

from prefloop import agreement as plain
from prefloop.quality import drift, evidence, figures, standing
from prefloop.quality.votes import Votes, compared, signs

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def some(seed: int, items: int = 40, raters: int = 5, ties: bool = True) -> list[Said]:
    draw = np.random.default_rng(seed)
    rows = []
    for item in range(items):
        count = int(draw.integers(2, 5))
        for rater in draw.choice(raters, int(draw.integers(1, raters + 1)), replace=False):
            scores = np.arange(count) + draw.normal(0, 1.5, count)
            ranks = tuple(int(rank) for rank in (np.round(scores).argsort().argsort() + 1 if not ties else
                                                 1 + (np.round(scores)[:, None] > np.round(scores)).sum(axis=1)))
            rows.append(Said(f"r{rater}", item, ranks, tuple(int(n) for n in draw.permutation(count))))
    return rows


def table(rows: list[Said]) -> np.ndarray:
    """Pairs of answers by raters: what each said, NaN where nothing."""
    raters = sorted({row.rater for row in rows})
    units: dict[tuple[int, int, int], dict[str, float]] = {}
    for row in rows:
        for i, j in combinations(range(len(row.ranks)), 2):
            last = [99 if rank is None else rank for rank in row.ranks]
            units.setdefault((row.item, i, j), {})[row.rater] = float((last[j] > last[i]) - (last[j] < last[i]))
    return np.array([[said.get(rater, np.nan) for rater in raters] for said in units.values()])


def mean_tau(rows: list[Said]) -> float:
    found = []
    for one, other in combinations(rows, 2):
        if one.item == other.item:
            tau: Any = kendalltau(one.ranks, other.ranks)[0]
            found += [] if np.isnan(tau) else [tau]
    return float(np.mean(found))


# -- figures ----------------------------------------------------------------------------------------------------------


def test_what_is_read_of_a_stored_answer_by_hand() -> None:
    # Shown C, A, B; ranked 1, 2, none: C above A above B.
    said_AP, first_AP, places_A = compared(["[1, 2, null]", "[1, 1]"], ["[2, 0, 1]", "[1, 0]"])
    assert said_AP.tolist() == [[1, -1, -1], [0, 0, 0]]  # (A, B), (A, C), (B, C)
    assert first_AP.tolist() == [[1, -1, -1], [-1, 0, 0]]
    assert places_A.tolist() == [3, 2]


@pytest.mark.parametrize("seed", range(3))
def test_agreement_is_that_of_a_table_of_pairs_and_of_scipy(seed: int) -> None:
    rows = some(seed)
    found = figures.agreement(votes(rows))
    assert found.alpha is not None
    assert found.percent is not None
    assert found.tau_b is not None
    assert found.alpha.value == pytest.approx(plain.alpha(table(rows), "ordinal"), abs=1e-9)
    assert found.percent.value == pytest.approx(plain.percent(table(rows)), abs=1e-9)
    assert found.tau_b.value == pytest.approx(mean_tau(rows), abs=1e-9)
    for one in (found.alpha, found.percent, found.tau_b):
        assert one.low < one.value < one.high


def test_agreement_within_a_guideline_s_version_leaves_pairs_across_out() -> None:
    old = [Said(rater, n, (1, 2), guideline="1") for n in range(9) for rater in "ab"]
    new = [Said("c", n, (2, 1), guideline="2") for n in range(9)]
    made = votes([*old, *new])
    across, within = figures.agreement(made).percent, figures.agreement(made.where(made.guideline_A == 0)).percent
    assert across is not None
    assert within is not None
    assert across.value == pytest.approx(1 / 3)
    assert within.value == 1.0


def test_one_rater_of_each_item_agrees_with_nobody() -> None:
    nothing = figures.Agreement(None, None, None, 0)
    assert figures.agreement(votes([Said("a", 1, (1, 2)), Said("b", 2, (1, 2))])) == nothing
    assert figures.agreement(votes([Said("a", 1, (1, 2)), Said("b", 1, (1, 2), counts=False)])).items == 0


def test_a_rater_s_figures_by_hand() -> None:
    rows = [Said("ann", 1, (1, 2, 3), (0, 1, 2)), Said("ann", 2, (1, 1, 2), (2, 1, 0)),
            Said("ann", 3, (2, 1, 3), (0, 1, 2), "repeat", mirrors=1),
            Said("ann", 4, (1, 2), kind="gold", key=(1, 2)), Said("ann", 5, (2, 1), kind="gold", key=(1, 2)),
            Said("bob", 1, (1, 3, 2))]
    ann = figures.of_raters(votes(rows))[0]
    values = [None if one is None else (round(one.value, 6), one.n) for one in (
        ann.gold, ann.consistency, ann.agreement, ann.left, ann.ties)]
    # Left: 3 of 3, 0 of 2, 2 of 3, 1 of 1 and 0 of 1 decided pairs. Ties: one of eleven pairs.
    assert values == [(0.5, 2), (round(2 / 3, 6), 1), (round(2 / 3, 6), 1), (0.6, 5), (round(1 / 11, 6), 5)]
    assert ann.seconds is not None
    assert ann.seconds.value == 30


@pytest.mark.parametrize(("items", "share"), [(8, 0.8), (30, 0.8), (30, 0.5), (200, 0.95)])
def test_the_interval_of_a_share_holds_though_pairs_go_together(items: int, share: float) -> None:
    """All pairs of a ranking are right or wrong as one: an interval over pairs would be right two times in three."""
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        right = (draw.random(items) < share).astype(float)
        found = figures.share(6 * right, np.full(items, 6.0), np.arange(items))
        assert found is not None
        held += found.low <= share <= found.high
    assert held / 400 > 0.93


def test_alpha_s_interval_holds() -> None:
    """Two raters who see four items in five as they are: 0.32 of the items apart, 0.5 by chance. Pairs go together."""
    draw, held = np.random.default_rng(3), 0
    for _ in range(100):
        up = (draw.random((60, 2)) < 0.8) == (draw.random((60, 1)) < 0.5)
        found = figures.agreement(votes([Said(f"r{n}", item, (1, 2, 3) if up[item, n] else (3, 2, 1))
                                         for item in range(60) for n in range(2)])).alpha
        assert found is not None
        held += found.low <= 1 - 0.32 / 0.5 <= found.high
    assert held >= 90


@pytest.mark.parametrize(("items", "least"), [(2, 0.3), (10, 0.75), (40, 0.92)])
def test_few_who_agree_in_all_they_said_do_not_agree_for_sure(items: int, least: float) -> None:
    found = figures.agreement(votes([Said(rater, n, (1, 2) if n % 2 else (2, 1))
                                     for n in range(items) for rater in "ab"]))
    assert found.percent is not None
    assert found.alpha is not None
    assert found.tau_b is not None
    for one, shift in ((found.percent, 0.0), (found.alpha, 1.0), (found.tau_b, 1.0)):
        assert one.value == one.high == pytest.approx(1.0)
        assert (one.low + shift) / (1 + shift) < least


@pytest.mark.parametrize("items", [5, 10, 20])
def test_intervals_of_agreement_hold_for_few_items(items: int) -> None:
    """Two raters who are right nine times in ten: 0.82 of the items alike, alpha and tau-b 0.64."""
    draw, held = np.random.default_rng(2), np.zeros(3)
    for _ in range(200):
        up = (draw.random((items, 2)) < 0.9) == (draw.random((items, 1)) < 0.5)
        found = figures.agreement(votes([Said(f"r{n}", item, (1, 2) if up[item, n] else (2, 1))
                                         for item in range(items) for n in range(2)]))
        held += [one is None or one.low <= true <= one.high
                 for one, true in ((found.percent, 0.82), (found.alpha, 0.64), (found.tau_b, 0.64))]
    assert held.min() >= 0.94 * 200


def test_time_is_cut_in_equal_spans() -> None:
    rows = [Said(rater, n, (1, 2), at=n * 1800) for n in range(20) for rater in "ab"]
    found = figures.over_time(votes(rows))
    assert [one.at for one in found] == [3600 * n for n in range(10)]
    assert {one.answers for one in found} == {4}
    assert figures.over_time(votes(rows).where(np.zeros(40, bool))) == []


@pytest.mark.skipif(not DATA.is_dir(), reason="the real votes are not here")
def test_agreement_on_real_votes_is_that_of_brute_force_and_scipy() -> None:
    with gzip.open(DATA / "ukpconvarg1" / "comparisons.jsonl.gz", "rt") as file:
        comparisons = [json.loads(line) for _, line in zip(range(300), file, strict=False)]
    rows = [Said(rater, n, {1: (1, 2), 2: (2, 1), 0: (1, 1)}[vote]) for n, one in enumerate(comparisons)
            for rater, vote in one["votes"]]
    found = figures.agreement(votes(rows))
    assert found.alpha is not None
    assert found.percent is not None
    assert found.tau_b is not None
    assert found.alpha.value == pytest.approx(plain.alpha(table(rows), "ordinal"), abs=1e-6)
    assert found.percent.value == pytest.approx(plain.percent(table(rows)), abs=1e-6)
    assert found.tau_b.value == pytest.approx(mean_tau(rows), abs=1e-6)


# -- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [(1, 2), (1, 2, 2), (1, 2, 3, 4), (1, 2, 2, 4), (2, 1, 1, 1, 5)])
def test_an_attentive_rater_s_chances_sum_to_one(key: tuple[int, ...]) -> None:
    """Over all orders, of which a random rater gives each alike, however many places the key ties."""
    orders = signs(np.array(list(permutations(range(len(key)))), dtype=float))
    reference = np.repeat(signs(np.array([key], dtype=float)), len(orders), axis=0)
    d, _ = evidence.distance(orders, reference)
    assert evidence.attentive(d, reference, np.full(len(orders), len(key)), 0.3).mean() == pytest.approx(1)


def test_no_single_answer_convicts() -> None:
    worst = signs(np.array([[8, 7, 6, 5, 4, 3, 2, 1]], dtype=float))
    against = evidence.random_rather(np.array([28.0]), -worst, np.array([8]), 0.05)
    assert 2 < against[0] <= np.log(1 / evidence.LAPSES) < standing.RANDOM


@pytest.mark.parametrize("places", [2, 4])
def test_q_gives_the_share_of_pairs_that_it_is_asked_for(places: int) -> None:
    orders = signs(np.array(list(permutations(range(places))), dtype=float))
    d, pairs = evidence.distance(orders, np.ones_like(orders))
    weight = evidence.attentive(d, np.ones_like(orders), np.full(len(orders), places), evidence.q_of(0.8, places))
    assert (weight * (1 - d / pairs)).mean() == pytest.approx(0.8, abs=2e-3)


# -- raters' tests ----------------------------------------------------------------------------------------------------


def gold_work(count: int, right: float, seed: int, places: int = 4) -> Votes:
    """A rater's gold alone; a key's neighbours are kept in order with the chance `right`."""
    draw = np.random.default_rng(seed)
    fall, rows = (1 - right) / right, []
    for n in range(count):
        order: list[int] = []
        for place in range(places):
            chance = fall ** np.arange(place, -1, -1.0)
            order.insert(int(draw.choice(place + 1, p=chance / chance.sum())), place)
        rows.append(Said("ann", n, tuple(int(r) + 1 for r in np.argsort(order)), kind="gold",
                         key=tuple(range(1, places + 1))))
    return votes(rows)


@pytest.mark.parametrize(("places", "right", "least", "most"), [
    (4, 0.5, 0.97, 1.0), (4, 0.95, 0.0, 0.01), (2, 0.5, 0.96, 1.0), (2, 0.95, 0.0, 0.03)])
def test_gold_tells_random_clickers_from_readers(places: int, right: float, least: float, most: float) -> None:
    """At most twenty gold items, and at their stated errors or better."""
    found = [standing.standings(gold_work(20, right, seed, places))[0] for seed in range(200)]
    assert least <= np.mean([bool(one.why) for one in found]) <= most
    assert not any(one.unsettled for one in found)


def test_who_passed_the_first_test_is_not_put_to_it_again() -> None:
    """Three wrong in a row reject a beginner; of somebody who has passed they are a small rise of Page's sum."""
    right, wrong, unshared = [((1, 2), "gold")] * 20, [((2, 1), "gold")] * 3, [((1, 2), "normal")] * 600
    rows = [Said("ann", n, ranks, kind=kind, key=(1, 2) if kind == "gold" else ())
            for n, (ranks, kind) in enumerate([*right, *wrong, *unshared])]
    assert standing.standings(votes(rows[20:]))[0].why == ("random",)
    for end in range(510, 623):  # the last 500 answers begin at each of the wrong ones, too
        found = standing.standings(votes(rows[:end]))[0]
        assert (found.why, found.unsettled, found.answers) == ((), False, end)


def test_the_first_test_ends_however_late_its_gold_comes() -> None:
    alone = [Said("ann", n, (1, 2)) for n in range(1100)]
    beside = [Said("bob", n, (1, 2) if n % 2 else (2, 1)) for n in range(600)]  # alike by chance: tells nothing
    late = [Said("ann", 2000 + n, (2, 1), kind="gold", key=(1, 2)) for n in range(20)]
    assert standing.standings(votes([*alone, *beside]), only=["ann"])[0].unsettled
    assert "random" in standing.standings(votes([*alone, *beside, *late]), only=["ann"])[0].why


@pytest.mark.parametrize("places", [2, 4])
def test_who_reads_first_and_clicks_later_is_found_by_their_gold(places: int) -> None:
    """Page's second sum: of those who click from their 31st gold item on nearly all within thirty more."""
    caught, touched = 0, 0
    for seed in range(40):
        read, clicked = gold_work(60, 0.95, seed, places), gold_work(30, 0.5, 100 + seed, places)
        both = replace(read, said_AP=np.concatenate([read.said_AP[:30], clicked.said_AP]))
        touched += bool(standing.standings(read)[0].why)
        caught += bool({"clicking"} & set(standing.standings(both)[0].why))
    assert caught >= 36
    assert touched <= 1


def test_long_careers_of_readers_are_left_alone() -> None:
    """Pairs, one in ten of them gold, at fifty looks: the errors stated are of a career, and not of a look."""
    draw, proposed, raters = np.random.default_rng(4), set(), 20
    gold, right = draw.random(1500) < 0.1, draw.uniform(0.9, 0.99, raters)
    rows = [Said(f"r{n}", item, (1, 2) if draw.random() < right[n] else (2, 1), key=(1, 2) if gold[item] else (),
                 kind="gold" if gold[item] else "normal", counts=bool(gold[item]))
            for item in range(1500) for n in range(raters)]
    made = votes(rows)
    for end in range(30, 1501, 30):
        found = standing.standings(made.where(np.arange(len(rows)) < end * raters))
        proposed |= {one.rater for one in found if {"random", "doubt", "clicking"} & set(one.why)}
    assert len(proposed) <= 1


def test_what_a_lead_cleared_counts_no_more() -> None:
    made = gold_work(20, 0.5, 1)
    assert standing.standings(made)[0].why
    assert standing.standings(made, since={"ann": 0}) == []


def test_page_s_sum_starts_anew_at_nought() -> None:
    assert standing.page_sums(np.array([-3.0, 1.0, 2.0, -1.0, -5.0, 1.0])).tolist() == [0, 1, 3, 2, 0, 1]


# -- alarms -----------------------------------------------------------------------------------------------------------


def months(seed: int, windows: int, worse: bool = False) -> Votes:
    """Raters who differ: each ties, flags, fails gold and hurries in their own measure; in the last window all do."""
    draw = np.random.default_rng(seed)
    raters = 12
    own = {name: draw.beta(8, 32, raters) for name in ("ties", "left", "gold", "accepted")}
    rows = []
    for n in range(windows * drift.WINDOW):
        rater = int(draw.integers(raters))
        bad = 0.25 if worse and n >= (windows - 1) * drift.WINDOW else 0.0
        tie, gold = draw.random() < own["ties"][rater] + bad, draw.random() < 0.15
        ranks = (1, 1) if tie else (1, 2) if draw.random() < 0.5 + own["left"][rater] / 4 + bad else (2, 1)
        if gold:
            ranks = (2, 1) if draw.random() < own["gold"][rater] / 2 + bad else (1, 2)
        rows.append(Said(f"r{rater}", n, ranks, kind="gold" if gold else "normal", key=(1, 2) if gold else (), at=n,
                         accepted=draw.random() > own["accepted"][rater] / 3 + bad,
                         seconds=float(draw.lognormal(3 - 2 * bad, 0.5))))
    return votes(rows)


def test_windows_without_a_change_are_quiet_and_a_change_is_told() -> None:
    quiet = [drift.alarms(months(seed, 8)) for seed in range(40)]
    assert sum(map(bool, quiet)) <= 2
    told = {one.what for seed in range(3) for one in drift.alarms(months(100 + seed, 8, worse=True))}
    assert told == set(drift.WATCHED)
    assert drift.alarms(months(1, drift.BEFORE, worse=True)) == []  # too little to hold it against
