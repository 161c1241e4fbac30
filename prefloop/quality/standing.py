"""Who ranks at random, and whose work changes for the worse: sequential tests on each rater's answers, in their order.

Tests, each with stated errors. At first Wald's (1945): does this rater read, or click at random? It ends as soon
as the answers so far say so, or after so much gold. And always two of Page's (1954) cumulative sums: have they begun
to turn some of their rankings round, or to click? Evidence is of whole rankings (evidence.py): against gold, against
what others said of the same item, and, of rankings turned round, against what they said themselves before. That they
click by now is read from gold alone: who agrees with others less than most do would in time look as if they did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.quality import evidence
from prefloop.quality.votes import Array, Signs, Truth, Votes, Whole, mirrored, neighbours

# Wald's: of attentive raters so many are taken for random ones, and of random ones so many for attentive. His bounds
# are conservative, and gold that is harder than `GOLD` says makes the first larger.
FALSE_ALARM, MISSED = 0.01, 0.001
RANDOM = float(np.log((1 - MISSED) / FALSE_ALARM))
ATTENTIVE = float(np.log(MISSED / (1 - FALSE_ALARM)))
# The test is cut short (Wald's section 3.8) at so many gold items: without e^2 to 1 for attention a lead should look.
MOST_GOLD, CUT = 20, -2.0
# Page's: at `DOUBT` more gold is asked, at `FLAG` leads are told, at `DRIFT` a quarantine is proposed. Of 40 items
# without a change one in a hundred reaches FLAG, and of 400 one in a thousand DRIFT (`make bench NAME=quality`).
DOUBT, FLAG, DRIFT = 2.0, 4.0, 7.0
GOLD, ITSELF = 0.9, 0.8  # of a gold item's pairs an attentive rater decides so many right, of their own so many again
PEERS, PRIOR_ITEMS = 0.7, 20  # with others, before so many items of a campaign have told how many
RECENT = 40  # answers over which a sum that rose is told to leads: an older rise that fell again is not
LATEST = 500  # answers of a rater that Page's sum looks at, and of others' items as many as Wald's test does


@dataclass(frozen=True)
class Sum:
    """Page's sum now, its highest of late, and its highest of all."""

    now: float
    recent: float
    worst: float


@dataclass(frozen=True)
class Standing:
    """`random` is ln of how much likelier than reading clicking at random is, when its test ended or by now; `drift`
    is of rankings turned round, `clicking` of those drawn at random. `why` are the reasons to propose a quarantine;
    all since they were last cleared. `unsettled`: the first test has not ended.
    """

    rater: str
    answers: int
    random: float
    drift: Sum
    clicking: Sum
    unsettled: bool
    why: tuple[str, ...]

    @property
    def doubted(self) -> bool:
        """Whether more gold would tell."""
        return self.unsettled or max(self.drift.now, self.clicking.now) >= DOUBT

    @property
    def flagged(self) -> bool:
        """Whether a lead should look."""
        return bool(self.why) or max(self.drift.recent, self.clicking.recent) >= FLAG


@dataclass(frozen=True)
class Evidence:
    """For each answer ln of how much likelier a random rater, and one who flips, gives it; 0 where nothing tells."""

    random_A: Array
    flipped_A: Array
    gold_A: Truth


def standings(votes: Votes, since: Mapping[str, int] | None = None,
              only: Sequence[str] | None = None) -> list[Standing]:
    """Where each rater stands, or those in `only`; answers up to `since`, when a lead cleared them, are left out."""
    wanted = range(len(votes.raters)) if only is None else [votes.raters.index(name) for name in only]
    cleared = np.array([(since or {}).get(name, -1) for name in votes.raters], dtype=np.int64)
    fresh_A = votes.stands_A & (votes.created_A > cleared[votes.rater_A]) & ~votes.of_kind("qualification")
    rows = np.flatnonzero(fresh_A & np.isin(votes.rater_A, wanted))
    first, last = _first(votes, rows), _last(votes, rows)
    looked_at = np.concatenate([first, last])
    about = votes.where(np.isin(votes.item_A, np.concatenate([votes.item_A[looked_at], votes.mirrors_A[looked_at]])))
    found = evidence_of(about)

    def of(rater: int, rows: Whole) -> Whole:
        return np.searchsorted(about.id_A, votes.id_A[rows[votes.rater_A[rows] == rater]])

    count = np.bincount(votes.rater_A[rows], minlength=len(votes.raters))
    return [_standing(votes.raters[rater], int(count[rater]), found, of(rater, first), of(rater, last))
            for rater in wanted if count[rater]]


def _first(votes: Votes, rows: Whole) -> Whole:
    """Each rater's first answers that can tell whether they read: the same ones at each look, for a test that were
    begun at another answer each time would be another test each time, and its errors would add up.
    """
    gold_A = _of_gold(votes)
    normal_A = votes.of_kind("normal") & votes.stands_A
    shared_A = normal_A & (np.bincount(votes.item_A, normal_A)[votes.item_A] > 1)
    telling = rows[gold_A[rows] | shared_A[rows]]
    gold = gold_A[telling]
    return telling[_nth(2 * votes.rater_A[telling] + gold) < np.where(gold, MOST_GOLD, LATEST)]


