"""PPO's arithmetic: pure functions of tensors.

Dimensions: B episodes, T answer tokens, right-padded; `mask_BT` is 1 on an answer's tokens, its end token included.
Functions without dimensions in their arguments' names work token by token, on any shape. Sources:
Schulman et al. 2017, "Proximal policy optimization" (PPO); Schulman et al. 2016, "High-dimensional continuous control
using generalized advantage estimation" (GAE); Ziegler et al. 2019, "Fine-tuning language models from human
preferences" (FT); Stiennon et al. 2020, "Learning to summarize from human feedback"; Schulman 2020, "Approximating KL
divergence" (KL); Ahmadian et al. 2024, "Back to basics: revisiting REINFORCE-style optimization" (RLOO); Shao et al.
2024, "DeepSeekMath" (GRPO).

Where an answer's advantage is told without a critic, the K answers to a prompt stand beside each other in B.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0  # e^20 is far outside every clip range, and still finite in fp32


def terminal_rewards(scores_B: Tensor, ended_B: Tensor, clip: float, missing_eos_penalty: float) -> Tensor:
    """What an episode earns at its last token: its clipped score, less the penalty if it did not end by itself."""
    return scores_B.clamp(-clip, clip) - missing_eos_penalty * (~ended_B)


def shaped_rewards(terminal_B: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor,
                   kl_coef: float) -> Tensor:
    """-kl_coef (log pi - log pi_ref) at every token, and the terminal reward at the last one (FT, eq. 2).

    The KL estimator is k1: unlike k3, its gradient through the reward is that of the KL (arXiv 2510.01555).
    """
    rewards_BT = -kl_coef * (logprobs_BT - reference_BT) * mask_BT
    last_B1 = mask_BT.sum(1, keepdim=True).long() - 1
    return rewards_BT.scatter_add(1, last_B1, terminal_B[:, None].to(rewards_BT))


def advantages_and_returns(rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float,
                           lam: float) -> tuple[Tensor, Tensor]:
    """A_t = sum_l (gamma lam)^l delta_(t+l), delta_t = r_t + gamma V_(t+1) - V_t (GAE, eq. 16), and A + V.

    Past an answer's last token nothing is earned and nothing expected: V is 0 there, whatever `values_BT` holds.
    """
    rewards_BT, values_BT = rewards_BT * mask_BT, values_BT * mask_BT
    advantages_BT = torch.zeros_like(rewards_BT)
    following_B = next_value_B = torch.zeros_like(rewards_BT[:, 0])
    for t in reversed(range(rewards_BT.shape[1])):
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        following_B = delta_B + gamma * lam * following_B
        advantages_BT[:, t] = following_B
        next_value_B = values_BT[:, t]
    advantages_BT = advantages_BT * mask_BT
    return advantages_BT, (advantages_BT + values_BT) * mask_BT


def penalised(terminal_B: Tensor, logprobs_BT: Tensor, reference_BT: Tensor, mask_BT: Tensor,
              kl_coef: float) -> Tensor:
    """Terminal rewards less kl_coef times log pi - log pi_ref of the whole answer (RLOO, eq. 1)."""
    return terminal_B - kl_coef * ((logprobs_BT - reference_BT) * mask_BT).sum(1)


def leave_one_out(rewards_B: Tensor, answers: int) -> Tensor:
    """Advantages_B: each reward less the mean of the other rewards of its prompt (RLOO, eq. 7)."""
    rewards_PK = rewards_B.view(-1, answers)
    others_PK = (rewards_PK.sum(1, keepdim=True) - rewards_PK) / (answers - 1)
    return (rewards_PK - others_PK).flatten()


def group_relative(rewards_B: Tensor, answers: int) -> Tensor:
    """Advantages_B: rewards with mean 0 and spread 1 among the answers of their prompt (GRPO, section 4.1.2)."""
    rewards_PK = rewards_B.view(-1, answers)
    spread_P1 = rewards_PK.std(1, keepdim=True) + 1e-4
    return ((rewards_PK - rewards_PK.mean(1, keepdim=True)) / spread_P1).flatten()


def whitened(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the valid tokens of the whole rollout, and 0 elsewhere."""
    count = mask_BT.sum()
    mean = (values_BT * mask_BT).sum() / count
    variance = ((values_BT - mean).square() * mask_BT).sum() / count
    return (values_BT - mean) * (variance + 1e-8).rsqrt() * mask_BT


