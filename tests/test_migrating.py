"""A store of an earlier schema, with data, becomes one of today's; or stays what it was, wherever it is stopped."""

import os
import random
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import OperationalError
from test_store import url

from prefloop.errors import RequestError, RunError
from prefloop.store import Campaign, Judgement, Past, Progress, Store, migrations, schema
from prefloop.store.copying import inspected
from prefloop.store.sqlite import SqliteFile
from prefloop.store.verifying import verify

OLD = Path(__file__).with_name("schema_1.sql")  # of a store that prefloop made before there were campaigns
NEXT = OLD.with_name("schema_2.sql")  # of a store with all that there was before there was a log
STATEMENTS = 31  # at least so many are run on the way to schema 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "feedback.db"
    with sqlite3.connect(made) as db:
        db.executescript(OLD.read_text())
    db.close()
    return made


def version(path: Path) -> str:
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return db.execute("select value from meta where name = 'schema'").fetchone()[0]
    finally:
        db.close()


def check(folder: Path) -> None:
    """What the old store held, asked through today's."""
    with Store(url(folder), clock=lambda: 1150) as store:
        assert store.seed == 7
        assert store.progress("ann") == Progress(items=3, wanted=5, done=2, surplus=1, mine=1, skipped=1)
        assert [(r.rater, r.ranks, r.kind) for r in store.rankings(surplus=True)] == [
            ("ann", (2, 1, 3), "normal"), ("di", (1, 2, None), "normal"), ("bob", (3, 2, 1), "normal")]
        first = next(iter(store.rankings()))
        assert (first.reason, first.edited, first.seconds, first.guideline, first.strength) == (
            "why; not?", "it's mine", 1.5, "v1", "better")
        (past,) = store.history("ann")
        assert past == Past(1, 1000, first.prompt, first.responses, Campaign(), (2, 1, 3), False, True)
        assert [one.name for one in store.campaigns()] == ["default"]


def check_next(folder: Path) -> None:
    """What the store of schema 2 held."""
    with Store(url(folder), clock=lambda: 1200) as store:
        assert store.seed == 7
        assert (store.progress("ann"), store.progress(campaign="study").done) == (Progress(9, 17, 10, 0, 9, 1), 10)
        assert len(list(store.rankings(surplus=True))) == 12
        assert [one.name for one in store.campaigns()] == ["default", "study"]
        assert store.guideline("ann", "study") is not None
        assert (store.qualification("bob", "study").state, store.flagged()[0].note) == ("passed", "it's rude; very")
        assert store.gate("ann", "study") is None
        with store.reading() as db:
            assert db.exec_driver_sql("select count(*) from accounts").scalar() == 2
            assert verify(db).bad == (), "what was there is adopted by the log"


def test_a_store_of_schema_2_is_brought_on(tmp_path: Path) -> None:
    path = old(tmp_path, NEXT)
    before = inspected(path)
    check_next(tmp_path)
    after = inspected(path)
    assert {name: after[name] for name in before} == before
    assert inspected(tmp_path / "feedback.db.schema-2") == before


def old(folder: Path, dump: Path) -> Path:
    made = folder / "feedback.db"
    made.unlink(missing_ok=True)
    with sqlite3.connect(made) as db:
        db.executescript(dump.read_text())
    db.close()
    return made


def killed(statement: int, work: Callable[[], object]) -> bool:
    """Does it in a process of its own that is killed at a statement of this number, if it comes so far."""
    child = os.fork()
    if not child:
        count = [0]

        def counting(*_: Any) -> None:
            count[0] += 1
            if count[0] == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        for name in ("before_cursor_execute", "commit"):
            event.listen(Engine, name, counting)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(("dump", "checks"), [(OLD, "check"), (NEXT, "check_next")])
def test_a_migration_killed_at_ten_random_places_is_done_or_not_begun(tmp_path: Path, dump: Path,
                                                                      checks: str) -> None:
    dice, ends = random.Random(dump.name), set()
    for _ in range(10):
        path = old(tmp_path, dump)
        before = dump_of(path)
        was = killed(dice.randint(1, 180), lambda: Store(url(tmp_path)).close())
        ends.add(was)
        if version(path) == schema.VERSION:
            assert not was or Path(f"{path}.schema-{dump.stem[-1]}").exists()
        else:
            assert (was, dump_of(path)) == (True, before)
        globals()[checks](tmp_path)
        assert version(path) == schema.VERSION
    assert True in ends


def dump_of(path: Path) -> list[str]:
    db = sqlite3.connect(path)
    try:
        return list(db.iterdump())
    finally:
        db.close()


