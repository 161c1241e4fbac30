"""A run folder: what was asked, where it came from, how it goes, and how it ended. See DESIGN: 'a run on disk'."""

from __future__ import annotations

import json
import math
import platform
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from os import SEEK_END
from pathlib import Path
from typing import Any

from prefloop import checkpoints, config, holding, ranks
from prefloop.errors import RequestError, RunError, disk_is_full
from prefloop.stopping import Stop, listening

ASKED = "run.yaml"
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "accelerate")


@dataclass(frozen=True)
class RunConfig:
    """`run:` names the folder. Without a name it is numbered: runs/dpo-0007."""

    root: str = "runs"
    name: str | None = None


@dataclass
class Run:
    path: Path
    record: dict[str, Any]
    resumed_from: Path | None = None
    stop: Stop = field(default_factory=Stop)
    _started: float = field(default_factory=time.monotonic)

    @property
    def final(self) -> Path:
        return self.path / "final"

    def log(self, metrics: dict[str, Any]) -> None:
        """One line of metrics.jsonl. A number that is not finite ends the run."""
        _require_finite(self, metrics)
        append(self.path / "metrics.jsonl", metrics)

    def rewind(self, step: int, known: Callable[[dict[str, Any]], bool] = lambda row: True) -> None:
        """Forget metrics past `step`, and rows that are not `known` any more: a resumed run makes those again."""
        path = self.path / "metrics.jsonl"
        kept = [row for row in read_lines(path) if row.get("step", 0) <= step and known(row)]
        with checkpoints.replacing(path) as file:
            file.writelines(map(line, kept))

    def last_good(self, before: int | None = None) -> str:
        """Where to go back to; with `before`, where that step's own checkpoint is as bad as what is in memory."""
        good = checkpoints.newest(self.path, before=before)
        return f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"

    def check(self, name: str, passed: bool, detail: str) -> None:
        """A self-check: printed, recorded, and if it failed the run fails."""
        print(f"check: {name}: {detail}: {'ok' if passed else 'FAILED'}", flush=True)
        self.record.setdefault("checks", {})[name] = {"passed": passed, "detail": detail}
        self.write()
        if not passed:
            raise RunError(f"self-check failed: {name}: {detail}; {self.last_good()}")

    def note(self, **facts: Any) -> None:
        self.record.update(facts)
        self.write()

    def resolved(self, **sections: Any) -> None:
        """resolved.json: every field of every section after defaults."""
        told = {name: {f.name: getattr(one, f.name) for f in fields(one) if f.init} for name, one in sections.items()}
        with checkpoints.replacing(self.path / "resolved.json") as file:
            file.write(json.dumps(told, indent=1, default=str) + "\n")

    def write(self) -> None:
        checkpoints.write_json(self.path / "run.json", self.record)

    def end(self, status: str, reason: str = "") -> None:
        self.record.update(status=status, reason=reason, ended=now(),
                           seconds=round(self.record.get("seconds", 0) + time.monotonic() - self._started, 1))
        if status == "done":
            with suppress(OSError):  # the card repeats what run.json says
                (self.path / "README.md").write_text(card(self), encoding="utf-8")
        self.write()


def _require_finite(run: Run, metrics: dict[str, Any]) -> None:
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RunError(f"{name} is {value} at step {metrics.get('step', '?')}; {run.last_good()}")


class Follower(Run):
    """The run as the other processes of its group see it: they know what the first does, and write nothing."""

    def log(self, metrics: dict[str, Any]) -> None:
        _require_finite(self, metrics)

    def rewind(self, step: int, known: Callable[[dict[str, Any]], bool] = lambda row: True) -> None:
        pass

    def resolved(self, **sections: Any) -> None:
        pass

    def write(self) -> None:
        pass


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def append(path: Path, *rows: dict[str, Any]) -> None:
    """More rows of a JSONL file, in one write. A last line cut off by a kill stays a line of its own."""
    with checkpoints.naming(path), path.open("a+b") as file:
        torn = file.seek(0, SEEK_END) and (file.seek(-1, SEEK_END), file.read(1))[1] != b"\n"
        file.write((b"\n" if torn else b"") + "".join(map(line, rows)).encode())


def line(row: dict[str, Any]) -> str:
    """One row of a JSONL file."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file that we wrote; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def commit() -> str:
    """The commit that the code stands at, when it stands in a checkout."""
    here = Path(__file__).resolve().parent.parent
    try:
        asked = subprocess.run(["git", "-C", str(here), "describe", "--always", "--dirty"],
                               capture_output=True, text=True, timeout=10)
    except OSError:
        return ""
    return asked.stdout.strip()


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _folder(stage: str, where: RunConfig) -> Path:
    """Make the run's folder; a name that is taken is refused, a number is taken by making its folder."""
    root = Path(where.root)
    if where.name is not None:
        if not where.name or where.name != Path(where.name).name or where.name.startswith("."):
            raise RequestError(f"run.name: {where.name!r} is not a plain folder name")
        path = _root(root) / where.name
        try:
            path.mkdir()
        except FileExistsError:
            if not never_began(path):
                raise RequestError(f"{path}: this run exists; `prefloop resume {path}` continues it, "
                                   f"and run.name=OTHER starts another") from None
        return path
    _root(root)
    taken = [int(p.name[len(stage) + 1:]) for p in root.glob(f"{stage}-*") if p.name[len(stage) + 1:].isdigit()]
    number = max(taken, default=0)
    while True:
        number += 1
        path = root / f"{stage}-{number:04d}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def _root(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"run.root: {folder}: no folder for runs can be made here: {error.strerror}") from None
    return folder


