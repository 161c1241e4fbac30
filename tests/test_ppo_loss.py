"""PPO's arithmetic against numbers worked by hand and brute-force twins."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prefloop.ppo import loss


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows[0] if len(rows) == 1 else rows, dtype=torch.float64)


def random_episodes(seed: int, episodes: int = 5, longest: int = 7) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Lengths, mask, and three tensors with rubbish in their padding."""
    draw = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(1, longest + 1, (episodes,), generator=draw)
    mask_BT = (torch.arange(longest) < lengths_B[:, None]).double()
    a, b, c = (torch.randn(episodes, longest, generator=draw, dtype=torch.float64) for _ in range(3))
    return lengths_B, mask_BT, a, b, c


def test_terminal_rewards_by_hand() -> None:
    scores_B, ended_B = tensor([7.0, -9.0, 1.0, 1.0]), torch.tensor([True, True, False, True])
    assert loss.terminal_rewards(scores_B, ended_B, 5.0, 1.5).tolist() == [5.0, -5.0, -0.5, 1.0]


def test_shaped_rewards_by_hand() -> None:
    logprobs_BT = tensor([-1.0, -2.0, -3.0], [-1.0, -1.0, 99.0])
    reference_BT = tensor([-1.5, -1.0, -3.0], [-2.0, -1.0, -99.0])
    mask_BT = tensor([1.0, 1.0, 1.0], [1.0, 1.0, 0.0])
    got_BT = loss.shaped_rewards(tensor([10.0, 20.0]), logprobs_BT, reference_BT, mask_BT, 0.1)
    assert torch.allclose(got_BT, tensor([-0.05, 0.1, 10.0], [-0.1, 20.0, 0.0]))


def test_gae_by_hand() -> None:
    # deltas: 0 + 0.5*2 - 1 = 0; 1 + 0 - 2 = -1. A_1 = -1, A_0 = 0 + 0.5*0.5*(-1) = -0.25.
    rewards_BT, values_BT = tensor([0.0, 1.0], [0.0, 0.0])[:1], tensor([1.0, 2.0], [0.0, 0.0])[:1]
    advantages_BT, returns_BT = loss.advantages_and_returns(rewards_BT, values_BT, torch.ones(1, 2).double(), 0.5, 0.5)
    assert advantages_BT.tolist() == [[-0.25, -1.0]]
    assert returns_BT.tolist() == [[0.75, 1.0]]


@pytest.mark.parametrize("seed", range(5))
def test_gae_against_the_definition(seed: int) -> None:
    """The double sum of GAE's eq. 16, episode by episode on unpadded lists."""
    gamma, lam = 0.97, 0.9
    lengths_B, mask_BT, rewards_BT, values_BT, _ = random_episodes(seed)
    advantages_BT, returns_BT = loss.advantages_and_returns(rewards_BT, values_BT, mask_BT, gamma, lam)
    for b, length in enumerate(lengths_B.tolist()):
        r, v = rewards_BT[b, :length].tolist(), [*values_BT[b, :length].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** n * delta[t + n] for n in range(length - t))
            assert advantages_BT[b, t] == pytest.approx(expected)
            assert returns_BT[b, t] == pytest.approx(expected + v[t])
        assert advantages_BT[b, length:].tolist() == returns_BT[b, length:].tolist() == [0.0] * (7 - length)


def test_gae_with_lambda_1_is_the_return_less_the_value() -> None:
    _, mask_BT, rewards_BT, values_BT, _ = random_episodes(9)
    _, returns_BT = loss.advantages_and_returns(rewards_BT, values_BT, mask_BT, 1.0, 1.0)
    to_come_BT = (rewards_BT * mask_BT).flip(1).cumsum(1).flip(1) * mask_BT
    assert torch.allclose(returns_BT, to_come_BT)


