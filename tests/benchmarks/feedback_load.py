"""The rating page under 200 raters: answers a second, how long a request takes, and whether anything is lost.

Each rater signs in over TCP, fetches and submits with think time, in processes apart from the server, and keeps a log
of what was acknowledged. The server and the raters share this machine.

    make bench NAME=feedback_load
    python tests/benchmarks/feedback_load.py --raters 50 --seconds 20
    python tests/benchmarks/feedback_load.py --store both   # the second in PostgreSQL, with two servers
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median, quantiles
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import postgres_server
import rated_house
import raters_at_work


def measured(rows: list[dict[str, Any]], began: float, ended: float) -> dict[str, Any]:
    """Over the time in which all raters were at work."""
    calls = [row for row in rows if "call" in row]
    work = [row for row in calls if began < row["at"] < ended]
    per_route = {route: took([row for row in work if row["call"] == route]) for route in ("next", "submit")}
    return {"submissions_per_second": round(per_route["submit"]["requests"] / (ended - began), 2),
            "p95_ms": took(work)["p95_ms"], "errors": sum(row["status"] != 200 for row in calls),
            "seconds_measured": round(ended - began, 1), "signing_in_seconds": round(
                began - min(row["at"] for row in calls), 1), **per_route,
            "statuses": dict(Counter(str(row["status"]) for row in calls))}


def took(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds of the requests that were answered."""
    own = [1000 * row["seconds"] for row in rows if row["status"] == 200]
    hundredths = quantiles(own, n=100)
    return {"requests": len(own), "median_ms": round(median(own), 1), "p95_ms": round(hundredths[94], 1),
            "p99_ms": round(hundredths[98], 1), "most_ms": round(max(own), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("sqlite", "postgresql", "both"), default="sqlite")
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=120, help="after the last sign-in")
    parser.add_argument("--think", type=float, default=12, help="seconds over an item, on average")
    asked = parser.parse_args()
    facts = {"raters": asked.raters, "think_seconds": asked.think, "cores": os.cpu_count(),
             "load_before": round(os.getloadavg()[2], 1)}
    if asked.store != "both":
        print(json.dumps({**loaded(asked.store, asked.raters, asked.seconds, asked.think), **facts}))
    else:
        print(json.dumps({**facts, **{store: loaded(store, asked.raters, asked.seconds, asked.think)
                                      for store in ("sqlite", "postgresql")}}))


def loaded(store: str, raters: int, seconds: float, think: float) -> dict[str, Any]:
    """In PostgreSQL two servers serve one store."""
    with tempfile.TemporaryDirectory(prefix="prefloop-load-") as folder:
        logs = Path(folder) / "logs"
        logs.mkdir()
        servers, url = ((1, f"sqlite:///{Path(folder) / 'feedback.db'}") if store == "sqlite"
                        else (2, postgres_server.running().made()))
        house = rated_house.built(url, raters, int(raters * (3 + 2 * seconds / think)), servers)
        try:
            house.start()
            # Checking so many passwords, slow on purpose, has its own time before.
            crowd = raters_at_work.Crowd(house.ports, logs, raters, think)
            began = time.time() + think
            time.sleep(think + seconds)
            ended = time.time()
            crowd.stop()
        finally:
            house.kill()
        rows = raters_at_work.rows(logs)
        return {**measured(rows, began, ended), **rated_house.compared(house, rows), "store": store,
                "servers": servers}


if __name__ == "__main__":
    main()
