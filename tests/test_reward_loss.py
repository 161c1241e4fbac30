"""The losses of rankings against numbers worked by hand and twins that enumerate every outcome."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations, permutations, product

import pytest
import torch
from torch import Tensor

from prefloop.reward import loss
from prefloop.reward.loss import NOBODY, UNRANKED

SURE = torch.ones(1, dtype=torch.float64)
SCORES = torch.tensor([[0.7, -0.4, 1.1, 0.2]], dtype=torch.float64)


def weak_orders(answers: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Every ranking with ties of at most so many, as levels."""
    for levels in product(range(1, answers + 1), repeat=answers):
        if set(levels) == set(range(1, max(levels) + 1)) and max(map(levels.count, levels)) <= largest:
            yield levels


def chance_by_hand(scores: list[float], levels: tuple[int, ...], delta: list[float]) -> float:
    """Stage by stage, over every set that could have been chosen. `delta[s - 1]` is for sets of s."""
    worth = [math.exp(score) for score in scores]

    def weight(chosen: tuple[int, ...]) -> float:
        return delta[len(chosen) - 1] * math.prod(worth[n] for n in chosen) ** (1 / len(chosen))

    probability, left = 1.0, list(range(len(scores)))
    for level in sorted({level for level in levels if level not in (NOBODY, UNRANKED)}):
        chosen = tuple(n for n in left if levels[n] == level)
        sets = [own for size in range(1, min(len(delta), len(left)) + 1) for own in combinations(left, size)]
        probability *= weight(chosen) / sum(map(weight, sets))
        left = [n for n in left if n not in chosen]
    return probability


def outcomes(levels: list[tuple[int, ...]], largest: int) -> Tensor:
    return torch.tensor([math.log(loss.outcomes(len(one) - one.count(NOBODY), one.count(UNRANKED), largest))
                         for one in levels], dtype=torch.float64)


def pl(levels: list[tuple[int, ...]], delta: list[float] | None = None, eta: float = 1.0,
       scores: Tensor = SCORES) -> Tensor:
    """Likelihoods of these rankings."""
    ties = torch.tensor(delta[1:], dtype=torch.float64).log() if delta else None
    counted = outcomes(levels, len(delta) if delta else 1)
    nll_J = loss.plackett_luce(scores.expand(len(levels), -1), torch.tensor(levels),
                               torch.full((len(levels),), eta, dtype=torch.float64), counted, ties)
    return (-nll_J).exp()


@pytest.mark.parametrize(("largest", "eta"), [(1, 1.0), (2, 1.0), (4, 1.0), (1, 0.8), (3, 0.7), (3, 0.2)])
def test_every_outcome_of_a_ranking_together_is_certain(largest: int, eta: float) -> None:
    delta = [1.0, 0.6, 0.4, 0.3][:largest]
    levels = list(weak_orders(4, largest))
    found_J = pl(levels, delta if largest > 1 else None, eta)
    assert float(found_J.sum()) == pytest.approx(1.0)
    rho = max(0.0, 2 * eta - 1)
    for one, own in zip(levels, found_J.tolist(), strict=True):
        by_hand = rho * chance_by_hand(SCORES[0].tolist(), one, delta) + (1 - rho) / len(levels)
        assert own == pytest.approx(by_hand)


def test_a_partial_ranking_is_the_sum_over_what_it_leaves_open() -> None:
    whole = {levels: chance_by_hand(SCORES[0].tolist(), levels, [1.0]) for levels in permutations((1, 2, 3, 4))}
    best_two = (2, UNRANKED, 1, UNRANKED)
    expected = sum(chance for levels, chance in whole.items() if (levels[2], levels[0]) == (1, 2))
    assert float(pl([best_two])) == pytest.approx(expected)
    assert loss.outcomes(4, 2, 1) == 12
    partial: list[tuple[int, ...]] = [one for one in product((1, 2, UNRANKED), repeat=4)
                                      if one.count(1) == one.count(2) == 1]
    assert float(pl(partial, eta=0.8).sum()) == pytest.approx(1.0)
    tied: list[tuple[int, ...]] = [(1, 1, UNRANKED, UNRANKED), (UNRANKED, 1, 2, UNRANKED)]
    assert pl(tied, [1.0, 0.5]).tolist() == pytest.approx(
        [chance_by_hand(SCORES[0].tolist(), one, [1.0, 0.5]) for one in tied])


def test_a_tie_that_says_nothing_is_the_product_of_what_its_members_beat() -> None:
    a, b, c, d = SCORES[0].exp().tolist()
    assert float(pl([(1, 1, 2, 3)])) == pytest.approx(a / (a + c + d) * b / (b + c + d) * c / (c + d))
    assert float(pl([(1, 1, 1, 1)])) == 1.0


