"""How much of a win rate is length. Pure arithmetic.

The length-controlled win rate follows AlpacaEval 2 (Dubois and others 2024): a logistic regression of the outcome on
an intercept and on tanh of the standardised gap in length; its answer is the win rate at no gap, sigmoid(intercept).
Here the gap is of the logarithms of token counts, divided by its root mean square: swapping the two sides turns the
sign of everything, and tanh does not saturate where one side is nearly always the longer. The difficulty of a prompt
is left out, and the regression is refitted in each resample of prompts, so that the interval knows of the fit's own
error. A fit says little of where no answers are: it stands on the side that is the longer one less often.

Dimensions: D contests, U of them that differ in prompt or gap, N prompts, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from prefloop.compare.clusters import Array, Numbers

LEAST = 0.05  # of the prompts that differ in length: on so many at least, either side is the longer
RIDGE = 1e-3  # on both coefficients: under a vote's worth, it only matters where none would be finite
ROUNDS, TOLERANCE = 50, 1e-9
BLOCK = 2**20  # numbers of a table that are worked on at once, so that many prompts need no more memory


@dataclass(frozen=True)
class Fitted:
    """The win rate at no gap, the same refitted in each resample, and each contest's part in its deviation."""

    value: float
    values_R: Array
    influence_D: Array


@dataclass(frozen=True)
class Rows:
    """Contests of the same prompt and gap as one row: how many there are, the sum won, and the regressor."""

    count_U: Array
    won_U: Array
    regressor_U: Array


def between(won_D: Array, gap_D: Array, prompt_D: Numbers) -> int:
    """How many prompts tell what is between shorter and longer: those of whichever side is the longer less often. 0
    where that is hardly ever, or where length alone says who won: then any slope fits, and any win rate at no gap."""
    shorter, longer, unlike = (len(np.unique(prompt_D[kept_D])) for kept_D in (gap_D < 0, gap_D > 0, gap_D != 0))
    won, lost = gap_D[won_D > 0], gap_D[won_D < 1]
    apart = len(won) and len(lost) and (won.min() >= lost.max() or lost.min() >= won.max())
    return 0 if apart or min(shorter, longer) < LEAST * unlike else min(shorter, longer)


def fitted(won_D: Array, gap_D: Array, prompt_D: Numbers, weights_RN: Array) -> Fitted:
    """`gap_D` is log(tokens of the candidate / tokens of the baseline), and not everywhere 0."""
    cells_2U, row_D = np.unique(np.stack([prompt_D.astype(np.float64), gap_D]), axis=1, return_inverse=True)
    scale = (gap_D**2).mean() ** 0.5
    rows = Rows(np.bincount(row_D.ravel()).astype(np.float64), np.bincount(row_D.ravel(), won_D).astype(np.float64),
                np.tanh(cells_2U[1] / scale))
    both_12 = coefficients(rows, np.ones((1, len(rows.count_U))), np.zeros((1, 2)))
    prompt_U = cells_2U[0].astype(np.int64)
    parts = np.array_split(weights_RN, 1 + len(weights_RN) * len(prompt_U) // BLOCK)
    both_R2 = np.concatenate([coefficients(rows, part[:, prompt_U], np.repeat(both_12, len(part), 0))
                              for part in parts])
    value = float(special.expit(both_12[0, 0]))
    design_D2 = np.stack([np.ones_like(gap_D), np.tanh(gap_D / scale)], axis=1)
    chance_D = special.expit(design_D2 @ both_12[0])
    information_22 = (design_D2 * (chance_D * (1 - chance_D))[:, None]).T @ design_D2 + RIDGE * np.eye(2)
    moved_D = np.linalg.solve(information_22, design_D2.T)[0] * (won_D - chance_D)
    return Fitted(value, special.expit(both_R2[:, 0]), value * (1 - value) * moved_D)


def coefficients(rows: Rows, weights_RU: Array, start_R2: Array) -> Array:
    """Intercept and slope of each weighting, by Newton's method."""
    both_R2 = start_R2.copy()
    left = np.arange(len(both_R2))
    powers_U3 = np.stack([np.ones_like(rows.regressor_U), rows.regressor_U, rows.regressor_U**2], axis=1)
    for _ in range(ROUNDS):
        step_2 = _step(rows, weights_RU[left], both_R2[left], powers_U3)
        both_R2[left] += step_2
        left = left[np.abs(step_2).max(axis=1) > TOLERANCE]
        if not len(left):
            break
    return both_R2


def _step(rows: Rows, weights_RU: Array, both_R2: Array, powers_U3: Array) -> Array:
    """Newton's, of two at most in either coefficient: it may not overshoot."""
    chance_RU = special.expit(both_R2[:, :1] + both_R2[:, 1:] * rows.regressor_U)
    seen_RU = weights_RU * rows.count_U * chance_RU
    gradient_R2 = (weights_RU * rows.won_U - seen_RU) @ powers_U3[:, :2] - RIDGE * both_R2
    a_R, b_R, c_R = ((seen_RU * (1 - chance_RU)) @ powers_U3).T + RIDGE * np.array([[1.0], [0.0], [1.0]])
    step_R2 = np.stack([c_R * gradient_R2[:, 0] - b_R * gradient_R2[:, 1],
                        a_R * gradient_R2[:, 1] - b_R * gradient_R2[:, 0]], axis=1)
    return np.clip(step_R2 / (a_R * c_R - b_R**2)[:, None], -2.0, 2.0)


def fifths(gap_D: Array) -> Numbers:
    """0..4 of each contest, by the rank of its gap; the same gaps stay together, and turning all signs turns the
    order: what lies on a border goes outwards."""
    ordered_D = np.sort(gap_D)
    # Twice the share of contests below, counting those as large half: whole numbers, so that borders are exact.
    twice_D = 5 * (np.searchsorted(ordered_D, gap_D, "left") + np.searchsorted(ordered_D, gap_D, "right"))
    every = 2 * len(gap_D)
    lower_D, upper_D = -(-twice_D // every) - 1, twice_D // every
    return np.where(2 * twice_D < 5 * every, lower_D, upper_D)
