"""The store against a small model of itself, under threads, and against what must be refused."""

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import update

from prefloop.errors import RequestError, RunError
from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import AlreadyAnswered, Campaign, Judgement, Lease, NotLeased, Receipt, Store, item_name, schema
from prefloop.store.sqlite import SqliteFile


class Clock:
    def __init__(self) -> None:
        self.at = 1_000_000

    def __call__(self) -> int:
        return self.at


def item(number: int, count: int = 3) -> Answers:
    prompt = Prompt((Message("user", f"question {number}"),), stratum="letters")
    return Answers(prompt, tuple(Response(f"answer {number}.{place}", policy="runs/sft") for place in range(count)))


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'feedback.db'}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(store_url: str, clock: Clock) -> Iterator[Store]:
    with Store(store_url, clock=clock) as opened:
        yield opened


def most(store: Store, count: int) -> int:
    """So many in a file; a server is as right with fewer, and takes longer over each."""
    return count if isinstance(store.place, SqliteFile) else count // 8


def leased(store: Store, rater: str, skipped: bool = False) -> Lease:
    lease = store.lease(rater, seconds=60, skipped=skipped)
    assert lease is not None
    return lease


# -- random operations against a model ------------------------------------------------------------------------------


@dataclass
class Model:
    """The rules of the queue, written a second time and as plainly as possible."""

    need: dict[str, int]
    done: Counter[str] = field(default_factory=Counter)
    leases: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)
    surplus: int = 0

    def live(self, item: str, at: int) -> int:
        return sum(i == item and state == "open" and expires > at
                   for (i, _), (state, expires) in self.leases.items())

    def room(self, item: str, at: int) -> bool:
        return self.done[item] + self.live(item, at) < self.need[item]

    def may_get(self, rater: str, at: int, skipped: bool) -> set[str]:
        own = {i: lease for (i, r), lease in self.leases.items() if r == rater}
        current = {i for i, (state, expires) in own.items()
                   if state == "open" and (expires > at or self.room(i, at))}
        barred = {i for i, (state, _) in own.items() if state == "done" or (state == "skipped" and not skipped)}
        return current or {i for i in self.need if i not in barred and self.room(i, at)}

    def submit(self, item: str, rater: str, at: int) -> bool:
        state, expires = self.leases[item, rater]
        in_time = state == "open" and expires > at
        surplus = not in_time and not self.room(item, at)
        self.leases[item, rater] = ("done", expires)
        self.done[item] += not surplus
        self.surplus += surplus
        return surplus


@pytest.mark.parametrize(("store_url", "seed"), [*(("sqlite", n) for n in range(6)), ("postgresql", 6)],
                         indirect=["store_url"])
def test_random_operations_agree_with_the_model(seed: int, store: Store, clock: Clock) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    model, tokens, receipts = Model({}), {}, {}
    for number in range(8):
        need = dice.randint(1, 3)
        store.add_items([item(number)], need=need)
        model.need[f"question {number}"] = need
    for _ in range(250):
        rater = f"rater {dice.randrange(5)}"
        match dice.choice(["lease", "lease", "submit", "submit", "again", "skip", "wait"]):
            case "lease":
                skipped = dice.random() < 0.2
                allowed = model.may_get(rater, clock.at, skipped)
                lease = store.lease(rater, seconds=60, skipped=skipped)
                assert (lease is None) == (not allowed)
                if lease is not None:
                    name = lease.prompt.messages[0].content
                    assert name in allowed
                    assert tokens.setdefault((name, rater), lease.token) == lease.token
                    model.leases[name, rater] = ("open", clock.at + 60)
            case "submit" if waiting := [k for k, (s, _) in model.leases.items() if k[1] == rater and s != "done"]:
                name, _ = dice.choice(waiting)
                receipt = store.submit(tokens[name, rater], rater, Judgement((1, 2, 2)))
                assert receipt.surplus == model.submit(name, rater, clock.at)
                receipts[tokens[name, rater]] = (rater, receipt)
            case "again" if receipts:
                token, (owner, first) = dice.choice(list(receipts.items()))
                assert store.submit(token, owner, Judgement((1, 2, 2), seconds=9)) == first
            case "skip" if mine := [k for k, (s, _) in model.leases.items() if k[1] == rater and s == "open"]:
                name, _ = dice.choice(mine)
                store.release(tokens[name, rater], rater)
                model.leases[name, rater] = ("skipped", 0)
            case "wait":
                clock.at += dice.choice([1, 20, 61])
        progress = store.progress()
        assert (progress.done, progress.surplus) == (sum(model.done.values()), model.surplus)
        assert all(model.done[i] + model.live(i, clock.at) <= model.need[i] for i in model.need)
    counted = Counter(r.prompt.messages[0].content for r in store.rankings())
    assert counted == +model.done
    everything = [(r.prompt.id, r.rater) for r in store.rankings(surplus=True)]
    assert len(everything) == len(set(everything)) == len(receipts)


