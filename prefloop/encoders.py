"""Small encoders (BERT, DistilBERT, ALBERT, MiniLM and their like) as reward models: a text pair in, a score out.

Prompt and answer stand as the tokenizer itself joins two texts. What is over the limit is cut off the prompt's front,
which is its oldest part, and never off the answer; an answer that does not fit by itself has no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from prefloop import checkpoints, memory, models, scoring
from prefloop.errors import RequestError
from prefloop.heads import Head
from prefloop.models import ENCODER, Checkpoint
from prefloop.passes import answers_of, by_length, pad_right
from prefloop.records import Message, Prompt

WEIGHTS = "model.safetensors"
Row = tuple[list[int], int]  # a text pair as tokens; where the answer begins, the token behind it included


@dataclass(frozen=True)
class Reader:
    """Text pairs as one tokenizer writes them, in at most `max_length` tokens."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]

    def rows(self, asked: Sequence[tuple[Prompt, str]]) -> list[Row | None]:
        """A row for each prompt with its answer; None where the answer alone is over the limit."""
        prompts = {prompt: self.ids(spoken(prompt)) for prompt in dict.fromkeys(prompt for prompt, _ in asked)}
        return [self._row(prompts[prompt], self.ids(answer)) for prompt, answer in asked]

    def _row(self, prompt: list[int], answer: list[int]) -> Row | None:
        head, middle, tail = self._frame
        room = self.max_length - len(head) - len(middle) - len(tail) - len(answer)
        if room < 0:
            return None
        first = [*head, *prompt[len(prompt) - min(room, len(prompt)) :], *middle]
        return [*first, *answer, *tail], len(first)

    @cached_property
    def _frame(self) -> tuple[list[int], list[int], list[int]]:
        """What the tokenizer puts before, between and behind two texts."""
        pair: Any = self.tokenizer("a", "b")
        first, second = [[n for n, one in enumerate(pair.sequence_ids(0)) if one == own] for own in (0, 1)]
        ids = pair["input_ids"]
        return ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :]

    def ids(self, text: str) -> list[int]:
        """Of plain text: a literal [SEP] in it is no separator."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self.tokenizer.encode(clean, add_special_tokens=False, split_special_tokens=True))


def spoken(prompt: Prompt) -> str:
    """One message as it is; several with who said them, a line each."""
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in prompt.messages)


class Encoder(nn.Module):
    """An encoder and the head that reads it, both in fp32."""

    def __init__(self, backbone: PreTrainedModel, head: Head, pad_id: int) -> None:
        super().__init__()
        self.backbone, self.head, self.pad_id = backbone, head, pad_id

    def gradient_checkpointing_enable(self, **settings: object) -> None:
        if not self.backbone.supports_gradient_checkpointing:
            raise RequestError(f"train.gradient_checkpointing: a model of type {self.backbone.config.model_type} does "
                               "not support it; set it to false")
        self.backbone.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, rows: list[list[int]], starts: list[int]) -> Tensor:
        """Raw scores_RO: R rows, O outputs of the head."""
        ids_RT, mask_RT = pad_right(rows, self.pad_id, self.head.linear.weight.device)
        answer_RT = answers_of(starts, mask_RT)
        # Where a model tells two texts apart by type, the second is of type 1, and what ends it too.
        typed = {"token_type_ids": answer_RT} if getattr(self.backbone.config, "type_vocab_size", 0) > 1 else {}
        hidden_RTH = self.backbone(input_ids=ids_RT, attention_mask=mask_RT, **typed).last_hidden_state
        return self.head.pooled(self.head(hidden_RTH), answer_RT)


@dataclass
class EncoderScorer:
    """A saved encoder that scores texts."""

    model: Encoder
    reader: Reader

    @property
    def objectives(self) -> tuple[str, ...]:
        return tuple(self.model.head.objectives)

    def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> scoring.Scores:
        found = self.reader.rows(asked)
        scoring.require_read(asked, [row is not None for row in found], f"{self.reader.max_length} tokens")
        return scoring.of_head(self.model.head, outputs(self.model, [row for row in found if row], batch))

    def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]:
        return [row is not None for row in self.reader.rows(asked)]

    def taken_for_structure(self) -> int:
        tokenizer = self.reader.tokenizer
        return scoring.obeyed(tokenizer, [self.reader.ids(token) for token in tokenizer.all_special_tokens])


@torch.no_grad()
def outputs(model: Encoder, rows: Sequence[Row], batch: int = 32) -> Tensor:
    """Raw scores_RO in evaluation mode, rows of like length together, in the order given."""
    out = torch.empty(len(rows), model.head.linear.out_features)
    was_training = model.training
    model.eval()

    def judge(chosen: list[int]) -> None:
        out[chosen] = model([rows[n][0] for n in chosen], [rows[n][1] for n in chosen]).cpu()

    memory.at_once(by_length([ids for ids, _ in rows]), batch, judge)
    model.train(was_training)
    return out


def load(found: Checkpoint) -> EncoderScorer:
    """What `save` wrote, in evaluation mode."""
    assert found.folder is not None
    told = checkpoints.read_json(found.folder / ENCODER)
    if not isinstance(told, dict) or type(told.get("max_length")) is not int:
        raise RequestError(f"{found.folder / ENCODER}: its max_length is no whole number; name another checkpoint")
    reader = reader_of(found, told["max_length"], str(found.folder / ENCODER))
    backbone = backbone_of(found)
    model = Encoder(backbone, Head.load(found.folder, models.device()), reader.pad_id)
    if model.head.linear.in_features != backbone.config.hidden_size:
        raise RequestError(f"{found.folder}: its head reads {model.head.linear.in_features} dimensions, and its "
                           f"encoder has {backbone.config.hidden_size}; name another checkpoint")
    return EncoderScorer(model.eval().requires_grad_(False), reader)


def save(model: Encoder, reader: Reader, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.backbone.save_pretrained(str(folder))
    reader.tokenizer.save_pretrained(str(folder))
    model.head.save(folder)
    checkpoints.write_json(folder / ENCODER, {"max_length": reader.max_length})


def backbone_of(found: Checkpoint) -> PreTrainedModel:
    """The encoder of a checkpoint on the device, in fp32."""
    with models.loading(found.base):
        backbone, told = AutoModel.from_pretrained(found.base, revision=found.revision, dtype=torch.float32,
                                                   use_safetensors=True, output_loading_info=True)
    if hasattr(backbone, "pooler"):
        backbone.pooler = None  # which only a classifier of its own reads
    lost = [name for name in told["missing_keys"] if not name.startswith("pooler.")]
    if lost:
        raise RequestError(f"{found.path}: its weights lack {lost[0]} and {len(lost) - 1} more; name another folder")
    models.require_finite(backbone, found)
    return backbone.to(models.device())


def reader_of(found: Checkpoint, max_length: int | None, key: str) -> Reader:
    """The tokenizer of an encoder, which reads `max_length` tokens, or as many as it can; `key` names that limit.

    RequestError, before any weights are loaded: it is no encoder, cannot read so much, or has no tokenizer.
    """
    require_encoder(found)
    with models.loading(found.base):
        config: Any = AutoConfig.from_pretrained(found.base, revision=found.revision)
        most = reach_of(config)
    if max_length is not None and max_length > most:
        raise RequestError(f"{key}: {max_length} tokens, and this encoder reads {most}; lower it")
    return Reader(tokenizer_of(found, config.vocab_size), max_length or most)


def reach_of(config: Any) -> int:
    """How many tokens an encoder reads. RoBERTa, MPNet and their kin count positions from behind their padding's."""
    with torch.device("meta"):  # its shape, without weights
        parts = AutoModel.from_config(config).named_modules()
    paddings = [getattr(part, "padding_idx", None) for name, part in parts if name.endswith("position_embeddings")]
    first = max((padding + 1 for padding in paddings if padding is not None), default=0)
    return getattr(config, "max_position_embeddings", 512) - first


