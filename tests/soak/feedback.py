"""Raters at work while their server is killed: every answer that was acknowledged is there once, and nobody is out.

The server is killed with SIGKILL at random moments under load and started again; the clients try again, with the same
keys, as the page does. Then the store is compared with what was acknowledged to each of them.

    make soak NAME=feedback
    python tests/soak/feedback.py --kills 2 --raters 20
    python tests/soak/feedback.py --store postgresql   # two servers, and every second time PostgreSQL itself is killed
The last line is one JSON object; exit code 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import postgres_server
import rated_house
import raters_at_work

WRONG = ("lost", "duplicated", "miscounted", "signed_out", "gave_up")  # of which there is to be none
BETWEEN = (3.0, 9.0)  # seconds of work between a start and the next kill


def campaign(root: Path, store: str, kills: int, raters: int, think: float, seed: int) -> dict[str, Any]:
    choose, logs = Random(seed), root / "logs"
    logs.mkdir()
    database = postgres_server.running() if store == "postgresql" else None
    url = database.made() if database else f"sqlite:///{root / 'feedback.db'}"
    house = rated_house.built(url, raters, int(raters * (3 + 20 * kills / think)), servers=2 if database else 1)
    house.start()
    crowd = raters_at_work.Crowd(house.ports, logs, raters, think)
    for number in range(1, kills + 1):
        time.sleep(choose.uniform(*BETWEEN))
        if database and number % 2 == 0:
            database.kill()
            database.start()
        else:
            house.kill()
            house.start()
        print(f"kill {number}: {sum('ack' in row for row in raters_at_work.rows(logs))} answers acknowledged",
              flush=True)
    crowd.stop()
    house.kill()
    rows = raters_at_work.rows(logs)
    return {"store": store, "kills": kills, "raters": raters,
            "broken_calls": sum(row.get("status") == 0 for row in rows), **rated_house.compared(house, rows),
            "seed": seed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--raters", type=int, default=200)
    parser.add_argument("--think", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prefloop-soak-") as folder:
        report = campaign(Path(folder), asked.store, asked.kills, asked.raters, asked.think, asked.seed)
    print(json.dumps(report))
    whole = report["integrity"] in ("ok", rated_house.NOT_ASKED)
    return 0 if whole and report["acknowledged"] and not any(report[name] for name in WRONG) else 1


if __name__ == "__main__":
    sys.exit(main())
