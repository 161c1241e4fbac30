"""Losses of a reward model over judgements, as pure functions: each gives every judgement's own.

J judgements, padded to K answers, with scores_JK; dimensions before J (members of an ensemble) are carried along.
`levels_JK` says how a judgement ranks them: 1 for the best, equal for a tie, UNRANKED for those left below every
ranked one with nothing said among themselves, NOBODY for padding. Results are negative log-likelihoods in nats, nll_J.

`reliability_J` is eta, the probability that a rater says what they saw rather than its opposite. For more than two
answers the opposite is a mixture: with rho = max(0, 2 eta - 1) the rater says what they saw, else anything at all.
For one pair without ties both are one: eta p + (1 - eta)(1 - p).
"""

from __future__ import annotations

from functools import cache
from math import comb, log

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

UNRANKED, NOBODY = 10**6, 0
NEVER = -1e30  # a log-probability whose gradient is 0 and not NaN, as minus infinity's would be


def plackett_luce(scores_JK: Tensor, levels_JK: Tensor, reliability_J: Tensor, log_outcomes_J: Tensor,
                  log_tie_S: Tensor | None = None) -> Tensor:
    """Plackett-Luce (Plackett 1975): the best is chosen from all, the next from the rest, and so on.

    With `log_tie_S`, ties by Davidson and Luce (Turner et al. 2020, "Modelling rankings in R", eq. 2): a set S of s
    answers is chosen from what is left with a weight of delta_s * prod(alpha)^(1/s), where alpha = exp(score),
    delta_1 = 1 and log_tie_S has log delta_2 and on; no larger set can tie. Without, a tie says nothing: each of the
    tied is chosen before those below it. `log_outcomes_J`: the logarithm of how many outcomes there are (`outcomes`).
    """
    order_JK = levels_JK.argsort(dim=-1, descending=True, stable=True)  # worst first, padding last
    levels_JK = levels_JK.gather(-1, order_JK)
    scores_JK = scores_JK.gather(-1, order_JK.expand(scores_JK.shape))
    real_JK, ranked_JK = levels_JK != NOBODY, (levels_JK != NOBODY) & (levels_JK != UNRANKED)
    same_JKK = (levels_JK[..., :, None] == levels_JK[..., None, :]) & real_JK[..., None, :]
    size_JK = same_JKK.sum(-1).clamp_min(1)
    last_JK = same_JKK.cumsum(-1).diagonal(dim1=-2, dim2=-1) == size_JK  # of its level
    scores_JK = torch.where(real_JK, scores_JK, NEVER)
    if log_tie_S is None:
        chosen_JK = scores_JK - torch.logaddexp(scores_JK, _below(scores_JK, last_JK, size_JK))
    else:
        log_tie_S = torch.cat([log_tie_S.new_zeros(1), log_tie_S])
        of_all_JK = _weights(scores_JK, log_tie_S)
        delta_JK = log_tie_S[(size_JK - 1).clamp_max(len(log_tie_S) - 1)]
        chosen_JK = scores_JK / size_JK + last_JK * (delta_JK - of_all_JK)
    likelihood_J = torch.where(ranked_JK, chosen_JK, 0.0).sum(-1)
    return -_mixed(likelihood_J, -log_outcomes_J, (2 * reliability_J - 1).clamp_min(0))


def _below(scores_JK: Tensor, last_JK: Tensor, size_JK: Tensor) -> Tensor:
    """log of the sum of alpha over the answers of worse levels; answers come worst first."""
    upto_JK = torch.cat([scores_JK.new_full((*scores_JK.shape[:-1], 1), NEVER), scores_JK.logcumsumexp(-1)], -1)
    place_K = torch.arange(last_JK.shape[-1], device=last_JK.device)
    # The first place of each level: its last place, found by looking back from the end, less its size.
    ends_JK = torch.where(last_JK, place_K, last_JK.shape[-1]).flip(-1).cummin(-1).values.flip(-1)
    first_JK = (ends_JK + 1 - size_JK).clamp(0, last_JK.shape[-1])
    return upto_JK.gather(-1, first_JK.expand(scores_JK.shape))


