"""Which of the questions the models were trained on: their runs' parents are followed to the snapshots of data.

A prompt's split goes by its text, so a question of split test is in no training split word for word; but questions may
be taken from any split and any snapshot, and one that differs by a word or two may stand in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop import checkpoints, runs
from prefloop.compare.records import HELD_OUT, Question
from prefloop.errors import RequestError
from prefloop.formats import near, snapshot
from prefloop.records import Prompt
from prefloop.remote import shortened

if TYPE_CHECKING:
    from prefloop.models import Checkpoint

TRAINED = "train"  # the split that every stage learns from
NEAR_SHARE = 0.1  # of the held-out questions that may be nearly a training prompt each; wordings recur by chance


@dataclass(frozen=True)
class Learned:
    """`model` was trained on the training split of the snapshot at `path`, by itself or by the `run` it began from."""

    model: str
    run: str
    path: Path
    checksum: str


@dataclass(frozen=True)
class Shared:
    """The questions, by number, whose prompt is one that was learned from: `exact`, or `near` with that prompt's text.
    """

    learned: Learned
    exact: tuple[int, ...]
    near: dict[int, str]

    def to_json(self) -> dict[str, Any]:
        return {"run": self.learned.model, "by": self.learned.run, "snapshot": str(self.learned.path),
                "exact": len(self.exact), "near": len(self.near)}


@dataclass(frozen=True)
class Overlap:
    """`unchecked` says, a line each, of what it is not known whether it was learned from."""

    shared: tuple[Shared, ...]
    unchecked: tuple[str, ...]
    held_out: int

    @property
    def exact(self) -> set[int]:
        return {number for one in self.shared for number in one.exact}

    @property
    def near(self) -> set[int]:
        return {number for one in self.shared for number in one.near} - self.exact

    def to_json(self) -> dict[str, Any]:
        return {"exact": len(self.exact), "near": len(self.near), "in": [one.to_json() for one in self.shared],
                "unchecked": list(self.unchecked)}


def overlaps(models: Sequence[Checkpoint], questions: Sequence[Question]) -> Overlap:
    """What `models`, contestants and reward models, have learned of the questions. Variants go by their originals."""
    told = [one for model in models for one in _history(model.path, model.folder or Path(model.path), model.checksum)]
    unchecked = dict.fromkeys(one for one in told if isinstance(one, str))
    known: dict[tuple[Path, str], tuple[Prompt, ...] | str] = {}
    shared = []
    for one in dict.fromkeys(one for one in told if isinstance(one, Learned)):
        place = one.path, one.checksum
        if place not in known:
            known[place] = _prompts(*place)
        prompts = known[place]
        if isinstance(prompts, str):
            unchecked[f"{shortened(one.run)}: {prompts}"] = None
            continue
        found = _shared(one, prompts, questions)
        if found.exact or found.near:
            shared.append(found)
    return Overlap(tuple(shared), tuple(unchecked), sum(one.set == HELD_OUT for one in questions))


def require_none(overlap: Overlap, questions: Sequence[Question]) -> None:
    """RequestError that names the run, the snapshot, how many prompts, and the first of them."""
    if overlap.exact:
        worst = max(overlap.shared, key=lambda one: len(one.exact))
        sets = ", ".join(dict.fromkeys(questions[n].set for n in worst.exact))
        told = f"{len(worst.exact)} of these {len(questions)} prompts (those of the set {sets})"
        first = repr(shortened(_text(questions[worst.exact[0]].prompt)))
    elif len(overlap.near) > NEAR_SHARE * overlap.held_out:
        worst = max(overlap.shared, key=lambda one: len(one.near))
        told = f"prompts nearly like {len(worst.near)} of these {overlap.held_out}"
        number, known = next(iter(worst.near.items()))
        first = f"{shortened(_text(questions[number].prompt))!r}, like {shortened(known)!r}"
    else:
        return
    learned = worst.learned
    through = "" if learned.run == learned.model else f" (through {shortened(learned.run)})"
    raise RequestError(f"{learned.model}: it was trained{through} on {told}: in split {TRAINED} of "
                       f"{learned.path}; the first: {first}; name prompts that it has not seen (data.path, "
                       "compare.split, compare.near, compare.far), or allow it (compare.allow_overlap=true)")


def _shared(learned: Learned, prompts: Sequence[Prompt], questions: Sequence[Question]) -> Shared:
    trained = [one for one in prompts if one.split == TRAINED]
    ids = {one.id for one in trained}
    exact = tuple(n for n, one in enumerate(questions) if one.of is None and one.prompt.id in ids)
    asked = [n for n, one in enumerate(questions) if one.set == HELD_OUT and one.prompt.id not in ids]
    like = near.resembling([_text(questions[n].prompt) for n in asked], [_text(one) for one in trained])
    return Shared(learned, exact, {n: _text(trained[place]) for n, place in zip(asked, like, strict=True)
                                   if place >= 0})


def _text(prompt: Prompt) -> str:
    return "\n".join(message.content for message in prompt.messages)


def _prompts(path: Path, checksum: str) -> tuple[Prompt, ...] | str:
    """The prompts of the very snapshot that was learned from, or why they cannot be had."""
    try:
        prompts, found = snapshot.read_prompts(path)
    except RequestError as error:
        return f"what it was trained on cannot be read: {error}"
    return prompts if found == checksum else f"{path} is another snapshot now than the one it was trained on"


def _history(model: str, place: Path, checksum: str) -> Iterator[Learned | str]:
    """What the model at `place` has learned from, by itself and by its parents; a line for each that is not known."""
    waiting, seen = [(str(model), place, checksum)], set()
    while waiting:
        name, place, checksum = waiting.pop()
        if place.resolve() in seen:
            continue
        seen.add(place.resolve())
        parents = _parents(name, place, checksum)
        if isinstance(parents, str):
            yield parents
            continue
        for path, own in parents:
            if (Path(path) / snapshot.RANKINGS).is_file():
                yield Learned(model, name, Path(path), own)
            elif Path(path).is_dir():
                waiting.append((path, Path(path), own))
            else:
                yield f"{name}: {shortened(path)}, which it was made from, is no folder here"


def _parents(name: str, place: Path, checksum: str) -> list[tuple[str, str]] | str:
    """Path and checksum of what a run was made from, or why that is not known."""
    run = place.parent if re.fullmatch(r"final|checkpoint-\d+", place.name) else place
    if not (run / "run.json").is_file():
        return f"{shortened(name)}: no run of ours, so what it was trained on is not known"
    try:
        record = runs.load(run).record
    except RequestError as error:
        return str(error)
    if checksum not in _checksums(run, place, record):
        return f"{shortened(name)}: another run stands there now, so what this one was trained on is not known"
    told = [one for one in record.get("parents", {}).values() if isinstance(one, dict)]
    return [(one["path"], one["checksum"]) for one in told
            if isinstance(one.get("path"), str) and isinstance(one.get("checksum"), str)]


def _checksums(run: Path, place: Path, record: dict[str, Any]) -> set[Any]:
    """What a run is known by to those that were made from it: its weights, or one of its files (labels)."""
    files = record.get("files")
    manifests = [folder / checkpoints.MANIFEST for folder in (place, run / "final")]
    return {checkpoints.file_sha256(one) for one in manifests if one.is_file()} | set(
        files.values() if isinstance(files, dict) else ())
