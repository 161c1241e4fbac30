"""How the next item is chosen: every rule against a plain twin, and what its propensities are good for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, select, update
from test_store import Clock, item, url

from prefloop.feedback_ui import model_agreement
from prefloop.records import Answers
from prefloop.store import Campaign, Judgement, Store, drawing, filling
from prefloop.store.items import campaign_id
from prefloop.store.predicting import Scores
from prefloop.store.schema import items, leases
from prefloop.store.verifying import verify

CIRCLE, WINDOW = 32, 3
EVERYTHING = items.c.kind == "normal"


class Loaded(Random):
    """Dice that show this point of the circle, and tell what a draw was among."""

    def __init__(self, start: int) -> None:
        super().__init__(0)
        self.start = start
        self.among: Sequence[Any] = ()

    def randrange(self, *_: Any) -> int:
        return self.start

    def choice(self, seq: Sequence[Any]) -> Any:
        self.among = seq
        return seq[0]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    with Store(url(tmp_path), clock=clock, seed=9) as opened:
        yield opened


def of_stratum(number: int, stratum: str) -> Answers:
    row = item(number)
    return Answers(replace(row.prompt, stratum=stratum), row.responses)


def strata(store: Store, counts: dict[str, int], need: int = 1, **settings: Any) -> None:
    rows = [of_stratum(n, stratum) for stratum, (first, count) in zip(
        counts, ((1000 * at, count) for at, count in enumerate(counts.values())), strict=True)
            for n in range(first, first + count)]
    store.apply(Campaign("study", **settings), rows=rows, need=need)


def set_(store: Store, **columns: Sequence[Any]) -> None:
    """Gives the items these values, in the order of their ids."""
    (name, values), = columns.items()
    rows = [{"own": n, "value": value} for n, value in enumerate(values, start=1)]
    store.write(lambda db: db.execute(update(items).where(items.c.id == bindparam("own")).values(
        {name: bindparam("value")}), rows))


@pytest.mark.parametrize("places", [
    [5], [7, 7], [0, 1, 2, 3, 31], [10, 10, 10, 11, 20, 21, 25, 31, 0], list(range(0, 32, 4))])
def test_every_draw_by_chance_is_as_likely_as_it_is_said_to_be(
        store: Store, monkeypatch: pytest.MonkeyPatch, places: list[int]) -> None:
    """All points of a small circle once each: counts, and no estimates."""
    monkeypatch.setattr(drawing, "CIRCLE", CIRCLE)
    monkeypatch.setattr(drawing, "WINDOW", WINDOW)
    strata(store, {"a": len(places)})
    set_(store, chance=places)
    share: dict[int, float] = dict.fromkeys(range(1, len(places) + 1), 0.0)
    with store.reading() as db:
        said = {n: drawing.likely(db, EVERYTHING, n) for n in range(1, len(places) + 1)}
        for start in range(CIRCLE):
            dice = Loaded(start)
            found = drawing.at_random(db, EVERYTHING, dice)
            assert found is not None
            assert found.propensity == pytest.approx(said[found.item])
            for one in dice.among:
                share[one] += 1 / CIRCLE / len(dice.among)
    assert share == pytest.approx(said)
    assert sum(said.values()) == pytest.approx(1)


def test_of_many_all_are_about_as_likely(store: Store) -> None:
    strata(store, {"a": 400})
    with store.reading() as db:
        said = [drawing.likely(db, EVERYTHING, n) for n in range(1, 401)]
    assert sum(said) == pytest.approx(1)
    assert stdev(said) < 0.15 / 400, "a window of 128 items is as wide as any other, but for a tenth"


def test_nothing_to_draw(store: Store) -> None:
    strata(store, {"a": 1})
    with store.reading() as db:
        for rule in ("queued", "random", "stratified", "uncertainty"):
            assert drawing.drawn(db, items.c.stratum == "b", Campaign(ask=rule, quotas={"b": 1.0}), Random(1)) is None


def chosen(store: Store, campaign: Campaign, turns: int) -> list[Any]:
    """Each turn is another rater's first; (item, policy, propensity) of each."""
    store.apply(campaign)
    for turn in range(turns):
        assert store.lease(f"rater {turn}", 600, campaign="study") is not None
        store.clock.at += 1  # type: ignore[attr-defined]
    with store.reading() as db:
        return list(db.execute(select(leases.c.item, leases.c.policy, leases.c.propensity, items.c.stratum).join(
            items, items.c.id == leases.c.item).order_by(leases.c.issued)))


@pytest.mark.parametrize("campaign", [
    Campaign("study", ask="random"), Campaign("study", ask="uncertainty", random_share=0.4),
    Campaign("study", ask="stratified", quotas={"a": 0.6, "b": 0.4})])
def test_each_item_comes_as_often_as_its_propensity_says(store: Store, campaign: Campaign) -> None:
    """The sum of 1/propensity over an item's turns is the number of turns, but for chance."""
    strata(store, {"a": 4, "b": 2}, need=1000)
    set_(store, uncertainty=[0.1, 0.5, 0.2, 0.3, 0.4, None])
    turns = 300
    with store.reading() as db:
        rows = [drawing.drawn(db, EVERYTHING, campaign, Random(turn)) for turn in range(turns)]
    for number in range(1, 7):
        own = [row.propensity for row in rows if row and row.propensity and row.item == number]
        assert own, "every item comes"
        assert len(set(own)) == 1, "nothing changed from turn to turn"
        error = (turns * (1 / own[0] - 1)) ** 0.5  # of the sum of turns, each 1/p with the chance p
        assert sum(1 / p for p in own) == pytest.approx(turns, abs=4.5 * error)


