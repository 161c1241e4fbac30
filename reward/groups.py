"""Rankings as a reward model reads them: one element per prompt, each of its answers once, pairs by index."""

from __future__ import annotations

from dataclasses import dataclass

from prefloop.chat import Chat
from prefloop.records import Pair, Ranking


@dataclass(frozen=True)
class Group:
    """One prompt: a token row per distinct answer, which all begin at `start`; pairs (chosen, rejected, weight)."""

    prompt_id: str
    rows: tuple[tuple[int, ...], ...]
    start: int
    pairs: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True)
class Grouped:
    groups: list[Group]
    rankings: int
    over_length: int
    undecided: int


def grouped(chat: Chat, rankings: list[Ranking], max_length: int | None) -> Grouped:
    """Pairs of all raters, gathered by prompt. A ranking with an answer over the limit is left out and counted."""
    by_prompt: dict[str, list[Pair]] = {}
    over_length = undecided = 0
    for ranking in rankings:
        longest = max(len(row) for row in _rows(chat, ranking))
        pairs = list(ranking.pairs())
        if max_length is not None and longest > max_length:
            over_length += 1
        elif not pairs:
            undecided += 1
        else:
            by_prompt.setdefault(ranking.prompt.id, []).extend(pairs)
    used = len(rankings) - over_length - undecided
    return Grouped([_group(chat, pairs) for pairs in by_prompt.values()], used, over_length, undecided)


def _rows(chat: Chat, ranking: Ranking) -> list[list[int]]:
    prompt = chat.prompt_ids(ranking.prompt)
    return [prompt + chat.answer_ids(response.text) for response in ranking.responses]


def _group(chat: Chat, pairs: list[Pair]) -> Group:
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.chosen, pair.rejected)))
    place = {text: n for n, text in enumerate(texts)}
    prompt = chat.prompt_ids(pairs[0].prompt)
    return Group(pairs[0].prompt.id, tuple(tuple(prompt + chat.answer_ids(text)) for text in texts), len(prompt),
                 tuple((place[pair.chosen], place[pair.rejected], pair.weight) for pair in pairs))


@dataclass(frozen=True)
class Batch:
    """Rows of several groups on top of each other, and their pairs as indices into them."""

    rows: list[list[int]]
    starts: list[int]
    chosen: list[int]
    rejected: list[int]
    weights: list[float]


def collate(groups: list[Group]) -> Batch:
    rows, starts, chosen, rejected, weights = [], [], [], [], []
    for group in groups:
        first = len(rows)
        rows += [list(row) for row in group.rows]
        starts += [group.start] * len(group.rows)
        for better, worse, weight in group.pairs:
            chosen.append(first + better)
            rejected.append(first + worse)
            weights.append(weight)
    return Batch(rows, starts, chosen, rejected, weights)
