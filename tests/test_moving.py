"""Stores in PostgreSQL: copied to a file, put back from one, brought to another schema; or as before, when killed."""

import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import postgres_server
import pytest
from sqlalchemy import select
from test_backup import rate
from test_migrating import NEXT, killed, old
from test_store import item, url

from prefloop import cli, doctor
from prefloop.errors import RequestError, RunError
from prefloop.store import Store, migrating, migrations, schema
from prefloop.store.backup import backup, restore, verified
from prefloop.store.opening import place_of, require_no_password
from prefloop.store.sqlite import SqliteFile


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty one; what is kept of it lies in the working directory."""
    monkeypatch.chdir(tmp_path)
    server = postgres_server.running()
    made = server.made()
    yield made
    server.emptied(made)


def everything(store_url: str) -> dict[str, list[tuple[object, ...]]]:
    with Store(store_url, read_only=True) as store, store.reading() as db:
        return {table.name: [tuple(row) for row in db.execute(select(table).order_by(*table.primary_key))]
                for table in schema.tables.sorted_tables}


def test_from_a_file_to_a_database_and_back_nothing_changes(database: str, tmp_path: Path) -> None:
    old(tmp_path, NEXT)
    kept, again = tmp_path / "kept.db", tmp_path / "again.db"
    before = everything(url(tmp_path))  # brought to today's schema
    backup(SqliteFile(tmp_path / "feedback.db"), kept)
    restore(kept, place_of(database))
    assert everything(database) == before
    made = backup(place_of(database), again)
    assert (verified(again), made.rows) == (made, {name: len(rows) for name, rows in before.items()})
    restore(again, SqliteFile(tmp_path / "back.db"))
    assert everything(f"sqlite:///{tmp_path / 'back.db'}") == before
    with Store(database, clock=lambda: 9999) as store:
        assert store.seed == 7
        rate(store, "cyd", 3)


def test_a_backup_of_an_earlier_schema_goes_into_a_database_too(database: str, tmp_path: Path) -> None:
    path, kept = old(tmp_path, NEXT), tmp_path / "kept.db"
    backup(SqliteFile(path), kept)
    restore(kept, place_of(database))
    with Store(database) as store:
        assert store.progress().done == 10


def test_the_commands_move_a_store_and_name_no_password(database: str, tmp_path: Path,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    with Store(url(tmp_path)) as store:
        store.add_items([item(n) for n in range(3)])
        rate(store, "ann", 2)
    secret = database.replace("postgres@", "postgres:swordfish@")
    for words in (["backup", f"feedback.store={url(tmp_path)}", f"backup.out={tmp_path / 'kept.db'}"],
                  ["restore", f"feedback.store={secret}", f"restore.backup={tmp_path / 'kept.db'}"],
                  ["backup", f"feedback.store={secret}", f"backup.out={tmp_path / 'again.db'}"]):
        assert cli.main(["feedback", *words]) == 0
    assert cli.main(["feedback", "restore", f"feedback.store={secret}", f"restore.backup={tmp_path / 'kept.db'}"]) == 2
    assert cli.main(["feedback", "flags", f"feedback.store={secret.replace('store_', 'no_such_')}"]) == 2
    told = "".join(capsys.readouterr())
    assert "overwrite=true moves it aside" in told
    assert "no_such_" in told
    assert "swordfish" not in told


@pytest.mark.parametrize("wrong", ["postgresql+psycopg://ann:swordfish@host:port/db", "postgresql://ann:swordfish@host/db",
                                   "postgresql+psycopg://ann:swordfish@host", "mysql://ann:swordfish@host/db"])
def test_a_url_that_is_wrong_is_told_without_its_password(wrong: str) -> None:
    with pytest.raises(RequestError, match="store:") as told:
        place_of(wrong)
    assert "swordfish" not in str(told.value)
    place = place_of("postgresql+psycopg://ann:swordfish@host:5433/db?password=swordfish")
    assert str(place) == "postgresql+psycopg://ann@host:5433/db"
    assert "swordfish" not in repr(place)
    for one in ("postgresql+psycopg://ann:swordfish@host/db", "postgresql+psycopg://ann@host/db?password=swordfish"):
        with pytest.raises(RequestError, match=r"compare\.votes: the password .* would be kept") as told:
            require_no_password(one, "compare.votes")
        assert "swordfish" not in str(told.value)
    require_no_password("postgresql+psycopg://ann@host/db", "compare.votes")


def test_a_server_that_is_not_there_is_told_in_a_line() -> None:
    with pytest.raises(RequestError, match=r"^postgresql.*ann@127\.0\.0\.1:1/db: cannot be reached: ") as told:
        Store("postgresql+psycopg://ann:swordfish@127.0.0.1:1/db")
    assert "\n" not in str(told.value)
    assert "swordfish" not in str(told.value)


def test_a_foreign_database_is_left_alone(database: str, tmp_path: Path) -> None:
    server, name = postgres_server.running(), place_of(database).name
    server.sql("create table accounts (name text)", name)
    with Store(url(tmp_path)):
        pass
    backup(SqliteFile(tmp_path / "feedback.db"), tmp_path / "kept.db")
    for call in (lambda: Store(database), lambda: backup(place_of(database), tmp_path / "b.db"),
                 lambda: restore(tmp_path / "kept.db", place_of(database), overwrite=True)):
        with pytest.raises(RequestError, match="not a prefloop store"):
            call()
    server.sql("select name from accounts", name)


def test_two_write_and_nobody_moves_the_store_under_them(database: str, tmp_path: Path) -> None:
    with Store(database) as first, Store(database) as second:
        first.add_items([item(n) for n in range(40)], need=2)
        raters = [threading.Thread(target=rate, args=(store, f"rater {n}", 15))
                  for n, store in enumerate((first, second, first, second))]
        for one in raters:
            one.start()
        made = backup(place_of(database), tmp_path / "kept.db")
        with pytest.raises(RequestError, match="another process is writing"):
            restore(tmp_path / "kept.db", place_of(database), overwrite=True)
        for one in raters:
            one.join()
        assert (made.answers <= 60, second.progress().done) == (True, 60)
    restore(tmp_path / "kept.db", place_of(database), overwrite=True)
    assert verified(Path(f"{place_of(database).name}.replaced-1.db")).answers == 60
    with Store(database) as store:
        assert store.progress().done == made.answers


def test_a_store_whose_making_is_killed_is_made_or_not_there(database: str) -> None:
    server, dice = postgres_server.running(), random.Random(1)
    for _ in range(7):
        was = killed(dice.randint(1, 120), lambda: Store(database, seed=5).close())
        settled(database)
        assert not place_of(database).exists() or set(everything(database)) == set(schema.tables.tables)
        with Store(database, seed=5) as store:
            assert store.seed == 5
            assert [one.name for one in store.campaigns()] == ["default"]
        if was:
            server.emptied(database)
            assert server.made() == database


def settled(database: str) -> None:
    """Once the server has noticed that a process is gone, nobody holds its locks."""
    with place_of(database).alone():  # type: ignore[union-attr]
        pass


def test_a_move_that_is_killed_is_done_or_not_begun(database: str, tmp_path: Path) -> None:
    path, kept, dice = old(tmp_path, NEXT), tmp_path / "kept.db", random.Random(2)
    Store(url(tmp_path)).close()
    backup(SqliteFile(path), kept)
    with Store(database) as store:
        store.add_items([item(0)])
    before, after = everything(database), everything(url(tmp_path))
    for _ in range(7):
        killed(dice.randint(1, 350), lambda: restore(kept, place_of(database), overwrite=True))
        settled(database)
        assert everything(database) in (before, after)
    restore(kept, place_of(database), overwrite=True)
    assert everything(database) == after


STEP = """
from alembic import op

