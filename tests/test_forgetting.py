"""A person's data: told whole, taken out whole, and what is left stays true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from test_store import Clock, item, url
from test_verifying import lived, verified, whole  # noqa: F401 - a fixture

from prefloop import config
from prefloop.errors import RequestError, RunError
from prefloop.feedback_ui import auditing, control, exporting, persons
from prefloop.formats import snapshot
from prefloop.store import Judgement, Store, exports, forgetting, sqlite
from prefloop.store.accounts import Accounts
from prefloop.store.schema import (
    acknowledgements,
    answers,
    campaigns,
    exports_of,
    flags,
    items,
    leases,
    payloads,
    quarantines,
    reviews,
    tables,
    verdicts,
    warnings,
)

on_sqlite = pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)


@pytest.fixture
def store(store_url: str, whole: bytes, tmp_path: Path) -> Iterator[Store]:  # noqa: F811
    """A store in which all has happened: on SQLite a copy of one, for that is quicker."""
    if store_url.startswith("sqlite"):
        (tmp_path / "feedback.db").write_bytes(whole)
    with Store(store_url, clock=Clock(), seed=3) as opened:
        if store_url.startswith("postgresql"):
            lived(opened)
        yield opened


def counts(store: Store) -> dict[str, int]:
    with store.reading() as db:
        return {name: db.scalar(select(func.count()).select_from(table)) or 0
                for name, table in tables.tables.items()}


def naming(store: Store, name: str) -> Iterator[str]:
    """Where a text of the store has this name, but for what is random."""
    with store.reading() as db:
        for table in tables.tables.values():
            for row in db.execute(select(table)).mappings():
                yield from (f"{table.name}.{column}: {value}" for column, value in row.items() if name in str(value)
                            and column not in ("token", "digest", "password", "chain", "salt", "data"))


def test_all_that_is_kept_of_a_person_is_told(store: Store) -> None:
    told = json.loads(json.dumps(forgetting.told(store, " Ann ")))
    assert told["name"] == "ann"
    with store.reading() as db:
        own = {table.name: db.scalar(select(func.count()).select_from(table).where(table.c.rater == "ann"))
               for table in (answers, leases, flags, acknowledgements, warnings, verdicts, quarantines)}
        done = db.scalar(select(func.count()).select_from(payloads).where(
            (payloads.c.actor == "ann") | (payloads.c.about == "ann")))
    assert {name: len(told[name]) for name in own} == own
    assert 0 not in own.values()
    assert len(told["events"]) == done
    assert {row["item"] for row in told["answers"]} <= {row["item"] for row in told["items"]}
    assert [row["reason"] for row in told["answers"]][:2] == ["reason 0 of ann", "reason 1 of ann"]
    assert told["named_in"] == ["campaigns:2", "reviews:1", "quarantines:1"]
    assert [one["answers"] for one in told["exports"]] == [10]
    text = json.dumps(told)
    assert "argon2" not in text
    assert "password for" not in text
    with store.reading() as db:
        tokens = db.scalars(select(leases.c.token)).all()
    assert not any(token in text for token in tokens)


def test_a_forgotten_person_is_nowhere(store: Store, store_url: str, tmp_path: Path) -> None:
    assert list(naming(store, "ann")), "this test can fail"
    before, head = counts(store), exports.head(store)
    with store.reading() as db:
        done = db.scalars(select(func.sum(items.c.done))).one()
    came = forgetting.forget(store, "ann", "boss")
    after = counts(store)
    assert came.answers == before["answers"] - after["answers"] > 5
    assert before["payloads"] + after["events"] - before["events"] - after["payloads"] == came.events
    assert after["accounts"] == before["accounts"] - 1
    assert after["items"] < before["items"], "the repeats that were made for her"
    with store.reading() as db:
        assert done - db.scalars(select(func.sum(items.c.done))).one() == came.items > 3
    found = verified(store)
    assert (found.bad, found.erased) == ((), came.events)
    assert head != exports.head(store)
    assert not list(naming(store, "ann"))
    if store_url.startswith("postgresql"):
        assert came.left.startswith("PostgreSQL's files and its write-ahead log have what was deleted")
        return
    assert came.left == ""
    assert b"of ann" not in (tmp_path / "feedback.db-wal").read_bytes()
    store.close()
    left = (tmp_path / "feedback.db").read_bytes()
    assert b"of bob" in left
    assert b"of ann" not in left, "not even in what is free"
    assert b"ann was startled" not in left


@on_sqlite
def test_what_cannot_be_overwritten_yet_is_told(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE", 0.01)
    with Store(store_url, clock=Clock()) as store:
        store.add_items([item(1)])
        assert store.lease("ann", 60) is not None
        with store.reading() as db:
            db.execute(select(leases)).all()
            assert forgetting.forget(store, "ann").left.startswith("feedback.db-wal has what was deleted until")
        assert store.emptied() == ""


@on_sqlite
def test_others_take_the_places_that_are_open_again(store: Store) -> None:
    forgetting.forget(store, "ann")
    accounts = Accounts(store)
    accounts.add("cleo", "a password for cleo")
    store.answer_warning("cleo", "letters", True)
    guideline = store.guideline("cleo", "letters")
    assert guideline is not None
    store.acknowledge("cleo", "letters", guideline.version)
    for _ in range(20):
        lease = store.lease("cleo", 60, campaign="letters")
        if lease is None:
            break
        store.submit(lease.token, "cleo", Judgement((1, 2, 3)))
    assert verified(store).bad == ()
    assert {one.rater for one in store.rankings()} == {"cleo", "key"}, "bob is held, and the key was imported"


def test_rows_that_stay_bear_another_name(store: Store) -> None:
    forgetting.forget(store, "ann", "boss")
    with store.reading() as db:
        (gone,) = {rater for rater in db.scalars(select(exports_of.c.rater)) if rater != "bob"}
        review, held = db.execute(select(reviews)).one(), db.execute(select(quarantines)).one()
    assert gone.startswith("forgotten-")
    assert review.reviewer == gone
    assert (held.rater, held.by, [why.get("by") for why in json.loads(held.why)]) == ("bob", gone, [None, gone])
    assert store.campaigns()[1].raters == (gone, "bob", "cleo"), "it is open to nobody else now"
    with pytest.raises(RequestError, match="nobody here is known by the name 'ann'"):
        forgetting.forget(store, "ann")
    forgetting.forget(store, "bob", "bob")
    assert verified(store).bad == ()


def test_who_is_deleted_while_a_file_is_written_does_not_come_back_with_it(store: Store) -> None:
    head = exports.head(store)
    forgetting.forget(store, "ann")
    exports.exported(store, "snapshot", "/snapshots/two", "6" * 64, {"ann": 4, "bob": 5}, head)
    assert not list(naming(store, "ann"))
    with store.reading() as db:
        assert set(db.execute(select(exports_of.c.rater, exports_of.c.answers).where(exports_of.c.export == 2))) == {
            ("bob", 5), ("forgotten", 4)}
    assert verified(store).bad == ()


def test_whoever_is_named_anywhere_can_be_deleted(store: Store) -> None:
    store.write(lambda db: db.execute(exports_of.insert().values(export=1, rater="zoe", answers=1)))
    forgetting.forget(store, "zoe")
    assert not list(naming(store, "zoe"))


@on_sqlite
def test_who_deletes_themselves_is_not_named_by_it(store_url: str) -> None:
    """Without sign-in a rater's name is as it was written."""
    with Store(store_url, clock=Clock()) as store:
        store.add_items([item(1)])
        assert store.lease("Ann B", 60) is not None
        forgetting.forget(store, "Ann B", by="Ann B")
        assert not list(naming(store, "Ann B"))


