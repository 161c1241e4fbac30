"""What a ranking may say beyond an order of answers, and what of it is lost on the way through a format.

One table: every format names the facts that it holds (layouts.py); a ranking that comes back is the ranking that was
written `without` the others, and the export counts these. (`each` no ranking tells by itself: leaving.py counts it.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from prefloop.formats.pairs import UNNAMED_RATER
from prefloop.records import Prompt, Ranking


@dataclass(frozen=True)
class Fact:
    """Something that rankings may say. `without` is None where nothing is left that says anything."""

    lost: str  # what the export tells, after a count
    has: Callable[[Ranking], bool]
    without: Callable[[Ranking], Ranking | None]


def dense(ranks: Iterable[int | None]) -> tuple[int | None, ...]:
    """The same order in ranks that leave none out: (2, 7, None) is (1, 2, None)."""
    told = tuple(ranks)
    order = sorted({rank for rank in told if rank is not None})
    return tuple(None if rank is None else order.index(rank) + 1 for rank in told)


def tied_last(ranks: Iterable[int | None]) -> tuple[int, ...]:
    told = dense(ranks)
    last = max((rank for rank in told if rank is not None), default=0) + 1
    return tuple(last if rank is None else rank for rank in told)


def ties(one: Ranking) -> bool:
    told = tied_last(one.ranks)
    return len(set(told)) < len(told)


def _alike(one: Ranking) -> bool:
    return len({response.text.strip() for response in one.responses}) < len(one.responses)


def _from_elsewhere(one: Ranking) -> Ranking:
    return replace(one, prompt=Prompt(one.prompt.messages, one.prompt.stratum))


def _of_no_stratum(one: Ranking) -> Ranking:
    return replace(one, prompt=Prompt(one.prompt.messages, "", one.prompt.source))


def _written(one: Ranking, named: bool) -> Ranking:
    """Without how the answers were sampled; and, if not `named`, without who wrote them."""
    return replace(one, responses=tuple(
        replace(response, policy=response.policy if named else "", checksum="", sampling={}, seed=0)
        for response in one.responses))


def _acceptable(one: Ranking) -> Ranking | None:
    return None if all(rank is None for rank in one.ranks) else replace(one, none_acceptable=False)


FACTS: Mapping[str, Fact] = {
    "white space": Fact("rankings left out, for two of their answers differ in white space alone", _alike,
                        lambda one: None),
    "none acceptable": Fact("times that none is acceptable", lambda one: one.none_acceptable, _acceptable),
    "bad in order": Fact("times that none is acceptable, of answers in an order", lambda one: one.none_acceptable
                         and not ties(one), lambda one: replace(one, none_acceptable=False)),
    "rank numbers": Fact("rankings whose ranks are counted anew, without gaps", lambda one: one.ranks
                         != dense(one.ranks), lambda one: replace(one, ranks=dense(one.ranks))),
    "ties": Fact("rankings whose tied pairs are left out", ties, lambda one: one if one.decided() else None),
    "together": Fact("rankings of more than two answers, in pairs that nothing puts together again",
                     lambda one: len(one.responses) > 2, lambda one: one),
    "unranked": Fact("rankings whose unranked answers become the last, tied", lambda one: None in one.ranks,
                     lambda one: replace(one, ranks=tied_last(one.ranks))),
    "rater": Fact("rankings whose raters are not named", lambda one: True,
                  lambda one: replace(one, rater=UNNAMED_RATER)),
    "strength": Fact("strengths of the preference", lambda one: one.strength is not None,
                     lambda one: replace(one, strength=None)),
    "reason": Fact("reasons", lambda one: bool(one.reason), lambda one: replace(one, reason="")),
    "edited": Fact("better answers that raters wrote", lambda one: bool(one.edited),
                   lambda one: replace(one, edited="")),
    "shown": Fact("orders in which answers were shown", lambda one: bool(one.shown),
                  lambda one: replace(one, shown=())),
    "seconds": Fact("times taken", lambda one: one.seconds is not None, lambda one: replace(one, seconds=None)),
    "guideline": Fact("versions of the guideline", lambda one: bool(one.guideline),
                      lambda one: replace(one, guideline="")),
    "kind": Fact("marks of gold items and repeats", lambda one: one.kind != "normal",
                 lambda one: replace(one, kind="normal")),
    "dimensions": Fact("rankings by one thing each", lambda one: bool(one.dimensions),
                       lambda one: replace(one, dimensions={})),
    "propensity": Fact("chances with which an item was chosen", lambda one: one.propensity is not None,
                       lambda one: replace(one, propensity=None)),
    "stratum": Fact("strata", lambda one: bool(one.prompt.stratum), _of_no_stratum),
    "source": Fact("sources of prompts", lambda one: bool(one.prompt.source), _from_elsewhere),
    "sampled": Fact("rankings without how the answers were sampled",
                    lambda one: any(r.checksum or r.sampling or r.seed for r in one.responses),
                    lambda one: _written(one, named=True)),
    "each": Fact("rankings of one prompt of which the mean alone is told", lambda one: False, lambda one: one),
    "policy": Fact("rankings without who wrote the answers", lambda one: any(r.policy for r in one.responses),
                   lambda one: _written(one, named=False)),
}


def held(one: Ranking, facts: frozenset[str], lost: Counter[str] | None = None) -> Ranking | None:
    """What a format that holds these facts can say of a ranking; what it cannot is counted into `lost`."""
    kept: Ranking | None = one
    for name, fact in FACTS.items():
        if kept is None:
            break
        if name not in facts and fact.has(kept):
            kept = fact.without(kept)
            if lost is not None:
                lost[name] += 1
    return kept


def told(lost: Mapping[str, int]) -> list[str]:
    """What the export tells of it, a line each, in the order of the table."""
    return [f"{lost[name]} {fact.lost}" for name, fact in FACTS.items() if lost.get(name)]
