"""What DPO learns from: pairs of a snapshot or of the policy's own answers, as token ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.dpo_trainer import DataCollatorForPreference

from prefloop import training
from prefloop.chat import Chat
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Pair, Prompt

from . import labels

POLICY, REFERENCE = "default", "ref"  # TRL's names: it copies the first to the second and freezes the copy
LABEL = ("probability", "weight")  # of a pair, where data.labels gives them


@dataclass(frozen=True)
class DPOData(training.DataConfig):
    """`data:` of DPO. With `majority`, several raters' pairs of the same two answers become one, as most had it.

    `labels` names a reward run: the same, with how probably the chosen answer is the better one, and a weight.
    """

    majority: bool = False
    labels: str = ""


def pairs_of(source: snapshot.Snapshot, split: str, data: DPOData) -> list[Pair]:
    pairs = source.pairs(split)
    if data.labels:
        return labels.labelled(pairs, labels.read(Path(data.labels)), data.labels)
    return majority(pairs) if data.majority else equal(pairs)


def equal(pairs: list[Pair]) -> list[Pair]:
    """Without labels each pair counts once: a ranking of four answers, with six pairs, counts six times as much as one
    of two, where our reward model gives every ranking the weight 1."""
    return [replace(pair, weight=1.0) for pair in pairs]


def majority(pairs: list[Pair]) -> list[Pair]:
    """One pair for each two answers of a prompt, the way that more rankings had it; a draw makes none."""
    votes: dict[tuple[str, str, str], float] = {}
    prompts = {pair.prompt.id: pair.prompt for pair in pairs}
    for pair in pairs:
        first, second = sorted((pair.chosen, pair.rejected))
        key = (pair.prompt.id, first, second)
        votes[key] = votes.get(key, 0.0) + (1.0 if pair.chosen == first else -1.0)
    return [Pair(prompts[prompt], *((first, second) if net > 0 else (second, first)))
            for (prompt, first, second), net in votes.items() if net]


@dataclass(frozen=True)
class Row:
    """A pair as token ids; both answers end in the token that ends a turn."""

    prompt: Prompt
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    probability: float = 1.0
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


def tokenised(chat: Chat, pairs: list[Pair], max_length: int | None) -> tuple[list[Row], int]:
    """The pairs whose longer side fits, and how many do not: a row is never cut."""
    rows = [Row(pair.prompt, chat.prompt_ids(pair.prompt), chat.answer_ids(pair.chosen),
                chat.answer_ids(pair.rejected), pair.probability, pair.weight) for pair in pairs]
    fitting = [row for row in rows if max_length is None or len(row) <= max_length]
    return fitting, len(rows) - len(fitting)


def normalised(rows: list[Row]) -> list[Row]:
    """With weights of mean 1: the loss, and with it the size of a step, stay what they are without labels."""
    total = sum(row.weight for row in rows)
    if rows and not total:
        raise RequestError(f"data.labels: none of the {len(rows)} pairs to train on weighs anything; raise "
                           f"data.limit, or drop data.labels")
    return [replace(row, weight=row.weight * len(rows) / total) for row in rows]


def dataset(rows: list[Row]) -> Dataset:
    label = LABEL if any((row.probability, row.weight) != (1.0, 1.0) for row in rows) else ()
    return Dataset.from_dict({name: [getattr(row, name) for row in rows]
                              for name in ("prompt_ids", "chosen_ids", "rejected_ids", *label)})


class Collator(DataCollatorForPreference):
    """TRL's, with the soft label of each pair where it has one."""

    def torch_call(self, examples: list[dict]) -> dict[str, Tensor]:
        own = {name: torch.tensor([row[name] for row in examples]) for name in LABEL if name in examples[0]}
        return super().torch_call(examples) | own
