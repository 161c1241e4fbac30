"""The adapter kind in training: an adapter and a head on the base, which itself stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from trl.trainer.utils import disable_dropout_in_model

from prefloop import heads, models, passes, runs, scoring
from prefloop.chat import Chat

from .groups import Row
from .judgements import Group
from .settings import HeadConfig


class AdapterReader(nn.Module):
    """The base acting through the reward adapter, and the head that reads it."""

    def __init__(self, backbone: PeftModel, head: heads.Head, pad_id: int) -> None:
        super().__init__()
        self.backbone, self.head, self.pad_id = backbone, head, pad_id

    def forward(self, rows: list[list[int]], starts: list[int]) -> Tensor:
        """Raw scores_RO."""
        with passes.acting(self.backbone, scoring.ROLE):
            return heads.score_rows(self.backbone, self.head, rows, starts, self.pad_id, bool(self.head.shares))

    def gradient_checkpointing_enable(self, **settings: object) -> None:
        # Non-reentrant, and the frozen base's inputs need no gradient of their own then. The recomputation runs in
        # `backward`, where no other adapter is active than the one that the base was given last.
        passes.plain(self.backbone).gradient_checkpointing_enable({"use_reentrant": False})


@dataclass(frozen=True)
class Adapter:
    """What an adapter kind begins from: the SFT run's checkpoint, with its tokenizer and template."""

    found: models.Checkpoint
    config: models.ModelConfig
    chat: Chat
    max_length: int | None
    dropout: bool = False

    @classmethod
    def of(cls, found: models.Checkpoint, config: models.ModelConfig, max_length: int | None,
           dropout: bool = False) -> Adapter:
        return cls(found, config, models.load_chat(found), max_length, dropout)

    def rows(self, group: Group) -> list[Row | None]:
        prompt = self.chat.prompt_ids(group.prompt)
        rows = [prompt + self.chat.answer_ids(text) for text in group.texts]
        return [(row, len(prompt)) if self.max_length is None or len(row) <= self.max_length else None for row in rows]

    def begin(self, head: HeadConfig, seed: int, longest: int) -> AdapterReader:
        """The reward adapter begins as a copy of the SFT adapter; the head is new."""
        torch.manual_seed(seed)
        base = models.load_base(self.found, self.config)
        models.require_context(base, longest, "train.max_length")
        if not self.dropout:
            disable_dropout_in_model(base)
        backbone = models.add_adapter(base, scoring.ROLE, self.found.adapter, self.config)
        models.train_only(backbone, {scoring.ROLE})
        reader = AdapterReader(backbone, head.made(passes.plain(backbone).config.get_text_config().hidden_size),
                               self.chat.pad_id).to(models.device())
        with passes.acting(backbone, scoring.ROLE):
            shares = heads.sharing(backbone, reader.head, self.chat.pad_id)
        print("a prompt is read once for all of its answers" if shares else
              "this base reads every answer with its prompt by itself: in a line that they share it scores otherwise")
        return reader

    def outputs(self, reader: AdapterReader, rows: list[Row], batch: int = 32) -> Tensor:
        reader.eval()
        return heads.outputs(reader.backbone, reader.head, scoring.ROLE, [ids for ids, _ in rows],
                             [start for _, start in rows], self.chat.pad_id, batch)

    def save(self, reader: AdapterReader, folder: Path) -> None:
        models.save_adapter(reader.backbone, scoring.ROLE, folder)
        reader.head.save(folder)
        models.save_tokenizer(self.chat, folder)

    def restore(self, reader: AdapterReader, folder: Path) -> None:
        models.load_adapter(reader.backbone, scoring.ROLE, folder)
        reader.head.load_state_dict(heads.Head.load(folder, reader.head.linear.weight.device).state_dict())

    def check_reload(self, run: runs.Run, reader: AdapterReader, folder: Path) -> None:
        models.check_reload(run, reader.backbone, self.chat, folder, scoring.ROLE, reader.head)

    def scorer(self, reader: AdapterReader) -> scoring.Scorer:
        return scoring.AdapterScorer(reader.backbone, reader.head, self.chat)