def require_encoder(found: Checkpoint) -> None:
    """RequestError, before anything is loaded, where the checkpoint is a language model or of a kind unknown here."""
    told = checkpoints.read_json(models.model_folder(found) / "config.json")
    kind = told.get("model_type") if isinstance(told, dict) else None
    if found.adapter or kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        what = f"a {found.stage} run on {found.base}" if found.adapter else f"a model of type {kind}"
        raise RequestError(f"model.path: {found.path} is {what}, and model.kind=encoder takes an encoder: BERT, "
                           f"DistilBERT, ALBERT, MiniLM and their like")


def tokenizer_of(found: Checkpoint, known: int) -> PreTrainedTokenizerBase:
    """The tokenizer beside an encoder of so many known tokens; RequestError if there is none, or another's."""
    folder = models.model_folder(found)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")):
        raise RequestError(f"{found.path}: it has no tokenizer (no tokenizer.json); put the encoder's own beside it")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(folder))
        pair = Reader(tokenizer, 512).rows([(Prompt((Message("user", "a"),)), "b")])[0]
        assert pair is not None
    except Exception as error:  # whatever the file made the library do
        raise RequestError(f"{found.path}: its tokenizer cannot join two texts: "
                           f"{' '.join(str(error).split())[:200]}") from None
    if max(len(tokenizer), max(pair[0]) + 1) > known or tokenizer.pad_token_id is None:
        raise RequestError(f"{found.path}: its tokenizer has {len(tokenizer)} tokens and the encoder "
                           f"{known}, or none to pad with; it is another encoder's")
    return tokenizer
