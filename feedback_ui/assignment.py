"""Who rates what next, and what they get to see: texts under letters, in an order shuffled for each rater.

The page and the demo's simulated raters call these same functions, so nothing here knows about pages or requests. A
task never says who wrote an answer, what kind of item it is, or how the answers are stored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from string import ascii_uppercase
from typing import Any

from prefloop.records import JOIN, Message, Response, digest
from prefloop.store import Campaign, Judgement, Lease, Receipt, Store

from . import names


@dataclass(frozen=True)
class Task:
    """What a rater sees of an item. `answers` are in the order shown: the first is A, the second B, ...

    `hidden` are names to be masked in every text, `pictures` the digests of pictures by the sources that the
    conversation's Markdown names. `practice` is the number of a qualification round's item, and how many there are.
    """

    token: str
    conversation: tuple[Message, ...]
    answers: tuple[str, ...]
    expires: int = 0
    strength: bool = True
    reason_required: bool = False
    practice: tuple[int, int] | None = None
    hidden: tuple[str, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)

    @property
    def letters(self) -> str:
        return ascii_uppercase[:len(self.answers)]

    def to_json(self) -> dict[str, Any]:
        return {"token": self.token, "conversation": [asdict(m) for m in self.conversation],
                "answers": [{"letter": letter, "text": text}
                            for letter, text in zip(self.letters, self.answers, strict=True)]}


def next_task(store: Store, rater: str, lease_minutes: float = 30, skipped: bool = False,
              among: Collection[str] | None = None, order: Callable[[int, int], Sequence[int]] | None = None,
              campaign: str | None = None, holding: Collection[str] = ()) -> Task | None:
    """A task that the rater holds, or a new one; with `skipped`, also those put aside. None: nothing left to rate.

    `among` names the items to choose from; `order` is for answers that this rater has seen in an order already. Tasks
    whose tokens are in `holding` are on the rater's page already.
    """

    def shuffled(item: int, count: int) -> Sequence[int]:
        return random.Random(digest(str(store.seed), str(item), rater)).sample(range(count), count)

    lease = store.lease(rater, int(lease_minutes * 60), order or shuffled, skipped, among, campaign, holding)
    return None if lease is None else task_of(lease)


def task_of(lease: Lease) -> Task:
    hidden = hidden_of(lease.campaign, lease.responses)
    return Task(lease.token, lease.prompt.messages, tuple(lease.responses[place].text for place in lease.shown),
                lease.expires, lease.campaign.strength, lease.reason_required, lease.practice, hidden, lease.pictures)


def hidden_of(campaign: Campaign, responses: Sequence[Response]) -> tuple[str, ...]:
    """The names to be masked wherever a rater reads this item: those that the campaign hides, and its writers'."""
    writers = [name for response in responses for name in response.policy.split(JOIN)]
    return (*campaign.hide, *names.of_policies([*writers, *(name for name, _ in campaign.contestants)]))


def reopened(store: Store, rater: str, answer: int) -> tuple[Task, Judgement]:
    """One of the rater's last answers, to be revised."""
    lease, said = store.reopen(answer, rater)
    return task_of(lease), said


def submit(store: Store, rater: str, token: str, judgement: Judgement, key: str = "") -> Receipt:
    """Keeps the rater's answer to a task they hold; `judgement.ranks` in the order the answers were shown."""
    return store.submit(token, rater, judgement, key)


def skip(store: Store, rater: str, token: str) -> None:
    store.release(token, rater)
