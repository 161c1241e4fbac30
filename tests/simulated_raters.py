"""A campaign with made-up raters, through the real store and queue: some read, some click at random, some change.

What is better is known: places of the stored order, best first. A rater who reads ranks near it (Mallows' model), more
surely on gold; who clicks at random draws an order; who flips turns theirs round now and then.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from prefloop.records import Answers, Message, Prompt, Ranking, Response
from prefloop.store import Campaign, Judgement, Lease, Store
from prefloop.store.watching import Watch

NAME = "study"


@dataclass(frozen=True)
class Kind:
    """`normal` and `gold`: the chance with which a pair of answers is decided rightly, before ties. From item
    `changes` on, `flips` of the rankings are turned round.
    """

    normal: float = 0.8
    gold: float = 0.95
    flips: float = 0.0
    changes: int = 0
    clicks: bool = False
    seconds: float = 30.0


HONEST, CLICKER = Kind(), Kind(clicks=True, seconds=3.0)


@dataclass
class Seen:
    """What happened: of each rater the number of answers with which they were first proposed, and were flagged."""

    proposed: dict[str, int]
    flagged: dict[str, int]
    answers: dict[str, int]
    gold: dict[str, int]


def campaign(store: Store, items: int, golds: int, need: int | Callable[[Answers], int], places: int,
             settings: Campaign) -> None:
    def responses(name: str, number: int) -> tuple[Response, ...]:
        return tuple(Response(f"{name} {number}.{place}") for place in range(places))

    rows = [Answers(Prompt((Message("user", f"question {n}"),), stratum=f"s{n % 3}"), responses("answer", n))
            for n in range(items)]
    keys = [Ranking(Prompt((Message("user", f"key {n}"),)), responses("key", n), tuple(range(1, places + 1)), "us")
            for n in range(golds)]
    store.apply(settings, gold=keys, rows=rows, need=need)


def worked(store: Store, crew: dict[str, Kind], rounds: int, dice: random.Random, watch: Watch,
           clock: Callable[[int], None]) -> Seen:
    """Each rater answers an item a round, in an order drawn anew; the watch looks after each round."""
    seen = Seen({}, {}, dict.fromkeys(crew, 0), dict.fromkeys(crew, 0))
    views = {name: random.Random(f"{name} sees") for name in crew}
    for _ in range(rounds):
        for name in dice.sample(sorted(crew), len(crew)):
            lease = store.lease(name, 600, lambda item, count: dice.sample(range(count), count), campaign=NAME)
            if lease is None:
                continue
            gold = lease.prompt.messages[0].content.startswith("key")
            seen.answers[name] += 1
            seen.gold[name] += gold
            store.submit(lease.token, name, judged(lease, crew[name], seen.answers[name], gold, views[name]))
            clock(1)
        watch.look()
        for name, standing in watch.standings().items():
            if standing.flagged:
                seen.flagged.setdefault(name, seen.answers[name])
            if standing.why:
                seen.proposed.setdefault(name, seen.answers[name])
    return seen


def judged(lease: Lease, kind: Kind, number: int, gold: bool, dice: random.Random) -> Judgement:
    order = ranked(len(lease.shown), kind, gold, dice)
    if kind.flips and number > kind.changes and dice.random() < kind.flips:
        order = order[::-1]
    rank = {place: n + 1 for n, place in enumerate(order)}
    return Judgement(tuple(rank[place] for place in lease.shown), seconds=dice.lognormvariate(0, 0.4) * kind.seconds)


def ranked(places: int, kind: Kind, gold: bool, dice: random.Random) -> list[int]:
    """Places, best first: each is put among those before it, ever less likely further up (Doignon 2004)."""
    if kind.clicks:
        return dice.sample(range(places), places)
    right = kind.gold if gold else kind.normal
    fall = (1 - right) / right
    order: list[int] = []
    for place in range(places):
        up = dice.choices(range(place + 1), [fall**n for n in range(place + 1)])[0]
        order.insert(len(order) - up, place)
    return order


class Clock:
    def __init__(self) -> None:
        self.at = 1_700_000_000

    def __call__(self) -> int:
        return self.at

    def pass_by(self, seconds: int) -> None:
        self.at += seconds