@on_sqlite
def test_a_deletion_does_not_cover_up_what_was_altered(store: Store) -> None:
    """The lead's own events vouch for the campaign; once they are gone, the altered one is still not right."""
    store.write(lambda db: db.execute(campaigns.update().where(campaigns.c.name == "letters").values(created=5)))
    forgetting.forget(store, "lead")
    assert verified(store).bad == ("campaigns:2: added behind the log's back",)


@on_sqlite
def test_a_payload_that_is_gone_is_only_right_where_a_person_was_deleted(store: Store) -> None:
    forgetting.forget(store, "ann")
    store.write(lambda db: db.execute(payloads.delete().where(payloads.c.event == 3)))
    assert verified(store).bad[0] == "events:3: its payload is gone, and no deletion of a person says so"


# -- the commands -----------------------------------------------------------------------------------------------------


def run(folder: Path, name: str, checksum: str, **parents: str) -> None:
    path = folder / name
    path.mkdir(parents=True)
    told = {own: {"path": str(folder / own), "checksum": other} for own, other in parents.items()}
    (path / "run.json").write_text(json.dumps({"stage": "dpo", "status": "done", "parents": {
        "data": {"path": "elsewhere", "checksum": checksum}, **told}}))


def asked(folder: Path, section: str, **own: Any) -> config.Asked:
    return config.Asked("feedback", {"feedback": {"store": url(folder)}, section: own})


@on_sqlite
def test_the_commands_export_and_delete_while_a_server_has_the_store(
        store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with control.answering(store):
        exporting.main(config.Asked("snapshot", {"snapshot": {"store": url(tmp_path), "out": str(tmp_path / "s")}}))
        made = snapshot.read(tmp_path / "s")
        runs = tmp_path / "runs"
        run(runs, "reward", made.checksum)
        run(runs, "ppo", "0" * 64, reward="1" * 64)
        run(runs, "other", "2" * 64)
        out = tmp_path / "ann.json"
        persons.main(asked(tmp_path, "rater", name="ann", out=str(out)))
        assert len(json.loads(out.read_text())["exports"]) == 2
        assert out.stat().st_mode & 0o777 == 0o600
        with pytest.raises(RequestError, match=r"rater\.out: .*File exists"):
            persons.main(asked(tmp_path, "rater", name="ann", out=str(out)))
        with pytest.raises(RequestError, match=r"nothing was deleted; .* add rater.confirm=ann"):
            persons.main(asked(tmp_path, "rater", name="ann", action="delete", runs=str(runs)))
        told = capsys.readouterr().out
        assert "went into 2 exports and 2 runs" in told
        places = [tmp_path / "s", runs / "reward", runs / "ppo", runs / "other"]
        assert [str(place) in told for place in places] == [True, True, True, False]
        persons.main(asked(tmp_path, "rater", name="ann", action="delete", runs=str(runs), confirm="ann"))
        assert "ann is deleted: 1" in capsys.readouterr().out
        auditing.main(asked(tmp_path, "verify", head=str(tmp_path / "s")))
        assert "are as they were written" in capsys.readouterr().out
        store.write(lambda db: db.execute(items.update().where(items.c.id == 4).values(need=9)))
        with pytest.raises(RunError, match="the first: items:4: need changed behind the log's back"):
            auditing.main(asked(tmp_path, "verify"))


@on_sqlite
def test_a_snapshot_that_its_store_cannot_be_told_of_says_so(store: Store, tmp_path: Path) -> None:
    """Somebody else writes to the store, and does not listen."""
    with pytest.raises(RunError, match=r"written and whole, but the store does not know of it .*another process"):
        exporting.main(config.Asked("snapshot", {"snapshot": {"store": url(tmp_path), "out": str(tmp_path / "s")}}))
    assert snapshot.read(tmp_path / "s").rankings
