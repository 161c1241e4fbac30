"""Agreement against numbers worked by hand, brute-force twins and scipy."""

from itertools import permutations

import numpy as np
import pytest
from scipy.stats import kendalltau

from prefloop import agreement
from prefloop.errors import RequestError

NONE = np.nan


def brute_alpha(said_UR: np.ndarray, ordinal: bool) -> float:
    """Krippendorff's definition, a pair of values at a time: 1 - observed / expected disagreement."""
    units = [row[~np.isnan(row)] for row in said_UR]
    units = [row for row in units if len(row) > 1]
    every = np.concatenate(units)

    def distance(a: float, b: float) -> float:
        if not ordinal or a == b:
            return float(a != b)
        between = ((every >= min(a, b)) & (every <= max(a, b))).sum()
        return float(between - ((every == a).sum() + (every == b).sum()) / 2) ** 2

    observed = sum(distance(a, b) / (len(row) - 1) for row in units for a, b in permutations(row, 2)) / len(every)
    expected = sum(distance(a, b) for a, b in permutations(every, 2)) / (len(every) * (len(every) - 1))
    return 1 - observed / expected


def test_alpha_of_two_raters_by_hand() -> None:
    # Of four units one is said differently: 2 of 8 ordered pairs; by chance 2 * 5 * 3 of 8 * 7.
    assert agreement.alpha([[1, 1], [1, 1], [0, 0], [0, 1]]) == pytest.approx(1 - (2 / 8) / (2 * 5 * 3 / (8 * 7)))


@pytest.mark.parametrize("ordinal", [False, True])
def test_alpha_is_its_definition_with_ties_and_gaps(ordinal: bool) -> None:
    draw = np.random.default_rng(4)
    said_UR = np.where(draw.random((30, 6)) < 0.4, NONE, draw.integers(0, 4, (30, 1)) + draw.integers(0, 2, (30, 6)))
    found = agreement.alpha(said_UR, "ordinal" if ordinal else "nominal")
    assert found == pytest.approx(brute_alpha(said_UR, ordinal), abs=1e-12)


def test_alpha_at_its_ends() -> None:
    assert agreement.alpha([[0, 0, 0], [1, 1, NONE], [2, 2, 2]], "ordinal") == pytest.approx(1)
    assert agreement.alpha([[0, 1]] * 50) == pytest.approx(1 - 99 / 50)  # never alike, and 50 of 99 by chance
    draw = np.random.default_rng(0)
    assert agreement.alpha(draw.integers(0, 3, (4000, 3))) == pytest.approx(0, abs=0.02)


def test_an_ordinal_neighbour_is_a_lesser_difference_than_a_far_value() -> None:
    near = agreement.alpha([[0, 0], [1, 1], [2, 2], [0, 1]], "ordinal")
    far = agreement.alpha([[0, 0], [1, 1], [2, 2], [0, 2]], "ordinal")
    assert near is not None
    assert far is not None
    assert near > far


def test_nothing_to_agree_on_is_none() -> None:
    for said in ([[1, 1], [1, 1]], [[1, NONE], [NONE, 0]], [[NONE, NONE]]):
        assert agreement.alpha(said) is None
    assert agreement.percent([[1, NONE], [NONE, 0]]) is None
    assert agreement.tau_b([1, 1, 1], [1, 2, 3]) is None


def test_percent_is_of_pairs_of_raters() -> None:
    assert agreement.percent([[1, 1, 0], [0, 0, NONE]]) == pytest.approx(2 / 4)


def test_tau_b_is_scipy_s_and_by_hand() -> None:
    assert agreement.tau_b([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)
    draw = np.random.default_rng(2)
    for _ in range(5):
        one, other = draw.integers(0, 5, 40), draw.integers(0, 5, 40)
        assert agreement.tau_b(one, other) == pytest.approx(kendalltau(one, other)[0])
        assert agreement.tau_b(one, -other) == pytest.approx(kendalltau(one, -other)[0])


@pytest.mark.parametrize("call", [
    lambda: agreement.alpha([1, 2]),
    lambda: agreement.percent([[np.inf]]),
    lambda: agreement.tau_b([1], [1, 2]),
    lambda: agreement.tau_b([1, NONE], [1, 2]),
])
def test_what_is_no_table_is_refused(call) -> None:
    with pytest.raises(RequestError):
        call()