def never_began(path: Path) -> bool:
    """Whether `path` is only what a run leaves that was killed before its run.json."""
    return path.is_dir() and {p.name for p in path.iterdir()} <= {
        holding.LOCK, ASKED, f"{ASKED}.tmp", "run.json.tmp"}


def load(path: Path) -> Run:
    if not (path / "run.json").is_file():
        if (path / ASKED).is_file() and never_began(path):
            raise RequestError(f"{path}: this run was stopped before it began, so there is nothing to continue; "
                               f"give the command that started it once more")
        raise RequestError(f"{path}: not a run (it has no run.json); `prefloop runs` lists them")
    record = checkpoints.read_json(path / "run.json")
    known = {"stage": str, "status": str, "parents": dict, "metrics": dict, "checks": dict}
    if not isinstance(record, dict) or "stage" not in record or "status" not in record or not all(
            isinstance(record[name], kind) for name, kind in known.items() if name in record):
        raise RequestError(f"{path / 'run.json'}: its stage, status, parents, metrics or checks are no run's")
    return Run(path, record)


def finished(path: Path) -> Run:
    """The run at `path`, which must be done."""
    run = load(path)
    if run.record["status"] != "done":
        raise RequestError(f"{path}: this run is {status_of(run)}, not done; {going_on(run)}")
    return run


def status_of(run: Run) -> str:
    """A run that says `running` and that no process holds was killed: it is `interrupted`."""
    status = str(run.record["status"])
    return "interrupted" if status == "running" and not holding.is_held(run.path) else status


def going_on(run: Run) -> str:
    """How to go on with a run that has stopped."""
    if run.record.get("resumable", True):
        return f"`prefloop resume {run.path}` continues it"
    return f"`prefloop {run.record['stage']} {run.path / ASKED} run.name=OTHER` does it again"


@contextmanager
def start(asked: config.Asked, where: RunConfig, resume: Path | None = None, resumable: bool = True,
          **parents: Any) -> Iterator[Run]:
    """The run of one stage: `done` is written last, and every other ending says why.

    `parents` are recorded as lineage: paths with checksums of what this run learns from.
    """
    if not ranks.first():
        with _followed() as run:
            yield run
        return
    path = resume or _folder(asked.stage, where)
    with holding.held(path), listening() as stop:
        run = _resumed(path, parents) if resume else _new(path, asked, resumable)
        run.stop = stop
        try:
            if resume is None:
                with checkpoints.replacing(path / ASKED) as file:
                    file.write(config.dump(asked))
            run.note(status="running", reason="", parents=parents, processes=ranks.world())
            ranks.tell("run", [str(path), run.record, str(run.resumed_from) if run.resumed_from else None])
            yield run
            ranks.meet("end")
            stop.end()
            run.end("done")
        except KeyboardInterrupt:
            stop.end()
            run.end("interrupted", stop.reason or "stopped from the keyboard")
            raise _stopped(run) from None
        except BaseException as error:
            stop.end()
            _failed(run, error, new=resume is None)
            if disk_is_full(error):
                raise RunError(f"{path}: the disk is full; {run.last_good()}; make room, and then {going_on(run)} "
                               f"({error})") from error
            raise


@contextmanager
def _followed() -> Iterator[Run]:
    """The run that the first process has begun, for the others of its group."""
    path, record, resumed_from = ranks.told("run")
    with listening() as stop:
        run = Follower(Path(path), record, Path(resumed_from) if resumed_from else None, stop)
        try:
            yield run
        except KeyboardInterrupt:
            stop.end()
            raise _stopped(run) from None
    ranks.meet("end")


def _stopped(run: Run) -> RunError:
    kept = f"; {run.last_good()}" if run.record.get("resumable", True) else ""
    return RunError(f"{run.path}: interrupted; {going_on(run)}{kept}")


def _new(path: Path, asked: config.Asked, resumable: bool) -> Run:
    if (path / "run.json").exists():
        raise RequestError(f"{path}: this run exists; another process has just begun it")
    return Run(path, {"stage": asked.stage, "started": now(), "versions": versions(), "commit": commit(),
                      **({} if resumable else {"resumable": False})})


