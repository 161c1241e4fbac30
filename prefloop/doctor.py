"""`prefloop doctor`: what this machine has, what is missing, what will be slow, in words; and a config's memory.

Each probe is guarded: what it cannot find out is a line of the report too. torch and bitsandbytes are tried in a
process of their own, since a broken driver can end the process that looks.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from prefloop import config, footprint, plan
from prefloop.errors import RequestError

GB = 10**9
HEADINGS = {"has": "This machine has", "missing": "Missing", "slow": "Will be slow"}
LEAST_DISK, LEAST_MEMORY = 5, 4  # GB: the packages' caches and a demo; a demo
# Prints one JSON object a line as it learns more, so that what came before a crash is not lost.
DEVICES = """
import json, os, torch
say = lambda **facts: print(json.dumps(facts), flush=True)
say(torch=torch.__version__, built=torch.version.cuda, threads=torch.get_num_threads())
say(gpus=[{"name": torch.cuda.get_device_name(n), "free": torch.cuda.mem_get_info(n)[0],
           "total": torch.cuda.mem_get_info(n)[1], "major": torch.cuda.get_device_capability(n)[0]}
          for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else [])
import bitsandbytes
where = "cuda" if torch.cuda.is_available() else "cpu"
layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=torch.float32).to(where)
say(nf4=bool(layer(torch.ones(1, 64, device=where)).isfinite().all()), where=where)
"""


@dataclass(frozen=True)
class DoctorConfig:
    """`doctor:`. With a `config`, the memory that it would take is reckoned too."""

    config: str = ""
    stage: str = ""
    base: str = ""
    runs: str = "runs"
    port: int = 7860
    hub: bool = False
    store: str = ""


@dataclass(frozen=True)
class Finding:
    """One line of the report. Without what is `essential`, not even the demo runs. `gpu_free` is in bytes."""

    kind: Literal["has", "missing", "slow"]
    text: str
    essential: bool = False
    gpu_free: int = 0


def sections() -> config.Sections:
    return {"doctor": config.Section(DoctorConfig)}


def main(asked: config.Asked) -> int:
    (settings,) = config.build(asked, sections())
    fit = fits(settings) if settings.config else None  # first: a mistyped config is told before anything else
    found: list[Finding] = []
    probes: list[Callable[[], Iterator[Finding]]] = [
        python_and_packages, processor, devices, lambda: folder(Path(settings.runs)), sqlite, cache,
        lambda: port(settings.port), programs, open_files]
    probes += [hub] if settings.hub else []
    probes += [lambda: database(settings.store)] if settings.store else []
    for probe in probes:
        found += guarded(probe)
    print(report(found))
    if fit is not None:
        print("\n" + judged(fit, settings.config, max(one.gpu_free for one in found)))
    return int(any(one.essential for one in found))


def guarded(probe: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a probe found until it broke, if it does."""
    found: list[Finding] = []
    try:
        found += probe()
    except Exception as error:
        told = " ".join(str(error).split())[:200]
        found.append(Finding("missing", f"one thing could not be looked at: {type(error).__name__}: {told}"))
    return found


def report(found: list[Finding]) -> str:
    lines = []
    for kind, heading in HEADINGS.items():
        own = [one for one in found if one.kind == kind]
        lines += [f"{heading}:", *(f"  {one.text}" for one in own)] if own else []
    if any(one.essential for one in found):
        return "\n".join([*lines, "Not ready: see what is missing."])
    return "\n".join([*lines, "Ready: `make demo` can run here."])


def python_and_packages() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    right, needed = [], [Requirement(line) for line in requires("prefloop") or [] if "extra ==" not in line]
    for need in needed:
        try:
            own = version(need.name)
        except PackageNotFoundError:
            yield Finding("missing", f"{need.name}: run `make setup`", True)
            continue
        if need.specifier.contains(own, prereleases=True):
            right.append(f"{need.name} {own}")
        else:
            yield Finding("missing", f"{need.name} {need.specifier}: {own} is installed, which was not tried; "
                                     f"`make setup` installs what was")
    shown = ", ".join(right[:7])
    yield Finding("has", f"Python {platform.python_version()}; {shown} and {max(len(right) - 7, 0)} more packages, in "
                         f"the ranges that were tried")


def processor() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    free, total = memory_free()
    yield Finding("has", f"{cores} processor cores; {free / GB:.1f} of {total / GB:.1f} GB of memory free")
    if free < LEAST_MEMORY * GB:
        yield Finding("missing", f"memory: the demo wants {LEAST_MEMORY} GB free; close something")
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > cores:
        yield Finding("slow", f"OMP_NUM_THREADS={threads} with {cores} cores: threads would wait for each other")
    if os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive" and os.getloadavg()[0] > cores:
        yield Finding("slow", "tiny models while other programs work here: set OMP_WAIT_POLICY=passive and "
                              "GOMP_SPINCOUNT=0 (the Makefile does)")


