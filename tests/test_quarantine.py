"""Quarantines through the real store: nothing is lost, others fill the places, and the tests find who clicks."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import simulated_raters
from simulated_raters import CLICKER, HONEST, NAME, Clock
from sqlalchemy import select
from test_store import item, leased

from prefloop.errors import RequestError, RunError
from prefloop.quality import figures
from prefloop.quality.votes import Votes
from prefloop.records import Ranking
from prefloop.store import Campaign, Judgement, Store, disputing, quarantining, schema
from prefloop.store.forgetting import forget
from prefloop.store.quality import Reader
from prefloop.store.verifying import verify
from prefloop.store.watching import Watch

SAID = Judgement((1, 2, 3))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(store_url: str, clock: Clock) -> Iterator[Store]:
    with Store(store_url, clock=clock, seed=3) as opened:
        yield opened
        with opened.reading() as db:
            assert not verify(db).bad  # every change is in the log


def give(store: Store, *raters: str) -> list[int]:
    return [store.submit(leased(store, rater).token, rater, SAID).answer for rater in raters]


def done(store: Store) -> list[int]:
    with store.reading() as db:
        return list(db.scalars(select(schema.items.c.done).order_by(schema.items.c.id)))


def counting(store: Store) -> list[str]:
    return [one.rater for one in store.rankings()]


def test_held_their_answers_count_no_more_and_others_fill_the_places(store: Store) -> None:
    store.add_items([item(1)], need=2)
    give(store, "ann", "bob")
    quarantining.hold(store, "ann", "lead", "always the first")
    assert (done(store), counting(store)) == ([1], ["bob"])
    assert [(why, one.rater) for why, one in store.set_aside()] == [("excluded", "ann")]
    give(store, "cy")
    assert (done(store), counting(store)) == ([2], ["bob", "cy"])


@pytest.mark.parametrize(("filled", "after"), [(False, ["ann", "bob"]), (True, ["bob", "cy"])])
def test_lifted_they_count_again_as_surplus_where_the_place_was_filled(store: Store, filled: bool,
                                                                       after: list[str]) -> None:
    store.add_items([item(1)], need=2)
    give(store, "ann", "bob")
    quarantining.hold(store, "ann", "lead")
    if filled:
        give(store, "cy")
    quarantining.lift(store, "ann", "lead", "looked at ten")
    assert (done(store), counting(store)) == ([2], after)
    assert len(list(store.rankings(surplus=True))) == (3 if filled else 2)


def test_a_place_that_is_lent_is_not_taken_back(store: Store) -> None:
    store.add_items([item(1)])
    give(store, "ann")
    quarantining.hold(store, "ann", "lead")
    lease = leased(store, "bob")
    quarantining.lift(store, "ann", "lead")
    store.submit(lease.token, "bob", SAID)
    assert (done(store), counting(store)) == ([1], ["bob"])


def test_who_is_held_gets_nothing_and_what_they_still_send_is_kept(store: Store) -> None:
    store.apply(Campaign(NAME), rows=[item(1), item(2)])
    lease = store.lease("ann", 60, campaign=NAME)
    assert lease is not None
    quarantining.hold(store, "ann", "lead")
    assert store.gate("ann", NAME) == "quarantined"
    assert store.lease("ann", 60, campaign=NAME) is None
    assert store.renew(lease.token, "ann", 600) == lease.expires - 60
    answer = store.submit(lease.token, "ann", SAID).answer
    assert (done(store), counting(store)) == ([0, 0], [])
    store.revise(answer, "ann", Judgement((2, 1, 3)))
    quarantining.lift(store, "ann", "lead")
    assert done(store) == [1, 0]
    assert [one.ranks for one in store.rankings()] == [(2, 1, 3)]
    assert store.gate("ann", NAME) is None


def test_withdrawn_while_held_it_leaves_no_trace_in_the_count(store: Store) -> None:
    store.add_items([item(1)])
    answer = give(store, "ann")[0]
    quarantining.hold(store, "ann", "lead")
    store.withdraw(answer, "ann")
    quarantining.lift(store, "ann", "lead")
    assert (done(store), counting(store)) == ([0], [])


def test_a_proposal_decides_nothing_and_stays_one(store: Store) -> None:
    store.add_items([item(1)])
    give(store, "ann")
    assert quarantining.propose(store, {"ann": [{"kind": "random"}]}) == ["ann"]
    assert quarantining.propose(store, {"ann": [{"kind": "drift"}]}) == []
    assert counting(store) == ["ann"]
    quarantining.dismiss(store, "ann", "lead", "fine")
    kept = quarantining.newest(store)["ann"]
    assert (kept.state, [one["kind"] for one in kept.why]) == ("dismissed", ["random", "dismissed"])
    assert Reader(store).cleared() == {"ann": kept.closed}


@pytest.mark.parametrize(("work", "what"), [
    (lambda store: quarantining.lift(store, "ann", "lead"), "ann is not quarantined"),
    (lambda store: quarantining.dismiss(store, "ann", "lead"), "ann is not proposed"),
    (lambda store: quarantining.hold(store, "zed", "lead"), "'zed' has never rated"),
    (lambda store: quarantining.hold(store, "ann", "lead", "x" * 2001), "longer than 2000"),
])
def test_what_makes_no_sense_is_refused(store: Store, work, what: str) -> None:
    store.add_items([item(1)])
    give(store, "ann")
    with pytest.raises(RequestError, match=what):
        work(store)
    assert (done(store), counting(store)) == ([1], ["ann"])


def test_gold_is_held_against_what_its_rater_said_first(store: Store) -> None:
    """Who learns afterwards what a model says, or which items were gold, cannot mend them."""
    keys = [Ranking(row.prompt, row.responses, (1, 2, 3), "expert") for row in map(item, range(6))]
    store.apply(Campaign("study", gold_share=1.0, repeats=0), gold=keys, rows=[item(n) for n in range(10, 19)])
    for number in range(6):
        lease = store.lease("ann", 600, campaign="study")
        assert lease is not None
        right, wrong = (Judgement(tuple(map(rank, lease.shown))) for rank in ((1).__add__, (3).__sub__))
        given = store.submit(lease.token, "ann", wrong).answer
        if number % 2:
            store.revise(given, "ann", right)
        else:
            store.withdraw(given, "ann")
            store.submit(lease.token, "ann", right)
    votes = Reader(store).votes()
    ann, = figures.of_raters(votes)
    assert ann.gold is not None
    assert (ann.gold.value, np.isfinite(votes.right_A).sum(), votes.stands_A.tolist()) == (0, 12, [True, False] * 6)
    with store.reading() as db:
        assert disputing.unheard(db) == {"ann"}


def test_votes_are_read_again_only_where_they_changed(store: Store) -> None:
    store.add_items([item(1), item(2, count=4)], need=2)  # the second has more pairs
    reader = Reader(store)
    assert len(reader.votes()) == 0
    give(store, "ann", "bob")
    first = reader.votes()
    assert (first.raters, first.counts_A.tolist()) == (("ann", "bob"), [True, True])
    answer = store.submit(leased(store, "ann").token, "ann", Judgement((1, 2, 3, 4))).answer
    store.revise(answer, "ann", Judgement((4, 2, 3, 1)))
    quarantining.hold(store, "bob", "lead")
    both = [reader.votes(), Reader(store).votes()]
    for votes in both:
        assert votes.stands_A.tolist() == [True, True, False, True]
        assert votes.counts_A.tolist() == [True, False, False, True]
        assert votes.newest_A.tolist() == [True, True, False, True]
        assert votes.said_AP.tolist() == both[0].said_AP.tolist()


def test_a_number_that_is_another_s_after_somebody_was_forgotten_is_read_anew(store: Store) -> None:
    store.add_items([item(1), item(2)])
    give(store, "ann")
    reader = Reader(store)
    assert reader.votes().raters == ("ann",)
    forget(store, "ann")
    assert give(store, "bob") == [1]
    assert reader.votes().raters == ("bob",)


def test_numbers_that_are_another_s_by_now_are_looked_at(store: Store, clock: Clock) -> None:
    simulated_raters.campaign(store, 20, 40, 1, 4, Campaign(NAME, gold_share=0.5))
    watch, dice = Watch(store), random.Random(1)
    simulated_raters.worked(store, {"bob": HONEST}, 30, dice, watch, clock.pass_by)
    forget(store, "bob")
    simulated_raters.worked(store, {"cid": CLICKER}, 20, dice, Watch(store, Blind(store)), clock.pass_by)
    assert watch.look() == ["cid"]
    assert set(watch.standings()) == {"cid"}


class Blind(Reader):
    """Sees nobody, so that raters work with no watch looking."""

    def votes(self, campaign: str | None = None) -> Votes:
        votes = super().votes(campaign)
        return votes.where(np.zeros(len(votes), bool))


def test_a_look_that_fails_is_made_again(store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated_raters.campaign(store, 20, 40, 1, 4, Campaign(NAME, gold_share=0.5))
    simulated_raters.worked(store, {"cid": CLICKER}, 20, random.Random(1), Watch(store, Blind(store)), clock.pass_by)

    def full(*_: object) -> None:
        raise RunError("the disk is full")

    watch = Watch(store)
    with monkeypatch.context() as patched:
        patched.setattr(quarantining, "propose", full)
        with pytest.raises(RunError):
            watch.look()
    assert watch.look() == ["cid"]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_clickers_are_proposed_and_readers_left_alone(store: Store, clock: Clock) -> None:
    """A small campaign, of rankings of four with three raters each; `make bench NAME=quality` has the large ones."""
    simulated_raters.campaign(store, 120, 40, 3, 4, Campaign(NAME, gold_share=0.1, probation=0.5, repeats=0.05))
    crew = {f"r{n}": CLICKER if n % 5 == 0 else HONEST for n in range(10)}
    watch = Watch(store)
    seen = simulated_raters.worked(store, crew, 25, random.Random(1), watch, clock.pass_by)
    assert sorted(seen.proposed) == ["r0", "r5"]
    assert [one.state for one in quarantining.newest(store).values()] == ["proposed", "proposed"]
    assert sum(seen.gold[name] for name in crew if not crew[name].clicks) / 8 < 12  # it ends when they have shown it
    assert not {"r1", "r2", "r3"} & set(store.doubted)
    quarantining.dismiss(store, "r0", "lead")
    clock.pass_by(10)
    assert watch.look() == []  # what they did before is no reason again
