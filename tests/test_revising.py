"""Looking back: history, revisions, withdrawals, flags, renewed leases, and retries of all of them."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import select
from test_queue import RIGHT, WRONG
from test_store import Clock, item, leased

from prefloop.errors import RequestError
from prefloop.feedback_ui import assignment
from prefloop.store import AlreadyAnswered, NotLeased, Store
from prefloop.store.answering import EDITABLE, KEY, NOTE
from prefloop.store.schema import answers, flags


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(store_url: str, clock: Clock) -> Iterator[Store]:
    with Store(store_url, clock=clock, seed=5) as opened:
        opened.add_items([item(n) for n in range(30)])
        yield opened


def rated(store: Store, count: int, rater: str = "ann") -> list[int]:
    return [store.submit(leased(store, rater).token, rater, RIGHT).answer for _ in range(count)]


def test_a_revision_is_added_and_alone_counts(store: Store) -> None:
    (answer,) = rated(store, 1)
    revised = store.revise(answer, "ann", replace(WRONG, reason="on second thoughts"), key="k")
    assert revised.answer != answer
    assert [(r.ranks, r.reason) for r in store.rankings()] == [((3, 2, 1), "on second thoughts")]
    assert store.progress("ann").done == store.progress("ann").mine == 1
    with store.reading() as db:
        rows = db.execute(select(answers.c.revision, answers.c.ranks, answers.c.retracted).order_by(answers.c.id))
        assert [(row.revision, row.ranks, row.retracted is None) for row in rows] == [
            (1, "[1, 2, 3]", False), (2, "[3, 2, 1]", True)]
    assert store.revise(answer, "ann", RIGHT).answer == 3, "an answer is known by the number of any of its revisions"


def test_retries_are_known_by_their_key(store: Store) -> None:
    first, second = (leased(store, "ann") for _ in range(2))
    assert first == second
    receipt = store.submit(first.token, "ann", RIGHT, key="one")
    assert store.submit(first.token, "ann", replace(RIGHT, seconds=9.0), key="one") == receipt
    with pytest.raises(AlreadyAnswered):
        store.submit(first.token, "ann", WRONG, key="one")
    with pytest.raises(AlreadyAnswered):
        store.submit(first.token, "ann", WRONG, key="two")
    revised = store.revise(receipt.answer, "ann", WRONG, key="three")
    assert store.revise(receipt.answer, "ann", WRONG, key="three") == revised
    with pytest.raises(AlreadyAnswered):
        store.revise(receipt.answer, "ann", RIGHT, key="three")
    assert store.submit(first.token, "ann", RIGHT, key="one") == receipt, "a retry that comes late changes nothing"
    assert [r.ranks for r in store.rankings()] == [(3, 2, 1)]
    other = leased(store, "ann")
    with pytest.raises(RequestError, match="it came before, with another item"):
        store.submit(other.token, "ann", RIGHT, key="one")
    with pytest.raises(RequestError, match=f"longer than {KEY}"):
        store.submit(other.token, "ann", RIGHT, key="x" * (KEY + 1))
    bobs = leased(store, "bob")
    assert store.submit(bobs.token, "bob", RIGHT, key="one").answer != receipt.answer, "keys are each rater's own"


def test_withdrawn_is_open_again_under_the_same_lease(store: Store) -> None:
    lease = leased(store, "ann")
    receipt = store.submit(lease.token, "ann", RIGHT, key="one")
    store.withdraw(receipt.answer, "ann")
    store.withdraw(receipt.answer, "ann")  # a retry
    assert (list(store.rankings()), store.progress("ann").done, store.progress("ann").mine) == ([], 0, 0)
    assert store.history("ann") == []
    assert leased(store, "bob").prompt != lease.prompt, "nobody else gets it meanwhile"
    assert leased(store, "ann").token == lease.token
    assert store.submit(lease.token, "ann", RIGHT, key="one") == receipt, "a late retry does not answer it again"
    assert store.progress().done == 0
    for call in (lambda: store.revise(receipt.answer, "ann", WRONG), lambda: store.reopen(receipt.answer, "ann")):
        with pytest.raises(RequestError, match="it was withdrawn"):
            call()
    again = store.submit(lease.token, "ann", WRONG, key="two")
    with pytest.raises(RequestError, match="it was changed since"):
        store.withdraw(receipt.answer, "ann")
    assert [r.ranks for r in store.rankings()] == [(3, 2, 1)]
    assert again.answer == store.history("ann")[0].answer


def test_only_the_last_answers_can_be_changed(store: Store) -> None:
    given = rated(store, EDITABLE + 3)
    with pytest.raises(RequestError, match="only the last 20"):
        store.revise(given[2], "ann", WRONG)
    with pytest.raises(RequestError, match="only the last 20"):
        store.withdraw(given[2], "ann")
    store.revise(given[3], "ann", WRONG)
    editable = [one.editable for one in store.history("ann", limit=100)]
    assert editable == [True] * EDITABLE + [False] * 3


@pytest.mark.parametrize("answer", [1, 0, -1, 99, 2**63, 10**30])
def test_other_peoples_answers_are_nobodys_business(store: Store, answer: int) -> None:
    rated(store, 1, "bob")
    for call in (lambda: store.revise(answer, "ann", WRONG), lambda: store.withdraw(answer, "ann"),
                 lambda: store.reopen(answer, "ann")):
        with pytest.raises(NotLeased):
            call()
    assert store.lesson(1, "ann") is None
    assert store.history("ann") == []


def test_history_goes_back_page_by_page(store: Store, clock: Clock) -> None:
    given = rated(store, 7)
    pages, before = [], None
    while page := store.history("ann", before=before, limit=3):
        pages.append([one.answer for one in page])
        before = page[-1].answer
    assert pages == [given[:3:-1], given[3:0:-1], given[:1]]
    first = store.history("ann", limit=1)[0]
    assert first.prompt == item(6).prompt
    assert (first.ranks, first.at, first.none_acceptable) == ((1, 2, 3), clock.at, False)


def test_an_answer_is_reopened_as_it_was_shown_and_given(store: Store) -> None:
    task = assignment.next_task(store, "ann")
    assert task is not None
    said = replace(WRONG, strength="better", reason="because", edited="mine", seconds=3.5)
    receipt = assignment.submit(store, "ann", task.token, said)
    again, before = assignment.reopened(store, "ann", receipt.answer)
    assert (again.token, again.answers, again.conversation) == (task.token, task.answers, task.conversation)
    assert before == said


def test_a_flag_is_kept_and_the_item_stays(store: Store) -> None:
    lease = leased(store, "ann")
    store.flag(lease.token, "ann", "unsafe", "how to hurt")
    store.flag(lease.token, "ann", "unsafe", "how to hurt people")
    store.flag(lease.token, "ann", "other")
    with store.reading() as db:
        assert sorted(db.execute(select(flags.c.kind, flags.c.note)).all()) == [
            ("other", ""), ("unsafe", "how to hurt people")]
    assert leased(store, "ann").token == lease.token
    for kind, note in (("rude", ""), ("other", "x" * (NOTE + 1)), ("other", "\ud800")):
        with pytest.raises(RequestError):
            store.flag(lease.token, "ann", kind, note)
    with pytest.raises(NotLeased):
        store.flag(lease.token, "bob", "other")


def test_a_lease_is_renewed_while_its_place_is_free(store: Store, clock: Clock) -> None:
    lease = leased(store, "ann")
    clock.at += 30
    assert store.renew(lease.token, "ann", 60) == clock.at + 60
    assert store.renew(lease.token, "ann", 10) == clock.at + 60, "never shorter"
    clock.at += 100
    assert store.renew(lease.token, "ann", 60) == clock.at + 60, "nobody took it meanwhile"
    clock.at += 61
    others = [leased(store, f"rater {n}") for n in range(30)]
    assert lease.prompt in [one.prompt for one in others]
    assert store.renew(lease.token, "ann", 60) < clock.at
    with pytest.raises(NotLeased):
        store.renew(lease.token, "bob", 60)


def test_a_rater_holds_three_items_at_most(store: Store) -> None:
    held: list[str] = []
    for _ in range(3):
        lease = store.lease("ann", 60, campaign="default", holding=held)
        assert lease is not None
        held.append(lease.token)
    assert len(set(held)) == 3
    assert store.lease("ann", 60, campaign="default", holding=held) is None
    lease = store.lease("ann", 60, campaign="default", holding=held[1:])
    assert lease is not None
    assert lease.token == held[0], "a page that was opened anew gets the oldest again"
    store.submit(held[1], "ann", RIGHT)
    assert store.lease("ann", 60, campaign="default", holding=held) is not None
