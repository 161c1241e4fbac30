"""Soft labels: how probably the chosen answer of a pair really is the better one, and what the pair weighs.

A reward run that estimated its raters leaves them in labels.jsonl; DPO's loss takes them (`data.labels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.overrides import TorchFunctionMode
from trl import DPOConfig

from prefloop import checkpoints, runs
from prefloop.errors import RequestError
from prefloop.records import Pair

LABELS = "labels.jsonl"


def lineage(path: Path) -> dict[str, str]:
    """As the run that learns from them records it."""
    return {"path": str(path), "checksum": checkpoints.file_sha256(_file(path))}


def read(path: Path) -> dict[tuple[str, str, str], tuple[float, float]]:
    """(probability, weight) of (prompt id, chosen, rejected), from a reward run whose record vouches for the file."""
    file = _file(path)
    record = checkpoints.read_json(path / "run.json")
    if isinstance(record, dict) and record.get("status") != "done":
        raise RequestError(f"data.labels: {path} is not done; `prefloop resume {path}` continues it")
    if not isinstance(record, dict) or record.get("files", {}).get(LABELS) != checkpoints.file_sha256(file):
        raise RequestError(f"data.labels: {file} is not as its run left it; train the reward model again")
    rows = runs.read_lines(file)
    return {(row["prompt_id"], row["chosen"], row["rejected"]): (row["probability"], row["weight"]) for row in rows}


def _file(path: Path) -> Path:
    if not (path / LABELS).is_file():
        raise RequestError(f"data.labels: {path} has no {LABELS}; name a reward run that is done, trained with "
                           f"raters.reliability")
    return path / LABELS


def labelled(pairs: Sequence[Pair], labels: dict[tuple[str, str, str], tuple[float, float]], path: str) -> list[Pair]:
    """Each two answers that some pair names, once, with its label, the likelier answer chosen.

    Two answers without a label (no ranking that the reward run learned from decided on them) are left out.
    """
    named = {(pair.prompt.id, *sorted((pair.chosen, pair.rejected))): pair for pair in pairs}
    found = [replace(pair, chosen=chosen, rejected=rejected, probability=labels[key][0], weight=labels[key][1])
             for pair in named.values() for chosen, rejected in ((pair.chosen, pair.rejected),
                                                                 (pair.rejected, pair.chosen))
             if (key := (pair.prompt.id, chosen, rejected)) in labels]
    if not found:
        raise RequestError(f"data.labels: {path} has no label for any pair of this snapshot; name a reward run that "
                           f"learned from it")
    if len(found) < len(named):
        print(f"{len(named) - len(found)} of {len(named)} pairs have no label in {path} and are left out")
    return found


def refuse(args: DPOConfig, key: str = "data.labels") -> None:
    """A soft label says something to a loss that is the log probability of a preference, and to no other.

    An sft term beside it takes every chosen answer alike: it is there to keep answers likely, not to rank them.
    """
    if "sigmoid" not in args.loss_type or not set(args.loss_type) <= {"sigmoid", "sft"}:
        raise RequestError(f"{key}: train.loss_type={', '.join(args.loss_type)} has no place for the probability that "
                           f"a label is right; use sigmoid, alone or with sft, or drop {key}")
    wrong = [key for key, plain in (("use_weighting", False), ("use_liger_kernel", False), ("label_smoothing", 0.0),
                                    ("f_divergence_type", "reverse_kl")) if getattr(args, key, plain) != plain]
    if wrong:
        raise RequestError(f"{key}: train.{wrong[0]} changes the loss that the labels go into; drop one of them")


class SoftLabels(TorchFunctionMode):
    """Under it, TRL's sigmoid loss -logsigmoid(x_N) is weight * (-p logsigmoid(x) - (1 - p) logsigmoid(-x)).

    That one call is all there is to TRL's loss of this type; everything around it, and its metrics, stay TRL's.
    """

    def __init__(self, probability_N: Tensor, weight_N: Tensor) -> None:
        super().__init__()
        self.probability_N, self.weight_N = probability_N, weight_N

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is not logsigmoid:
            return func(*args, **(kwargs or {}))
        return self.weight_N * soft(args[0], self.probability_N)


def soft(x_N: Tensor, probability_N: Tensor) -> Tensor:
    """p * logsigmoid(x) + (1 - p) * logsigmoid(-x)."""
    return probability_N * logsigmoid(x_N) + (1 - probability_N) * logsigmoid(-x_N)
