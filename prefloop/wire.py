"""What a page and the process that answers for it say to each other: one JSON object a line, over pipes.

The page's side sends Setup first, then Ask, Stop and HeldOut in any order; prefloop.serving replies with the rest.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Setup:
    """Which runs to hold, and how. `data` is the snapshot of the held-out prompts; without one there are none.

    `sampling` are the fields of SamplingConfig.
    """

    runs: tuple[str, ...]
    data: str
    split: str
    limit: int | None
    sampling: dict[str, Any]
    four_bit: bool
    dtype: str


@dataclass(frozen=True)
class Ask:
    """One prompt for the runs with these numbers. Replies name a run by its place in `runs`, and by nothing else."""

    ask: str
    messages: tuple[dict[str, str], ...]
    runs: tuple[int, ...]
    temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Stop:
    ask: str


@dataclass(frozen=True)
class HeldOut:
    """Let run number `run` answer the held-out prompts, less those whose numbers are in `done`."""

    run: int
    done: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """What Setup named: the runs' checksums, the prompts that fit all of them, and how many did not."""

    checksums: tuple[str, ...]
    prompts: tuple[dict[str, Any], ...]
    over_length: int


@dataclass(frozen=True)
class Ready:
    """Every base and adapter is loaded."""


@dataclass(frozen=True)
class Piece:
    """More of an answer; `whole` says that `text` replaces what came before."""

    ask: str
    place: int
    text: str
    whole: bool = False


@dataclass(frozen=True)
class Ended:
    """An answer as it will stay. `ended` is false if it was cut at its longest."""

    ask: str
    place: int
    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class Declined:
    """A prompt that cannot be answered; with an empty `ask`, the held-out prompts."""

    ask: str
    why: str


@dataclass(frozen=True)
class Written:
    """A run's answer to held-out prompt number `prompt`."""

    prompt: int
    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class Answered:
    run: int
    answers: tuple[Written, ...]


@dataclass(frozen=True)
class Failed:
    """The last words of a process that cannot go on; `request`: because of what was asked."""

    why: str
    request: bool


Request = Setup | Ask | Stop | HeldOut
Reply = Found | Ready | Piece | Ended | Declined | Answered | Failed
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (
    Setup, Ask, Stop, HeldOut, Found, Ready, Piece, Ended, Declined, Answered, Failed)}


def encode(record: Request | Reply) -> bytes:
    return json.dumps({"kind": type(record).__name__, **asdict(record)}).encode() + b"\n"


def decode(line: bytes) -> Any:
    values = json.loads(line)
    kind = values.pop("kind")
    if kind == "Answered":
        values["answers"] = [Written(**one) for one in values["answers"]]
    return KINDS[kind](**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
