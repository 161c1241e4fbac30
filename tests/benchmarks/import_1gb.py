"""`prefloop import` of a generated file of 1 GB: its peak memory, and its speed beside `json.loads` of the lines.

    make bench NAME=import_1gb

Runs the real command as a process of its own for each file, one after the other: HH-style JSON lines of 1 GB, answers
rated one a row (which are grouped through a scratch file) of 1 GB, rows so short that 1 GB holds millions of them, and
CSV and Parquet of a quarter of that. SIZE=0.1 in the environment makes all of it a tenth. The folder is removed.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GB = 1 << 30
MEASURED = ("import sys; from prefloop.cli import main; code = main(sys.argv[1:]);"
            "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))); sys.exit(code)")
WORDS = [f"{a}{b}{c}" for a in ("ba", "ko", "ri", "su", "te") for b in ("la", "mo", "ni", "pu", "re") for c in
         ("", "n", "s", "th", "x", "rd", "k", "ly")]


def said(draw: random.Random, words: int) -> str:
    return " ".join(draw.choices(WORDS, k=max(1, int(draw.expovariate(1 / words)))))


def pairs(draw: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        turns = ["Human", "Assistant"] * draw.randint(0, 3) + ["Human"]
        shared = "".join(f"\n\n{who}: {said(draw, 25)}" for who in turns)
        yield {name: f"{shared}\n\nAssistant: {said(draw, 60)}" for name in ("chosen", "rejected")}


def rated(draw: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        prompt, rater = said(draw, 60), f"r{draw.randint(0, 9)}"
        for _ in range(draw.randint(1, 4)):
            yield {"prompt": prompt, "response": said(draw, 150), "rating": draw.randint(1, 5), "rater": rater}


def short(draw: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        yield {"prompt": said(draw, 6), "chosen": said(draw, 3), "rejected": said(draw, 3)}


def columns(draw: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        yield {"prompt": said(draw, 80), "chosen": said(draw, 90), "rejected": said(draw, 90)}


def write_lines(path: Path, rows: Iterator[dict[str, Any]], size: int) -> None:
    with path.open("w") as file:
        while file.tell() < size:
            file.writelines(json.dumps(next(rows)) + "\n" for _ in range(1000))


def write_csv(path: Path, rows: Iterator[dict[str, Any]], size: int) -> None:
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
        table.writeheader()
        while file.tell() < size:
            table.writerows(next(rows) for _ in range(1000))


def write_parquet(path: Path, rows: Iterator[dict[str, Any]], size: int) -> None:
    """One row group of everything: the worst case for reading it piece by piece."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    made, total = [], 0
    while total < size:
        made.append(next(rows))
        total += sum(map(len, made[-1].values()))
    pq.write_table(pa.Table.from_pylist(made), path, row_group_size=len(made))


CASES: dict[str, tuple[str, float, Callable[[random.Random], Iterator[dict[str, Any]]], Callable[..., None]]] = {
    "pairs.jsonl": ("hh", 1.0, pairs, write_lines), "rated.jsonl": ("ratings", 1.0, rated, write_lines),
    "short.jsonl": ("preference", 1.0, short, write_lines), "columns.csv": ("preference", 0.25, columns, write_csv),
    "columns.parquet": ("preference", 0.25, columns, write_parquet)}


def measured(path: Path, form: str, out: Path) -> dict[str, Any]:
    """Peak memory since exec (the kernel's own figure counts what a child was forked from), and CPU time."""
    command = [sys.executable, "-c", MEASURED, "import", f"import.path={path}", f"import.format={form}",
               f"import.out={out}", "import.bad_rows=drop"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        told = child.stdout.read()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {child.returncode}")
    print(told)
    rows = int((re.search(r"(\d+) rows", told) or ["", "0"])[1])
    wall, cpu, size = time.perf_counter() - started, used.ru_utime + used.ru_stime, path.stat().st_size
    peak = int((re.search(r"VmHWM:\s*(\d+) kB", told) or ["", "0"])[1])
    return {"bytes": size, "rows": rows, "peak_rss_mb": round(peak / 1024), "wall_s": round(wall, 1),
            "cpu_s": round(cpu, 1), "rows_per_cpu_s": round(rows / cpu), "mb_per_cpu_s": round(size / cpu / 1e6, 1)}


def peer(path: Path) -> float:
    """CPU seconds of `json.loads` of every line: the least that reading this file in Python takes."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    scale, wanted = float(os.environ.get("SIZE", "1")), os.environ.get("ONLY", "")
    figures = {}
    with tempfile.TemporaryDirectory(prefix="prefloop-import-") as folder:
        for name, (form, share, rows, write) in CASES.items():
            if wanted not in name:
                continue
            path = Path(folder) / name
            write(path, rows(random.Random(0)), int(share * scale * GB))
            figures[name] = measured(path, form, Path(folder) / f"{name}.snapshot")
            if name.endswith(".jsonl"):
                figures[name]["cpu_times_json_loads"] = round(figures[name]["cpu_s"] / peer(path), 1)
            print(name, figures[name], flush=True)
            path.unlink()
            subprocess.run(["rm", "-rf", str(Path(folder) / f"{name}.snapshot")], check=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
