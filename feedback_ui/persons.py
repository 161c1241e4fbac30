"""`prefloop feedback rater CONFIG`: everything about one person in a file, or out of the store."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from prefloop import config, descent
from prefloop.errors import RequestError
from prefloop.runs import Run
from prefloop.store import Store, exports, forgetting
from prefloop.store.exports import Export

from . import control, server
from .flagging import plain
from .server import FeedbackConfig


@dataclass(frozen=True)
class RaterConfig:
    """`rater:`. Deleting needs the name twice, once as `confirm`: there is no way back."""

    name: str
    action: Literal["export", "delete"] = "export"
    out: str | None = None
    runs: str = "runs"
    confirm: str | None = None

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("rater.name: it is empty")
        if self.action == "export" and not self.out:
            raise ValueError("rater.out: name a new file, such as ann.json")


@dataclass(frozen=True)
class Trace:
    """Where a person's answers went: exports, and the runs that learned from these."""

    name: str
    exports: tuple[Export, ...]
    runs: tuple[Run, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "snapshots": [asdict(one) for one in self.exports],
                "runs": [{"path": str(run.path), "stage": run.record["stage"], "status": run.record["status"]}
                         for run in self.runs]}


def sections() -> config.Sections:
    return {**server.sections(), "rater": config.Section(RaterConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    wanted: RaterConfig
    settings, _, wanted = config.build(asked, sections())
    with Store(settings.store, read_only=True) as store:
        if wanted.action == "export":
            return save(forgetting.told(store, wanted.name), Path(str(wanted.out)))
        trace = traced(store, wanted.name, Path(wanted.runs))
    for line in lines(trace):
        print(line)
    if wanted.confirm != wanted.name:
        raise RequestError(f"rater.confirm: nothing was deleted; what is in these files and models stays there. To "
                           f"delete {plain(trace.name)} from the store, add rater.confirm={wanted.name}")
    done = control.perform(settings.store, "forget", name=wanted.name)
    print(f"{plain(trace.name)} is deleted: {done['answers']} answers; {done['items']} items are open again. Backups "
          f"and what is named above still have them. {done['left']}".rstrip())
    return None


def traced(store: Store, name: str, root: Path) -> Trace:
    with store.reading() as db:
        known = forgetting.name_in(db, name)
        went = exports.with_answers_of(db, known)
    learned = descent.descendants(root, {one.checksum for one in went}) if went else []
    return Trace(known, tuple(went), tuple(learned))


def lines(trace: Trace) -> Iterator[str]:
    name = plain(trace.name)
    yield f"Answers of {name} went into {len(trace.exports)} exports and {len(trace.runs)} runs."
    for one in trace.exports:
        day = time.strftime("%Y-%m-%d", time.gmtime(one.at))
        yield f"{one.kind}\t{day}\t{plain(one.place)}\t{one.answers} answers\tchecksum {one.checksum[:12]}"
    for run in trace.runs:
        yield f"run\t{run.path}\t{plain(str(run.record['stage']))}\t{plain(str(run.record['status']))}"


def save(told: dict[str, Any], out: Path) -> None:
    """One file that only its owner may read."""
    try:
        with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(told, file, ensure_ascii=False, indent=1)
            file.write("\n")
    except OSError as error:
        raise RequestError(f"rater.out: {out}: {error.strerror}; name a new file") from None
    print(f"{out}: {len(told['answers'])} answers, {len(told['events'])} events and all else that is kept of "
          f"{plain(told['name'])}")
