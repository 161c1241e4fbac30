"""Held-out prompts and what each checkpoint answered: from `prefloop compare`, or kept as the child samples them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefloop import checkpoints, runs, wire
from prefloop.compare.records import HELD_OUT
from prefloop.errors import RequestError, RunError
from prefloop.records import JOIN, Answers, Prompt, Response, digest


@dataclass(frozen=True)
class Contestant:
    """A checkpoint as votes know it. `key` tells it from others: its checksum where one is known."""

    name: str
    checksum: str = ""

    @property
    def key(self) -> str:
        return self.checksum or self.name


@dataclass(frozen=True)
class Written:
    """What one checkpoint answered to one prompt: usually one text. All else has a value for each text, or none where
    it is not known: `tokens`, `ended` (false where a text was cut), `kl` in nats, and `rewards` by who gave them.
    """

    texts: tuple[str, ...]
    tokens: tuple[int, ...] = ()
    ended: tuple[bool, ...] = ()
    kl: tuple[float | None, ...] = ()
    rewards: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def reward(self, judge: str) -> float | None:
        own = self.rewards.get(judge)
        return sum(own) / len(own) if own else None

    @property
    def length(self) -> float:
        """Tokens of a text, characters where tokens are not known; the mean where there are several."""
        return sum(self.tokens or map(len, self.texts)) / len(self.texts)

    @property
    def cut(self) -> bool:
        return not all(self.ended)

    @property
    def empty(self) -> bool:
        return not all(text.strip() for text in self.texts)


def rankable(prompt: Prompt, contestants: tuple[Contestant, ...], texts: tuple[str, ...],
             sampling: dict[str, float], seed: int) -> Answers | None:
    """The distinct answers as an item to vote on; None if there are not two. A text that several wrote names them."""
    writers: dict[str, list[Contestant]] = {}
    for one, text in zip(contestants, texts, strict=True):
        if text.strip():
            writers.setdefault(text, []).append(one)
    if len(writers) < 2:
        return None
    return Answers(prompt, tuple(
        Response(text, JOIN.join(one.name for one in own), JOIN.join(one.checksum for one in own if one.checksum),
                 sampling, seed) for text, own in writers.items()))


class HeldOut:
    """All prompts, and of each checkpoint the answers so far. `sets` says of each prompt which set it is of."""

    def __init__(self, contestants: tuple[Contestant, ...], prompts: tuple[Prompt, ...],
                 sampling: dict[str, Any] | None = None, folder: Path | None = None,
                 sets: tuple[str, ...] = ()) -> None:
        self.contestants, self.prompts = contestants, prompts
        self.sets = sets or (HELD_OUT,) * len(prompts)
        self.written: list[dict[int, Written]] = [{} for _ in contestants]
        self.over_length = 0
        known = sampling or {}
        self._seed = int(known.get("seed", 0))
        self._sampling = {name: float(known[name]) for name in ("temperature", "max_new_tokens") if name in known}
        self._paths = [] if folder is None else [
            folder / f"answers-{digest(one.key, json.dumps(known, sort_keys=True), *(p.id for p in prompts))}.jsonl"
            for one in contestants]
        for own, path in zip(self.written, self._paths, strict=False):
            own.update(_kept(path, len(prompts)))

    @property
    def done(self) -> int:
        return sum(map(len, self.written))

    @property
    def wanted(self) -> int:
        return len(self.prompts) * len(self.contestants)

    def owed(self) -> list[wire.HeldOut]:
        """What the checkpoints that have not answered everything are still to be asked."""
        return [wire.HeldOut(number, tuple(own)) for number, own in enumerate(self.written)
                if len(own) < len(self.prompts)]

    def add(self, answered: wire.Answered) -> None:
        """Keeps a batch: on disk first, in one write."""
        lines = "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in answered.answers)
        try:
            with self._paths[answered.run].open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(lines)
        except OSError as error:
            raise RunError(f"{self._paths[answered.run]}: cannot keep answers: {error.strerror}") from None
        self.written[answered.run].update((one.prompt, _from_wire(one)) for one in answered.answers)

    def row(self, number: int) -> list[Written | None]:
        """What each checkpoint answered to this prompt; None is still to come."""
        return [own.get(number) for own in self.written]

    def item(self, number: int) -> Answers | None:
        """The first answers of all to a held-out prompt, if all have answered and not all the same."""
        row = self.row(number)
        if self.sets[number] != HELD_OUT:
            return None
        texts = tuple(one.texts[0] for one in row if one is not None)
        if len(texts) < len(row):
            return None
        return rankable(self.prompts[number], self.contestants, texts, self._sampling, self._seed)


def _from_wire(one: wire.Written) -> Written:
    return Written((one.text,), (one.tokens,), (one.ended,))


def _kept(path: Path, prompts: int) -> Iterator[tuple[int, Written]]:
    """What was sampled before. A line that a kill cut off goes, also from the file: the next is added behind it."""
    rows = [wire.Written(**row) for row in runs.read_lines(path)]
    if path.is_file():
        draft = path.with_name(path.name + ".tmp")
        draft.write_text("".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        draft.replace(path)
    return ((row.prompt, _from_wire(row)) for row in rows if row.prompt < prompts)


def answers_of(place: str) -> Path:
    """A run folder stands for the answers.jsonl in it."""
    path = Path(place)
    return path / "answers.jsonl" if path.is_dir() else path


def is_comparison(path: Path) -> bool:
    """Is this an answers.jsonl of `prefloop compare`, by its first row? `prefloop generate` writes `responses`."""
    try:
        with path.open("rb") as file:
            row = json.loads(next((line for line in file if line.strip()), b"0"))
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads it says what is wrong with it
    return isinstance(row, dict) and "answers" in row and "responses" not in row


def read(path: Path) -> HeldOut:
    """The answers.jsonl of a `prefloop compare`, with the checksums and sampling of the report.json beside it."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RequestError(f"{path}: cannot read these answers: {error.strerror}") from None
    rows: list[tuple[Prompt, str, dict[str, Written]]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
            if row is not None:
                rows.append((Prompt.from_json(row["prompt"]), str(row.get("set", HELD_OUT)), _answers(row)))
        except RequestError as error:
            raise RequestError(f"{path}:{number}: {error}") from None
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise RequestError(f"{path}:{number}: not a row that `prefloop compare` wrote: "
                               f"{type(error).__name__}: {error}") from None
    if not rows:
        raise RequestError(f"{path}: there are no answers in this file")
    names = tuple(rows[0][2])
    odd = next((n for n, (*_, own) in enumerate(rows, start=1) if tuple(own) != names), None)
    if odd or len(names) < 2:
        raise RequestError(f"{path}:{odd or 1}: expected answers of the same two or more runs in every row")
    report = _report(path.with_name("report.json"))
    sums = {name: str(own.get("checksum", "")) for name, own in report.get("runs", {}).items()}
    made = HeldOut(tuple(Contestant(name, sums.get(name, "")) for name in names), tuple(prompt for prompt, *_ in rows),
                   report.get("sampling", {}), sets=tuple(of for _, of, _ in rows))
    made.written = [dict(enumerate(own[name] for *_, own in rows)) for name in names]
    return made


def _answers(row: dict[str, Any]) -> dict[str, Written]:
    found = {}
    for name, texts in row["answers"].items():
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"the answers of {name!r} are not a list of texts")
        tokens, ended, kl = (tuple(row.get(fact, {}).get(name, ())) for fact in ("tokens", "ended", "kl"))
        rewards = {judge: tuple(map(float, given)) for judge, own in row.get("rewards", {}).items()
                   if (given := own.get(name))}
        found[name] = Written(tuple(texts), tuple(map(int, tokens)), tuple(map(bool, ended)),
                              tuple(None if one is None else float(one) for one in kl), rewards)
        if any(given and len(given) != len(texts) for given in (tokens, ended, kl, *rewards.values())):
            raise ValueError(f"{name!r} has {len(texts)} answers, and not one figure for each")
        if not all(math.isfinite(one or 0) for given in (found[name].kl, *rewards.values()) for one in given):
            raise ValueError(f"a figure of {name!r} is not finite")
    return found


def _report(path: Path) -> dict[str, Any]:
    found = checkpoints.read_json(path) if path.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(found.get(part, {}), dict) for part in ("runs", "sampling")):
        raise RequestError(f"{path}: not a report that `prefloop compare` wrote")
    return found
