"""Raters as clients in processes apart from the server: each signs in over TCP, fetches, thinks, and submits.

What is acknowledged is logged here, so that a test can compare it with the store. Whatever fails on the way is tried
again with the same key, as the page does.

usage: python tests/raters_at_work.py PORTS FIRST COUNT THINK LOGS
PORTS are joined by commas, LOGS is a folder; a file `stop` in it ends the work.
"""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, TextIO

PATIENCE = 180  # seconds that a call is tried again
PASSWORD = "correct horse battery {n}"
AHEAD = 1  # items fetched while another is being ranked


def name_of(number: int) -> str:
    return f"rater {number:03}"


@dataclass
class Log:
    """One line of JSON for each call that was answered or failed, and for each answer that was acknowledged."""

    file: TextIO

    def __post_init__(self) -> None:
        self._turn = threading.Lock()

    def write(self, **row: Any) -> None:
        with self._turn:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()


class Client:
    """One rater's browser: connections that are made anew when they break, and a cookie that stays.

    Of several servers each request goes to the next, as by a proxy that shares them out.
    """

    def __init__(self, ports: list[int], number: int, log: Log) -> None:
        self.name, self._log = name_of(number), log
        self._password, self._cookie = PASSWORD.format(n=number), ""
        self._host = f"127.0.0.1:{ports[0]}"
        self._lines = cycle([http.client.HTTPConnection("127.0.0.1", port, timeout=30) for port in ports])
        self._line = next(self._lines)

    def sign_in(self) -> None:
        self.ask("sign_in", name=self.name, password=self._password)

    def ask(self, route: str, **body: Any) -> dict[str, Any]:
        """The reply, however often it takes; every attempt is logged."""
        until = time.monotonic() + PATIENCE
        while True:
            began = time.monotonic()
            try:
                status, reply = self._once(route, body)
            except (OSError, http.client.HTTPException) as error:
                self._line.close()
                status, reply = 0, {"error": type(error).__name__}
            self._log.write(call=route, status=status, at=time.time(), seconds=time.monotonic() - began,
                            **({"error": reply.get("error")} if status != 200 else {}))
            if status == 200:
                return reply
            if time.monotonic() > until or (400 <= status < 500 and status != 429):
                raise ConnectionError(f"{self.name} {route}: {status} {reply}")
            time.sleep(random.uniform(0.1, 0.5) if status != 429 else float(reply["wait"]))

    def _once(self, route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self._line = next(self._lines)
        self._line.request("POST", f"/api/{route}", json.dumps(body),
                           {"content-type": "application/json", "cookie": self._cookie, "host": self._host})
        reply = self._line.getresponse()
        content = json.loads(reply.read() or b"{}")
        given = reply.getheader("set-cookie")
        if given:
            self._cookie = given.partition(";")[0]
        return reply.status, {**content, "wait": float(reply.getheader("retry-after") or 1)}


def work(client: Client, think: float, log: Log, stop: Path, choose: random.Random) -> None:
    client.sign_in()
    held: list[dict[str, Any]] = []
    time.sleep(choose.uniform(0, think))  # they do not start as one
    while not stop.exists():
        while len(held) <= AHEAD:
            task = client.ask("next", campaign="default", holding=[one["token"] for one in held])["task"]
            if task is None:
                break
            held.append(task)
        if not held:
            return
        time.sleep(min(choose.expovariate(1 / think), 5 * think))
        task = held.pop(0)
        ranks = choose.sample(range(1, len(task["answers"]) + 1), len(task["answers"]))
        key = f"{choose.getrandbits(128):032x}"
        said = {"token": task["token"], "key": key, "ranks": ranks, "strength": "better", "seconds": think,
                "reason": "clearer" if task["reason_required"] else ""}
        receipt = client.ask("submit", **said)
        log.write(ack=receipt["answer"], rater=client.name, token=task["token"], ranks=ranks)


class Crowd:
    """The raters, shared out among processes; their logs are FOLDER/*.jsonl."""

    def __init__(self, ports: list[int], folder: Path, raters: int, think: float, processes: int = 4) -> None:
        self._folder, each = folder, -(-raters // processes)
        self._processes = [
            subprocess.Popen([sys.executable, __file__, ",".join(map(str, ports)), str(first),
                              str(min(each, raters - first)), str(think), str(folder)])
            for first in range(0, raters, each)]
        while sum(row.get("call") == "sign_in" and row["status"] == 200 for row in rows(folder)) < raters:
            time.sleep(1)

    def stop(self) -> None:
        """Everybody submits what they are at, and leaves."""
        (self._folder / "stop").touch()
        for process in self._processes:
            process.wait()


def rows(folder: Path) -> list[dict[str, Any]]:
    """What was logged so far; a line that is being written is left out."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl"))
            for line in path.read_text().rpartition("\n")[0].splitlines()]


def main() -> None:
    ports, first, count = [int(one) for one in sys.argv[1].split(",")], int(sys.argv[2]), int(sys.argv[3])
    think, folder = float(sys.argv[4]), Path(sys.argv[5])
    with (folder / f"{first}.jsonl").open("w") as file:
        log = Log(file)

        def one(number: int) -> None:
            try:
                work(Client(ports, number, log), think, log, folder / "stop", random.Random(number))
            except Exception as error:
                log.write(gave_up=f"{type(error).__name__}: {error}", rater=name_of(number))

        threads = [threading.Thread(target=one, args=(first + n,)) for n in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