def test_threads_never_over_assign(store: Store) -> None:
    count = most(store, 400)
    store.add_items([item(number) for number in range(count)], need=3)

    def work(rater: str) -> int:
        dice, given = random.Random(rater), 0
        while (lease := store.lease(rater, seconds=600)) is not None:
            if dice.random() < 0.2:
                store.release(lease.token, rater)
            else:
                store.submit(lease.token, rater, Judgement((3, 1, 2)))
                given += 1
        return given

    with ThreadPoolExecutor(8) as pool:
        given = sum(pool.map(work, [f"rater {n}" for n in range(8)]))
    for n in range(3):  # whoever comes later finishes what others skipped
        given += work(f"late {n}")
    per_item = Counter(r.prompt.id for r in store.rankings())
    assert given == 3 * count
    assert set(per_item.values()) == {3}
    assert len(per_item) == count
    assert store.progress().surplus == 0


def test_one_submission_sent_by_many_threads_is_one_answer(store: Store) -> None:
    store.add_items([item(0)])
    token = leased(store, "ann").token
    with ThreadPoolExecutor(8) as pool:
        receipts = list(pool.map(lambda _: store.submit(token, "ann", Judgement((1, 2, 3))), range(40)))
    assert len(set(receipts)) == 1
    assert len(list(store.rankings())) == 1


# -- leases ----------------------------------------------------------------------------------------------------------


def test_open_lease_is_served_again_and_renewed(store: Store, clock: Clock) -> None:
    store.add_items([item(0), item(1)])
    first = leased(store, "ann")
    clock.at += 59
    again = leased(store, "ann")
    assert again == replace(first, expires=first.expires + 59)


def test_expired_lease_goes_to_another_and_the_late_answer_is_surplus(store: Store, clock: Clock) -> None:
    store.add_items([item(0)])
    slow = leased(store, "slow")
    assert store.lease("quick", seconds=60) is None
    clock.at += 60
    quick = leased(store, "quick")
    assert store.submit(slow.token, "slow", Judgement((1, 2, 3))).surplus, "its place was promised to another"
    assert store.submit(quick.token, "quick", Judgement((3, 2, 1))).surplus is False
    assert [r.rater for r in store.rankings()] == ["quick"]
    assert [r.rater for r in store.rankings(surplus=True)] == ["slow", "quick"]


def test_late_answer_counts_while_the_need_is_open(store: Store, clock: Clock) -> None:
    store.add_items([item(0)])
    lease = leased(store, "slow")
    clock.at += 10_000
    assert store.submit(lease.token, "slow", Judgement((1, 2, 3))).surplus is False
    assert store.lease("quick", seconds=60) is None


def test_skipped_items_come_back_only_when_asked_for(store: Store, clock: Clock) -> None:
    store.add_items([item(0), item(1)])
    for _ in range(2):
        clock.at += 1
        store.release(leased(store, "ann").token, "ann")
    assert store.lease("ann", seconds=60) is None
    assert store.progress("ann").skipped == 2
    assert leased(store, "ann", skipped=True).prompt == item(0).prompt
    assert leased(store, "bob").prompt == item(1).prompt


def test_higher_priority_comes_first(store: Store) -> None:
    store.add_items([item(0)])
    store.add_items([item(1)], priority=5)
    assert leased(store, "ann").prompt == item(1).prompt


# -- answers ---------------------------------------------------------------------------------------------------------


def test_ranks_are_mapped_back_from_the_order_shown(store: Store) -> None:
    store.add_items([item(0)])
    lease = store.lease("ann", seconds=60, order=lambda _, count: [2, 0, 1])
    assert lease is not None
    said = Judgement((1, 2, None), "better", False, "because", "my own answer", 12.5, "v2")
    store.submit(lease.token, "ann", said)
    ranking = next(iter(store.rankings()))
    assert ranking.ranks == (2, None, 1)
    assert ranking.shown == (2, 0, 1)
    assert ranking.responses == item(0).responses
    assert (ranking.strength, ranking.reason, ranking.edited, ranking.seconds, ranking.guideline, ranking.kind) == (
        "better", "because", "my own answer", 12.5, "v2", "normal")


