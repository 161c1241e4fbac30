"""TRL's losses of DPO by their names: which settings each one takes, and what it is before the first step.

There policy and reference are one, so every log-ratio is 0 and each loss is a number that can be known beforehand: a
check that TRL computes what was asked for. The formulas are those of TRL's documentation of `loss_type`.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from math import isfinite, log

from trl import DPOConfig

from prefloop.errors import RequestError

LN2 = log(2)
SFT = "sft"  # the one term that does not compare: the chosen answers' own negative log-probability, per token


def _exo(args: DPOConfig) -> float:
    """KL of (1/2, 1/2) from the smoothed label."""
    wrong = args.label_smoothing
    return -LN2 - (log(1 - wrong) + log(wrong)) / 2


AT_START: dict[str, Callable[[DPOConfig], float]] = {
    "sigmoid": lambda args: LN2,
    "hinge": lambda args: 1.0,
    "ipo": lambda args: (0.5 / args.beta) ** 2,
    "exo_pair": _exo,
    "nca_pair": lambda args: 2 * LN2,
    "robust": lambda args: LN2,
    "bco_pair": lambda args: 2 * LN2,
    "sppo_hard": lambda args: 2 * (0.5 / args.beta) ** 2,
    "aot": lambda args: LN2,
    "aot_unpaired": lambda args: LN2,
    "apo_zero": lambda args: 1.0,
    "apo_down": lambda args: 1.0,
    "discopop": lambda args: (LN2 + 1) / 2,
    "sigmoid_norm": lambda args: LN2,
}
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")
SORTED = ("aot", "aot_unpaired")
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
BY_DIFFERENCE = ("sigmoid", "sigmoid_norm", "hinge", "ipo", "exo_pair", "robust", "discopop", SFT)


def weights(args: DPOConfig) -> dict[str, float]:
    """What each loss asked for counts."""
    return dict(zip(args.loss_type, args.loss_weights or [1.0] * len(args.loss_type), strict=True))


def before_first_step(args: DPOConfig, chosen_nll: float, weight: float = 1.0) -> float:
    """The loss of pairs that weigh `weight` in the mean (data.labels); an sft term takes them all alike.

    `chosen_nll` is the mean over all tokens of the chosen answers, in nats.
    """
    return sum(share * (chosen_nll if kind == SFT else weight * AT_START[kind](args))
               for kind, share in weights(args).items())


def refuse(args: DPOConfig) -> None:
    """What TRL would pass over in silence, or trip over only when the model is loaded and training."""
    kinds = args.loss_type
    if not kinds:
        raise RequestError("train.loss_type: name a loss, such as sigmoid")
    for kind in kinds:
        if not isinstance(kind, str) or kind not in (*AT_START, SFT):
            near = get_close_matches(str(kind), [*AT_START, SFT], n=1)
            raise RequestError(f"train.loss_type: {kind!r} is unknown" + (
                f"; did you mean {near[0]}?" if near else f"; known: {', '.join([*AT_START, SFT])}"))
    if len(set(kinds)) < len(kinds):
        raise RequestError("train.loss_type: a loss stands twice; give it once, with a weight in train.loss_weights")
    if set(kinds) <= {SFT}:
        raise RequestError("train.loss_type: sft alone compares nothing; add a loss that does, such as sigmoid, or "
                           "use `prefloop sft`")
    given = weights(args).values()
    if not all(isinstance(one, int | float) and isfinite(one) and one >= 0 for one in given) or not sum(given):
        raise RequestError(f"train.loss_weights: expected numbers of at least 0, not all 0, got {args.loss_weights}")
    _refuse_smoothing(args)
    _refuse_divergence(args)
    _refuse_sorting(args)
    if args.padding_free:
        raise RequestError("train.padding_free: this TRL's DPO has it no more; drop this key")


def _refuse_smoothing(args: DPOConfig) -> None:
    if "exo_pair" in args.loss_type and not args.label_smoothing:
        raise RequestError("train.label_smoothing: exo_pair needs it above 0; its paper takes 1e-3")
    if "robust" in args.loss_type and args.label_smoothing >= 0.5:
        raise RequestError("train.label_smoothing: robust needs it below 0.5, where labels still say something")
    if args.label_smoothing and not set(args.loss_type) & set(SMOOTHED):
        raise RequestError(f"train.label_smoothing: TRL's loss {', '.join(args.loss_type)} does not read it; use "
                           f"robust, or drop it")


def _refuse_divergence(args: DPOConfig) -> None:
    kind = args.f_divergence_type
    if kind not in DIVERGENCES:
        raise RequestError(f"train.f_divergence_type: {kind!r} is unknown; known: {', '.join(DIVERGENCES)}")
    other = [loss for loss in args.loss_type if loss not in BY_DIFFERENCE]
    if kind != "reverse_kl" and other:
        raise RequestError(f"train.f_divergence_type: {other[0]} is only defined for reverse_kl; drop one of them")


def _refuse_sorting(args: DPOConfig) -> None:
    """These losses sort the log-ratios of a micro-batch, so they need several, and no weight stays with its pair."""
    kinds = [kind for kind in args.loss_type if kind in SORTED]
    if kinds and args.per_device_train_batch_size < 2:
        raise RequestError(f"train.per_device_train_batch_size: {kinds[0]} compares the pairs of a micro-batch, so it "
                           f"needs 2 or more")
    if kinds and args.use_weighting:
        raise RequestError(f"train.use_weighting: {kinds[0]} sorts the pairs, so no weight stays with its own; drop "
                           f"one of them")
