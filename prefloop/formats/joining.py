"""Rankings of several answers as verdicts on their pairs, and back.

A format of pairs has a row for each of K (K - 1) / 2 pairs. The rows of one ranking bear its name, and are put
together again wherever they stand; where they do not agree with one order, each is a ranking of two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from prefloop.formats import pairs
from prefloop.formats.losses import tied_last
from prefloop.formats.pairs import RANKS
from prefloop.formats.ratings import MOST, order_of
from prefloop.formats.row import BadRow, Part, Row, number, wrong
from prefloop.records import Prompt, Ranking, Response

TURNED = {"a": "b", "b": "a"}


@dataclass(frozen=True)
class Duel:
    """A pair of a ranking's answers, by their places, and its outcome: a, b, tie or bad, as of battles."""

    a: int
    b: int
    outcome: str


def duels(one: Ranking) -> Iterator[Duel]:
    """Every pair, the answer first that was shown first, where that is known. Unranked answers come last, tied."""
    ranks, seen = tied_last(one.ranks), one.shown or range(len(one.responses))
    for i, j in combinations(range(len(ranks)), 2):
        a, b = (i, j) if seen.index(i) < seen.index(j) else (j, i)
        tie = "bad" if one.none_acceptable else "tie"
        yield Duel(a, b, tie if ranks[a] == ranks[b] else "a" if ranks[a] < ranks[b] else "b")


def part(name: str, asking: Prompt, pair: tuple[Response, Response], duel: Duel, more: dict[str, Any],
         first: bool = False) -> Part:
    """A row of a format of pairs. `more` is what it says of the whole ranking, as `Ranking.to_json` does; `first`
    that a was shown before b.
    """
    return Part(name, {"prompt": asking.to_json(), "answers": [one.to_json() for one in pair],
                       "places": [duel.a, duel.b], "outcome": duel.outcome, "more": more, "first": first})


def battles(row: Row) -> Iterator[Ranking | Part]:
    """As in pairs.py; rows of one `ranking` (a name) are put together, by `place_a` and `place_b` in it, from 0.

    `shown_first` says that a was shown before b.
    """
    for one in pairs.battles(row):
        if row.get("ranking") is None:
            yield one
            continue
        (a, b), decided = one.responses, one.decided()
        won = "bad" if one.none_acceptable else "tie" if not decided else "ab"[decided[0][0]]
        duel = Duel(_place(row, "place_a"), _place(row, "place_b"), won)
        first = bool(number(row.get("shown_first"), row.name("shown_first")))
        yield part(f"{row.need('ranking')} {one.rater}", one.prompt, (a, b), duel,
                   {"rater": one.rater, "reason": one.reason}, first)


def _place(row: Row, column: str) -> int:
    told = number(row.need(column), row.name(column))
    if told is None or not told.is_integer() or not 0 <= told < MOST:
        raise wrong(row.name(column), f"a place from 0 to {MOST - 1}", row.get(column))
    return int(told)


def rejoined(parts: list[dict[str, Any]]) -> Iterator[tuple[Ranking | BadRow, list[int]]]:
    """The ranking that the pairs of one name make, or else a ranking of two of each, with the places of its rows."""
    answers: dict[int, dict[str, Any]] = {}
    votes: dict[tuple[int, int], str] = {}
    for row, one in enumerate(parts):
        (a, b), won = one["places"], str(one["outcome"])
        known = [answers.setdefault(place, own) == own for place, own in zip((a, b), one["answers"], strict=True)]
        pair, vote = ((a, b), won) if a < b else ((b, a), TURNED.get(won, won))
        if a == b or not all(known) or votes.setdefault(pair, vote) != vote:
            yield BadRow("pairs of a ranking that do not fit", "an earlier row of this ranking says otherwise"), [row]
            return
    order = _order(votes, len(answers)) if sorted(answers) == list(range(len(answers))) else None
    if order is None:
        yield from ((_made(one, one["answers"], RANKS[one["outcome"]], one["first"] and [0, 1],
                           one["outcome"] == "bad"), [row]) for row, one in enumerate(parts))
        return
    shown = all(one["first"] for one in parts) and _shown([one["places"] for one in parts], len(answers))
    yield _made(parts[0], [answers[place] for place in sorted(answers)], order, shown,
                "bad" in votes.values()), list(range(len(parts)))


def _order(votes: dict[tuple[int, int], str], count: int) -> tuple[int, ...] | None:
    """The ranks that a verdict on each of all pairs makes."""
    if len(votes) < count * (count - 1) // 2:
        return None
    return order_of({pair: "tie" if vote == "bad" else vote for pair, vote in votes.items()}, count)


def _shown(places: list[list[int]], count: int) -> list[int]:
    """The order in which answers were shown, of all pairs (shown first, shown second)."""
    before = [0] * count
    for _, later in places:
        before[later] += 1
    return sorted(range(count), key=before.__getitem__)


def _made(one: dict[str, Any], answers: list[dict[str, Any]], ranks: tuple[int, ...], shown: list[int] | bool,
          bad: bool) -> Ranking:
    own = {**({"shown": shown} if shown else {}), **({"none_acceptable": True} if bad else {})}
    more = one["more"] | ({"shown": []} if len(one["more"].get("shown", ())) != len(answers) else {})
    return Ranking.from_json({**more, **own, "prompt": one["prompt"], "responses": answers, "ranks": ranks})
