"""Who rates what next, and what they get to see: texts under letters, in an order shuffled for each rater.

The page and the demo's simulated raters call these same functions, so nothing here knows about pages or requests. A
task never says who wrote an answer, what kind of item it is, or how the answers are stored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from string import ascii_uppercase
from typing import Any

from prefloop.records import Message, digest
from prefloop.store import Judgement, Receipt, Store


@dataclass(frozen=True)
class Task:
    """What a rater sees of an item. `answers` are in the order shown: the first is A, the second B, ..."""

    token: str
    conversation: tuple[Message, ...]
    answers: tuple[str, ...]

    @property
    def letters(self) -> str:
        return ascii_uppercase[:len(self.answers)]

    def to_json(self) -> dict[str, Any]:
        return {"token": self.token, "conversation": [asdict(m) for m in self.conversation],
                "answers": [{"letter": letter, "text": text}
                            for letter, text in zip(self.letters, self.answers, strict=True)]}


def next_task(store: Store, rater: str, lease_minutes: float = 30, skipped: bool = False,
              among: Collection[str] | None = None, order: Callable[[int, int], Sequence[int]] | None = None,
              ) -> Task | None:
    """The rater's open task again, or a new one; with `skipped`, also those put aside. None: nothing left to rate.

    `among` names the items to choose from; `order` is for answers that this rater has seen in an order already.
    """

    def shuffled(item: int, count: int) -> Sequence[int]:
        return random.Random(digest(str(store.seed), str(item), rater)).sample(range(count), count)

    lease = store.lease(rater, int(lease_minutes * 60), order or shuffled, skipped, among)
    if lease is None:
        return None
    return Task(lease.token, lease.prompt.messages, tuple(lease.responses[place].text for place in lease.shown))


def submit(store: Store, rater: str, token: str, judgement: Judgement) -> Receipt:
    """Keeps the rater's answer to a task they hold; `judgement.ranks` in the order the answers were shown."""
    return store.submit(token, rater, judgement)


def skip(store: Store, rater: str, token: str) -> None:
    store.release(token, rater)