def two(levels: tuple[int, int], eta: float = 1.0, **ties: Tensor) -> float:
    """The likelihood of one pair, scores 1.1 and 0.2."""
    scores = torch.tensor([[1.1, 0.2]], dtype=torch.float64)
    return float((-loss.pairs(scores, torch.tensor([levels]), SURE * eta, **ties)).exp())


def test_two_answers_with_ties_are_davidsons_model_in_both() -> None:
    nu, a, b = 0.7, math.exp(1.1), math.exp(0.2)
    whole = a + b + nu * math.sqrt(a * b)
    expected = [a / whole, b / whole, nu * math.sqrt(a * b) / whole]
    log_nu = torch.tensor(nu, dtype=torch.float64).log()
    levels = [(1, 2), (2, 1), (1, 1)]
    scores = torch.tensor([[1.1, 0.2]], dtype=torch.float64)
    assert [two(one, davidson=log_nu) for one in levels] == pytest.approx(expected)
    assert pl(levels, [1.0, nu], scores=scores).tolist() == pytest.approx(expected)


def test_rao_and_kuppers_ties_by_hand() -> None:
    theta, a, b = 1.5, math.exp(1.1), math.exp(0.2)
    log_theta = torch.tensor(theta, dtype=torch.float64).log()
    expected = [a / (a + theta * b), b / (b + theta * a),
                (theta**2 - 1) * a * b / ((a + theta * b) * (b + theta * a))]
    assert [two(one, rao_kupper=log_theta) for one in ((1, 2), (2, 1), (1, 1))] == pytest.approx(expected)
    assert sum(expected) == pytest.approx(1.0)


@pytest.mark.parametrize("eta", [1.0, 0.9, 0.5])
def test_two_answers_without_ties_are_bradley_terry_and_raters_turn_them(eta: float) -> None:
    p = 1 / (1 + math.exp(-0.9))
    expected = eta * p + (1 - eta) * (1 - p)
    scores = torch.tensor([[1.1, 0.2]], dtype=torch.float64)
    assert two((1, 2), eta) == pytest.approx(expected)
    assert float(pl([(1, 2)], eta=eta, scores=scores)) == pytest.approx(expected)
    assert two((1, 1), eta) == 1.0


def test_pairs_are_averaged_and_the_unranked_say_nothing_of_each_other() -> None:
    def lost(better: int, worse: int) -> float:
        return math.log(1 + math.exp(float(SCORES[0, worse] - SCORES[0, better])))

    levels = torch.tensor([[2, UNRANKED, 1, UNRANKED]])
    expected = (lost(2, 0) + lost(2, 1) + lost(2, 3) + lost(0, 1) + lost(0, 3)) / 5
    assert float(loss.pairs(SCORES, levels, SURE)) == pytest.approx(expected)
    tied = torch.tensor([[1, 1, 2, 2]])
    nu = torch.tensor(-0.3, dtype=torch.float64)
    each = [two_of(i, j, nu) for i, j in ((0, 2), (0, 3), (1, 2), (1, 3))]
    ties = [two_of(i, j, nu, tie=True) for i, j in ((0, 1), (2, 3))]
    assert float(loss.pairs(SCORES, tied, SURE, davidson=nu)) == pytest.approx(sum(each + ties) / 6)


def two_of(i: int, j: int, nu: Tensor, tie: bool = False) -> float:
    levels = torch.tensor([[1, 1 if tie else 2]])
    return float(loss.pairs(SCORES[:, [i, j]], levels, SURE, davidson=nu))


# Every loss of scores_JK and levels_JK, as a function of these two.
def every_loss(scores_JK: Tensor, levels_JK: Tensor) -> dict[str, Tensor]:
    count = len(levels_JK)
    eta_J = torch.full((count,), 0.85, dtype=scores_JK.dtype)
    logs_J = outcomes([tuple(row) for row in levels_JK.tolist()], 3).to(scores_JK)
    ties_S = torch.tensor([-0.4, -0.9], dtype=scores_JK.dtype)
    cuts_3 = torch.tensor([0.3, 0.9, 1.4], dtype=scores_JK.dtype)
    strength_J, none_J = torch.arange(count) % 5 - 1, torch.arange(count) % 2 == 0
    return {"plackett_luce": loss.plackett_luce(scores_JK, levels_JK, eta_J, logs_J),
            "davidson_luce": loss.plackett_luce(scores_JK, levels_JK, eta_J, logs_J, ties_S),
            "pairs": loss.pairs(scores_JK, levels_JK, eta_J),
            "davidson": loss.pairs(scores_JK, levels_JK, eta_J, davidson=ties_S[0]),
            "rao_kupper": loss.pairs(scores_JK, levels_JK, eta_J, rao_kupper=-ties_S[0]),
            "strength": loss.strength(scores_JK, levels_JK, strength_J, eta_J, cuts_3),
            "acceptable": loss.acceptable(scores_JK, levels_JK, none_J, eta_J, cuts_3[0]),
            "centring": loss.centring(scores_JK, levels_JK)}