revision = "{to}"
down_revision = "{version}"


def upgrade() -> None:
    op.execute("create table planted (n bigint)")
    op.execute("insert into planted select count(*) from answers")
    op.execute("update meta set value = '{to}' where name = 'schema'")
"""


def test_a_step_that_is_killed_or_fails_leaves_the_schema_before(database: str, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no earlier schema in PostgreSQL yet, so a later one is planted."""
    version, to = schema.VERSION, "999"
    with Store(database) as store:
        store.add_items([item(n) for n in range(3)])
        rate(store, "ann", 2)
    steps = shutil.copytree(Path(migrations.__file__).parent, tmp_path / "steps")
    (steps / "versions" / "planted.py").write_text(STEP.format(version=version, to=to))
    monkeypatch.setattr(migrations, "STEPS", str(steps))
    monkeypatch.setattr(schema, "VERSION", to)
    monkeypatch.setattr(migrating, "OLDER", (version,))
    dice = random.Random(3)
    for _ in range(6):
        killed(dice.randint(1, 260), lambda: Store(database).close())
        settled(database)
        found = shape(database)
        assert found in ((version, []), (to, [2]))
        if found[0] == to:
            break
    with Store(database) as store:
        assert store.progress().done == 2
    assert shape(database) == (to, [2])
    kept = Path(f"{place_of(database).name}.schema-{version}.db")
    assert verified(kept).answers == 2
    assert verified(kept).schema == version


def shape(database: str) -> tuple[str, list[int]]:
    engine = place_of(database).reader()
    with engine.begin() as db:
        found = db.exec_driver_sql("select value from meta where name = 'schema'").scalar_one()
        there = db.exec_driver_sql("select to_regclass('planted')").scalar()
        planted = list(db.exec_driver_sql("select n from planted").scalars()) if there else []
    engine.dispose()
    return found, planted


def test_who_had_the_store_before_it_was_brought_on_writes_no_more(database: str) -> None:
    server, name = postgres_server.running(), place_of(database).name
    with Store(database) as store:
        server.sql("update meta set value = '999' where name = 'schema'", name)
        server.sql(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}' "
                   "and pid != pg_backend_pid()", name)
        with pytest.raises(RunError, match=r"its schema is version 999 now"):
            store.add_items([item(0)])


def test_a_database_in_another_encoding_is_refused(tmp_path: Path) -> None:
    server = postgres_server.running()
    server.sql("create database latin template template0 encoding 'LATIN1' locale 'C'")
    with pytest.raises(RequestError, match="its encoding is LATIN1"):
        Store(server.url("latin"))


def test_the_doctor_looks_at_a_database(database: str) -> None:
    (found,) = doctor.database(database)
    assert (found.kind, found.text.endswith("empty")) == ("has", True)
    assert [one.kind for one in doctor.guarded(lambda: doctor.database("postgresql+psycopg://a:b@127.0.0.1:1/d"))] == [
        "missing"]
