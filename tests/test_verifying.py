"""The log of every change: what is recorded, and that nothing else goes unnoticed."""

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from test_store import Clock, item, url

from prefloop.errors import RequestError
from prefloop.records import Prompt, Ranking
from prefloop.store import Campaign, Judgement, Lease, Store, events, exports, quarantining, taking, verifying
from prefloop.store.accounts import Accounts
from prefloop.store.cases import Decision
from prefloop.store.predicting import Scores
from prefloop.store.reviewing import Reviews
from prefloop.store.schema import tables
from prefloop.store.verifying import Head, Verdict, head_of

Picture = dict[str, tuple[str, bytes]]


def pictured(prompt: Prompt) -> Picture:
    return {"cat.png": ("image/png", prompt.id.encode())}


def right(number: int) -> Ranking:
    row = item(number)
    return Ranking(row.prompt, row.responses, (1, 2, 3), "key", reason="so it is")


def rated(store: Store, rater: str, campaign: str, count: int = 1) -> list[int]:
    given = []
    for number in range(count):
        lease = store.lease(rater, 60, campaign=campaign)
        if lease is None:
            break
        given.append(store.submit(lease.token, rater, Judgement((1, 2, 2), reason=f"reason {number} of {rater}",
                                                                seconds=number)).answer)
    return given


def leased(store: Store, rater: str, campaign: str) -> Lease:
    lease = store.lease(rater, 60, campaign=campaign)
    assert lease is not None
    return lease


def lived(store: Store, raters: tuple[str, ...] = ("ann", "bob")) -> None:
    """A store in which all has happened that can."""
    settings = Campaign("letters", gold_share=0.2, repeats=0.3, warning="mind", raters=("Ann", "bob", "cleo"))
    store.apply(settings, "be fair", [right(100)], [right(200)], [item(number) for number in range(12)], 2, pictured,
                by="lead")
    store.apply(settings, "be very fair", [right(101)], None, [item(0), item(20)], 3, pictured, by="lead")
    accounts = Accounts(store)
    for name in raters:
        accounts.redeem(accounts.invite(by="lead"), name, f"a password for {name}")
        store.answer_warning(name, "letters", True)
        guideline = store.guideline(name, "letters")
        assert guideline is not None
        store.acknowledge(name, "letters", guideline.version)
        given = rated(store, name, "letters", 12)
        store.revise(given[-1], name, Judgement((2, 1, 1), reason="on second thought"))
        store.withdraw(given[-2], name)
        lease = leased(store, name, "letters")
        store.flag(lease.token, name, "unsafe", f"{name} was startled")
        store.release(lease.token, name)
    accounts.change_password("ann", "a password for ann", "another one for ann")
    accounts.change_role("bob", "lead", by="boss")
    accounts.disable("bob", by="boss")
    taking.take(store, "letters", [("file:1", right(300)), ("file:2", right(301))], 8, by="lead")
    for rater, lead in (("bob", "ann"), ("ann", "bob")):
        quarantining.propose(store, {rater: [{"kind": "gold", "right": 3}]}, lead)
        quarantining.hold(store, rater, lead)
    quarantining.lift(store, "ann", "bob", "it was a mistake")
    reviews = Reviews(store)
    assert reviews.sweep() == 1, "the flags"
    reviews.decide(reviews.listed()[0].id, "ann", Decision((1, 2, 3), "mistake", gold=True))
    row = item(3)
    scores = {(row.prompt.id, one.id): (float(place), 0.5) for place, one in enumerate(row.responses)}
    store.apply(settings, "be very fair", scores=Scores("rm", scores), by="lead")
    exports.exported(store, "snapshot", "/snapshots/one", "5" * 64, {"ann": 10, "bob": 11}, exports.head(store))


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    with Store(store_url, clock=Clock(), seed=3) as opened:
        yield opened


def verified(store: Store, *heads: Head) -> Verdict:
    with store.reading() as db:
        return verifying.verify(db, heads)


def test_what_was_written_through_the_store_is_what_its_log_says(store: Store) -> None:
    lived(store)
    found = verified(store)
    assert (found.bad, found.erased) == ((), 0)
    with store.reading() as db:
        kinds = set(db.scalars(select(tables.tables["events"].c.kind)))
        full = {table.name for table in events.HELD if db.execute(select(table)).first() is not None}
    assert full == {table.name for table in events.HELD}
    assert kinds >= {"campaign made", "guideline changed", "queued", "need raised", "gold changed", "illustrated",
                     "qualification changed", "warning accepted", "guideline acknowledged", "qualification passed",
                     "answered", "replaced", "withdrawn", "repeat made", "skipped", "flagged", "account made",
                     "answers imported", "quarantine held", "excluded", "included", "reviews opened", "review decided",
                     "gold decided", "invited", "password set", "made lead", "account disabled", "exported"}


