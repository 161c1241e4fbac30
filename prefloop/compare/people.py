"""People's votes: rankings out of stores and snapshots, as contests between the checkpoints that are compared.

A ranking of K answers is a contest between each two of them. What is the same text, or empty, nobody was asked about:
those contests are decided by rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefloop.compare.records import HELD_OUT, Answer, Contestant, Contests, Question, by_rule, length_gap
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Ranking, Response, digest
from prefloop.store import Store

COUNTED, KEYS, SURPLUS = "counted", "gold and repeats", "surplus"
TWICE, CHANGED = "the same vote twice", "changed or withdrawn since"
EXCLUDED = "by a quarantined rater"
ASIDE = {"changed": CHANGED, "excluded": EXCLUDED, "surplus": SURPLUS}
PROMPTS, CHECKPOINTS, TEXTS = "on other prompts", "on other checkpoints", "on other answers of these"


Place = tuple[int, int, int]


class Contest(NamedTuple):
    """One contest between two answers; the fields are those of Contests."""

    prompt: int
    rater: str
    first: int
    second: int
    won: float
    gap: float

    @property
    def place(self) -> Place:
        """Its question and the two contestants."""
        return self.prompt, self.first, self.second


def contests(sources: Sequence[str], contestants: Sequence[Contestant],
             questions: Sequence[Question]) -> tuple[Contests, dict[str, int]]:
    """What people said of these contestants' answers to these questions, and how many votes did and did not count.

    A vote counts where it is on the very texts that the contestants wrote. It is no vote if it is of a gold item, a
    repeat or a practice round, if it was changed or withdrawn later, or if the same one stands in two sources.
    """
    found, counted = voted(rankings(sources), contestants, questions)
    ruled = list(by_rules(contestants, questions))
    left = {(n, i, j) for n, question in enumerate(questions) if question.set == HELD_OUT
            for i, j in combinations(range(len(contestants)), 2)} - {one.place for one in ruled}
    return with_rules(contestants, questions, [*found, *ruled], left), counted


def rankings(sources: Sequence[str]) -> Iterator[tuple[Ranking, str]]:
    """Each ranking in the sources (a store's URL, a snapshot's folder), and why it does not count, or nothing.

    What a rater says of the same answers in two sources is one vote, and the first source has the last word on it,
    stores before snapshots: what was changed or withdrawn in a store may still stand in a snapshot.
    """
    seen: dict[tuple[str, ...], tuple[str, list[Ranking]]] = {}
    for source in sorted(sources, key=lambda one: "://" not in one):
        for ranking, why in _of_source(source):
            name = ranking.prompt.id, ranking.rater, *sorted(one.id for one in ranking.responses)
            first, said = seen.setdefault(name, (source, []))
            if why != CHANGED:  # what was is no vote of this source, and none of another
                yield ranking, why or (TWICE if ranking in said else CHANGED if first != source else "")
                said.append(ranking)


def _of_source(source: str) -> Iterator[tuple[Ranking, str]]:
    if "://" in source:
        with Store(source, read_only=True) as store:
            yield from ((one, "") for one in store.rankings())
            yield from ((one, ASIDE[why]) for why, one in store.set_aside())
    elif Path(source).is_file():
        raise RequestError(f"compare.votes: {source} is a file; a store is named as sqlite:///{source}")
    else:
        yield from ((one, "") for one in snapshot.read(source).rankings)


def voted(given: Iterable[tuple[Ranking, str]], contestants: Sequence[Contestant],
          questions: Sequence[Question]) -> tuple[list[Contest], dict[str, int]]:
    """The contests in these rankings, of each of which it is said why it does not count, and how many did and not."""
    places: dict[str, list[int]] = {}
    for n, question in enumerate(questions):
        places.setdefault(question.prompt.id, []).append(n)
    found: list[Contest] = []
    counted: Counter[str] = Counter({COUNTED: 0})
    for ranking, aside in given:
        why = KEYS if ranking.kind != "normal" else aside if ranking.prompt.id in places else PROMPTS
        if not why:
            new = [one for n in places[ranking.prompt.id] for one in _contests_of(ranking, contestants, n)]
            wrote = [any(wrote_it(one, response) for response in ranking.responses) for one in contestants]
            why = COUNTED if new else TEXTS if sum(wrote) > 1 else CHECKPOINTS
            found += new
        counted[why] += 1
    return found, dict(counted)


def _contests_of(ranking: Ranking, contestants: Sequence[Contestant], question: int) -> Iterator[Contest]:
    """Each two contestants whose answers to this question were ranked. What was left unranked is below all that was
    not, and ties with its like; so do answers of which none is acceptable and none was ranked."""
    last = len(ranking.ranks) + max((rank for rank in ranking.ranks if rank is not None), default=0)
    ranked = [last if rank is None else rank for rank in ranking.ranks]
    standing: dict[int, tuple[int, Answer]] = {}
    for number, one in enumerate(contestants):
        own = ((rank, answer) for answer in one.answers[question]
               for rank, response in zip(ranked, ranking.responses, strict=True)
               if response.text == answer.text and wrote_it(one, response))
        if first := next(own, None):
            standing[number] = first
    for (i, (rank, answer)), (j, (other, rival)) in combinations(standing.items(), 2):
        if answer.text != rival.text:
            won = 0.5 if rank == other else float(rank < other)
            yield Contest(question, ranking.rater, i, j, won, length_gap(answer, rival))


def wrote_it(one: Contestant, response: Response) -> bool:
    """By checksum; by name where the vote has none, for another checkpoint may have had the name before."""
    return (one.key if response.checksum else one.name) in response.writers()


def by_rules(contestants: Sequence[Contestant], questions: Sequence[Question]) -> Iterator[Contest]:
    """The contests between first answers to held-out questions that need nobody."""
    for n in (n for n, question in enumerate(questions) if question.set == HELD_OUT):
        for (i, one), (j, other) in combinations(enumerate(contestants), 2):
            first, second = one.answers[n][0], other.answers[n][0]
            if (won := by_rule(first, second)) is not None:
                yield Contest(n, "", i, j, won, length_gap(first, second))


def with_rules(contestants: Sequence[Contestant], questions: Sequence[Question], found: Sequence[Contest],
               left: Set[Place]) -> Contests:
    """What a judge said and what is so by rule (it has no rater), mixed at any time as they will be at the end.

    `left` are all contests that are no rule's. On what is so by rule, two contestants have as many contests a question
    as they have votes on what was left, on average; what is not whole of that goes by the lot that each question
    draws. Else the rules, which are all known at once, would drown the first votes. Lots are drawn for good: with more
    votes more of the rules come in, and none leaves.
    """
    said = Counter(one.place[1:] for one in found if one.rater and one.place in left)
    asked = Counter(place[1:] for place in left)
    usual = said.total() / len(left) if left else 1.0

    def times(one: Contest) -> int:
        pair = one.place[1:]
        mean = said[pair] / asked[pair] if asked[pair] else usual
        return 1 if one.rater else int(mean + lot(questions[one.prompt]))

    return table(contestants, [one for one in found for _ in range(times(one))],
                 asked=len(left - {one.place for one in found}))


def lot(question: Question) -> float:
    """From 0 to under 1, of the question's prompt alone: who answers what has no part in it."""
    return int(digest("lot", question.prompt.id)[:8], 16) / 16**8


def table(contestants: Sequence[Contestant], found: Sequence[Contest], asked: int) -> Contests:
    """Contests as arrays; those without a rater have -1 as theirs."""
    raters = sorted({one.rater for one in found if one.rater})
    numbers = {"": -1, **{name: n for n, name in enumerate(raters)}}

    def whole(values: Iterable[int]) -> NDArray[np.int64]:
        return np.array([*values], dtype=np.int64)

    return Contests(
        tuple(one.name for one in contestants), tuple(raters), prompt_D=whole(one.prompt for one in found),
        rater_D=whole(numbers[one.rater] for one in found), first_D=whole(one.first for one in found),
        second_D=whole(one.second for one in found), won_D=np.array([one.won for one in found], dtype=np.float64),
        gap_D=np.array([one.gap for one in found], dtype=np.float64), asked=asked)
