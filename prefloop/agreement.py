"""How far raters agree: pure functions of numbers.

Dimensions: U units (what was rated: a pair of answers, or one answer), R raters, V values. `said_UR` is what each
rater said of each unit, as a number, NaN where nothing was said. None: nothing varies, or no two rated the same unit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefloop.errors import RequestError

Array = NDArray[np.float64]


def alpha(said: ArrayLike, scale: Literal["nominal", "ordinal"] = "nominal") -> float | None:
    """Krippendorff's alpha of `said_UR` (2011, "Computing Krippendorff's alpha-reliability", sections C and D):
    1 is agreement, 0 what chance would give, less is worse than chance.

    Nominal: two values are the same or not. Ordinal: they are as far apart as there are values said between them.
    """
    return alpha_of(_coincidence(_counts(said)), scale)


def alpha_of(coincidence_VV: Array, scale: Literal["nominal", "ordinal"] = "nominal") -> float | None:
    """The same of a table of coincidences, its values in their order."""
    said_V = coincidence_VV.sum(axis=1)
    distance_VV = _distances(said_V, scale)
    # By chance: any two that were said, of whatever units.
    by_chance = float((np.outer(said_V, said_V) * distance_VV).sum())
    if by_chance == 0:
        return None
    return 1 - float((coincidence_VV * distance_VV).sum()) * (float(said_V.sum()) - 1) / by_chance


def apart_by_chance(coincidence_VV: Array, scale: Literal["nominal", "ordinal"] = "nominal") -> float:
    """How far apart any two values are that were said, of whatever units; 1 is as far as any of them can be."""
    said_V = coincidence_VV.sum(axis=1)
    distance_VV, ever_V = _distances(said_V, scale), said_V > 0
    widest = float(distance_VV[np.ix_(ever_V, ever_V)].max(initial=0.0))
    by_chance = float((np.outer(said_V, said_V) * distance_VV).sum())
    return by_chance / widest / float(said_V.sum() * (said_V.sum() - 1)) if widest else 0.0


def percent(said: ArrayLike) -> float | None:
    """Of all pairs of raters on a unit of `said_UR`, the share who said the same, in 0..1."""
    counts_UV = _counts(said)
    rated_U = counts_UV.sum(axis=1)
    pairs = float((rated_U * (rated_U - 1)).sum())
    return float((counts_UV * (counts_UV - 1)).sum()) / pairs if pairs else None


def tau_b(one: ArrayLike, other: ArrayLike) -> float | None:
    """Kendall's tau-b of two orders of the same N things (1945): ties count for neither side. -1..1."""
    one_N, other_N = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if one_N.ndim != 1 or one_N.shape != other_N.shape or not np.isfinite([one_N, other_N]).all():
        raise RequestError("tau-b: expected two lists of as many finite numbers")
    sign_NN = np.sign(one_N[:, None] - one_N)
    other_NN = np.sign(other_N[:, None] - other_N)
    strict = float((sign_NN**2).sum() * (other_NN**2).sum())
    return float((sign_NN * other_NN).sum()) / strict**0.5 if strict else None


def _counts(said: ArrayLike) -> Array:
    """counts_UV: how many raters said each value of each unit."""
    said_UR = np.asarray(said, dtype=np.float64)
    if said_UR.ndim != 2 or np.isinf(said_UR).any():
        raise RequestError("agreement: expected a table of units by raters, of finite numbers or NaN")
    values_V = np.unique(said_UR[~np.isnan(said_UR)])
    return (said_UR[:, :, None] == values_V).sum(axis=1).astype(np.float64)


def _coincidence(counts_UV: Array) -> Array:
    """How often two raters of a unit said each pair of values, every unit weighing as many as rated it."""
    rated_U = counts_UV.sum(axis=1)
    counts_UV, rated_U = counts_UV[rated_U > 1], rated_U[rated_U > 1]
    weighed_UV = counts_UV / (rated_U - 1)[:, None]
    return weighed_UV.T @ counts_UV - np.diag(weighed_UV.sum(axis=0))


def _distances(said_V: Array, scale: Literal["nominal", "ordinal"]) -> Array:
    return 1 - np.eye(len(said_V)) if scale == "nominal" else _ordinal(said_V)


def _ordinal(said_V: Array) -> Array:
    """Squared distances of ordered values: how many were said from one to the other, half of both ends."""
    middle_V = np.cumsum(said_V) - said_V / 2
    return (middle_V[:, None] - middle_V) ** 2