def test_an_empty_store_has_a_log(store: Store) -> None:
    assert verified(store).bad == ()
    assert verified(store).rows == 1, "the campaign that every store has"


def test_to_apply_the_same_again_is_no_change(store: Store) -> None:
    lived(store)
    before = exports.head(store)
    store.apply(store.campaigns()[1], "be very fair", [right(101)], None, [item(0)], 3, pictured)
    assert exports.head(store) == before


# -- what is changed behind its back ----------------------------------------------------------------------------------


def edited(path: Path, change: Callable[[sqlite3.Connection], object]) -> None:
    with closing(sqlite3.connect(path)) as db:
        change(db)
        db.commit()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a store in which all has happened."""
    folder = tmp_path_factory.mktemp("lived")
    with Store(url(folder), clock=Clock(), seed=3) as store:
        lived(store)
    return (folder / "feedback.db").read_bytes()


# A lease of which nothing came may come and go.
EDITABLE = [*(table.name for table in events.HELD if table.name != "leases"), "events", "payloads", "prompts",
            "responses", "choices"]
SPARED = {("items", "uncertainty")}


def altered(dice: random.Random, db: sqlite3.Connection) -> str | None:
    """One random edit, addition or removal of a row; None if it changed nothing, or SQLite refuses it."""
    table = dice.choice(EDITABLE)
    rows = db.execute(f"select rowid, * from {table}").fetchall()
    if not rows:
        return None
    names = [one[1] for one in db.execute(f"pragma table_info({table})")]
    row, how = dice.choice(rows), dice.choice(("edit", "edit", "edit", "add", "remove"))
    try:
        if how == "remove":
            db.execute(f"delete from {table} where rowid = ?", row[:1])
            return f"{table} {row[1:]} removed"
        place = dice.randrange(len(names))
        if (table, names[place]) in SPARED:
            return None
        if how == "edit":
            if (new := other(dice, row[1 + place])) == row[1 + place]:
                return None
            db.execute(f"update {table} set {names[place]} = ? where rowid = ?", (new, row[0]))
            return f"{table} {row[1:]}: {names[place]} = {new!r}"
        more = [other(dice, value) if n == 0 or dice.random() < 0.3 else value for n, value in enumerate(row[1:])]
        db.execute(f"insert into {table} values ({', '.join('?' * len(more))})", more)
        return f"{table} {more} added"
    except sqlite3.IntegrityError:
        return None


def other(dice: random.Random, value: Any) -> Any:
    if value is None:
        return 7
    if isinstance(value, bytes):
        return value + b"!"
    if isinstance(value, str):
        place = dice.randrange(len(value) + 1)
        return value[:place] + dice.choice("0a~") + value[place + 1:] + dice.choice(("", "1"))
    return value + dice.choice((-1, 1, 10))


def test_every_edit_behind_its_back_is_named(whole: bytes, tmp_path: Path) -> None:
    dice, path, tried = random.Random(5), tmp_path / "feedback.db", 0
    while tried < 100:
        path.write_bytes(whole)
        with closing(sqlite3.connect(path)) as db:
            what = altered(dice, db)
            db.commit()
        if what is None:
            continue
        tried += 1
        with Store(url(tmp_path), read_only=True) as store:
            assert verified(store).bad, what


@pytest.mark.parametrize(("change", "first"), [
    ("update answers set reason = 'no' where id = 3", "answers:3: reason changed behind the log's back"),
    ("update accounts set role = 'admin' where name = 'ann'", "accounts:ann: role changed behind the log's back"),
    ("update accounts set password = 'x' where name = 'ann'", "accounts:ann: password changed behind the log's back"),
    ("delete from golds where item = 1", "golds:1: removed behind the log's back"),
    ("update items set done = 0 where id = 3 and done > 0", "items:3: the number of its answers was altered"),
    ("update items set done = 1 where kind = 'gold' and id = 1", "items:1: the number of its answers was altered"),
    ("update leases set propensity = 0.001 where token = (select token from answers where id = 3)",
     "leases:3/ann: propensity changed behind the log's back"),
    ("update leases set policy = 'random' where policy = 'imported'", "leases:20/key: policy changed"),
    ("update accounts set password = cast(x'ff' as text) where name = 'ann'", "accounts:ann: password changed"),
    ("update prompts set record = cast(x'ff' as text) where digest = (select min(digest) from prompts)", "prompts:"),
    ("update payloads set payload = cast(x'ff' as text) where event = 2", "events:2: what it said was altered"),
    ("update predictions set scores = '[3, 2, 1]'",
     "predictions: of campaigns:2, by 'rm': altered"),
    ("update events set at = at + 1 where id = 9", "events:9: altered since it was written"),
    ("update payloads set payload = replace(payload, 'lead', 'ann') where event = 2",
     "events:2: what it said was altered"),
    ("delete from payloads where event = 9", "events:9: its payload is gone"),
    ("delete from events where id in (9, 10)", "events:9: removed from the log"),
    ("update choices set response = (select max(digest) from responses) where item = 3 and place = 0",
     "items:3: its answers are others than it was queued with"),
])
def test_the_first_bad_thing_is_named_first(whole: bytes, tmp_path: Path, change: str, first: str) -> None:
    path = tmp_path / "feedback.db"
    path.write_bytes(whole)
    edited(path, lambda db: db.execute(change))
    edited(path, lambda db: db.execute("insert into flags values (4, 'zoe', 'broken', '', 1)"))  # another, later
    with Store(url(tmp_path), read_only=True) as store:
        found = verified(store).bad
    assert found[0].startswith(first), found
    assert any(one.startswith("flags:4/zoe/broken: added") for one in found)


@pytest.mark.parametrize("rows", ['{"nosuch": [{}]}', '{"answers": 3}', '{"answers": [{"reason": "x"}]}', "[1]",
                                  '{"answers": [{"id": [1]}]}', '{"answers": ["id"]}'])
def test_a_forged_event_of_any_shape_is_named(whole: bytes, tmp_path: Path, rows: str) -> None:
    path, said = tmp_path / "feedback.db", '{"actor": "lead", "about": "", "rows": ' + rows + "}"
    path.write_bytes(whole)

    def forge(db: sqlite3.Connection) -> None:
        (salt,) = db.execute("select salt from payloads where event = 2").fetchone()
        db.execute("update payloads set payload = ?, actor = 'lead', about = '' where event = 2", (said,))
        db.execute("update events set digest = ? where id = 2", (events.digest_of(salt, said),))

    edited(path, forge)
    with Store(url(tmp_path), read_only=True) as store:
        assert verified(store).bad[0] == "events:2: altered since it was written"


def test_a_time_of_less_than_nothing_is_no_alarm(store: Store) -> None:
    store.add_items([item(1)])
    lease = store.lease("ann", 60)
    assert lease is not None
    store.submit(lease.token, "ann", Judgement((1, 2, 3), seconds=-0.0))
    assert verified(store).bad == ()


def test_a_log_whose_end_was_cut_off_is_known_by_its_head(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    path.write_bytes(whole)
    with Store(url(tmp_path), clock=Clock()) as store:
        store.add_items([item(300)], by="lead")
        head = exports.head(store)
        assert verified(store, head_of(head, "mine")).bad == ()
    number = int(head.partition(":")[0])

    def cut(db: sqlite3.Connection) -> None:
        db.execute("delete from choices where item = (select max(id) from items)")
        db.execute("delete from items where id = (select max(id) from items)")
        db.execute("delete from payloads where event = ?", (number,))
        db.execute("delete from events where id = ?", (number,))

    edited(path, cut)
    with Store(url(tmp_path), read_only=True) as store:
        assert verified(store).bad == (), "from within it cannot be seen"
        assert verified(store, head_of(head, "mine")).bad == (
            f"events:{number - 1}: the log ends here, but mine names event {number}: its end was cut off",)
        assert "written anew" in verified(store, Head("mine", 3, "0" * 64)).bad[0]


def test_exports_remember_where_the_log_stood(whole: bytes, tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    path.write_bytes(whole)

    def anew(db: sqlite3.Connection) -> None:
        """Whoever can write to the file writes a whole log that fits what they changed."""
        db.execute("update events set kind = 'flattered' where id = 2")
        before = ""
        for row in db.execute("select id, at, kind, subject, digest from events order by id").fetchall():
            before = events.chained(before, *row)
            db.execute("update events set chain = ? where id = ?", (before, row[0]))

    edited(path, anew)
    with Store(url(tmp_path), read_only=True) as store:
        found = verified(store).bad
    assert len(found) == 1
    assert found[0].endswith("not the one that exports:1 names; the log was written anew")


@pytest.mark.parametrize("text", ["", "7", "7:abc", "x:" + "0" * 64, "-1:" + "0" * 64, "9" * 30 + ":" + "0" * 64])
def test_what_is_no_head_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match=r"verify\.head: .* is not a head of the log"):
        head_of(text, "verify.head")


def test_spans_are_read_as_they_are_written() -> None:
    dice = random.Random(1)
    for _ in range(50):
        numbers = {dice.randrange(40) for _ in range(dice.randrange(30))}
        assert set(events.numbers_of(f"payloads:{events.spans(numbers)}")) == numbers
    assert events.spans([3, 1, 2, 7]) == "1-3,7"


