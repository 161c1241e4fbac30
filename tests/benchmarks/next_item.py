"""How long the store takes to choose and lend the next of 100,000 open items, by each rule; one rater has had many.

Told is what a rater waits, the lease's commit and the database's server in it, and beside it the processor's time of
this process alone, to which other work on the machine adds less.

    make bench NAME=next_item
    python tests/benchmarks/next_item.py --items 20000
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from sqlalchemy import bindparam, insert, update

from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Campaign, Store
from prefloop.store.schema import items, leases

STRATA = ("maths", "code", "letters", "rare")
QUOTAS = {"maths": 0.4, "code": 0.3, "letters": 0.2, "rare": 0.1}
RULES: dict[str, dict[str, Any]] = {"queued": {}, "random": {}, "stratified": {"quotas": QUOTAS}, "uncertainty": {}}
HAD = 2000  # items that the heavy rater has answered
RATERS = 200


def question(number: int) -> Answers:
    stratum = STRATA[3] if number % 100 == 0 else STRATA[number % 3]
    return Answers(Prompt((Message("user", f"question {number}"),), stratum), (Response("one"), Response("two")))


def filled(store: Store, count: int) -> None:
    """Items with uncertainties; what a heavy rater had is spread over them."""
    store.apply(Campaign("load"), rows=[question(n) for n in range(count)], need=3)
    dice = random.Random(1)
    had = [{"item": n, "rater": "heavy", "token": f"heavy {n}", "shown": "[0, 1]", "state": "done", "issued": 1,
            "expires": 1} for n in dice.sample(range(1, count + 1), min(HAD, count // 2))]
    apart = [{"own": n, "apart": dice.random()} for n in range(1, count + 1)]
    store.write(lambda db: (db.execute(insert(leases), had), db.execute(
        update(items).where(items.c.id == bindparam("own")).values(uncertainty=bindparam("apart")), apart)))


def took(store: Store, rater: str, turns: int) -> list[tuple[float, float]]:
    """Milliseconds by the clock, and of the processor, for each of so many leases; each is put aside again."""
    found = []
    for _ in range(turns):
        began = time.perf_counter(), time.process_time()
        lease = store.lease(rater, 600, campaign="load")
        found.append((1000 * (time.perf_counter() - began[0]), 1000 * (time.process_time() - began[1])))
        assert lease is not None
        store.release(lease.token, rater)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--store", help="a URL; a new SQLite store where there is none")
    asked = parser.parse_args()
    told: dict[str, Any] = {"items": asked.items}
    with tempfile.TemporaryDirectory(prefix="prefloop-next-") as folder, Store(
            asked.store or f"sqlite:///{Path(folder) / 'feedback.db'}", seed=1) as store:
        filled(store, asked.items)
        for rule, own in RULES.items():
            store.apply(Campaign("load", ask=rule, **own))
            for number in range(RATERS):  # what others hold at the moment
                store.lease(f"rater {rule} {number}", 3600, campaign="load")
            for who in ("heavy", f"new {rule}"):
                waited, worked = zip(*took(store, who, asked.turns), strict=True)
                told[f"{rule}, {who.split()[0]} rater"] = {
                    "median_ms": round(median(waited), 2), "p95_ms": round(quantiles(waited, n=20)[18], 2),
                    "most_ms": round(max(waited), 2), "cpu_median_ms": round(median(worked), 2),
                    "cpu_p95_ms": round(quantiles(worked, n=20)[18], 2)}
    for name, row in told.items():
        print(name, row)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