def _last(votes: Votes, rows: Whole) -> Whole:
    return rows[_nth(votes.rater_A[rows[::-1]])[::-1] < LATEST]


def _nth(group_A: Whole) -> Whole:
    """Of each row, how many before it are of its group."""
    order = np.argsort(group_A, kind="stable")
    _, start, size = np.unique(group_A[order], return_index=True, return_counts=True)
    nth_A = np.empty(len(order), np.int64)
    nth_A[order] = np.arange(len(order)) - np.repeat(start, size)
    return nth_A


def _standing(rater: str, answers: int, found: Evidence, first: Whole, last: Whole) -> Standing:
    path = np.cumsum(np.r_[0.0, found.random_A[first]])
    gold = np.cumsum(np.r_[False, found.gold_A[first]])
    ends = np.flatnonzero((path >= RANDOM) | (path <= ATTENTIVE) | (gold >= MOST_GOLD))
    end = int(ends[0]) if len(ends) else len(path) - 1
    drift = _sum(found.flipped_A[last])
    clicking = _sum(np.where(found.gold_A, found.random_A, 0.0)[last])
    why = []
    if path[end] >= RANDOM:
        why.append("random")
    elif len(ends) and path[end] > CUT:
        why.append("doubt")
    elif clicking.worst >= DRIFT:
        why.append("clicking")
    if drift.worst >= DRIFT:
        why.append("drift")
    return Standing(rater, answers, float(path[end]), drift, clicking, not len(ends), tuple(why))


def _sum(llr: Array) -> Sum:
    path = page_sums(llr)
    return Sum(float(path[-1]), float(path[-RECENT:].max()), float(path.max()))


def page_sums(llr: Array) -> Array:
    """Page's cumulative sums, each at least 0."""
    total = np.cumsum(llr)
    return total - np.minimum(0.0, np.minimum.accumulate(total))


# -- what each answer tells -------------------------------------------------------------------------------------------


def evidence_of(votes: Votes) -> Evidence:
    gold_A = _of_gold(votes)
    random_A, flipped_A = _peers(votes)
    told = _against(votes, gold_A, votes.key_AP[gold_A], _q_by_places(votes, GOLD)[gold_A])
    random_A[gold_A], flipped_A[gold_A] = told
    first = mirrored(votes)
    again_A = first >= 0
    flipped_A[again_A] = _against(votes, again_A, votes.said_AP[first[again_A]],
                                  _q_by_places(votes, ITSELF)[again_A])[1]
    return Evidence(random_A, flipped_A, gold_A)


def _of_gold(votes: Votes) -> Truth:
    """Answers to gold whose key decides something."""
    return votes.of_kind("gold") & votes.stands_A & (votes.key_AP != 0).any(axis=1)


def _against(votes: Votes, rows: Truth | Whole, reference: Signs, q: Array) -> tuple[Array, Array]:
    """What these answers tell, held against these references."""
    places = votes.places_A[rows]
    d, pairs = evidence.distance(votes.said_AP[rows], reference)
    return (evidence.random_rather(d, reference, places, q),
            evidence.flipped_rather(d, pairs, reference, places, q))


def _q_by_places(votes: Votes, alike: float) -> Array:
    known = {int(places): evidence.q_of(alike, int(places)) for places in np.unique(votes.places_A)}
    return np.array([known[int(places)] for places in votes.places_A], dtype=np.float64)


def _peers(votes: Votes) -> tuple[Array, Array]:
    """Held against others who rated the same item: the mean over them, for they share what there was to see."""
    one, other = neighbours(votes)
    random_A, flipped_A, met_A = np.zeros(len(votes)), np.zeros(len(votes)), np.zeros(len(votes))
    if len(one):
        random, flipped = _against(votes, one, votes.said_AP[other], _q_of_peers(votes, one, other))
        np.add.at(random_A, one, random)
        np.add.at(flipped_A, one, flipped)
        np.add.at(met_A, one, 1.0)
    return random_A / np.maximum(met_A, 1), flipped_A / np.maximum(met_A, 1)


def _q_of_peers(votes: Votes, one: Whole, other: Whole) -> Array:
    """By campaign and number of answers, how far its raters are alike; what is much like chance tells nothing."""
    d, pairs = evidence.distance(votes.said_AP[one], votes.said_AP[other])
    group = votes.campaign_A[one] * 1000 + votes.places_A[one]
    q = np.empty(len(one))
    for each in np.unique(group):
        rows = group == each
        items = len(np.unique(votes.item_A[one[rows]]))
        share = 1 - d[rows].sum() / max(pairs[rows].sum(), 1.0)
        alike = (share * items + PEERS * PRIOR_ITEMS) / (items + PRIOR_ITEMS)
        q[rows] = evidence.q_of(float(np.clip(alike, 0.5, 0.95)), int(each % 1000))
    return q
