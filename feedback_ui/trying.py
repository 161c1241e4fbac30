"""Prompts that somebody typed: who is asked, in which order their answers are shown, and what came of it."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prefloop import wire
from prefloop.errors import RequestError
from prefloop.records import Answers, Message, Prompt, digest

from .held_out import Contestant, rankable

SOURCE = "arena"
KEPT = 200  # prompts remembered for a vote


@dataclass
class Try:
    """One prompt. `shown` are numbers of contestants in the order shown; `texts` have the same order, once all is
    written. `open`: who wrote what has been shown, or will not be voted on.
    """

    name: str
    prompt: Prompt
    shown: tuple[int, ...]
    sampling: dict[str, float]
    seed: int
    open: bool
    texts: dict[int, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return len(self.texts) == len(self.shown)

    def request(self) -> wire.Ask:
        return wire.Ask(self.name, tuple(self.prompt.chat()), self.shown, self.sampling["temperature"],
                        int(self.sampling["max_new_tokens"]), self.seed)

    def names(self, contestants: Sequence[Contestant]) -> list[str]:
        return [contestants[number].name for number in self.shown]


class Tries:
    def __init__(self, contestants: tuple[Contestant, ...], seed: int) -> None:
        self.contestants, self._seed = contestants, seed
        self._kept: dict[str, Try] = {}

    def new(self, text: str, temperature: float, max_new_tokens: int, seed: int, blind: bool) -> Try:
        """A prompt to be asked. Blind, the order is a shuffle that nobody outside can know: the store has its seed."""
        name, count = secrets.token_urlsafe(12), len(self.contestants)
        order: Sequence[int] = range(count)
        if blind:
            order = random.Random(digest(str(self._seed), name)).sample(order, count)
        made = Try(name, Prompt((Message("user", text),), source=SOURCE), tuple(order),
                   {"temperature": temperature, "max_new_tokens": float(max_new_tokens)}, seed, not blind)
        self._kept[name] = made
        while len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]
        return made

    def named(self, name: str) -> Try:
        try:
            return self._kept[name]
        except KeyError:
            raise RequestError("ask: this prompt is not known here any more; send it again") from None

    def item(self, one: Try) -> tuple[Answers, tuple[int, ...]]:
        """What is voted on, and the order its answers were shown in."""
        if not one.whole:
            raise RequestError("ask: its answers are not all written")
        if one.open:
            raise RequestError("ask: the names were shown already, so a vote would not be blind")
        by_number = {number: one.texts[place] for place, number in enumerate(one.shown)}
        texts = tuple(by_number[number] for number in range(len(self.contestants)))
        item = rankable(one.prompt, self.contestants, texts, one.sampling, one.seed)
        if item is None:
            raise RequestError("ask: there are not two different answers to choose from")
        stored: dict[str, int] = {response.text: n for n, response in enumerate(item.responses)}
        seen: dict[int, Any] = dict.fromkeys(stored[text] for place in range(len(one.shown))
                                             if (text := one.texts[place]) in stored)
        return item, tuple(seen)
