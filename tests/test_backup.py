"""Backups: taken under load, refused when damaged, and put back."""

import json
import sqlite3
import threading
from pathlib import Path

import pytest
from test_store import item, url

from prefloop.errors import RequestError, RunError
from prefloop.store import Judgement, Store
from prefloop.store.backup import backup, manifest_of, restore, verified
from prefloop.store.sqlite import SqliteFile


def rate(store: Store, rater: str, count: int) -> None:
    for _ in range(count):
        lease = store.lease(rater, 600)
        assert lease is not None
        store.submit(lease.token, rater, Judgement((1, 2, 3), reason="x" * 500))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Store(url(tmp_path)) as store:
        store.add_items([item(n) for n in range(30)])
        rate(store, "ann", 20)
    return tmp_path / "feedback.db"


def counted(path: Path) -> int:
    with Store(f"sqlite:///{path}", read_only=True) as store:
        return len(list(store.rankings()))


def test_there_and_back(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.db"
    made = backup(SqliteFile(path), out)
    assert made.answers == 20
    assert verified(out) == made
    assert out.stat().st_mode & 0o077 == 0
    again = tmp_path / "elsewhere" / "feedback.db"
    assert restore(out, SqliteFile(again)) == made
    assert counted(again) == 20
    with Store(f"sqlite:///{again}") as store:
        rate(store, "ann", 10)
    assert (counted(again), counted(path)) == (30, 20)
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.rglob("*.restoring"))


def test_backups_under_load_are_whole_and_each_holds_what_was_acknowledged_before(path: Path, tmp_path: Path) -> None:
    with Store(url(tmp_path)) as store:
        store.add_items([item(n) for n in range(1000)])
        acknowledged, stop = [20], threading.Event()

        def work() -> None:
            while not stop.is_set():
                rate(store, "bob", 1)
                acknowledged[0] += 1

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for number in range(20):
                before = acknowledged[0]
                made = backup(SqliteFile(path), tmp_path / f"{number}.db")
                assert before <= made.answers <= acknowledged[0] + 1
                assert verified(tmp_path / f"{number}.db") == made
        finally:
            stop.set()
            thread.join()
        with pytest.raises(RequestError, match="another process is writing"):
            restore(tmp_path / "0.db", SqliteFile(path), overwrite=True)
    assert counted(path) == acknowledged[0]


def test_a_store_is_only_replaced_when_told_and_is_kept_aside_with_its_log(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.db"
    backup(SqliteFile(path), out)
    with Store(url(tmp_path)) as store:
        rate(store, "ann", 5)
        killed = path.read_bytes(), Path(f"{path}-wal").read_bytes()  # what came last is only in the log
    with pytest.raises(RequestError, match="overwrite=true moves it aside"):
        restore(out, SqliteFile(path))
    path.write_bytes(killed[0])
    Path(f"{path}-wal").write_bytes(killed[1])
    with sqlite3.connect(path) as other:
        assert other.execute("select count(*) from answers").fetchone() == (25,)
        with pytest.raises(RequestError, match="another program reads"):
            restore(out, SqliteFile(path), overwrite=True)
    other.close()
    path.write_bytes(killed[0])
    Path(f"{path}-wal").write_bytes(killed[1])
    restore(out, SqliteFile(path), overwrite=True)
    assert not Path(f"{path}-wal").exists()
    assert counted(path) == 20
    assert counted(path.with_name("feedback.db.replaced-1")) == 25


@pytest.mark.parametrize("place", [0, 100, 5000, -1])
def test_a_flipped_bit_is_found(path: Path, tmp_path: Path, place: int) -> None:
    out = tmp_path / "kept.db"
    backup(SqliteFile(path), out)
    content = bytearray(out.read_bytes())
    content[place] ^= 1
    out.write_bytes(content)
    with pytest.raises(RequestError, match="not what its manifest says"):
        restore(out, SqliteFile(tmp_path / "new.db"))
    assert not (tmp_path / "new.db").exists()


def test_a_damaged_store_is_replaced_too(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.db"
    backup(SqliteFile(path), out)
    path.write_bytes(b"ruined" * 2000)
    Path(f"{path}-wal").write_bytes(b"and its log")
    restore(out, SqliteFile(path), overwrite=True)
    assert counted(path) == 20
    assert path.with_name("feedback.db.replaced-1").read_bytes() == b"ruined" * 2000
    assert Path(f"{path}.replaced-1-wal").read_bytes() == b"and its log"


def test_what_cannot_be_backed_up_or_restored(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.db"
    with pytest.raises(RequestError, match="there is no store"):
        backup(SqliteFile(tmp_path / "none.db"), out)
    for name in ("feedback.db", "feedback.db.lock"):
        with pytest.raises(RequestError, match="name a new file"):
            backup(SqliteFile(path), tmp_path / name)
    for name in ("feedback.db-wal", "feedback.db-shm"):
        with pytest.raises(RequestError, match="choose another name"):
            backup(SqliteFile(path), tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="this folder cannot be made"):
        backup(SqliteFile(path), tmp_path / "file" / "kept.db")
    (tmp_path / "text.db").write_text("not a database at all" * 100)
    with pytest.raises(RequestError, match="not a prefloop store"):
        backup(SqliteFile(tmp_path / "text.db"), out)
    with pytest.raises(RequestError, match="cannot be read"):
        restore(out, SqliteFile(tmp_path / "new.db"))
    backup(SqliteFile(path), out)
    with pytest.raises(RequestError, match="it exists already"):
        backup(SqliteFile(path), out)
    told = json.loads(manifest_of(out).read_text())
    for wrong, names in (("[]", "not a manifest"), ("{", "not a manifest"),
                         (json.dumps(told | {"rows": told["rows"] | {"answers": 21}}), "not those that its manifest")):
        manifest_of(out).write_text(wrong)
        with pytest.raises(RequestError, match=names):
            verified(out)


def test_the_folder_of_a_backup_is_made(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "backups" / "of may" / "monday.db"
    backup(SqliteFile(path), out)
    assert verified(out).answers == 20


def test_a_folder_that_cannot_be_written_is_said(path: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.db"
    (tmp_path / "kept.db.partial").mkdir()
    with pytest.raises(RunError, match="cannot copy"):
        backup(SqliteFile(path), out)
    assert not out.exists()
