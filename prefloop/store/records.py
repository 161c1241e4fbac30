"""What the store hands out and takes in."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from prefloop.errors import RequestError
from prefloop.records import Prompt, Response

FLAGS = ("unsafe", "personal", "broken", "other")


def folded(name: str) -> str:
    """A rater's name without what keyboards and habits make of it."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


class NotLeased(RequestError):
    """An answer without a lease, or under somebody else's."""


class AlreadyAnswered(RequestError):
    """A second, different answer under one lease."""


@dataclass(frozen=True)
class Campaign:
    """What holds while a campaign's items are rated. The shares are of the items that a rater gets.

    `ask` is the rule by which their next item is chosen (drawing.py), and `quotas` the shares of strata in it. With
    `show_model` raters are told a reward model's order once they have given theirs. How many raters an item needs, and
    of how many answers it has, was decided when it was queued; the settings are kept for the next items.

    `contestants` are the names and checksums of the checkpoints that it compares, the baseline first. Raters learn
    them where `reveal` says so, and never before every item has all its answers.
    """

    name: str = "default"
    title: str = ""
    gold_share: float = 0.0
    probation: float = 0.0
    repeats: float = 0.0
    reason_share: float = 0.0
    strength: bool = True
    qualification_pass: float = 0.8
    warning: str = ""
    raters: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    break_minutes: float = 50
    reveal: bool = True
    ask: str = "queued"
    quotas: Mapping[str, float] = field(default_factory=dict)
    random_share: float = 0.25
    show_model: bool = False
    answers_per_item: int | None = None
    raters_per_item: int = 1
    overlap: float = 0.0
    overlap_raters: int = 1
    contestants: tuple[tuple[str, str], ...] = ()

    def admits(self, rater: str) -> bool:
        return not self.raters or folded(rater) in map(folded, self.raters)


@dataclass(frozen=True)
class Applied:
    """What came of applying a campaign: items that are new; of these, those whose prompt was queued before with other
    answers; and gold or qualification items that are given out no more.
    """

    new: int
    reshaped: int
    retired: int


@dataclass(frozen=True)
class Flagged:
    """What a rater reported of an item; `prompt` is its last message."""

    at: int
    campaign: str
    rater: str
    kind: str
    note: str
    prompt: str


@dataclass(frozen=True)
class Lease:
    """One rater's turn at one item. `shown` lists indices into `responses` in the order this rater sees them.

    `practice` is the number of a qualification item and how many there are. `pictures` has, by the source
    that the prompt's Markdown names, the digest of a picture in the store.
    """

    token: str
    rater: str
    prompt: Prompt
    responses: tuple[Response, ...]
    shown: tuple[int, ...]
    expires: int
    campaign: Campaign = field(default_factory=Campaign)
    reason_required: bool = False
    practice: tuple[int, int] | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """What a rater says of one item; `ranks` in the order the answers were shown."""

    ranks: tuple[int | None, ...]
    strength: str | None = None
    none_acceptable: bool = False
    reason: str = ""
    edited: str = ""
    seconds: float | None = None
    guideline: str = ""


@dataclass(frozen=True)
class Receipt:
    """An answer is on disk. `surplus`: the item had all the raters it needs. `model`: what a reward model's ranks are,
    in the order shown, where the rater is told.
    """

    answer: int
    surplus: bool
    campaign: str = "default"
    model: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Past:
    """An answer in a rater's history. `ranks` are in the order in which `responses` were shown, and so are those of a
    `model`, where the rater was told them.
    """

    answer: int
    at: int
    prompt: Prompt
    responses: tuple[Response, ...]
    campaign: Campaign
    ranks: tuple[int | None, ...]
    none_acceptable: bool
    editable: bool
    model: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Progress:
    """`wanted` answers over all normal items, of which `done` are in; `mine` and `skipped` are one rater's own."""

    items: int
    wanted: int
    done: int
    surplus: int
    mine: int
    skipped: int


@dataclass(frozen=True)
class Guideline:
    """The guideline in force. `changed`: the rater acknowledged an earlier one."""

    version: str
    number: int
    text: str
    acknowledged: bool
    changed: bool


@dataclass(frozen=True)
class Qualification:
    """How far a rater is in the round before real work; `state` is none, open, passed or failed."""

    needed: int
    done: int
    right: int
    state: str


@dataclass(frozen=True)
class Lesson:
    """What is told after an answer of the qualification round; `ranks` are the right ones, in the order shown."""

    right: bool
    ranks: tuple[int | None, ...]
    explanation: str
