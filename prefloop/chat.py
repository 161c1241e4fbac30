"""Messages to token ids, by one function for every stage, the page's answers and the verdict.

The chat template is rendered around place-holders and only its own text is read for special tokens. What a person
or a model wrote is encoded as plain text: a literal `<|im_end|>` in a message cannot end a turn.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prefloop.errors import RequestError
from prefloop.records import Message, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# For base models that bring no template of their own.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}{{ message.role | capitalize }}: {{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_PLACE = re.compile("\ue000([0-9]+)\ue001")


@dataclass(frozen=True)
class Chat:
    """A tokenizer with its template. `answer_ids` always ends in `end_id`, the token that ends a turn."""

    tokenizer: PreTrainedTokenizerBase

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """The conversation up to where the assistant's answer begins."""
        return [token for ids, _ in self._segments(prompt.chat(), waiting=True) for token in ids]

    def answer_ids(self, text: str) -> list[int]:
        return [*self._plain(text), self.end_id]

    def demonstration_ids(self, prompt: Prompt, answer: str) -> tuple[list[int], list[int]]:
        """Ids, and a mask that is 1 on every assistant turn and on the token that ends it."""
        ids: list[int] = []
        mask: list[int] = []
        after_answer = False
        for segment, role in self._segments(prompt.chat(), waiting=True):
            ids += segment
            mask += [int(role == "assistant")] * len(segment)
            if after_answer and role is None and segment and segment[0] == self.end_id:
                mask[-len(segment)] = 1
            after_answer = role == "assistant"
        final = self.answer_ids(answer)
        return ids + final, mask + [1] * len(final)

    def text(self, ids: list[int]) -> str:
        """What was written, up to the end of the turn and without special tokens."""
        if self.end_id in ids:
            ids = ids[: ids.index(self.end_id)]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @cached_property
    def end_id(self) -> int:
        """The first special token that the template puts after an assistant's turn, or else EOS."""
        tokenizer: Any = self.tokenizer
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        last_ids, _ = self._segments(turns, waiting=False)[-1]
        special = [token for token in last_ids if token in tokenizer.all_special_ids]
        end = special[0] if special else tokenizer.eos_token_id
        if end is None:
            raise RequestError(f"{tokenizer.name_or_path}: its tokenizer has no end-of-sequence token")
        return int(end)

    @cached_property
    def pad_id(self) -> int:
        """A token that does not end anything. Masks come from lengths, so any other id serves."""
        tokenizer: Any = self.tokenizer
        taken = {self.end_id, tokenizer.eos_token_id}
        wanted = (tokenizer.pad_token_id, tokenizer.unk_token_id, *tokenizer.all_special_ids, 0, 1, 2)
        spare = (token for token in wanted if token is not None and token not in taken)
        return int(next(spare))

    def _plain(self, text: str) -> list[int]:
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self.tokenizer.encode(clean, add_special_tokens=False, split_special_tokens=True))

    def _segments(self, messages: list[dict[str, str]], waiting: bool) -> list[tuple[list[int], str | None]]:
        """(ids, role) of each stretch of the rendered template; the template's own text has no role."""
        import jinja2

        places: list[dict[str, Any]] = [{**m, "content": f"\ue000{n}\ue001"} for n, m in enumerate(messages)]
        template: Any = self.tokenizer.chat_template or PLAIN_TEMPLATE
        try:
            rendered = self.tokenizer.apply_chat_template(
                places, chat_template=template, tokenize=False, add_generation_prompt=waiting,
                enable_thinking=False)  # Qwen3's and its like: people rank answers, not thoughts
        except jinja2.TemplateError as error:
            raise RequestError(f"the chat template refuses these messages: {error}") from None
        segments: list[tuple[list[int], str | None]] = []
        pieces = _PLACE.split(str(rendered))
        for place, piece in enumerate(pieces):
            if place % 2:
                message = messages[int(piece)]
                segments.append((self._plain(message["content"]), message["role"]))
            elif piece:
                segments.append((list(self.tokenizer.encode(piece, add_special_tokens=False)), None))
        return segments


# On these a saved model is held against the one in memory.
PROBES = (("Hello, can you help me?", "Yes, of course."), ("What is 2 + 2?", "4"), ("Write one line.", "A line."),
          ("My order is late.", "I am sorry. I will look into it at once."), ("Why?", "Because."),
          ("List three colours.", "Red, green and blue."), ("Thanks!", "You are welcome."), ("No.", "I see."))


def probe_rows(chat: Chat) -> tuple[list[list[int]], list[int]]:
    """Eight fixed texts, as rows and where their answers start."""
    prompts = [chat.prompt_ids(Prompt((Message("user", ask),))) for ask, _ in PROBES]
    rows = [ids + chat.answer_ids(answer) for ids, (_, answer) in zip(prompts, PROBES, strict=True)]
    return rows, [len(ids) for ids in prompts]
