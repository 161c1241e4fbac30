"""Scores of answers by a saved reward model of any kind: what judges, probes, serves and compares asks through this.

A kind is told by what the folder holds (models.reward_kind): an adapter and a head on a base, or a model of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from prefloop import models
from prefloop.errors import RequestError

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from prefloop.chat import Chat
    from prefloop.heads import Head
    from prefloop.models import Checkpoint, ModelConfig
    from prefloop.records import Prompt

Array = NDArray[np.float64]
ROLE = "reward"  # the adapter's name on its base
BATCHES = 8  # that are scored between two moves of the bar


@dataclass(frozen=True)
class Scores:
    """What a reward model says of N answers, in units of its spread over the answers it was scaled on.

    `mean_N` is centred and scaled, and the mean over the ensemble's members; `spread_N` is their standard deviation,
    in the same units, and 0 for one member. `objectives_ND` holds what each of the D objectives says by itself.
    """

    mean_N: Array
    spread_N: Array
    objectives_ND: Array


class Scorer(Protocol):
    """A reward model that can be asked. `objectives` names the columns of `Scores.objectives_ND`."""

    @property
    def objectives(self) -> tuple[str, ...]: ...

    def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> Scores:
        """Scores in the order asked, `batch` rows at a time. An answer longer than it can read is a RequestError."""
        ...

    def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]:
        """Of each answer, whether it can be read whole."""
        ...

    def taken_for_structure(self) -> int:
        """How many of its tokenizer's own special tokens it would obey where an answer has them written out."""
        ...


def load(path: str | Checkpoint, config: ModelConfig, base: PreTrainedModel | PeftModel | None = None) -> Scorer:
    """The reward model at `path`, verified. `base` is one in memory that its adapter stands on.

    RequestError: `path` names no reward model, or one that is damaged.
    """
    found = models.resolve(path) if isinstance(path, str) else path
    kind = models.require_reward(found)
    if kind == "adapter":
        return AdapterScorer.on(base or models.load_base(found, config), found, config)
    if kind == "encoder":
        from prefloop import encoders

        return encoders.load(found)
    from prefloop import linear

    return linear.load(found)


@dataclass
class AdapterScorer:
    """An adapter on a base and the head that reads it."""

    model: PeftModel
    head: Head
    chat: Chat

    @property
    def objectives(self) -> tuple[str, ...]:
        return tuple(self.head.objectives)

    @classmethod
    def on(cls, base: PreTrainedModel | PeftModel, found: Checkpoint, config: ModelConfig) -> AdapterScorer:
        from prefloop.heads import Head

        assert found.folder is not None
        head, chat = Head.load(found.folder, models.device()), models.load_chat(found)
        model = models.add_adapter(base, ROLE, found.adapter, config)
        return cls(model.eval(), head, chat)

    def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> Scores:
        from prefloop import heads

        rows, starts = self._rows(asked)
        require_read(asked, self._fit(rows), f"the base's context of {models.context_of(self.model)} tokens")
        return of_head(self.head, heads.outputs(self.model, self.head, ROLE, rows, starts, self.chat.pad_id, batch))

    def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]:
        return self._fit(self._rows(asked)[0])

    def taken_for_structure(self) -> int:
        tokenizer = self.chat.tokenizer
        return obeyed(tokenizer, [self.chat.answer_ids(token)[:-1] for token in tokenizer.all_special_tokens])

    def _fit(self, rows: list[list[int]]) -> list[bool]:
        context = models.context_of(self.model)
        return [context is None or len(row) <= context for row in rows]

    def _rows(self, asked: Sequence[tuple[Prompt, str]]) -> tuple[list[list[int]], list[int]]:
        """A row of tokens for each, and where its answer begins."""
        prompts = {prompt: self.chat.prompt_ids(prompt) for prompt in dict.fromkeys(prompt for prompt, _ in asked)}
        return ([prompts[prompt] + self.chat.answer_ids(answer) for prompt, answer in asked],
                [len(prompts[prompt]) for prompt, _ in asked])


def scored(scorer: Scorer, asked: Sequence[tuple[Prompt, str]], batch: int = 32, what: str = "scoring") -> Scores:
    """Scores in the order asked, those of like length together, with a progress bar.

    What is asked several times is scored once: the same answer has the same score, to the last bit.
    """
    from tqdm import tqdm

    if not asked:
        return Scores(np.zeros(0), np.zeros(0), np.zeros((0, len(scorer.objectives))))
    once = list(dict.fromkeys(asked))
    longest: dict[Prompt, int] = {}  # answers of one prompt stay together: some models read it once for all
    for prompt, answer in once:
        longest[prompt] = max(longest.get(prompt, 0), len(answer) + sum(len(m.content) for m in prompt.messages))
    number = {prompt: n for n, prompt in enumerate(longest)}
    once.sort(key=lambda one: (longest[one[0]], number[one[0]], len(one[1])))
    found = []
    with tqdm(total=len(once), desc=what, unit="answer", mininterval=1, delay=2) as bar:
        for first in range(0, len(once), batch * BATCHES):
            part = once[first : first + batch * BATCHES]
            found.append(scorer.score(part, batch))
            bar.update(len(part))
    place = {one: n for n, one in enumerate(once)}
    back = [place[one] for one in asked]
    return Scores(*(np.concatenate([getattr(one, f.name) for one in found])[back] for f in fields(Scores)))


def of_head(head: Head, raw_RO: Tensor) -> Scores:
    """The scores of a head with several outputs."""
    by_member_RE = head.by_member(raw_RO).double()
    return Scores(by_member_RE.mean(1).numpy(), by_member_RE.std(1, correction=0).numpy(),
                  head.by_objective(raw_RO).double().mean(2).numpy())


def of_one(mean: Any) -> Scores:
    """The scores of a model with one member and one objective."""
    mean_N = np.asarray(mean, dtype=np.float64)
    return Scores(mean_N, np.zeros_like(mean_N), mean_N[:, None])


def obeyed(tokenizer: PreTrainedTokenizerBase, written: list[list[int]]) -> int:
    """How many of these ids of written-out special tokens have one of these tokens among them."""
    special = {one for one in tokenizer.all_special_ids if one != tokenizer.unk_token_id}
    return sum(not special.isdisjoint(ids) for ids in written)


def require_read(asked: Sequence[tuple[Prompt, str]], read: list[bool], limit: str) -> None:
    """RequestError, which tells the first answer by its own words: its number here would tell the user nothing."""
    if not all(read):
        prompt, answer = asked[read.index(False)]
        raise RequestError(f"the answer {answer[:40]!r}... to {prompt.messages[-1].content[:40]!r} is longer than "
                           f"this reward model can read ({limit}); so are {read.count(False) - 1} more; leave them "
                           "out")