def test_another_answer_under_the_same_lease_is_refused(store: Store) -> None:
    store.add_items([item(0)])
    lease = leased(store, "ann")
    first = store.submit(lease.token, "ann", Judgement((1, 2, 3), seconds=3.0))
    assert store.submit(lease.token, "ann", Judgement((1, 2, 3), seconds=8.0)) == first
    with pytest.raises(AlreadyAnswered):
        store.submit(lease.token, "ann", Judgement((3, 2, 1)))
    assert [r.ranks for r in store.rankings()] == [(1, 2, 3)]


def test_no_lease_no_answer(store: Store) -> None:
    store.add_items([item(0)])
    lease = leased(store, "ann")
    for token, rater in [("made-up", "ann"), (lease.token, "bob"), ("", "ann")]:
        with pytest.raises(NotLeased):
            store.submit(token, rater, Judgement((1, 2, 3)))
        with pytest.raises(NotLeased):
            store.release(token, rater)
    assert store.progress().done == 0


@pytest.mark.parametrize(("said", "names"), [
    (Judgement((1, 2)), "ranks: 2 ranks for 3"),
    (Judgement((1, 2, 4)), "ranks: 4 is beyond"),
    (Judgement((0, 1, 2)), "ranks: 0"),
    (Judgement((True, 1, 2)), "ranks: True"),
    (Judgement((None, None, None)), "no answer was ranked"),
    (Judgement((1, 2, 3), strength="very"), "strength"),
    (Judgement((1, 2, 3), seconds=float("nan")), "seconds"),
    (Judgement((1, 2, 3), seconds=-1.0), "seconds"),
    (Judgement((1, 2, 3), reason="\ud800"), "reason"),
    (Judgement((1, 2, 3), edited="\udfff"), "edited"),
])
def test_an_answer_that_is_not_valid_stores_nothing(store: Store, said: Judgement, names: str) -> None:
    store.add_items([item(0)])
    token = leased(store, "ann").token
    with pytest.raises(RequestError, match=names):
        store.submit(token, "ann", said)
    assert list(store.rankings()) == []
    assert store.submit(token, "ann", Judgement((None,) * 3, none_acceptable=True)) == Receipt(1, False)


@pytest.mark.parametrize("text", [
    "<img src=x onerror=alert(1)>", "'; drop table answers; --", "\u202egnp.exe", "{{7*7}} ${x}",
    "=1+1", "\r\n\t", "👩‍👩‍👧 \U0010ffff", "<|im_end|>", "x" * 100_000,
])
def test_hostile_text_comes_back_as_it_went_in(store: Store, text: str) -> None:
    prompt = Prompt((Message("user", text + "?"),), stratum=text, source=text)
    store.add_items([Answers(prompt, (Response(text + "!", policy=text), Response("plain")))])
    lease = leased(store, text + ".")
    assert (lease.prompt, lease.responses[0].text) == (prompt, text + "!")
    store.submit(lease.token, text + ".", Judgement((1, 2), reason=text, edited=text))
    ranking = next(iter(store.rankings()))
    assert (ranking.prompt, ranking.reason, ranking.edited, ranking.rater) == (prompt, text, text, text + ".")
    assert ranking.responses[0].policy == text


# -- queueing and opening --------------------------------------------------------------------------------------------


def test_queued_once_and_the_need_can_grow(store: Store) -> None:
    assert store.add_items([item(0), item(1)]) == 2
    assert store.add_items([item(1), item(2)], need=3) == 1
    assert store.progress().wanted == 1 + 3 + 3


@pytest.mark.parametrize(("second", "names"), [
    (Response("  "), r"responses\[1\]: the answer is empty"),
    (Response("answer 0.0"), r"responses\[1\]: the answer equals its rival"),
    (Response("\ud83d"), "text: it holds half of a surrogate pair"),
])
def test_a_bad_row_queues_nothing(store: Store, second: Response, names: str) -> None:
    with pytest.raises(RequestError, match=names):
        store.add_items([item(9), Answers(item(0).prompt, (Response("answer 0.0"), second))])
    assert store.progress().items == 0


