"""People's votes beside the answers that an engineer looks at: of each answer, the share of its contests it won."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

from prefloop.compare import people
from prefloop.compare.records import Answer, Contestant, Question

from .held_out import HeldOut, Written

PEOPLE = "people"  # stands among the judges


def with_votes(held_out: HeldOut, sources: Sequence[str]) -> str:
    """Puts people's votes beside the rewards; tells how many there were and which did not count."""
    questions = [Question(prompt, of) for prompt, of in zip(held_out.prompts, held_out.sets, strict=True)]
    contestants = [Contestant(one.name, one.key, tuple(map(_answers, (own[n] for n in range(len(questions))))))
                   for one, own in zip(held_out.contestants, held_out.written, strict=True)]
    found, counted = people.voted(people.rankings(sources), contestants, questions)
    won: dict[tuple[int, int], list[float]] = defaultdict(list)
    for one in found:
        won[one.first, one.prompt].append(one.won)
        won[one.second, one.prompt].append(1 - one.won)
    for (who, n), shares in won.items():
        own = held_out.written[who][n]
        held_out.written[who][n] = replace(own, rewards={**own.rewards, PEOPLE: (mean(shares),) * len(own.texts)})
    return f"people's votes: {', '.join(f'{count} {how}' for how, count in counted.items())}"


def _answers(own: Written) -> tuple[Answer, ...]:
    return tuple(Answer(text, 0, True) for text in own.texts)
