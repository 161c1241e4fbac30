"""Blind votes: which prompts are asked, that nobody votes on what they have seen named, and when names are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop import runs
from prefloop.errors import RequestError
from prefloop.records import Answers, Ranking, digest
from prefloop.store import Judgement, Progress, Receipt, Store, item_name

from . import assignment
from .held_out import HeldOut
from .tally import tally
from .trying import SOURCE, Tries, Try


@dataclass(frozen=True)
class Told:
    """What comes back for a vote: after one on a typed prompt, also who wrote A, B, ..."""

    receipt: Receipt
    writers: tuple[str, ...] = ()


class Voting:
    """`looked` is the file that remembers whose answers were seen under their names before a vote."""

    def __init__(self, store: Store, rater: str, held_out: HeldOut, tries: Tries, looked: Path, step: int) -> None:
        self._store, self._rater, self._held_out, self._tries, self._step = store, rater, held_out, tries, step
        self._keys = [digest(one.id, *(each.key for each in held_out.contestants)) for one in held_out.prompts]
        self._looked_path = looked
        self._looked = {row["prompt"] for row in runs.read_lines(looked)}
        self._items: dict[int, str] = {}  # the names of the held-out items, by prompt
        self._new: list[Answers] = []  # those of them that are not queued yet
        self._decided: set[int] = set()  # prompts that all have answered
        self._voted = {name_of(ranking) for ranking in store.rankings()}
        self._typed: dict[str, tuple[str, ...]] = {}  # who wrote A, B, ... of the typed prompts being voted on

    # -- held-out prompts --------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Which prompts all have answered since, and what of that can be voted on."""
        for number in range(len(self._held_out.prompts)):
            if number in self._decided or None in self._held_out.row(number):
                continue
            self._decided.add(number)
            item = self._held_out.item(number)
            if item is not None:
                self._new.append(item)
                self._items[number] = item_name(item)

    def queue(self) -> list[str]:
        """Queues what has been answered since; the names of the items that may be voted on, or were."""
        self._decide()
        if self._new:
            self._store.add_items(self._new)
            self._new.clear()
        return [name for number, name in self._items.items() if name in self._voted or not self._seen(number)]

    def next(self, skipped: bool) -> assignment.Task | None:
        return assignment.next_task(self._store, self._rater, skipped=skipped, among=self.queue())

    def progress(self) -> Progress:
        return self._store.progress(self._rater, self.queue())

    @property
    def same(self) -> int:
        """Prompts that cannot be voted on: all answers are one text."""
        return len(self._decided) - len(self._items)

    @property
    def looked_away(self) -> int:
        """Prompts that are not asked because their names were seen first."""
        return sum(self._seen(number) for number, name in self._items.items() if name not in self._voted)

    def blind(self) -> set[int]:
        """The prompts on which a vote may still come."""
        self._decide()
        settled = {n for n in self._decided if n not in self._items or self._items[n] in self._voted}
        return {number for number in range(len(self._keys)) if number not in settled and not self._seen(number)}

    def look(self, *numbers: int) -> None:
        """Who wrote what is shown: from now on a vote on these prompts would not be blind."""
        keys = [self._keys[number] for number in self.blind().intersection(numbers)]
        if keys:
            self._looked.update(keys)
            runs.append(self._looked_path, *({"prompt": key} for key in keys))

    def _seen(self, number: int) -> bool:
        return self._keys[number] in self._looked

    # -- prompts that were typed -------------------------------------------------------------------------------------

    def ranked_before(self, one: Try) -> bool:
        return item_name(self._tries.item(one)[0]) in self._voted

    def typed(self, one: Try) -> assignment.Task:
        """A typed prompt as an item, its answers in the order they were streamed."""
        item, order = self._tries.item(one)
        self._store.add_items([item])
        task = assignment.next_task(self._store, self._rater, skipped=True, among=[item_name(item)],
                                    order=lambda *_: order)
        if task is None:
            raise RequestError("ask: these very answers have been ranked before")
        policies = {response.text: response.policy for response in item.responses}
        self._typed[task.token] = tuple(policies[text] for text in task.answers)
        return task

    # -- both --------------------------------------------------------------------------------------------------------

    def submit(self, token: str, judgement: Judgement) -> Told:
        receipt = assignment.submit(self._store, self._rater, token, judgement)
        self._voted = {name_of(ranking) for ranking in self._store.rankings()}
        return Told(receipt, self._typed.get(token, ()))

    def skip(self, token: str) -> None:
        assignment.skip(self._store, self._rater, token)

    def standings(self) -> dict[str, Any]:
        """Who won so far on held-out prompts, told every `step` votes and at the end: told after each vote, it would
        say who wrote what. Typed prompts are told one by one, and so have a tally of their own.
        """
        names, progress = set(self._items.values()), self.progress()
        held_out = [one for one in self._store.rankings() if name_of(one) in names]
        typed = [one for one in self._store.rankings() if one.prompt.source == SOURCE and name_of(one) not in names]
        over = progress.done == progress.wanted and self._held_out.done == self._held_out.wanted
        told = held_out if over else held_out[: len(held_out) // self._step * self._step]
        return {"votes": len(held_out), "wanted": progress.wanted, "step": self._step,
                "held_out": tally(told, self._held_out.contestants), "typed": tally(typed, self._tries.contestants)}


def name_of(ranking: Ranking) -> str:
    """The name of the item that was ranked."""
    return item_name(Answers(ranking.prompt, ranking.responses), ranking.kind)
