"""A language model that is asked to judge: behind an OpenAI-compatible server, or loaded here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from prefloop import remote
from prefloop.compare.settings import HoldConfig
from prefloop.errors import RunError
from prefloop.records import Message, Prompt
from prefloop.remote import Calls, Refused, Remote, shortened

if TYPE_CHECKING:
    from prefloop.models import Checkpoint

PATH = "/chat/completions"
THIS_ONE = (400, 413, 422, 500)  # refusals of one request: too long, or against the server's rules
CUT = "cut at judge.max_new_tokens, before its verdict"
TOGETHER = 64  # that a local model answers before its replies are kept


class Voice(Protocol):
    """`maker` tells its replies from those of another. `complaint` is the first reason it gave for not replying."""

    @property
    def maker(self) -> tuple[str, ...]: ...

    @property
    def complaint(self) -> str: ...

    def replies(self, asked: Sequence[str], attempt: int) -> Iterator[tuple[int, str | None]]:
        """The place of each request and the reply to it, as they come; None where there is none. The first attempt is
        greedy; a later one is sampled, for the same words would be answered the same."""
        ...


@dataclass
class Server:
    """`model` at a server, asked `at_once` requests at a time. Once nobody there has answered for as long as the
    patience lasts, it is not asked any more."""

    there: Remote
    model: str
    at_once: int
    max_new_tokens: int
    complaint: str = ""
    gone: bool = False
    answered: float = field(default_factory=time.monotonic)

    @property
    def maker(self) -> tuple[str, ...]:
        return self.there.url, self.model, str(self.max_new_tokens)

    def replies(self, asked: Sequence[str], attempt: int) -> Iterator[tuple[int, str | None]]:
        there, pool = replace(self.there, calls=Calls()), ThreadPoolExecutor(self.at_once)
        try:
            waiting = {pool.submit(self._reply, there, text, attempt): n for n, text in enumerate(asked)}
            for one in as_completed(waiting):
                yield waiting[one], one.result()
        finally:  # where one failed, or Ctrl-C came, the others do not go on asking
            there.calls.end()
            pool.shutdown(wait=False, cancel_futures=True)

    def _reply(self, there: Remote, text: str, attempt: int) -> str | None:
        if self.gone:
            return None
        began = time.monotonic()
        try:
            told = there.patiently(PATH, {
                "model": self.model, "messages": [{"role": "user", "content": text}], "seed": attempt,
                "temperature": 1.0 if attempt else 0.0, "max_tokens": self.max_new_tokens})
        except Refused as refused:
            if refused.status not in THIS_ONE:
                raise RunError(f"{refused} (judge.url, judge.model, judge.token_file)") from None
            self.complaint = self.complaint or str(refused)
            return None
        except RunError as error:  # patience ran out
            self.complaint = self.complaint or str(error).partition("; start it")[0]
            self.gone = self.gone or self.answered < began
            return None
        self.answered = time.monotonic()
        return self._content(told)

    def _content(self, told: Any) -> str | None:
        try:
            content, ending = told["choices"][0]["message"]["content"], told["choices"][0].get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            content = ending = None
        if not isinstance(content, str):
            self.complaint = self.complaint or (f"{self.there.url}: a reply without a message's content: "
                                                f"{shortened(told)}")
            return None
        if ending == "length":
            self.complaint = self.complaint or f"{self.there.url}: a reply was {CUT}"
            return None
        return content.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be kept


@dataclass
class Local:
    """A run or a model here, which is loaded when it is first asked."""

    checkpoint: Checkpoint
    hold: HoldConfig
    max_new_tokens: int
    complaint: str = ""
    model: Any = None

    @property
    def maker(self) -> tuple[str, ...]:
        return self.checkpoint.checksum, str(self.max_new_tokens), str(self.hold)

    def replies(self, asked: Sequence[str], attempt: int) -> Iterator[tuple[int, str | None]]:
        from prefloop import models
        from prefloop.generate import SamplingConfig, sample_ids

        role = "judge" if self.checkpoint.adapter else None
        if self.model is None:
            config = models.ModelConfig(self.checkpoint.path, four_bit=self.hold.four_bit, dtype=self.hold.dtype)
            model = models.load_base(self.checkpoint, config)
            self.model = models.add_adapter(model, "judge", self.checkpoint.adapter, config) if role else model
        chat = models.load_chat(self.checkpoint)
        prompts = [Prompt((Message("user", text),)) for text in asked]
        context = models.context_of(self.model)
        fits = [context is None or len(chat.prompt_ids(one)) + self.max_new_tokens <= context for one in prompts]
        if not all(fits):
            self.complaint = self.complaint or (f"{self.checkpoint.path}: two answers and what is asked of them are "
                                                f"longer than its context of {context} tokens")
        yield from ((n, None) for n, fit in enumerate(fits) if not fit)
        read = [n for n, fit in enumerate(fits) if fit]
        sampling = SamplingConfig(answers=1, max_new_tokens=self.max_new_tokens, temperature=1.0 if attempt else 0.0,
                                  seed=attempt)
        for first in range(0, len(read), TOGETHER):
            part = read[first : first + TOGETHER]
            ids = sample_ids(self.model, chat, [prompts[n] for n in part], sampling, role, "asking the judge")
            ended = [own[0][-1:] == [chat.end_id] for own in ids]
            if not all(ended):
                self.complaint = self.complaint or f"{self.checkpoint.path}: a reply was {CUT}"
            yield from ((n, chat.text(own[0]) if whole else None)
                        for n, own, whole in zip(part, ids, ended, strict=True))


def server(url: str, model: str, token_file: str | None, at_once: int, timeout: float, patience: float,
           max_new_tokens: int) -> Server:
    """The model at `url`, which is what OpenAI's clients call the base URL: with /v1, where the server has that."""
    there = url.rstrip("/").removesuffix(PATH)
    return Server(Remote(there, "judge", remote.token_of(token_file, "judge.token_file"), timeout, patience), model,
                  at_once, max_new_tokens)
