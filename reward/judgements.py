"""Rankings gathered by prompt, as every kind of reward model, the evaluation and the fit of raters read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prefloop.records import Prompt, Ranking


@dataclass(frozen=True)
class Judgement:
    """One rater's ranking of some answers of a group.

    `places` are rows of the group's texts; everything else is in their order. `ranks` as in Ranking: 1 is best, equal
    ranks are a tie, None was left unranked. `shown` is where each answer stood on the page, 0 first; () is unknown.
    What a fit of raters found out (reliability.py): `reliability`, the probability that this rater says what they saw
    rather than its opposite, and `offsets`, what standing where it stood added to each answer's score, in nats.
    """

    places: tuple[int, ...]
    ranks: tuple[int | None, ...]
    rater: str
    shown: tuple[int, ...] = ()
    strength: str | None = None
    none_acceptable: bool = False
    dimensions: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    weight: float = 1.0
    reliability: float = 1.0
    offsets: tuple[float, ...] = ()


@dataclass(frozen=True)
class Group:
    """One prompt, each distinct answer to it once, and what raters said of them."""

    prompt: Prompt
    texts: tuple[str, ...]
    judgements: tuple[Judgement, ...]


def gathered(rankings: Iterable[Ranking]) -> list[Group]:
    """A group for each prompt, in the order of its first ranking; answers of one text are one answer."""
    texts: dict[str, dict[str, int]] = {}
    prompts: dict[str, Prompt] = {}
    judgements: dict[str, list[Judgement]] = {}
    for ranking in rankings:
        own = ranking.prompt.id
        prompts.setdefault(own, ranking.prompt)
        place = texts.setdefault(own, {})
        places = tuple(place.setdefault(response.text, len(place)) for response in ranking.responses)
        judgements.setdefault(own, []).append(_judgement(ranking, places))
    return [Group(prompts[own], tuple(texts[own]), tuple(judgements[own])) for own in prompts]


def _judgement(ranking: Ranking, places: tuple[int, ...]) -> Judgement:
    shown = tuple(ranking.shown.index(n) for n in range(len(places))) if ranking.shown else ()
    return Judgement(places, ranking.ranks, ranking.rater, shown, ranking.strength, ranking.none_acceptable,
                     ranking.dimensions)
