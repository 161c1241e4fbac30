"""Weights that are not finite: found, and named by file and key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from prefloop.errors import RunError


def finite(tensor: Tensor) -> bool:
    """By the extremes, which carry a NaN and need no copy."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    low, high = tensor.aminmax()
    return bool((low.isfinite() & high.isfinite()).item())


def require(weights: Mapping[str, Tensor], where: object) -> None:
    for key, weight in weights.items():
        if not finite(weight):
            raise RunError(f"{where}: {key} holds values that are not finite (NaN or infinity)")


def require_files(folder: Path) -> None:
    """Every weight file of `folder`, one tensor in memory at a time."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                require({key: file.get_tensor(key)}, path)


def culprit(model: nn.Module) -> str | None:
    """The first parameter that is not finite. In 4 bits the blocks' scales show it: a NaN in a block is one in its."""
    for key, weight in model.named_parameters():
        state = getattr(weight, "quant_state", None)
        held = weight if state is None else state.offset if state.nested else state.absmax
        if not finite(held.detach()):
            return key
    return None
