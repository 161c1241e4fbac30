"""Alarms of a campaign: its newest answers against those before, a window at a time.

A window is so many answers, looked at once, when it is full; so its error is that of one look. Raters differ, and a
window has few of them: the spread between raters, and not between answers, says what is much. Five things are watched,
each at a fifth of the error (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from prefloop.quality.figures import Figure, share
from prefloop.quality.votes import Array, Truth, Votes, Whole

WINDOW = 200  # answers
BEFORE = 5  # windows that it is held against, at least; at most twice as many
ERROR = 0.02  # of windows without a change, so many raise an alarm at most
WATCHED = {"accepted": -1, "gold": -1, "ties": 0, "left": 0, "seconds": -1}  # -1: a drop; 0: a change either way
LEAST = {"accepted": 20, "gold": 10, "ties": 20, "left": 20, "seconds": 20}  # answers of a window that tell of it


@dataclass(frozen=True)
class Alarm:
    """`now` against `before`: of "accepted" and "gold" the share of answers, of "ties" and "left" that of pairs, of
    "seconds" the share of answers that took longer than the median before. `since` and `until`: the window's first
    and last answer.
    """

    what: str
    now: Figure
    before: Figure
    p_value: float
    since: int
    until: int


def alarms(votes: Votes) -> list[Alarm]:
    """Of the newest full window of a campaign's answers."""
    newest = votes.where(votes.newest_A & ~votes.of_kind("qualification"))
    windows = len(newest) // WINDOW
    if windows <= BEFORE:
        return []
    rows = np.arange(max(0, windows - 1 - 2 * BEFORE) * WINDOW, windows * WINDOW)
    recent = newest.where(rows)
    now = np.arange(len(rows)) >= len(rows) - WINDOW
    return [found for what, side in WATCHED.items() if (found := _alarm(recent, now, what, side)) is not None]


def _alarm(votes: Votes, now: Truth, what: str, side: int) -> Alarm | None:
    won_A, of_A = watched(votes, what, ~now)
    if (of_A[now] > 0).sum() < LEAST[what] or (of_A[~now] > 0).sum() < LEAST[what]:
        return None
    p_value = changed(won_A, of_A, votes.rater_A, now, side)
    if p_value > ERROR / len(WATCHED):
        return None
    figures = [share(won_A[own], of_A[own], votes.rater_A[own]) for own in (now, ~now)]
    assert figures[0] is not None
    assert figures[1] is not None
    window = votes.created_A[now]
    return Alarm(what, figures[0], figures[1], p_value, int(window[0]), int(window[-1]))


def watched(votes: Votes, what: str, before: Truth) -> tuple[Array, Array]:
    """Of each answer, how much of how much."""
    one_A = np.ones(len(votes))
    if what == "accepted":
        normal_A = votes.of_kind("normal").astype(np.float64)
        return votes.accepted_A * normal_A, normal_A
    if what == "gold":
        told_A = np.isfinite(votes.right_A).astype(np.float64)
        return np.nan_to_num(votes.right_A), told_A
    if what == "seconds":
        told_A = np.isfinite(votes.seconds_A)
        past = votes.seconds_A[told_A & before]
        middle = np.median(past) if len(past) else 0.0
        return (np.nan_to_num(votes.seconds_A) > middle) * told_A * one_A, told_A * one_A
    if what == "ties":
        return (((votes.said_AP == 0) & votes.asked_AP).sum(axis=1) * one_A, votes.asked_AP.sum(axis=1) * one_A)
    decided_AP = votes.said_AP != 0
    return (decided_AP & (votes.said_AP == votes.first_AP)).sum(axis=1) * one_A, decided_AP.sum(axis=1) * one_A


def changed(won_A: Array, of_A: Array, rater_A: Whole, now: Truth, side: int) -> float:
    """p of a share being the same now as before, raters drawn anew for both: a t test of linearised ratios.

    Where answers spread more than raters do, as with few or with one, they are the unit.
    """
    values, spreads, units = [], [], []
    for own in (now, ~now):
        _, rater = np.unique(rater_A[own], return_inverse=True)
        won, of = won_A[own], of_A[own]
        value = won.sum() / of.sum()
        rest = (won - value * of) / of.sum()
        raters, told = len(np.unique(rater)), int((of > 0).sum())
        by_rater = np.bincount(rater, rest)
        between = (by_rater**2).sum() * raters / (raters - 1) if raters > 1 else 0.0
        within = (rest**2).sum() * told / max(told - 1, 1)
        values.append(value)
        spreads.append(max(between, within))
        units.append(raters if between > within else told)
    gap = values[0] - values[1]
    if gap == 0 or not sum(spreads):
        return 1.0
    t = gap / sum(spreads) ** 0.5
    free = sum(spreads) ** 2 / sum(s**2 / max(n - 1, 1) for s, n in zip(spreads, units, strict=True))
    tail = float(stats.t.sf(abs(t), free))
    return min(1.0, 2 * tail) if side == 0 else tail if t * side > 0 else 1 - tail
