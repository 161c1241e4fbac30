"""The reward model as it is trained: what reads the answers, the loss, and the trainer on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from prefloop import heads, runs

from . import loss
from .criterion import Criterion
from .groups import Batch, Tokens
from .kinds import Kind


class RewardModel(nn.Module):
    """What reads the answers, a kind's reader with its head, and what is learned about raters beside it."""

    def __init__(self, reader: nn.Module, criterion: Criterion) -> None:
        super().__init__()
        self.reader, self.criterion = reader, criterion

    @property
    def head(self) -> heads.Head:
        return self.reader.head  # type: ignore[return-value]

    def forward(self, batch: Batch, centring: float = 0.0) -> Tensor:
        """The loss of a batch, summed over its prompts. `centring` is the weight of (r_i + r_j)^2."""
        raw_RO = self.reader(batch.rows, batch.starts)
        scores_RDE = raw_RO.unflatten(-1, (len(self.head.objectives), self.head.members))
        judged = batch.judged.to(raw_RO.device)
        total = self.criterion(scores_RDE, judged)
        if centring:
            scores_DEJK, levels_DJK = scores_RDE.permute(1, 2, 0)[..., judged.rows_JK], judged.levels_DJK[:, None]
            total = total + centring * (loss.centring(scores_DEJK, levels_DJK) * judged.shares_EJ).sum(0).mean(0).sum()
        return total

    def gradient_checkpointing_enable(self, **settings: object) -> None:
        self.reader.gradient_checkpointing_enable()  # type: ignore[operator]


class RankingTrainer(Trainer):
    """transformers.Trainer over prompts with their rankings; it saves what its kind saves, and what the loss learned.

    The loss of a step is the mean over all of its prompts, in whatever micro-batches and processes they are.
    """

    run: runs.Run
    kind: Kind

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.model_accepts_loss_kwargs = True  # compute_loss divides by the prompts of the whole step

    def compute_loss(self, model: nn.Module, inputs: dict[str, Batch], return_outputs: bool = False,
                     num_items_in_batch: Tensor | int | None = None) -> Tensor:
        batch = inputs["batch"]
        total = model(batch, self.args.center_rewards_coefficient or 0.0)  # type: ignore[attr-defined]
        # Processes average their gradients, so that each counts itself as many times as they are.
        return total * self.args.world_size / (num_items_in_batch or batch.prompts)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Batch]], device: torch.device) -> Tensor:
        own = torch.tensor(sum(one["batch"].prompts for one in batch_samples), device=device)
        gathered: Any = self.accelerator.gather(own) if self.args.world_size > 1 else own
        return gathered.sum()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        groups: list[Tokens] = self.train_dataset  # type: ignore[assignment]
        return LengthGroupedSampler(self.args.train_batch_size, lengths=[group.length for group in groups])

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The loss's own numbers have a rate of their own: an adapter's would take them nowhere in one epoch."""
        optimizer = super().create_optimizer(model)
        own = {id(p) for name, p in self.model.named_parameters() if name.startswith("criterion.")}  # type: ignore
        rate = self.model.criterion.config.learning_rate  # type: ignore[union-attr]
        taken = [p for group in optimizer.param_groups for p in group["params"] if id(p) in own]
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]
        if taken:
            optimizer.add_param_group({"params": taken, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            save(self.kind, self.model, Path(output_dir or str(self.args.output_dir)))  # type: ignore[arg-type]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        own: RewardModel = model or self.model  # type: ignore[assignment]
        self.kind.restore(own.reader, Path(resume_from_checkpoint))
        own.criterion.restore(Path(resume_from_checkpoint))


def save(kind: Kind, model: RewardModel, folder: Path) -> None:
    kind.save(model.reader, folder)
    model.criterion.save(folder)
