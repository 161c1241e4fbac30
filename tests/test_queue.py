"""The queue: random operations against a second, plain version of its rules; the shares of what comes in between."""

import random
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import select
from test_store import Clock, item, most

from prefloop.errors import RequestError
from prefloop.records import Message, Prompt, Ranking, Response
from prefloop.store import AlreadyAnswered, Campaign, Judgement, Lease, NotLeased, Receipt, Store
from prefloop.store.answering import EDITABLE
from prefloop.store.queue import APART, MOST_OPEN
from prefloop.store.schema import items, leases
from prefloop.store.verifying import verify

STUDY = Campaign("study", gold_share=0.2, repeats=0.2, qualification_pass=0.0)
WRONG, RIGHT = Judgement((3, 2, 1)), Judgement((1, 2, 3))


def key(number: int, name: str) -> Ranking:
    prompt = Prompt((Message("user", f"{name} {number}"),))
    return Ranking(prompt, tuple(Response(f"{name} {number}.{n}") for n in range(3)), (1, 2, 3), "expert",
                   reason=f"because {number}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(store_url: str, clock: Clock) -> Iterator[Store]:
    with Store(store_url, clock=clock, seed=5) as opened:
        yield opened


def about(store: Store, token: str) -> Any:
    with store.reading() as db:
        return db.execute(select(items).join(leases, leases.c.item == items.c.id)
                          .where(leases.c.token == token)).one()


# -- random operations against a model --------------------------------------------------------------------------------


@dataclass
class Held:
    token: str
    state: str
    issued: int
    expires: int


@dataclass
class Given:
    ids: list[int]
    said: Judgement
    surplus: bool
    counts: bool = True


@dataclass
class Model:
    """The rules of the queue, written a second time and as plainly as possible. Items are known by their ids."""

    need: dict[int, int] = field(default_factory=dict)
    golds: set[int] = field(default_factory=set)
    trials: set[int] = field(default_factory=set)  # of the qualification round
    repeats: dict[int, tuple[str, int]] = field(default_factory=dict)  # whose, and of which item
    leases: dict[tuple[int, str], Held] = field(default_factory=dict)
    answers: dict[tuple[int, str], Given] = field(default_factory=dict)

    def done(self, item: int) -> int:
        return sum(i == item and one.counts and not one.surplus for (i, _), one in self.answers.items())

    def live(self, item: int, at: int) -> int:
        return sum(i == item and one.state == "open" and one.expires > at for (i, _), one in self.leases.items())

    def room(self, item: int, at: int) -> bool:
        return item not in self.need or self.done(item) + self.live(item, at) < self.need[item]

    def held(self, rater: str, at: int) -> list[int]:
        own = [(one.issued, i) for (i, r), one in self.leases.items()
               if r == rater and one.state == "open" and (one.expires > at or self.room(i, at))]
        return [i for _, i in sorted(own)]

    def had(self, rater: str) -> set[int]:
        return {i for i, r in self.leases if r == rater}

    def recent(self, rater: str) -> list[tuple[int, int]]:
        """(id, item) of the rater's answers that count, newest first."""
        return sorted(((one.ids[-1], i) for (i, r), one in self.answers.items() if r == rater and one.counts),
                      reverse=True)

    def may_get(self, rater: str, at: int, skipped: bool, holding: set[str]) -> set[int]:
        held = self.held(rater, at)
        for one in held:
            if self.leases[one, rater].token not in holding:
                return {one}
        if len(held) >= MOST_OPEN:
            return set()
        had = self.had(rater)
        put_aside = {i for i in had if self.leases[i, rater].state == "skipped"}
        if untried := {i for i in self.trials if (i, rater) not in self.answers}:
            return untried - had or untried & put_aside
        normal = {i for i in self.need if i not in had and self.room(i, at) and self.done(i) < self.need[i]}
        if skipped:
            return normal | {i for i in put_aside - self.trials if self.room(i, at)}
        mirrored = {i for owner, i in self.repeats.values() if owner == rater}
        old = {i for _, i in self.recent(rater)[APART:] if i in self.need} - mirrored
        return (normal | (self.golds - had) | {-i for i in old}) if normal else set()

    def editable(self, item: int, rater: str) -> bool:
        last = [i for _, i in self.recent(rater) if i not in self.trials][:EDITABLE]
        return item in last


class Session:
    """One run: the store and the model, asked the same things."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.seed, self.dice, self.clock, self.model = url, seed, random.Random(seed), Clock(), Model()
        self.store = Store(url, clock=self.clock, seed=seed)
        needs = {f"question {n}": self.dice.randint(1, 4) for n in range(30)}
        self.store.apply(STUDY, gold=[key(n, "gold") for n in range(3)],
                         qualification=[key(n, "trial") for n in range(2)], rows=[item(n) for n in range(30)],
                         need=lambda row: needs[row.prompt.messages[0].content])
        with self.store.reading() as db:
            rows = db.execute(select(items)).all()
        self.model.need = {row.id: row.need for row in rows if row.kind == "normal"}
        self.model.golds = {row.id for row in rows if row.kind == "gold"}
        self.model.trials = {row.id for row in rows if row.kind == "qualification"}

    def lease(self, rater: str) -> None:
        skipped = self.dice.random() < 0.15
        own = [one.token for (_, r), one in self.model.leases.items() if r == rater]
        holding = {token for token in own if self.dice.random() < 0.5}
        allowed = self.model.may_get(rater, self.clock.at, skipped, holding)
        lease = self.store.lease(rater, 60, skipped=skipped, campaign="study", holding=holding)
        assert (lease is None) == (not allowed)
        if lease is None:
            return
        row = about(self.store, lease.token)
        if row.kind == "repeat" and row.id not in self.model.repeats:
            assert -row.mirrors in allowed
            assert row.rater == rater
            self.model.repeats[row.id] = rater, row.mirrors
        else:
            assert row.id in allowed
        assert (lease.practice is not None) == (row.kind == "qualification")
        before = self.model.leases.get((row.id, rater))
        assert before is None or before.token == lease.token
        issued = before.issued if before and before.state == "open" else self.clock.at
        self.model.leases[row.id, rater] = Held(lease.token, "open", issued, self.clock.at + 60)

    def submit(self, rater: str) -> None:
        waiting = [i for (i, r), one in self.model.leases.items() if r == rater and one.state != "done"]
        if not waiting:
            return
        item = self.dice.choice(waiting)
        lease, said = self.model.leases[item, rater], self.dice.choice([RIGHT, WRONG])
        in_time = lease.state == "open" and lease.expires > self.clock.at
        surplus = not in_time and not self.model.room(item, self.clock.at)
        receipt = self.store.submit(lease.token, rater, said, key=f"{rater} {self.dice.random()}")
        assert receipt.surplus == surplus
        ids = self.model.answers[item, rater].ids if (item, rater) in self.model.answers else []
        self.model.answers[item, rater] = Given([*ids, receipt.answer], said, surplus)
        lease.state = "done"

    def again(self, rater: str) -> None:
        """A retry is known for one, and another judgement under the same lease is refused."""
        own = [i for (i, r), one in self.model.answers.items() if r == rater and one.counts]
        if own:
            item = self.dice.choice(own)
            given, token = self.model.answers[item, rater], self.model.leases[item, rater].token
            assert self.store.submit(token, rater, given.said) == Receipt(given.ids[-1], given.surplus, "study")
            with pytest.raises(AlreadyAnswered):
                self.store.submit(token, rater, WRONG if given.said == RIGHT else RIGHT)

    def change(self, rater: str) -> None:
        own = [i for (i, r) in self.model.answers if r == rater]
        if not own:
            return
        item = self.dice.choice(own)
        given = self.model.answers[item, rater]
        said, answer = self.dice.choice([RIGHT, WRONG]), self.dice.choice(given.ids)
        may = given.counts and self.model.editable(item, rater)
        if self.dice.random() < 0.5:
            if may:
                given.ids.append(self.store.revise(answer, rater, said).answer)
                given.said = said
            else:
                with pytest.raises(RequestError, match="answer: "):
                    self.store.revise(answer, rater, said)
        elif not given.counts:
            self.store.withdraw(answer, rater, 60)  # once more is nothing more
        elif may and answer == given.ids[-1]:
            self.store.withdraw(answer, rater, 60)
            given.counts = False
            lease = self.model.leases[item, rater]
            lease.state, lease.expires = "open", self.clock.at + (0 if given.surplus else 60)
        else:
            with pytest.raises(RequestError, match="answer: "):
                self.store.withdraw(answer, rater)

    def skip(self, rater: str) -> None:
        for (_, r), one in self.model.leases.items():
            if r == rater and one.state == "open":
                self.store.release(one.token, rater)
                one.state, one.issued = "skipped", self.clock.at
                return

    def renew(self, rater: str) -> None:
        for (i, r), one in self.model.leases.items():
            if r == rater and one.state == "open":
                if one.expires > self.clock.at or self.model.room(i, self.clock.at):
                    one.expires = max(one.expires, self.clock.at + 60)
                assert self.store.renew(one.token, rater, 60) == one.expires
                return

    def steal(self, rater: str) -> None:
        for (_, r), one in self.model.leases.items():
            if r != rater:
                for call in (lambda t: self.store.submit(t, rater, RIGHT), lambda t: self.store.release(t, rater),
                             lambda t: self.store.renew(t, rater, 60), lambda t: self.store.flag(t, rater, "other")):
                    with pytest.raises(NotLeased):
                        call(one.token)
        for (_, r), given in self.model.answers.items():
            if r != rater:
                with pytest.raises(NotLeased):
                    self.store.withdraw(given.ids[0], rater)

    def wait(self, _: str) -> None:
        self.clock.at += self.dice.choice([1, 20, 61])

    def restart(self, _: str) -> None:
        self.store.close()
        self.store = Store(self.url, clock=self.clock)

    def check(self) -> None:
        model, at = self.model, self.clock.at
        assert all(model.done(i) + model.live(i, at) <= need for i, need in model.need.items())
        progress = self.store.progress(campaign="study")
        normal = [one for (i, _), one in model.answers.items() if i in model.need and one.counts]
        assert (progress.done, progress.surplus) == (sum(not one.surplus for one in normal),
                                                     sum(one.surplus for one in normal))
        told = Counter((r.rater, r.kind, r.ranks) for r in self.store.rankings(surplus=True))
        kinds = {**dict.fromkeys(model.need, "normal"), **dict.fromkeys(model.golds, "gold"),
                 **dict.fromkeys(model.repeats, "repeat")}
        assert told == Counter((r, kinds[i], self.stored(i, r, one)) for (i, r), one in model.answers.items()
                               if one.counts and i in kinds)

    def stored(self, item: int, rater: str, given: Given) -> tuple[int | None, ...]:
        """A repeat was shown in the opposite order, so its ranks are stored in that."""
        return given.said.ranks[::-1] if item in self.model.repeats else given.said.ranks


@pytest.mark.parametrize(("store_url", "seed"), [*(("sqlite", n) for n in range(6)), ("postgresql", 6)],
                         indirect=["store_url"])
def test_random_operations_agree_with_the_model(store_url: str, seed: int) -> None:
    session = Session(store_url, seed)
    with_weights = ["lease"] * 5 + ["submit"] * 5 + ["again", "change", "skip", "renew", "wait"] + ["steal"]
    for step in range(300):
        name = "restart" if step % 100 == 99 else session.dice.choice(with_weights)
        rater = f"rater {session.dice.randrange(4)}"
        getattr(session, name)(rater)
        if step % 5 == 0:
            session.check()
    session.check()
    with session.store.reading() as db:
        assert verify(db).bad == (), "the log tells of all of it"
    session.store.close()
    assert session.model.repeats, "the run was long enough for repeats"


# -- many raters at once ----------------------------------------------------------------------------------------------


def test_three_raters_each_though_every_third_lease_is_abandoned(store: Store, clock: Clock) -> None:
    """Of the abandoned leases every second is answered late all the same."""
    count = most(store, 400)
    store.add_items([item(number) for number in range(count)], need=3)
    late: list[Lease] = []

    def work(worker: int) -> int:
        dice, name, idle, surplus = random.Random(worker), 0, 0, 0
        while idle < 3:
            rater = f"rater {worker}.{name}"
            lease = store.lease(rater, 600)
            if lease is None:
                idle += 1
                clock.at += 601  # and so the leases that were abandoned run out
            elif dice.random() < 0.3:
                name += 1  # this rater is gone
                if dice.random() < 0.5:
                    late.append(lease)
            else:
                surplus += store.submit(lease.token, rater, RIGHT).surplus
        return surplus

    with ThreadPoolExecutor(8) as pool:
        surplus = sum(pool.map(work, range(8)))
    surplus += sum(store.submit(one.token, one.rater, RIGHT).surplus for one in late)
    for rater in ("last 1", "last 2", "last 3"):  # whoever comes later finishes what is left
        clock.at += 601
        while (lease := store.lease(rater, 600)) is not None:
            store.submit(lease.token, rater, RIGHT)
    assert set(Counter(r.prompt.id for r in store.rankings()).values()) == {3}
    assert (store.progress().done, store.progress().surplus) == (3 * count, surplus)
    assert len(list(store.rankings(surplus=True))) == 3 * count + surplus
    assert len(late) > count // 8


def test_a_thousand_submissions_sent_five_times_at_once(store: Store) -> None:
    count = most(store, 50)
    store.add_items([item(n) for n in range(count)], need=20)
    held = [lease for rater in range(20) for lease in _all_of(store, f"rater {rater}")]
    sent = [(lease, f"key {n}") for n, lease in enumerate(held) for _ in range(5)]
    random.Random(0).shuffle(sent)
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(lambda one: store.submit(one[0].token, one[0].rater, RIGHT, one[1]), sent))
    assert (len(sent), len({one.answer for one in told})) == (100 * count, 20 * count)
    assert len(list(store.rankings())) == 20 * count
    with store.reading() as db:
        assert verify(db).bad == ()


def _all_of(store: Store, rater: str) -> Iterator[Lease]:
    """Every item under a lease of this rater's: one that is skipped keeps its token."""
    while (lease := store.lease(rater, 600)) is not None:
        store.release(lease.token, rater)
        yield lease