def memory_free() -> tuple[int, int]:
    """Bytes free and in all, by the machine and by the control group (container) that we are in."""
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free, total = (int(told[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    groups = Path("/sys/fs/cgroup")
    for limit, used in ((groups / "memory.max", groups / "memory.current"),
                        (groups / "memory/memory.limit_in_bytes", groups / "memory/memory.usage_in_bytes")):
        if limit.is_file() and (most := limit.read_text().strip()).isdigit():
            total = min(total, int(most))
            free = min(free, max(int(most) - int(used.read_text()), 0))
    return free, total


def devices() -> Iterator[Finding]:
    try:
        asked = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        yield Finding("missing", "torch: it did not answer within two minutes; is the GPU's driver stuck?", True)
        return
    facts: dict[str, Any] = {}
    for line in asked.stdout.splitlines():
        facts |= json.loads(line) if line.startswith("{") else {}
    told = " ".join((asked.stderr.strip().splitlines() or ["it was killed"])[-1].split())[:200]
    if "torch" not in facts:
        yield Finding("missing", f"torch: it cannot be imported ({told}); run `make setup`", True)
        return
    yield from gpus(facts)
    where = "on the GPU" if facts.get("where") == "cuda" else "on the CPU"
    if facts.get("nf4"):
        yield Finding("has", f"NF4 (bitsandbytes) works {where}")
    else:
        yield Finding("missing", f"NF4: bitsandbytes does not work here ({told}); set model.four_bit=false")


def gpus(facts: dict[str, Any]) -> Iterator[Finding]:
    for number, gpu in enumerate(facts.get("gpus", [])):
        bf16 = "bf16" if gpu["major"] >= 8 else "no bf16"
        yield Finding("has", f"GPU {number}: {gpu['name']}, {gpu['free'] / GB:.1f} of {gpu['total'] / GB:.1f} GB "
                             f"free, {bf16}{driver()}", gpu_free=gpu["free"])
        if gpu["major"] < 8:
            yield Finding("slow", f"GPU {number} is older than Ampere: bf16 is emulated there")
        if gpu["free"] < 0.7 * gpu["total"]:
            yield Finding("slow", f"GPU {number}: other programs hold much of its memory (`nvidia-smi` names them)")
    if facts.get("gpus"):
        return
    if not shutil.which("nvidia-smi"):
        why = "no NVIDIA driver was found"
    elif not facts["built"]:
        why = f"torch {facts['torch']} is built for CPUs only: install a CUDA build of it"
    else:
        why = f"torch is built for CUDA {facts['built']} and finds none: is the driver{driver()} too old for that?"
    yield Finding("missing", f"a GPU: {why}. configs/tiny and the demo need none")
    yield Finding("slow", "every model above a few million weights, without a GPU; NF4 most of all: keep "
                          "model.four_bit=false")


def driver() -> str:
    if not shutil.which("nvidia-smi"):
        return ""
    asked = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True,
                           text=True, timeout=20)
    return f", driver {asked.stdout.split()[0]}" if asked.returncode == 0 and asked.stdout.split() else ""


def folder(runs: Path) -> Iterator[Finding]:
    """Space, rights and locks where runs will be written, or in the nearest folder above that exists."""
    there = next(path for path in (runs.resolve(), *runs.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(there).free / GB
    yield Finding("has", f"{free:.0f} GB of disk free at {there}, where runs go")
    if free < LEAST_DISK:
        yield Finding("missing", f"disk space at {there}: {free:.1f} GB are free; an 8B run keeps about 1 GB for each "
                                 f"checkpoint", free < 1)
    try:
        with tempfile.TemporaryFile(dir=there) as one:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            other = os.open(f"/proc/self/fd/{one.fileno()}", os.O_RDWR)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield Finding("missing", f"file locks at {there}: two processes could write to one store; put stores "
                                         f"on a local disk")
            except BlockingIOError:
                yield Finding("has", f"file locks that hold at {there}")
            finally:
                os.close(other)
    except OSError as error:
        yield Finding("missing", f"the right to write and lock files at {there}: {error.strerror}", True)


def sqlite() -> Iterator[Finding]:
    own = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < (3, 37, 0):
        yield Finding("missing", f"SQLite 3.37 or newer: this Python has {own}", True)
    elif sqlite3.sqlite_version_info < (3, 51, 3):
        yield Finding("has", f"SQLite {own}: before 3.51.3 two writing connections can corrupt a database, so "
                             f"prefloop allows only one; open feedback.db with other tools only for reading")
    else:
        yield Finding("has", f"SQLite {own}")


def cache() -> Iterator[Finding]:
    home = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    where = Path(home).expanduser()
    there = next(path for path in (where, *where.parents) if path.is_dir())
    free, models = shutil.disk_usage(there).free / GB, len(list(where.glob("models--*")))
    yield Finding("has", f"{models} hub models in {where}, with {free:.0f} GB free (Qwen/Qwen3-8B takes 16.4 GB, "
                         f"Qwen/Qwen2.5-0.5B-Instruct 1 GB)")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        yield Finding("missing", "the hub: HF_HUB_OFFLINE is set, so only models in that folder load")


def port(number: int) -> Iterator[Finding]:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", number))
            yield Finding("has", f"port {number} free for the rating page")
        except OSError:
            yield Finding("missing", f"port {number}: another program has it; `feedback.port=OTHER` takes another")


def programs() -> Iterator[Finding]:
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        yield Finding("missing", "Chromium: without it `make test` skips the page's tests (apt install chromium)")
    if not any(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        yield Finding("missing", "PostgreSQL: without it the tests try stores in files alone (apt install postgresql)")
    if not shutil.which("git"):
        yield Finding("missing", "git: runs will not record the commit they were made with")


def open_files() -> Iterator[Finding]:
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 1024:
        yield Finding("missing", f"open files: {most} are allowed; `ulimit -n 4096` before large imports")


def database(url: str) -> Iterator[Finding]:
    """Whether a PostgreSQL database can hold a store: one that is reached, in UTF-8, with room for its connections."""
    from prefloop.store.opening import place_of
    from prefloop.store.postgres import READERS, PostgresDatabase

    place = place_of(url)
    if not isinstance(place, PostgresDatabase):
        yield Finding("has", f"{place}: {'a store' if place.exists() else 'a place for a store'}, in a file")
        return
    try:
        there = place.exists()
    except RequestError as error:
        yield Finding("missing", str(error), essential=True)  # it was asked for by name
        return
    engine = place.reader()
    try:
        with engine.begin() as db:
            version, encoding, most, sync = (db.exec_driver_sql(f"show {name}").scalar_one() for name in (
                "server_version", "server_encoding", "max_connections", "fsync"))
    finally:
        engine.dispose()
    yield Finding("has", f"{place}: PostgreSQL {version}, {'with tables' if there else 'empty'}")
    if encoding != "UTF8":
        yield Finding("missing", f"{place}: its encoding is {encoding}; a store needs UTF8 (createdb -E UTF8)")
    if sync != "on":
        yield Finding("missing", f"{place}: fsync is {sync}, so an acknowledged answer may be lost with the power")
    if int(most) < 2 * (READERS + 1):
        yield Finding("missing", f"{place}: {most} connections are allowed (max_connections); a server of the page "
                                 f"takes {READERS + 1} at most")


def hub() -> Iterator[Finding]:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=5).close()
        yield Finding("has", "the Hugging Face hub: it answers")
    except OSError as error:
        yield Finding("missing", f"the Hugging Face hub: it does not answer ({error}); name a model folder instead")


def fits(settings: DoctorConfig) -> tuple[footprint.Need, bool]:
    """What the config would take on a GPU, with rows as long as it allows, and whether its base is in 4 bits."""
    path = Path(settings.config)
    stage = settings.stage or plan.stage_of(path, "doctor")
    case = plan.case_of(path, config.read(stage, path, []).sections, stage, settings.base, gpu=True, look=False,
                        asker="doctor")
    return case.need, case.held.four_bit


def judged(fit: tuple[footprint.Need, bool], path: str, free: int) -> str:
    """Whether it fits on the GPU with the most `free` bytes."""
    need, four_bit = fit
    parts = [f"{need.base / GB:.1f} the base in {'NF4' if four_bit else 'bf16'}",
             f"{need.adapters / GB:.1f} adapters and their optimizer" if need.adapters else "",
             f"{need.updating / GB:.1f} while learning" if need.updating else "",
             f"{need.sampling / GB:.1f} while sampling (in turn)" if need.sampling else ""]
    words = (f"{path} takes about {need.total / GB:.1f} GB of GPU memory, by arithmetic: "
             f"{', '.join(filter(None, parts))}, {need.rest / GB:.1f} for the rest")
    if not free:
        return f"{words}. There is no GPU here to hold it."
    verdict = "fits" if need.total < 0.9 * free else "may not fit" if need.total < free else "does not fit"
    return f"{words}. It {verdict} in the {free / GB:.1f} GB that are free."
