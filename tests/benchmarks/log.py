"""The log of every change: what it costs a submission, and how long many events take to verify.

Submissions are measured against the same ones while nothing is recorded, in turns on one store, in processor time,
which other work on the machine does not touch. The events to verify are of answers, one each, as submissions record
them; all rows are looked at too.

    make bench NAME=log
    python tests/benchmarks/log.py --events 20000
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rated_house import item
from sqlalchemy import Connection, insert

from prefloop.store import Judgement, Store, events
from prefloop.store.schema import answers, leases
from prefloop.store.verifying import verify

AT_ONCE = 20  # raters who submit at the same time
EACH = 200  # submissions of a turn
TURNS = 5  # of each kind, of which the median counts
ITEMS = 1000


def submitted(store: Store, turn: str) -> float:
    """Milliseconds of processor time of a submission, of raters who do nothing else."""
    raters = [f"rater {turn} {number}" for number in range(EACH)]
    tokens = [lease.token for rater in raters if (lease := store.lease(rater, 3600)) is not None]
    said = Judgement((2, 1, 3, 4), reason="the second is clearer and shorter than the first")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        began = time.process_time()
        list(pool.map(lambda own: store.submit(own[1], own[0], said), zip(raters, tokens, strict=True)))
        return 1000 * (time.process_time() - began) / EACH


def paces(store: Store) -> dict[str, float]:
    with_log, without = [], []
    for turn in range(TURNS):
        with_log.append(submitted(store, f"{turn} with"))
        with mock.patch.object(events, "record"):
            without.append(submitted(store, f"{turn} without"))
    return {"submission_ms": round(median(with_log), 2), "without_a_log_ms": round(median(without), 2),
            "ratio": round(median(with_log) / median(without), 2)}


def filled(store: Store, count: int) -> float:
    """Adds answers with an event each; events a second."""
    def work(db: Connection) -> None:
        held, given = [], []
        for number in range(count):
            rater, own = f"rater {number // ITEMS}", number % ITEMS + 1
            shown, token = "[0, 1, 2, 3]", f"token {number}"
            held.append({"item": own, "rater": rater, "token": token, "shown": shown, "state": "done", "issued": 0,
                         "expires": 0})
            given.append({"id": number + 1, "token": token, "item": own, "rater": rater, "revision": 1, "key": "",
                          "retracted": None, "ranks": "[2, 1, 3, 4]", "shown": shown, "strength": "better",
                          "none_acceptable": 0, "reason": "", "edited": "", "seconds": 9.5, "guideline": "",
                          "kind": "normal", "surplus": 1, "created": 0, "excluded": 0, "informed": 0})
        db.execute(insert(leases), held)
        db.execute(insert(answers), given)
        for row in given:
            events.kept(db, 0, "answered", row["rater"], answers, [row])

    began = time.perf_counter()
    store.write(work)
    return count / (time.perf_counter() - began)


def verified(store: Store) -> dict[str, Any]:
    began, busy = time.perf_counter(), time.process_time()
    with store.reading() as db:
        found = verify(db)
    assert not found.bad, found.bad
    return {"events": found.events, "rows": found.rows, "seconds_to_verify": round(time.perf_counter() - began, 2),
            "processor_seconds_to_verify": round(time.process_time() - busy, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prefloop-log-") as folder:
        with Store(f"sqlite:///{folder}/paces.db", seed=1) as store:
            store.add_items([item(number) for number in range(ITEMS)], need=100)
            found: dict[str, Any] = paces(store)
        with Store(f"sqlite:///{folder}/many.db", seed=1) as store:
            store.add_items([item(number) for number in range(ITEMS)])
            added = filled(store, asked.events)
            print(json.dumps({**found, "events_added_per_second": round(added), **verified(store),
                              "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}))


if __name__ == "__main__":
    main()