def test_whitening_counts_valid_tokens_only() -> None:
    _, mask_BT, values_BT, _, _ = random_episodes(3)
    white_BT = loss.whitened(values_BT, mask_BT)
    valid = [float(v) for v, m in zip(white_BT.flatten(), mask_BT.flatten(), strict=True) if m]
    assert sum(valid) / len(valid) == pytest.approx(0.0, abs=1e-12)
    assert sum(v * v for v in valid) / len(valid) == pytest.approx(1.0, abs=1e-6)
    assert float((white_BT * (1 - mask_BT)).abs().max()) == 0.0
    plain = loss.whitened(tensor([1.0, 3.0, 50.0]), tensor([1.0, 1.0, 0.0]))
    assert plain.tolist() == pytest.approx([-1.0, 1.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(("ratio", "advantage", "expected", "clipped"), [
    (1.0, 2.0, -2.0, 0.0),
    (1.5, 2.0, -2.4, 1.0),   # gains are capped
    (0.5, 2.0, -1.0, 0.0),   # a good token that became rarer keeps its pull
    (1.5, -2.0, 3.0, 0.0),   # a bad one that became likelier too
    (0.5, -2.0, 1.6, 1.0),
])
def test_clipped_policy_loss_by_hand(ratio: float, advantage: float, expected: float, clipped: float) -> None:
    new, old = tensor([math.log(ratio) - 3.0]), tensor([-3.0])
    assert loss.policy_losses(new, old, tensor([advantage]), 0.2).item() == pytest.approx(expected)
    assert loss.policy_clipped(new, old, tensor([advantage]), 0.2).item() == clipped


@pytest.mark.parametrize(("value", "old", "target", "expected", "clipped"), [
    (1.1, 1.0, 2.0, 0.405, 0.0),
    (1.9, 1.0, 2.0, 0.32, 1.0),   # moved by 0.9, counted as 0.2: (1.2 - 2)^2 / 2
    (0.5, 1.0, 2.0, 1.125, 0.0),  # the wrong way: its own error is the worse
])
def test_clipped_value_loss_by_hand(value: float, old: float, target: float, expected: float, clipped: float) -> None:
    given = tensor([value]), tensor([old]), tensor([target])
    assert loss.value_losses(*given, 0.2).item() == pytest.approx(expected)
    assert loss.value_clipped(*given, 0.2).item() == clipped


def test_a_clipped_token_has_no_gradient_and_a_wild_ratio_stays_finite() -> None:
    new = torch.tensor([0.5, 0.0, 300.0], requires_grad=True)
    loss.policy_losses(new, torch.zeros(3), torch.ones(3), 0.2).sum().backward()
    assert new.grad is not None
    assert new.grad.tolist() == [0.0, -1.0, 0.0]
    assert loss.ratios(torch.tensor([300.0, -300.0]), torch.zeros(2)).isfinite().all()


def test_k3_is_never_negative_and_near_the_kl() -> None:
    old_V = torch.log_softmax(tensor([0.3, -1.0, 2.0, 0.1]), -1)
    new_V = torch.log_softmax(tensor([0.4, -0.8, 1.8, 0.3]), -1)
    k3_V = loss.approximate_kl(new_V, old_V)
    assert float(k3_V.min()) >= 0
    exact = float((old_V.exp() * (old_V - new_V)).sum())
    assert float((old_V.exp() * k3_V).sum()) == pytest.approx(exact)  # the expectation of k3 is the KL


def test_the_loss_does_not_depend_on_micro_batches() -> None:
    """Sums over tokens by the count of the whole step: rows of unequal length split anyhow give one gradient."""
    lengths_B, mask_BT, new_BT, old_BT, advantages_BT = random_episodes(4, episodes=6)
    gradients = []
    for parts in ([[0, 1, 2, 3, 4, 5]], [[0], [1, 2, 3, 4], [5]], [[5, 3], [4, 0], [2, 1]]):
        own_BT = new_BT.clone().requires_grad_()
        for part in parts:
            valid = mask_BT[part].bool()
            losses_N = loss.policy_losses(own_BT[part][valid], old_BT[part][valid], advantages_BT[part][valid], 0.2)
            (losses_N.sum() / lengths_B.sum()).backward()
        gradients.append(own_BT.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-12)
    assert torch.allclose(gradients[0], gradients[2], rtol=1e-12)


def test_explained_variance_and_correlation_by_hand() -> None:
    returns_BT, mask_BT = tensor([0.0, 2.0, 7.0], [4.0, 9.0, 9.0]), tensor([1.0, 1.0, 0.0], [1.0, 0.0, 0.0])
    assert loss.explained_variance(returns_BT, returns_BT, mask_BT) == pytest.approx(1.0)
    assert loss.explained_variance(returns_BT * 0 + 5, returns_BT, mask_BT) == pytest.approx(0.0)
    assert loss.explained_variance(returns_BT / 2, returns_BT, mask_BT) == pytest.approx(0.75)
    assert loss.explained_variance(returns_BT, mask_BT, mask_BT) == 0.0
    assert loss.correlation(tensor([1.0, 2.0, 3.0]), tensor([6.0, 4.0, 2.0])) == pytest.approx(-1.0)
    assert loss.correlation(tensor([1.0, 2.0, 3.0]), tensor([6.0, 6.0, 6.0])) == 0.0


def test_the_kl_coefficient_follows_its_target() -> None:
    assert loss.adapted_kl_coef(0.1, 6.0, 6.0, 100, 1000) == pytest.approx(0.1)
    assert loss.adapted_kl_coef(0.1, 6.6, 6.0, 100, 1000) == pytest.approx(0.1 * 1.01)
    assert loss.adapted_kl_coef(0.1, 60.0, 6.0, 100, 1000) == pytest.approx(0.1 * 1.02)
    assert loss.adapted_kl_coef(0.1, 0.0, 6.0, 100, 1000) == pytest.approx(0.1 * 0.98)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    shares = [loss.learning_rate_share(step, 10, 0.2) for step in range(10)]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert loss.learning_rate_share(0, 10, 0.0) == 1.0
