"""Who won, from blind votes: shares of contests between checkpoints, a tie half, one voice for each vote."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from prefloop import stats
from prefloop.records import Ranking, Response

from .held_out import JOIN, Contestant


@dataclass(frozen=True)
class Standing:
    """One checkpoint: the share of its contests that it won, with Wilson's interval over votes, and of its votes those
    in which it was a best answer. `strength` is Bradley and Terry's, in nats around 0 (half a win added to each side).
    """

    name: str
    win_rate: stats.Estimate
    best: int
    strength: float


def tally(rankings: Iterable[Ranking], contestants: Sequence[Contestant]) -> dict[str, Any] | None:
    """Standings in the order of `contestants`, and `beat[i][j]`: how often i was put above j, a tie half.

    Votes on other checkpoints do not count. None: there are no votes.
    """
    votes = [places for ranking in rankings if (places := _places(ranking, contestants)) is not None]
    if not votes:
        return None
    beat = [[0.0] * len(contestants) for _ in contestants]
    shares: list[list[float]] = [[] for _ in contestants]
    for places in votes:
        for i, j in combinations(range(len(contestants)), 2):
            won = 0.5 if places[i] == places[j] else float(places[i] < places[j])
            beat[i][j] += won
            beat[j][i] += 1 - won
        for i, own in enumerate(shares):
            rivals = [place for j, place in enumerate(places) if j != i]
            own.append(sum((places[i] < other) + 0.5 * (places[i] == other) for other in rivals) / len(rivals))
    strengths = stats.bradley_terry(beat, smoothing=0.5)
    standings = [Standing(one.name, stats.win_rate(own), sum(places[i] == min(places) for places in votes),
                          float(strengths[i])) for i, (one, own) in enumerate(zip(contestants, shares, strict=True))]
    return {"votes": len(votes), "beat": beat,
            "standings": [{**asdict(one), "win_rate": one.win_rate._asdict()} for one in standings]}


def _places(ranking: Ranking, contestants: Sequence[Contestant]) -> list[int] | None:
    """Each contestant's place in one ranking; unranked is last. None if one of them did not take part."""
    last = len(ranking.ranks) + max((rank for rank in ranking.ranks if rank is not None), default=0)
    found = {key: last if rank is None else rank
             for response, rank in zip(ranking.responses, ranking.ranks, strict=True) for key in writers(response)}
    places = [found.get(one.key) for one in contestants]
    return None if None in places else places  # type: ignore[return-value]


def writers(response: Response) -> list[str]:
    """The keys of the checkpoints that wrote this text."""
    return (response.checksum or response.policy).split(JOIN)
