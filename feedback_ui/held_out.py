"""Held-out prompts and what each checkpoint answered: from `prefloop compare`, or kept as the child samples them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefloop import runs, wire
from prefloop.compare import kept
from prefloop.compare.records import HELD_OUT, Answer
from prefloop.errors import RunError
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


def is_comparison(path: Path) -> bool:
    """Is this an answers.jsonl of `prefloop compare`, by its first row? `prefloop generate` writes `responses`."""
    try:
        with path.open("rb") as file:
            row = json.loads(next((line for line in file if line.strip()), b"0"))
    except (OSError, ValueError, RecursionError):
        return False  # whoever reads it says what is wrong with it
    return isinstance(row, dict) and "answers" in row and "responses" not in row


def read(path: Path) -> HeldOut:
    """The answers of a `prefloop compare`, with the checksums and sampling of the report.json beside them."""
    return of_comparison(kept.read(path))


def of_comparison(found: kept.Compared) -> HeldOut:
    made = HeldOut(tuple(Contestant(one.name, one.key) for one in found.contestants),
                   tuple(one.prompt for one in found.questions), found.facts["sampling"],
                   sets=tuple(one.set for one in found.questions))
    made.written = [{n: _from_answers(answers, {judge.name: judge.scores[who][n] for judge in found.rewards
                                                if judge.scores[who][n]}) for n, answers in enumerate(one.answers)}
                    for who, one in enumerate(found.contestants)]
    return made


def _from_answers(answers: tuple[Answer, ...], rewards: dict[str, tuple[float, ...]]) -> Written:
    return Written(tuple(one.text for one in answers), tuple(one.tokens for one in answers),
                   tuple(one.ended for one in answers), tuple(one.kl for one in answers), rewards)
