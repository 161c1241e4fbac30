"""What is odd about the rankings a reward model is to learn from: said before it learns, in words that help."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from prefloop.errors import RequestError
from prefloop.records import decided

from .judgements import Group

FEW = 50  # prompts; with fewer, accuracy is a guess and overfitting the rule
OFTEN = 0.2  # of prompts that have the very same answer
MOST = 0.3  # of all rankings, by one of several raters


def examine(groups: Sequence[Group], path: str) -> list[str]:
    """Warnings, worst first; RequestError where nothing can be learned."""
    votes = tallied(groups)
    if votes and all(one == other for one, other in votes):
        raise RequestError(f"{path}: on every two answers as many rankings say the one is better as say the other, so "
                           f"there is nothing to learn; collect rankings of other answers, or of clearer differences")
    raters = Counter(judgement.rater for group in groups for judgement in group.judgements)
    return [*few(groups), *one_voice(raters), *torn(votes), *repeated(groups), *seen_once(raters)]


def tallied(groups: Sequence[Group]) -> list[tuple[int, int]]:
    """Of each two answers that were decided on: how many rankings prefer the one, and how many the other."""
    votes: dict[tuple[int, int, int], list[int]] = {}
    for n, group in enumerate(groups):
        for judgement in group.judgements:
            for better, worse in decided(judgement.ranks):
                first, second = judgement.places[better], judgement.places[worse]
                own = votes.setdefault((n, min(first, second), max(first, second)), [0, 0])
                own[int(first > second)] += 1
    return [(one, other) for one, other in votes.values()]


def few(groups: Sequence[Group]) -> list[str]:
    if len(groups) >= FEW:
        return []
    return [f"only {len(groups)} prompts to learn from: below {FEW} a reward model mostly learns them by heart; "
            f"collect more prompts rather than more rankings of each"]


def torn(votes: Sequence[tuple[int, int]]) -> list[str]:
    several = [(one, other) for one, other in votes if one + other > 1]
    even = sum(one == other for one, other in several)
    if len(several) < 10 or even < len(several) / 3:
        return []
    return [f"raters contradict each other: {even} of {len(several)} pairs that several decided on are drawn; look at "
            f"the guideline, or let raters.reliability find out whom to believe"]


def repeated(groups: Sequence[Group]) -> list[str]:
    times = Counter(text for group in groups for text in group.texts)
    text, most = times.most_common(1)[0]
    if len(groups) < 5 or most <= OFTEN * len(groups):
        return []
    return [f"the answer {brief(text)} was given to {most} of {len(groups)} prompts: the model may learn this text "
            f"rather than what makes an answer good"]


def one_voice(raters: Counter[str]) -> list[str]:
    (name, own), total = raters.most_common(1)[0], raters.total()
    if len(raters) == 1:
        return [f"all {total} rankings are by one rater, {brief(name)}: the model learns that person's taste, and "
                f"nothing shows how reliable it is"]
    if own <= MOST * total or len(raters) < 4:
        return []
    return [f"rater {brief(name)} gave {own / total:.0%} of all rankings; raters.cap limits what one rater counts for"]


def seen_once(raters: Counter[str]) -> list[str]:
    once = sum(count == 1 for count in raters.values())
    if once <= len(raters) / 2 or len(raters) < 3:
        return []
    return [f"{once} of {len(raters)} raters ranked once: of such a rater nothing can be known, so they count as the "
            f"average rater does"]


def brief(text: str, length: int = 40) -> str:
    """In quotes, on one line, without control characters."""
    return repr(text if len(text) <= length else text[: length - 1] + "…")