LEVELS = torch.tensor([[1, 2, 3, 4, 5], [2, 1, 1, 3, NOBODY], [1, UNRANKED, UNRANKED, NOBODY, NOBODY],
                       [1, 1, 1, 2, 2], [UNRANKED, UNRANKED, NOBODY, NOBODY, NOBODY], [2, 2, 1, UNRANKED, NOBODY]])


def some_scores(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(LEVELS.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_padding_order_and_batch_change_nothing() -> None:
    scores_JK = some_scores()
    whole = every_loss(scores_JK, LEVELS)
    order = torch.tensor([3, 0, 4, 1, 2])
    for other in (every_loss(scores_JK[:, order], LEVELS[:, order]),
                  every_loss(torch.cat([scores_JK, torch.full((6, 2), 99.0)], 1),
                             torch.cat([LEVELS, torch.full((6, 2), NOBODY)], 1)),
                  every_loss(torch.where(LEVELS == NOBODY, -7.0, scores_JK), LEVELS)):
        for name, nll_J in whole.items():
            torch.testing.assert_close(other[name], nll_J, msg=name)
    first = every_loss(scores_JK[:2], LEVELS[:2])
    for name, nll_J in whole.items():
        torch.testing.assert_close(first[name], nll_J[:2], msg=name)
        several = every_loss(torch.stack([scores_JK, scores_JK + 1, scores_JK * 2]), LEVELS)[name]
        torch.testing.assert_close(several[0], nll_J, msg=name)
        assert several.shape == (3, 6)


def test_gradients_are_those_of_small_steps_and_finite_in_fp32() -> None:
    for name in every_loss(some_scores(), LEVELS):
        assert torch.autograd.gradcheck(lambda scores, name=name: every_loss(scores, LEVELS)[name],
                                        some_scores().requires_grad_(), atol=1e-6)
        extreme = (some_scores(torch.float32) * 60).requires_grad_()
        every_loss(extreme, LEVELS)[name].sum().backward()
        assert extreme.grad is not None
        assert bool(extreme.grad.isfinite().all()), name


def test_strength_by_hand() -> None:
    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    cuts, gap = [0.0, 0.5, 1.0, 2.0, math.inf], 0.9
    scores, levels = torch.tensor([[1.1, 0.2]], dtype=torch.float64), torch.tensor([[1, 2]])
    tensors = torch.tensor(cuts[1:4], dtype=torch.float64)
    found = [float((-loss.strength(scores, levels, torch.tensor([n]), SURE, tensors)).exp()) for n in range(4)]
    assert found == pytest.approx([(sigma(gap - cuts[n]) - sigma(gap - cuts[n + 1])) / sigma(gap) for n in range(4)])
    assert sum(found) == pytest.approx(1.0)
    assert float(loss.strength(scores, levels, torch.tensor([-1]), SURE, tensors)) == 0.0
    assert float(loss.strength(scores, torch.tensor([[1, 1]]), torch.tensor([3]), SURE, tensors)) == 0.0
    three = torch.tensor([[1, UNRANKED, UNRANKED, NOBODY]])  # the next level has two: their mean
    each = [float(loss.strength(SCORES[:, [0, n]], levels, torch.tensor([2]), SURE, tensors)) for n in (1, 2)]
    assert float(loss.strength(SCORES, three, torch.tensor([2]), SURE, tensors)) == pytest.approx(sum(each) / 2)


def test_none_acceptable_by_hand_and_both_ways_are_certain() -> None:
    tau = torch.tensor(0.5, dtype=torch.float64)
    none = math.prod(1 / (1 + math.exp(score - 0.5)) for score in SCORES[0].tolist())
    levels = torch.full((1, 4), UNRANKED)
    found = [float((-loss.acceptable(SCORES, levels, torch.tensor([said]), SURE, tau)).exp())
             for said in (True, False)]
    assert found == pytest.approx([none, 1 - none])


def test_margins_and_centring_by_hand() -> None:
    offsets = loss.margins(torch.tensor([[2, 1, 3], [1, 1, 2]]), torch.tensor([0.5, 0.7]))
    assert offsets.flatten().tolist() == pytest.approx([0, -0.5, 0, 0, 0, 0])
    assert float(loss.centring(torch.tensor([[1.0, 2.0, -3.0]]), torch.tensor([[1, 2, NOBODY]]))) == 9.0
