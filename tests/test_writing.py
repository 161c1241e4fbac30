"""Group commit: each job by itself, all of a batch on disk together, and nothing acknowledged that is not there."""

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import postgres_server
import pytest
from sqlalchemy import Connection, Engine, event, func, select, text
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError
from test_store import item

from prefloop.errors import RunError
from prefloop.store import Judgement, Store, schema
from prefloop.store.opening import place_of
from prefloop.store.sqlite import SqliteFile
from prefloop.store.writing import Writer


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    made = place_of(store_url).writer()
    with made.begin() as db:
        db.execute(text("create table kept (n integer primary key)"))
    yield made
    made.dispose()


def put(number: int, then: Exception | None = None):
    def work(db: Connection) -> int:
        db.execute(text(f"insert into kept values ({number})"))
        if then is not None:
            raise then
        return number

    return work


def kept(engine: Engine) -> list[int]:
    with engine.begin() as db:
        return list(db.scalars(text("select n from kept order by n")))


def together(writer: Writer, *jobs) -> list[object]:
    """Runs them in one batch: all wait for the turn that is taken here."""
    def outcome(job) -> object:
        try:
            return writer.do(job)
        except Exception as error:
            return error

    writer._busy = True
    with ThreadPoolExecutor(len(jobs)) as pool:
        waiting = [pool.submit(outcome, job) for job in jobs]
        while len(writer._waiting) < len(jobs):
            time.sleep(0.001)
        with writer._changed:
            writer._busy = False
            writer._changed.notify_all()
        return [one.result() for one in waiting]


def test_a_job_that_raises_undoes_only_its_own(engine: Engine) -> None:
    error = ValueError("no")
    told = together(Writer(engine), put(1), put(2, error), put(3), put(1))
    assert {1, 3, error} <= {one for one in told if isinstance(one, int | ValueError)}
    assert [type(one) for one in told].count(IntegrityError) == 1, "one of the two that put the same"
    assert kept(engine) == [1, 3]


def test_an_error_quotes_nothing_that_was_to_be_written(engine: Engine) -> None:
    def work(db: Connection) -> None:
        db.execute(text("insert into kept values (:n)"), {"n": "what a rater wrote"})

    with pytest.raises(DatabaseError) as told:
        Writer(engine).do(work)
    assert "rater" not in str(told.value)


def test_those_who_wait_share_one_commit(engine: Engine) -> None:
    commits = []
    event.listen(engine, "commit", commits.append)
    assert together(Writer(engine), *(put(n) for n in range(50))) == list(range(50))
    assert len(commits) == 1
    assert kept(engine) == list(range(50))


def test_a_batch_that_cannot_be_committed_is_refused_to_all_and_the_next_goes_on(engine: Engine) -> None:
    def full(_: Connection) -> None:
        event.remove(engine, "commit", full)
        raise OperationalError("", {}, sqlite3.OperationalError("disk is full"))

    event.listen(engine, "commit", full)
    writer = Writer(engine)
    assert [type(one) for one in together(writer, put(1), put(2))] == [OperationalError] * 2
    assert kept(engine) == []
    assert writer.do(put(1)) == 1
    assert kept(engine) == [1]


def test_an_interrupt_in_the_middle_leaves_nobody_waiting(engine: Engine) -> None:
    writer = Writer(engine)

    def stop(db: Connection) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.do(stop)
    assert writer.do(put(1)) == 1


def test_many_threads_and_no_job_is_lost_or_done_twice(engine: Engine) -> None:
    writer, given = Writer(engine), range(500 if engine.name == "postgresql" else 2000)
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(lambda n: writer.do(put(n)), given)) == list(given)
    assert kept(engine) == list(given)


# -- kill -9 ----------------------------------------------------------------------------------------------------------

SERVER = """
import sys, threading
sys.path.insert(0, {tests!r})
from prefloop.store import Judgement, Store
with Store({url!r}) as store:
    print("ready", flush=True)
    def work(rater):
        while (lease := store.lease(rater, 600)) is not None:
            receipt = store.submit(lease.token, rater, Judgement((1, 2, 3)), key=lease.token)
            sys.stdout.write(f"{{receipt.answer}} {{lease.token}}\\n")
            sys.stdout.flush()
    raters = [threading.Thread(target=work, args=(f"rater {{n}} of {round}",)) for n in range(8)]
    for one in raters:
        one.start()
    for one in raters:  # the store stays open while they work
        one.join()
"""


def test_what_was_acknowledged_outlives_a_kill(store_url: str) -> None:
    with Store(store_url) as store:
        store.add_items([item(n) for n in range(300)], need=50)
    acknowledged: dict[str, int] = {}
    for number in range(4):
        code = SERVER.format(tests=str(Path(__file__).parent), url=store_url, round=number)
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        lines: list[str] = []
        reading = threading.Thread(target=lambda out=child.stdout, into=lines: into.extend(out))
        assert child.stdout.readline() == "ready\n"
        reading.start()
        while len(lines) < 10 + 7 * number and child.poll() is None:  # however slow the disk is
            time.sleep(0.001)
        child.kill()
        assert child.wait() == -signal.SIGKILL, "it was at work until then"
        reading.join()
        whole = [line.split() for line in lines if line.endswith("\n")]
        acknowledged |= {token: int(answer) for answer, token in whole}
    assert len(acknowledged) > 20
    assert acknowledged.items() <= found(store_url).items(), "every answer, under the number that was told"


def found(url: str) -> dict[str, int]:
    """The answers in a store by their tokens; what is counted agrees with them."""
    with Store(url, read_only=True) as store, store.reading() as db:
        if isinstance(store.place, SqliteFile):
            assert db.exec_driver_sql("pragma integrity_check").scalar() == "ok"
        kept = {row.token: row.id for row in db.execute(select(schema.answers))}
        assert db.scalar(select(func.sum(schema.items.c.done))) == len(kept)
        return kept


def test_what_was_acknowledged_outlives_the_end_of_the_database_server() -> None:
    """Killed with all its processes, while raters work: they are told, and try again with the same key."""
    server = postgres_server.running()
    url, acknowledged, failed = server.made(), {}, []
    with Store(url) as store:
        store.add_items([item(n) for n in range(100)], need=4)

        def work(rater: str) -> None:
            while time.monotonic() < until:
                try:
                    lease = store.lease(rater, 600)
                    if lease is None:
                        return
                    receipt = store.submit(lease.token, rater, Judgement((1, 2, 3)), key=lease.token)
                    acknowledged[lease.token] = receipt.answer
                except RunError as error:
                    failed.append(str(error))
                    time.sleep(0.02)

        until = time.monotonic() + 120
        raters = [threading.Thread(target=work, args=(f"rater {n}",)) for n in range(6)]
        for one in raters:
            one.start()
        for goal in (40, 120, 200):
            while len(acknowledged) < goal and any(one.is_alive() for one in raters):
                time.sleep(0.001)
            server.kill()
            server.start()
        for one in raters:
            one.join()
        assert store.progress().done == 400
    assert any("cannot be written" in one for one in failed), "they noticed"
    assert not any("\n" in one for one in failed)
    assert acknowledged == found(url), "all of them, once"
    server.emptied(url)
