"""The encoder kind in training: a small encoder, every weight of it in fp32, and a head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from trl.trainer.utils import disable_dropout_in_model

from prefloop import encoders, heads, models, ranks, runs, scoring
from prefloop.chat import PROBES
from prefloop.errors import RequestError
from prefloop.records import Message, Prompt

from .groups import Row
from .judgements import Group
from .settings import HeadConfig


@dataclass(frozen=True)
class Encoder:
    """What an encoder kind begins from: a checkpoint of the hub or a folder, with its tokenizer."""

    found: models.Checkpoint
    reader: encoders.Reader
    dropout: bool

    @classmethod
    def of(cls, found: models.Checkpoint, head: HeadConfig, max_length: int | None, dropout: bool) -> Encoder:
        if ranks.sharded():
            raise RequestError("model.kind=encoder: small enough for every process to hold whole; leave out FSDP")
        if head.likelihood or head.pooling != "mean":
            raise RequestError("model.kind=encoder reads all tokens at once and writes none: leave out "
                               "head.likelihood and head.pooling=last")
        return cls(found, encoders.reader_of(found, max_length, "train.max_length"), dropout)

    def rows(self, group: Group) -> list[Row | None]:
        return self.reader.rows([(group.prompt, text) for text in group.texts])

    def begin(self, head: HeadConfig, seed: int, longest: int) -> encoders.Encoder:
        backbone = encoders.backbone_of(self.found)
        if not self.dropout:
            disable_dropout_in_model(backbone)
        torch.manual_seed(seed)  # behind the loading, which may draw for weights that are then left out
        return encoders.Encoder(backbone, head.made(backbone.config.hidden_size), self.reader.pad_id).to(
            models.device())

    def outputs(self, reader: encoders.Encoder, rows: list[Row], batch: int = 32) -> Tensor:
        return encoders.outputs(reader, rows, batch)

    def save(self, reader: encoders.Encoder, folder: Path) -> None:
        encoders.save(reader, self.reader, folder)

    def restore(self, reader: encoders.Encoder, folder: Path) -> None:
        reader.backbone.load_state_dict(load_file(folder / encoders.WEIGHTS))
        reader.head.load_state_dict(heads.Head.load(folder, reader.head.linear.weight.device).state_dict())

    def check_reload(self, run: runs.Run, reader: encoders.Encoder, folder: Path) -> None:
        """What was saved, loaded anew, scores as what is in memory does."""
        probes = [(Prompt((Message("user", ask),)), answer) for ask, answer in PROBES]
        asked = [one for one, read in zip(probes, self.scorer(reader).reads(probes), strict=True) if read]
        if not asked:
            return  # of a limit that only tests set
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            saved = models.Checkpoint(str(folder), str(folder), "", "", folder=folder)
            ours, theirs = (own.score(asked).mean_N for own in (self.scorer(reader), encoders.load(saved)))
        gap = float(abs(ours - theirs).max())
        run.check(f"reload {folder.name}", gap < 1e-6, f"scores of the saved encoder differ by at most {gap:.1e}")

    def scorer(self, reader: encoders.Encoder) -> scoring.Scorer:
        return encoders.EncoderScorer(reader, self.reader)
