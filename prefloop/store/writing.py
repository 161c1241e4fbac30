"""Group commit: what many threads want written goes to disk together, and each is told once its own is there."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

T = TypeVar("T")
MOST = 256  # jobs of one commit, so that the first does not wait on a long tail


class _Job:
    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self.work, self.over = work, False
        self.result: Any = None
        self.error: BaseException | None = None


class Writer:
    """One connection that takes turns. Whoever has the turn does the work of all who wait, in one transaction.

    One writer at a time, and no thread of its own to start and stop. While one commit waits for the disk, the next
    jobs gather; so the more there are, the more of them share a wait.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._busy = False

    def do(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, once its writes are on disk; what it raises undoes its own writes and no others."""
        own = _Job(work)
        with self._changed:
            self._waiting.append(own)
        while jobs := self._turn(own):
            self._commit(jobs)
        if own.error is not None:
            raise own.error
        return own.result

    def between(self, work: Callable[[], T]) -> T:
        """What `work` returns, done while nothing is being written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)
            self._busy = True
        try:
            return work()
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _turn(self, own: _Job) -> list[_Job]:
        """The jobs that it is now the caller's turn to do; none once its own is over."""
        with self._changed:
            self._changed.wait_for(lambda: own.over or not self._busy)
            if own.over:
                return []
            self._busy = True
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST))]

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            with self._engine.begin() as db:
                for job in jobs:
                    self._run(db, job)
        except BaseException as error:  # the disk is full, say: nothing of this batch was written
            for job in jobs:
                job.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            with self._changed:
                self._busy = False
                for job in jobs:
                    job.over = True
                self._changed.notify_all()

    def _run(self, db: Connection, job: _Job) -> None:
        try:
            with db.begin_nested():
                job.result = job.work(db)
        except OperationalError:  # SQLite may have undone more than this job; PostgreSQL's connection may be lost
            raise
        except Exception as error:
            job.error = error