def _weights(scores_JK: Tensor, log_tie_S: Tensor) -> Tensor:
    """log of the weight of all sets that can be chosen from the first 1, 2, ... K answers.

    Sets of s answers weigh delta_s e_s(alpha^(1/s)), and the elementary symmetric polynomial e_s grows answer by
    answer: e_m(with x) = e_m + x e_(m-1). In logarithms, for all s at once.
    """
    sizes = len(log_tie_S)
    share_S = 1 / torch.arange(1, sizes + 1, device=scores_JK.device, dtype=scores_JK.dtype)
    start_SM = scores_JK.new_full((sizes, sizes + 1), NEVER)
    start_SM[:, 0] = 0.0
    grown_JSM = start_SM.expand(*scores_JK.shape[:-1], sizes, sizes + 1)
    found = []
    for score_J in scores_JK.unbind(-1):
        with_it = grown_JSM[..., :-1] + (score_J[..., None] * share_S)[..., None]
        grown_JSM = torch.cat([grown_JSM[..., :1], torch.logaddexp(grown_JSM[..., 1:], with_it)], -1)
        found.append((grown_JSM[..., 1:].diagonal(dim1=-2, dim2=-1) + log_tie_S).logsumexp(-1))
    return torch.stack(found, -1)


@cache
def outcomes(answers: int, unranked: int, largest_tie: int) -> int:
    """How many ways there are to rank all but `unranked` of these answers, ties of up to `largest_tie` included."""
    if answers == unranked:
        return 1
    return sum(comb(answers, size) * outcomes(answers - size, unranked, largest_tie)
               for size in range(1, min(largest_tie, answers - unranked) + 1))


def pairs(scores_JK: Tensor, levels_JK: Tensor, reliability_J: Tensor, davidson: Tensor | None = None,
          rao_kupper: Tensor | None = None) -> Tensor:
    """Bradley-Terry over all pairs of a judgement, averaged (Bradley and Terry 1952; InstructGPT, eq. 1).

    Without a tie parameter a tie says nothing. `davidson` is log nu, where a tie of i and j weighs
    nu sqrt(alpha_i alpha_j) (Davidson 1970); `rao_kupper` is log theta > 0, by which a winner must be ahead (Rao and
    Kupper 1967). Raters turn a win around, and not a tie.
    """
    gap_JKK = scores_JK[..., :, None] - scores_JK[..., None, :]
    if davidson is not None:
        of_all_JKK = torch.logaddexp(torch.logaddexp(gap_JKK / 2, -gap_JKK / 2), davidson)
        won_JKK, tied_JKK = gap_JKK / 2 - of_all_JKK, davidson - of_all_JKK
    elif rao_kupper is not None:
        won_JKK = logsigmoid(gap_JKK - rao_kupper)
        tied_JKK = torch.log(torch.expm1(2 * rao_kupper)) + won_JKK + won_JKK.transpose(-1, -2)
    else:
        won_JKK, tied_JKK = logsigmoid(gap_JKK), None
    eta_JKK = reliability_J[:, None, None]
    said_JKK = torch.where(_decided(levels_JK), _mixed(won_JKK, won_JKK.transpose(-1, -2), eta_JKK), 0.0)
    counted_JKK = _decided(levels_JK)
    if tied_JKK is not None:
        said_JKK = said_JKK + torch.where(_tied(levels_JK), tied_JKK, 0.0)
        counted_JKK = counted_JKK | _tied(levels_JK)
    return -said_JKK.sum((-1, -2)) / counted_JKK.sum((-1, -2)).clamp_min(1)


def _decided(levels_JK: Tensor) -> Tensor:
    """Where the first was put above the second."""
    real_JK = levels_JK != NOBODY
    return (levels_JK[..., :, None] < levels_JK[..., None, :]) & real_JK[..., :, None] & real_JK[..., None, :]


def _tied(levels_JK: Tensor) -> Tensor:
    """Where two were ranked alike, each two once."""
    ranked_JK = (levels_JK != NOBODY) & (levels_JK != UNRANKED)
    return ((levels_JK[..., :, None] == levels_JK[..., None, :]) & ranked_JK[..., None, :]).triu(1)