def test_the_steps_from_nothing_make_a_store_like_a_new_one(tmp_path: Path) -> None:
    """A database's copy of an earlier schema is put into tables that they make."""
    Store(url(tmp_path)).close()
    engine = create_engine(f"sqlite:///{tmp_path / 'stepped.db'}")
    with engine.begin() as db:
        migrations.upgrade(db, None, schema.VERSION)
    engine.dispose()
    assert shape(tmp_path / "stepped.db") == shape(tmp_path / "feedback.db")


def test_what_was_there_is_there_and_goes_on(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = inspected(path)
    check(tmp_path)
    kept = tmp_path / "feedback.db.schema-1"
    assert capsys.readouterr().out == f"{path}: brought from schema 1 to 3; as it was, it is kept in {kept}\n"
    assert (version(kept), inspected(kept)) == ("1", before)
    with Store(url(tmp_path), clock=lambda: 1150) as store:
        assert capsys.readouterr().out == "", "it is said once"
        held = store.lease("cy", 60, campaign="default")
        assert held is not None
        assert held.prompt.messages[0].content == "question 0", "a lease from before is still held"
        receipt = store.submit(held.token, "cy", Judgement((1, 2, 3)))
        assert not receipt.surplus
        store.withdraw(1, "ann")
        store.revise(receipt.answer, "cy", Judgement((3, 2, 1)))
        assert store.progress().done == 2
    assert not list(tmp_path.glob("*.partial"))


def test_a_migrated_store_is_made_like_a_new_one(path: Path, tmp_path: Path) -> None:
    Store(url(tmp_path)).close()
    (tmp_path / "new").mkdir()
    Store(url(tmp_path / "new")).close()
    assert shape(path) == shape(tmp_path / "new" / "feedback.db")


def shape(path: Path) -> dict[str, Any]:
    """Columns, references and indexes of every table, however their SQL is written."""
    db = sqlite3.connect(path)
    try:
        return {name: (strict, db.execute(f"pragma table_xinfo({name})").fetchall(),
                       {row[2:] for row in db.execute(f"pragma foreign_key_list({name})")},
                       {(row[1] * (row[3] == "c"), row[2], row[4],
                         tuple(one[1:4] for one in db.execute(f"pragma index_xinfo({row[1]})")))
                        for row in db.execute(f"pragma index_list({name})")})
                for _, name, kind, _, _, strict in db.execute("pragma table_list").fetchall()
                if kind == "table" and not name.startswith("sqlite_")}
    finally:
        db.close()


def test_reading_alone_migrates_too(path: Path, tmp_path: Path) -> None:
    with Store(url(tmp_path), read_only=True) as store:
        assert store.progress().done == 2
    assert version(path) == "3"


def test_an_older_prefloop_that_still_runs_is_not_migrated_under(path: Path, tmp_path: Path) -> None:
    with SqliteFile(path).alone():
        for read_only in (True, False):
            with pytest.raises(RequestError, match="another process is writing"):
                Store(url(tmp_path), read_only=read_only)
    assert version(path) == "1"


def stopped_at(monkeypatch: pytest.MonkeyPatch, statement: int, how: Any) -> None:
    """Calls `how` in the place of the migration's statement of this number."""
    from alembic import op

    execute, count = op.execute, [0]

    def counting(*words: Any, **options: Any) -> Any:
        count[0] += 1
        return how() if count[0] == statement else execute(*words, **options)

    monkeypatch.setattr(op, "execute", counting)


@pytest.mark.parametrize("statement", range(1, STATEMENTS + 1, 6))
def test_a_migration_that_is_killed_leaves_the_old_store(path: Path, tmp_path: Path, statement: int,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    child = os.fork()
    if not child:
        with monkeypatch.context() as patch:
            stopped_at(patch, statement, lambda: os.kill(os.getpid(), signal.SIGKILL))
            Store(url(tmp_path))
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert version(path) == "1"
    check(tmp_path)
    assert version(path) == "3"


def test_a_migration_that_fails_leaves_the_old_store(path: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))

    before = inspected(path)
    with monkeypatch.context() as patch:
        stopped_at(patch, STATEMENTS, full)
        with pytest.raises(RunError, match=r"it stays at schema 1, .* disk is full"):
            Store(url(tmp_path))
    assert (version(path), inspected(path)) == ("1", before)
    check(tmp_path)


def test_a_damaged_old_store_is_not_touched(path: Path, tmp_path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("delete from prompts")  # items now refer to nothing
    db.close()
    before = path.read_bytes()
    with pytest.raises(RequestError, match="damaged"):
        Store(url(tmp_path))
    assert path.read_bytes() == before