def test_what_was_asked_is_kept_with_the_rule_that_asked(store: Store) -> None:
    strata(store, {"a": 4, "b": 2}, need=1000)
    set_(store, uncertainty=[0.1, 0.5, 0.2, 0.3, 0.4, None])
    assert {(row.policy, row.propensity) for row in chosen(store, Campaign("study"), 5)} == {("queued", None)}
    rows = chosen(store, Campaign("study", ask="uncertainty", random_share=0.5), 50)[5:]
    assert {row.policy for row in rows} == {"uncertainty", "random"}
    assert {row.item for row in rows if row.policy == "uncertainty"} == {2}, "where the models are furthest apart"
    assert [row.propensity for row in rows if row.item == 2][:1] == pytest.approx([0.5 + 0.5 / 6])


def test_strata_are_asked_to_their_quotas_while_they_last(store: Store) -> None:
    strata(store, {"a": 40, "b": 6, "c": 3})
    rows = chosen(store, Campaign("study", ask="stratified", quotas={"a": 0.8, "b": 0.2}), 49)
    come = [row.stratum for row in rows]
    assert come[-3:] == ["c"] * 3, "a stratum without a quota comes when the others are done"
    assert Counter(come) == Counter(a=40, b=6, c=3)
    assert come.index("b") < 30


def test_weights_from_propensities_take_out_what_the_choice_put_in(store: Store) -> None:
    """Each rater answers 6 of 16 items by the rule. Where models disagree the value is greater, so the plain mean is
    too large; with LURE's weights (Farquhar, Gal and Rainforth 2021, equation 7) it is right on average.
    """
    pool, asked, raters = 16, 6, 100
    rule = Campaign(ask="uncertainty", random_share=0.5)
    strata(store, {"a": pool})
    set_(store, uncertainty=[n / pool for n in range(pool)])
    plain, weighted = [], []
    with store.reading() as db:
        for rater in range(raters):
            had: list[drawing.Drawn] = []
            for turn in range(asked):
                able = EVERYTHING & items.c.id.not_in([one.item for one in had])
                found = drawing.drawn(db, able, rule, Random(f"{rater} {turn}"))
                assert found is not None
                had.append(found)
            plain.append(mean(one.item for one in had))
            weighted.append(mean(lure(pool, asked, turn, one.propensity or 0) * one.item
                                 for turn, one in enumerate(had, start=1)))
    truth = (pool + 1) / 2
    assert mean(plain) - truth > 8 * stdev(plain) / raters**0.5
    assert abs(mean(weighted) - truth) < 4 * stdev(weighted) / raters**0.5


def lure(pool: int, asked: int, turn: int, propensity: float) -> float:
    """The weight of the answer of the `turn`-th of so many turns."""
    return 1 + (pool - asked) / (pool - turn) * (1 / ((pool - turn + 1) * propensity) - 1)


def test_every_rule_and_all_that_is_read_of_a_campaign_on_both_databases(store_url: str, clock: Clock) -> None:
    rows = [of_stratum(n, "maths" if n % 3 else "code") for n in range(150)]
    said = {(row.prompt.id, one.id): (float(place), n / 150) for n, row in enumerate(rows)
            for place, one in enumerate(row.responses)}
    def fit(db: Connection, campaign: int) -> None:
        filling.require_fillable(db, campaign, True)

    with Store(store_url, clock=clock, seed=2) as store:
        for number, (rule, own) in enumerate({"queued": {}, "random": {}, "uncertainty": {}, "stratified": {
                "quotas": {"maths": 0.5, "code": 0.5}}}.items()):
            store.apply(Campaign("study", ask=rule, show_model=True, repeats=0.3, **own), rows=rows, need=2,
                        scores=Scores("m", said), fit=fit)
            for _ in range(12):
                lease = store.lease(f"rater {number}", 600, campaign="study")
                assert lease is not None
                store.submit(lease.token, lease.rater, Judgement((1, 2, 3)))
        with store.reading() as db:
            policies = Counter(db.scalars(select(leases.c.policy)))
            rates = list(db.scalars(select(leases.c.propensity).where(leases.c.policy != "queued")))
            strata = {one.stratum: one for one in filling.coverage(db, campaign_id(db, "study"))}
        assert set(policies) == {"queued", "random", "uncertainty", "stratified", "repeat"}
        assert all(rate is None or 0 < rate <= 1 for rate in rates)
        assert (strata["maths"].items, strata["code"].wanted) == (100, 100)
        assert strata["code"].uncertainty == pytest.approx(mean(n / 150 for n in range(0, 150, 3)))
        told = [one.model for number in range(4) for one in store.history(f"rater {number}", "study")]
        assert any(one is None for one in told)
        assert any(one is not None for one in told)
        assert sum(one.propensity is not None for one in store.rankings()) > 20
        store.write(lambda db: filling.set_state(db, clock.at, "ann", "study", "paused", True))
        assert store.gate("rater 1", "study") == "paused"
        assert store.lease("rater 1", 600, campaign="study") is None
        assert model_agreement.facts(store, "study")["over_time"]
        with store.reading() as db:
            assert not verify(db).bad