def _mixed(said: Tensor, otherwise: Tensor, share: Tensor) -> Tensor:
    """log(share exp(said) + (1 - share) exp(otherwise))."""
    return torch.logaddexp(share.log() + said, (1 - share).log() + otherwise)


def strength(scores_JK: Tensor, levels_JK: Tensor, strength_J: Tensor, reliability_J: Tensor,
             cuts_3: Tensor) -> Tensor:
    """Of how strongly the top answer was preferred (records.STRENGTHS by number, -1: not said), given that it won.

    The gap of scores plus logistic noise is what a rater feels; it was above 0, and the strength says between which of
    the ordered cuts it lay (proportional odds, McCullagh 1980, the win being the first cut): given a win with gap d,
    P(l) = (sigma(d - c_l) - sigma(d - c_(l+1))) / sigma(d), c_0 = 0. Averaged over the answers of the next level.
    """
    top_JK, next_JK = _top(levels_JK)
    gap_JK = (scores_JK * top_JK).sum(-1, keepdim=True) - scores_JK
    cuts_5 = torch.cat([cuts_3.new_zeros(1), cuts_3, cuts_3.new_full((1,), -NEVER)])
    told_J = (strength_J >= 0) & next_JK.any(-1)
    low_JK, high_JK = (cuts_5[strength_J.clamp_min(0) + n][..., None] for n in (0, 1))
    # sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - exp(b - a))
    log_p_JK = (logsigmoid(gap_JK - low_JK) + logsigmoid(high_JK - gap_JK) + torch.log1p(-torch.exp(low_JK - high_JK))
                - logsigmoid(gap_JK))
    rho_J = (2 * reliability_J - 1).clamp_min(0)
    log_p_JK = _mixed(log_p_JK, torch.full_like(log_p_JK, -log(4)), rho_J[:, None])
    mean_J = torch.where(next_JK, log_p_JK, 0.0).sum(-1) / next_JK.sum(-1).clamp_min(1)
    return -torch.where(told_J, mean_J, 0.0)


def _top(levels_JK: Tensor) -> tuple[Tensor, Tensor]:
    """Where a sole best answer is, and where those next to it are; nowhere when several are best."""
    top_JK = levels_JK == 1
    others_JK = torch.where((levels_JK > 1), levels_JK, UNRANKED + 1)
    next_JK = (levels_JK > 1) & (levels_JK == others_JK.min(-1, keepdim=True).values)
    sole_J1 = top_JK.sum(-1, keepdim=True) == 1
    return top_JK & sole_J1, next_JK & sole_J1


def margins(levels_JK: Tensor, margin_J: Tensor) -> Tensor:
    """Offsets_JK: the top answer must be ahead by a margin (Llama 2, eq. 2)."""
    return -(_top(levels_JK)[0] * margin_J[:, None])


def acceptable(scores_JK: Tensor, levels_JK: Tensor, none_J: Tensor, reliability_J: Tensor, tau: Tensor) -> Tensor:
    """Of whether a rater found none of the answers acceptable: P(none) = prod sigma(tau - score), a noisy-or.

    Both ways: who did not say so found at least one acceptable.
    """
    log_none_J = torch.where(levels_JK != NOBODY, logsigmoid(tau - scores_JK), 0.0).sum(-1)
    log_some_J = torch.log(-torch.expm1(log_none_J.clamp_max(-1e-30)))
    said_J = torch.where(none_J, log_none_J, log_some_J)
    rho_J = (2 * reliability_J - 1).clamp_min(0)
    return -_mixed(said_J, torch.full_like(said_J, -log(2)), rho_J)


def centring(scores_JK: Tensor, levels_JK: Tensor) -> Tensor:
    """Mean over pairs of (r_i + r_j)^2, which keeps the mean reward near 0 (Eisenstein et al. 2023)."""
    sum_JKK = scores_JK[..., :, None] + scores_JK[..., None, :]
    real_JK = levels_JK != NOBODY
    both_JKK = (real_JK[..., :, None] & real_JK[..., None, :]).triu(1)
    return (sum_JKK.square() * both_JKK).sum((-1, -2)) / both_JKK.sum((-1, -2)).clamp_min(1)
