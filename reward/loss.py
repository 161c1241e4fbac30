"""Losses of a reward model, as pure functions. `P` pairs, of answers whose scores are `scores_B`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry(scores_B: Tensor, chosen_P: Tensor, rejected_P: Tensor, weights_P: Tensor) -> Tensor:
    """Weighted sum of -log sigmoid(r_chosen - r_rejected) (Bradley and Terry 1952; InstructGPT, eq. 1).

    The weights of one ranking sum to 1, so the sum over a batch divided by its rankings is a mean per ranking.
    """
    return -(weights_P * logsigmoid(scores_B[chosen_P] - scores_B[rejected_P])).sum()


def centring(scores_B: Tensor, chosen_P: Tensor, rejected_P: Tensor, weights_P: Tensor) -> Tensor:
    """Weighted sum of (r_chosen + r_rejected)^2, which keeps the mean reward near 0 (Eisenstein et al. 2023)."""
    return (weights_P * (scores_B[chosen_P] + scores_B[rejected_P]).square()).sum()


def accuracy(scores_B: Tensor, chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
    """1 for each pair ordered right, 1/2 for equal scores, 0 for wrong."""
    gap_P = scores_B[chosen_P] - scores_B[rejected_P]
    return torch.where(gap_P == 0, 0.5, (gap_P > 0).float())
