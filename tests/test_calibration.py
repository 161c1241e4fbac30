"""Calibration by hand, and against brute force."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest

from prefloop.reward import calibration as c

GRID = np.exp(np.linspace(-3, 7, 20_001))


def gaps(probability: float, right: int, wrong: int) -> list[float]:
    """Pairs on which the model is `probability` sure, and is right and wrong so often."""
    size = log(probability / (1 - probability))
    return [size] * right + [-size] * wrong


def test_losses_by_hand() -> None:
    assert c.log_loss([0.0, log(3)]).tolist() == pytest.approx([log(2), log(4 / 3)])
    assert c.brier([0.0, log(3), -log(3)]).tolist() == pytest.approx([0.25, 1 / 16, 9 / 16])
    assert c.log_loss([log(9)], temperature=2.0).tolist() == pytest.approx([log(4 / 3)])
    assert c.log_loss([-1e4]).tolist() == [1e4]
    assert np.isfinite(c.brier([-1e4, 1e4])).all()


def test_confidence_counts_a_pair_once() -> None:
    sure, right = c.confidence([log(3), -log(3), 0.0])
    assert sure.tolist() == pytest.approx([0.75, 0.75, 0.5])
    assert right.tolist() == [1.0, 0.0, 0.5]


def test_bins_by_hand() -> None:
    assert c.in_bins([0.5, 0.549, 0.551, 0.999, 1.0]).tolist() == [0, 0, 1, 9, 9]
    sure, right = c.confidence(gaps(0.62, 3, 1) + gaps(0.95, 2, 2) + [1e9])
    low, high = c.diagram(sure, right, bins=5)
    assert (low.low, low.high, low.pairs, low.correct, low.confidence) == pytest.approx((0.6, 0.7, 4, 0.75, 0.62))
    assert (high.pairs, high.correct, high.confidence) == pytest.approx((5, 0.6, (4 * 0.95 + 1.0) / 5))
    assert c.ece(sure, right, bins=5) == pytest.approx((4 * 0.13 + 5 * (0.96 - 0.6)) / 9)


def test_temperature_makes_confidence_the_share_that_was_right() -> None:
    # 0.9 sure and right three times in four: the temperature divides the gap until that is said, half a pair aside.
    given = gaps(0.9, 75, 25)
    assert c.temperature(given) == pytest.approx(log(9) / log(75.5 / 25.5))
    mixed = [0.3, 2.0, -0.7, 1.1, -0.2, 0.9]
    typical = np.abs(mixed).mean()
    more = [c.log_loss(mixed, t).sum() + c.log_loss([typical, -typical], t).mean() for t in GRID]
    assert c.temperature(mixed) == pytest.approx(GRID[np.argmin(more)], rel=1e-3)
    assert exp(-c.log_loss(given, c.temperature(given)).mean()) > exp(-c.log_loss(given).mean())


def test_temperature_where_there_is_nothing_to_fit() -> None:
    assert 0.2 < c.temperature([1.0] * 5) < 1.0  # five right are not certainty
    assert c.temperature([-1.0, -2.0]) == pytest.approx(1e3)
    assert c.temperature([0.0, 0.0]) == 1e3
    assert c.temperature([]) == 1e3