def ratios(new: Tensor, old: Tensor) -> Tensor:
    """pi(token) / pi_old(token), from log-probabilities."""
    return (new - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def importance(ours: Tensor, sampled: Tensor, cap: float) -> Tensor:
    """What a sample from one distribution weighs under another, at most `cap`: exp(log p_ours - log p_sampled).

    Truncated importance sampling (Ionides 2008), for answers that a server sampled with other rounding than ours.
    """
    return ratios(ours, sampled).clamp_max(cap)


def policy_losses(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) of each token (PPO, eq. 7)."""
    ratio = ratios(new, old)
    return torch.maximum(-ratio * advantages, -ratio.clamp(1 - clip, 1 + clip) * advantages)


def by_answer(per_token_N: Tensor, lengths: list[int]) -> Tensor:
    """Sums_B over the tokens of each answer, which follow each other in N."""
    return torch.stack([own.sum() for own in per_token_N.split(lengths)])


def value_losses(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error, the worse of the value and of the value kept within `clip` of the old one."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns).square(), (near - returns).square())


def policy_clipped(new: Tensor, old: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """1 where the clipped ratio decides the loss, so that the token has no gradient."""
    ratio = ratios(new, old)
    return (ratio.clamp(1 - clip, 1 + clip) * advantages < ratio * advantages).float()


def value_clipped(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """1 where the value kept near the old one decides the loss, so that the token has no gradient."""
    near = old_values + (values - old_values).clamp(-clip, clip)
    return ((near - returns).square() > (values - returns).square()).float()


def approximate_kl(new: Tensor, old: Tensor) -> Tensor:
    """KL(old, new) of each token by k3 = (ratio - 1) - log ratio, never negative (KL). To watch, not to reward."""
    log_ratio = (new - old).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return log_ratio.exp() - 1 - log_ratio


def reference_kl(new: Tensor, old: Tensor, reference: Tensor) -> Tensor:
    """KL(new, reference) of each token as a loss: k3 times the ratio to the policy that sampled.

    The factor makes its gradient that of the KL, also where the ratio is 1 (DeepSeek-V3.2, arXiv 2512.02556).
    """
    return ratios(new, old) * approximate_kl(reference, new)


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns) over valid tokens; 0 when the returns do not vary."""
    valid = mask_BT.bool()
    spread = float(returns_BT[valid].var(correction=0))
    return 1 - float((returns_BT - values_BT)[valid].var(correction=0)) / spread if spread > 1e-12 else 0.0


def correlation(a_B: Tensor, b_B: Tensor) -> float:
    """Pearson's; 0 when one of the two does not vary."""
    a_B, b_B = a_B.double() - a_B.double().mean(), b_B.double() - b_B.double().mean()
    spread = float(a_B.norm() * b_B.norm())
    return float((a_B * b_B).sum()) / spread if spread > 1e-12 else 0.0


def adapted_kl_coef(kl_coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """Up when the KL of an answer is over the target, down when under: proportional control (FT, section 2.2)."""
    error = max(-0.2, min(0.2, kl / target - 1))
    return kl_coef * (1 + error * episodes / horizon)


def learning_rate_share(step: int, steps: int, warmup: float) -> float:
    """Linear from 0 over the first `warmup` share of `steps`, then linear down to 0 at the end."""
    rising = round(steps * warmup)
    return min((step + 1) / rising if rising else 1.0, (steps - step) / max(1, steps - rising))
