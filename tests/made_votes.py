"""Votes as arrays from plain rows, without a store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefloop.quality.votes import KINDS, Votes, compared, signs


@dataclass(frozen=True)
class Said:
    """One answer; `ranks` in the stored order, `key` of gold, `mirrors` the item of a repeat."""

    rater: str
    item: int
    ranks: tuple[int | None, ...]
    shown: tuple[int, ...] = ()
    kind: str = "normal"
    key: tuple[int, ...] = ()
    mirrors: int = -1
    stratum: str = ""
    guideline: str = ""
    seconds: float = 30.0
    at: int = 0
    counts: bool = True
    accepted: bool = True


def votes(rows: Sequence[Said]) -> Votes:
    orders = [row.shown or tuple(range(len(row.ranks))) for row in rows]
    said_AP, first_AP, places_A = compared(
        [json.dumps([row.ranks[place] for place in order]) for row, order in zip(rows, orders, strict=True)],
        [json.dumps(order) for order in orders])
    key_AP, right_A = np.zeros_like(said_AP), np.full(len(rows), np.nan)
    for n, row in enumerate(rows):
        if row.key:
            own = signs(np.array([row.key], dtype=np.float64))[0]
            key_AP[n, :len(own)] = own
            right_A[n] = float((said_AP[n, :len(own)] == own)[own != 0].all())
    names = {field: {name: n for n, name in enumerate(dict.fromkeys(getattr(row, field) for row in rows))}
             for field in ("rater", "stratum", "guideline")}
    number = {field: np.array([known[getattr(row, field)] for row in rows]) for field, known in names.items()}
    true = np.ones(len(rows), bool)
    counts = np.array([row.counts for row in rows])
    return Votes(np.arange(1, len(rows) + 1), np.array([row.item for row in rows]), np.ones(len(rows), np.int64),
                 number["rater"], np.array([KINDS.index(row.kind) for row in rows]), number["stratum"],
                 number["guideline"], np.array([row.mirrors for row in rows]), np.array([row.at for row in rows]),
                 np.array([row.seconds for row in rows]), places_A, said_AP, first_AP, key_AP, right_A, counts,
                 true, counts & np.array([row.accepted for row in rows]), true,
                 *(tuple(names[field]) for field in ("rater", "stratum", "guideline")))