def test_a_nul_comes_back_where_it_can_be_spelled_and_is_refused_by_name_elsewhere(store: Store) -> None:
    row = Answers(Prompt((Message("user", "is \0 a letter?"),), source="a\0b"), (Response("no\0"), Response("yes")))
    store.add_items([row])
    lease = leased(store, "ann")
    assert (lease.prompt, lease.responses) == (row.prompt, row.responses)
    for said in (Judgement((1, 2), reason="\0"), Judgement((1, 2), edited="\0"), Judgement((1, 2), guideline="\0")):
        with pytest.raises(RequestError, match=r"(reason|edited|guideline): it holds a NUL"):
            store.submit(lease.token, "ann", said)
    for call, name in ((lambda: store.lease("a\0", 60), "rater"),
                       (lambda: store.submit(lease.token, "ann", Judgement((1, 2)), key="\0"), "key"),
                       (lambda: store.flag(lease.token, "ann", "other", "\0"), "note"),
                       (lambda: store.apply(Campaign("a\0")), "campaign"),
                       (lambda: store.apply(Campaign("a"), guideline="\0"), "campaign"),
                       (lambda: store.add_items([replace(row, prompt=replace(row.prompt, stratum="\0"))]), "stratum")):
        with pytest.raises(RequestError, match=f"{name}: it holds a NUL"):
            call()
    for call in (lambda: store.submit("\0", "ann", Judgement((1, 2))), lambda: store.progress(campaign="\0")):
        with pytest.raises(RequestError):
            call()
    assert store.submit(lease.token, "ann", Judgement((1, 2))) == Receipt(1, False)


def test_only_one_writer_and_readers_beside_it(tmp_path: Path) -> None:
    with Store(url(tmp_path)) as first:
        first.add_items([item(0)])
        with pytest.raises(RequestError, match=r"feedback\.db: another process is writing"):
            Store(url(tmp_path))
        with Store(url(tmp_path), read_only=True) as reader:
            assert reader.progress().items == 1
            with pytest.raises(RequestError, match="reading only"):
                reader.lease("ann", seconds=60)
    with Store(url(tmp_path)) as second:
        assert second.progress().items == 1


def test_the_seed_is_kept(store_url: str) -> None:
    with Store(store_url, seed=7) as store:
        assert store.seed == 7
    with Store(store_url, seed=8) as store:
        assert store.seed == 7


def test_what_is_not_a_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with pytest.raises(RequestError, match="there is no store here"):
        Store(url(tmp_path), read_only=True)
    path.write_text("not a database, but long enough to look like one" * 40)
    with pytest.raises(RequestError, match="not a prefloop store"):
        Store(url(tmp_path))
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("create table accounts (name text)")
    before = path.read_bytes()
    with pytest.raises(RequestError, match="not a prefloop store"):
        Store(url(tmp_path))
    assert path.read_bytes() == before
    for wrong in ("feedback.db", "sqlite://", "sqlite:///:memory:", "postgresql://host/db", "postgresql+psycopg://host"):
        with pytest.raises(RequestError, match="store:"):
            Store(wrong)


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    Store(url(tmp_path)).close()
    with sqlite3.connect(tmp_path / "feedback.db") as db:
        db.execute("update meta set value = '99' where name = 'schema'")
    with pytest.raises(RequestError, match="schema is version 99"):
        Store(url(tmp_path))


def test_settings_that_make_an_acknowledged_answer_durable(tmp_path: Path) -> None:
    names = ("journal_mode", "synchronous", "foreign_keys", "mmap_size")
    with Store(url(tmp_path)) as store:
        found = store.write(lambda db: {name: db.exec_driver_sql(f"pragma {name}").scalar() for name in names})
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "mmap_size": 0}


def test_what_contradicts_the_store_is_an_error_of_one_line(store: Store) -> None:
    store.add_items([item(1)])
    with pytest.raises(RunError, match=r"nothing was saved, for it would contradict what is there: \S+"):
        store.write(lambda db: db.execute(update(schema.items).values(done=9)))
    assert store.progress().done == 0


def test_a_lease_among_named_items_alone(store: Store) -> None:
    store.add_items([item(n) for n in range(4)])
    first = leased(store, "ann")
    names = [item_name(item(n)) for n in (2, 3)]
    for number in (2, 3):
        lease = store.lease("ann", seconds=60, among=names)
        assert lease is not None
        assert lease.prompt == item(number).prompt
        store.submit(lease.token, "ann", Judgement((1, 2, 3)))
    assert store.lease("ann", seconds=60, among=names) is None
    assert store.lease("ann", seconds=60, among=[]) is None
    assert leased(store, "ann").token == first.token, "the item held before is held still"
    assert (store.progress("ann", names).done, store.progress("ann", names).wanted) == (2, 2)
    assert store.progress("ann", names[:1]).mine == 1
    assert (store.progress("ann").done, store.progress("ann").wanted) == (2, 4)
