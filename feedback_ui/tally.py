"""Who won, from blind votes: shares of contests between checkpoints, a tie half, one voice for each vote."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

from prefloop import stats
from prefloop.records import Ranking

from .held_out import Contestant


@dataclass(frozen=True)
class Standing:
    """One checkpoint: the share of its contests that it won, with Wilson's interval over prompts, each carrying all
    its votes, and the number of votes in which it was a best answer. `strength` is Bradley and Terry's, in nats around
    0 (half a win added to each side).
    """

    name: str
    win_rate: stats.Estimate | None
    best: int
    strength: float


def tally(rankings: Iterable[Ranking], contestants: Sequence[Contestant]) -> dict[str, Any] | None:
    """Standings in the order of `contestants`, and `beat[i][j]`: how often i was put above j, a tie half.

    A vote counts for the checkpoints that took part in it, if they are two or more. None: there are no votes.
    """
    known = ((ranking.prompt.id, _places(ranking, contestants)) for ranking in rankings)
    votes = [(prompt, places) for prompt, places in known if sum(place is not None for place in places) > 1]
    if not votes:
        return None
    beat = [[0.0] * len(contestants) for _ in contestants]
    shares: list[dict[str, list[float]]] = [defaultdict(list) for _ in contestants]  # by prompt
    for prompt, places in votes:
        for i, own in _contests(places).items():
            for j, won in own.items():
                beat[i][j] += won
            shares[i][prompt].append(mean(own.values()))
    strengths = stats.bradley_terry(beat, smoothing=0.5)
    standings = [Standing(one.name, stats.win_rate([mean(said) for said in own.values()]) if own else None,
                          sum(places[i] == min(place for place in places if place is not None) for _, places in votes),
                          float(strengths[i])) for i, (one, own) in enumerate(zip(contestants, shares, strict=True))]
    return {"votes": len(votes), "beat": beat,
            "standings": [{**asdict(one), "win_rate": one.win_rate and one.win_rate._asdict()} for one in standings]}


def _contests(places: Sequence[int | None]) -> dict[int, dict[int, float]]:
    """How each that took part did against each other: 1 won, 0 lost, 1/2 a tie."""
    took_part = {i: place for i, place in enumerate(places) if place is not None}
    return {i: {j: 0.5 if other == place else float(place < other) for j, other in took_part.items() if j != i}
            for i, place in took_part.items()}


def _places(ranking: Ranking, contestants: Sequence[Contestant]) -> list[int | None]:
    """Each contestant's place in one ranking; unranked is last, and None is who did not take part."""
    last = len(ranking.ranks) + max((rank for rank in ranking.ranks if rank is not None), default=0)
    found = {key: last if rank is None else rank
             for response, rank in zip(ranking.responses, ranking.ranks, strict=True) for key in response.writers()}
    return [found.get(one.key) for one in contestants]