def _resumed(path: Path, parents: dict[str, Any]) -> Run:
    """The run, and the newest of its checkpoints that verifies; what is passed over is said."""
    run = load(path)
    if run.record["status"] == "done":
        raise RequestError(f"{path}: it is done already")
    if run.record.get("parents", parents) != parents:
        raise RequestError(f"{path}: what it learns from has changed since it began: "
                           f"{_changed(run.record['parents'], parents)}")
    if run.record.get("processes", 1) != ranks.world():
        raise RequestError(f"{path}: {run.record.get('processes', 1)} processes began it, and {ranks.world()} "
                           f"would change its global batch; continue it with as many")
    for folder in checkpoints.clear_unfinished(path):
        print(f"passed over {folder}: it was never finished; removed")
    run.resumed_from = checkpoints.newest(path, lambda error: print(f"passed over {error}"))
    print(f"going on from {run.resumed_from}" if run.resumed_from else
          f"{path}: no checkpoint to go on from, so it starts again from step 0", flush=True)
    return run


def _failed(run: Run, error: BaseException, new: bool) -> None:
    """Say why in run.json; half a save is removed. Of a wrong request that began nothing, no folder stays."""
    checkpoints.clear_unfinished(run.path)
    begun = {path.name for path in run.path.iterdir()} - {ASKED, "run.json", "resolved.json", holding.LOCK}
    if new and not begun and (isinstance(error, RequestError) or not (run.path / "run.json").is_file()):
        shutil.rmtree(run.path)
        return
    if isinstance(error, Exception) and not isinstance(error, RequestError | RunError):
        with suppress(OSError):
            (run.path / "traceback.txt").write_text("".join(traceback.format_exception(error)), encoding="utf-8")
            error.add_note(f"{run.path}: {type(error).__name__}: {' '.join(str(error).split())[:300]}; "
                           f"{run.last_good()}; where it happened is in {run.path / 'traceback.txt'}")
    with suppress(RunError):  # on a full disk even this may not fit; the run then counts as interrupted
        run.end("failed", " ".join(f"{type(error).__name__}: {error}".split()))


def card(run: Run) -> str:
    """What a person reads first: what this is, from what, how good, how to use it."""
    record = run.record
    lines = [f"# {run.path.name}", "", f"A `{record['stage']}` run of prefloop, {record['status']} "
             f"{record.get('ended', '')} after {record.get('seconds', 0)} seconds.", ""]
    lines += [record["summary"], ""] if "summary" in record else []
    lines += ["## From", ""]
    for name, parent in record.get("parents", {}).items():
        lines.append(f"- {name}: `{parent.get('path')}` (checksum {str(parent.get('checksum'))[:12]})")
    lines += ["", "## Figures", ""]
    lines += [f"- {name}: {value}" for name, value in record.get("metrics", {}).items()]
    lines += ["", "## Warnings", "", *(f"- {one}" for one in record["warnings"])] if record.get("warnings") else []
    lines += ["", "## Self-checks", ""]
    lines += [f"- {name}: {check['detail']}" for name, check in record.get("checks", {}).items()]
    lines += ["", "## Use", "", f"    prefloop {record['stage']} {run.path}/run.yaml run.name=ANOTHER   # do it again",
              f"    prefloop generate CONFIG model.path={run.path}" if run.final.is_dir() else ""]
    return "\n".join(lines) + "\n"


def _changed(before: dict[str, Any], after: dict[str, Any]) -> str:
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return ", ".join(f"{name} was {before.get(name)} and is {after.get(name)}" for name in names)


def headline(run: Run) -> str:
    metrics = run.record.get("metrics", {})
    shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
             for name, value in list(metrics.items())[:3]]
    return ", ".join(shown)


def sections() -> config.Sections:
    return {"run": config.Section(RunConfig)}


def main(asked: config.Asked) -> None:
    """`prefloop runs [run.root=runs] [run.name=NAME]`: the list, or one run followed until it ends."""
    (where,) = config.build(asked, sections())
    if where.name is not None:
        return follow(Path(where.root) / where.name)
    found = {record.parent for record in Path(where.root).rglob("run.json")}
    if not found:
        print(f"no runs in {where.root}")
    for path in sorted(path for path in found if found.isdisjoint(path.parents)):  # no models that a run sets aside
        try:
            run = load(path)
        except RequestError as error:
            print(error)
            continue
        parents = [str(fact["path"]) for fact in run.record.get("parents", {}).values()
                   if isinstance(fact, dict) and fact.get("path")]
        line = f"{run.path!s:32} {run.record['stage']:9} {status_of(run):12} {headline(run)}"
        print(line + (f"  <- {', '.join(parents)}" if parents else ""))
    return None


def follow(path: Path) -> None:
    """Print the metrics of a run as they come, until it is no longer running."""
    shown = 0
    while True:
        run = load(path)
        status = status_of(run)
        rows = read_lines(path / "metrics.jsonl")
        for row in rows[shown:]:
            print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()))
        shown = len(rows)
        if status != "running":
            print(f"{path}: {status} {run.record.get('reason', '')}")
            return
        sys.stdout.flush()
        time.sleep(1)
