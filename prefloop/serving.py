"""A process that holds bases with adapters and streams what they write: `python -m prefloop.serving`.

It speaks prefloop.wire over stdin and stdout. It ends when its stdin does, so it never outlives whoever started it,
however they end. All prompts that are asked move together, a token at a time; the held-out prompts wait meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any

from prefloop import wire
from prefloop.errors import RequestError, RunError

if TYPE_CHECKING:
    from torch import nn

    from prefloop.chat import Chat
    from prefloop.generate import Job
    from prefloop.models import Checkpoint
    from prefloop.records import Prompt

AT_ONCE = 4  # prompts that are answered together; more wait their turn
UNFINISHED = "\ufffd"  # how a tokenizer shows the first bytes of a character

Tell = Callable[[wire.Reply], None]


@dataclass(frozen=True)
class Writer:
    """One run, ready to answer."""

    model: nn.Module
    role: str | None
    chat: Chat


@dataclass(frozen=True)
class Batch:
    """Held-out prompts that one run answers together."""

    run: int
    jobs: list[Job]


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the page; this process ends with it
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no part of the conversation
    inbox: SimpleQueue[wire.Request] = SimpleQueue()
    threading.Thread(target=listen, args=(sys.stdin.buffer, inbox), daemon=True).start()

    def tell(reply: wire.Reply) -> None:
        out.write(wire.encode(reply))
        out.flush()

    try:
        serve(inbox, tell)
    except (RequestError, RunError) as error:
        tell(wire.Failed(str(error), isinstance(error, RequestError)))
        return 2 if isinstance(error, RequestError) else 1
    return 0


def listen(source: IO[bytes], inbox: SimpleQueue[wire.Request]) -> None:
    try:
        for line in source:
            inbox.put(wire.decode(line))
    finally:
        os._exit(0)  # from a thread nothing else stops a forward pass


def serve(inbox: SimpleQueue[wire.Request], tell: Tell) -> None:
    setup = inbox.get()
    assert isinstance(setup, wire.Setup)
    found, prompts, over_length = look_up(setup)
    tell(wire.Found(tuple(one.checksum for one in found), tuple(prompt.to_json() for prompt in prompts), over_length))
    work = Work(load(found, setup), prompts, setup, tell)
    tell(wire.Ready())
    while True:
        for request in arrived(inbox, wait=work.idle):
            work.take(request)
        work.step()


def arrived(inbox: SimpleQueue[wire.Request], wait: bool) -> Iterator[wire.Request]:
    """What came in since; with `wait`, not before something has."""
    try:
        while True:
            yield inbox.get(block=wait)
            wait = False
    except Empty:
        return


def look_up(setup: wire.Setup) -> tuple[list[Checkpoint], list[Prompt], int]:
    """The runs, verified, and the prompts; what is wrong is said before a base is loaded."""
    from prefloop import models
    from prefloop.compare.answering import over_length, reader
    from prefloop.formats import snapshot
    from prefloop.generate import SamplingConfig

    source = snapshot.read(Path(setup.data)) if setup.data else None
    found = [models.resolve_policy(path) for path in setup.runs]
    folders = [one.folder.resolve() for one in found if one.folder]
    if len(set(folders)) < len(folders):
        raise RequestError("arena.runs names one run twice, by two paths: its folder and its final/")
    if source is None:
        return found, [], 0
    sampling = SamplingConfig(**setup.sampling)
    wanted, fits = source.prompts_of(setup.split)[: setup.limit], reader(found, sampling)
    if not wanted:
        raise RequestError(f"{source.path}: it has no prompts in split {setup.split!r}")
    fitting = [prompt for prompt in wanted if fits(prompt)]
    if not fitting:
        raise over_length(source.path, sampling)
    return found, fitting, len(wanted) - len(fitting)


def load(found: list[Checkpoint], setup: wire.Setup) -> list[Writer]:
    """Every base once, with the adapters of the runs that stand on it."""
    from prefloop import models
    from prefloop.compare.answering import hosted
    from prefloop.compare.settings import HoldConfig

    hold = HoldConfig(setup.four_bit, setup.dtype)  # type: ignore[arg-type]
    writers: dict[str, Writer] = {}
    for base in dict.fromkeys(one.base_checksum for one in found):
        own = [one for one in found if one.base_checksum == base]
        model, roles = hosted(own, hold)
        writers |= {one.path: Writer(model, role, models.load_chat(one)) for one, role in zip(own, roles, strict=True)}
    return [writers[one.path] for one in found]


class Work:
    """What is being written. Prompts that were asked come first; the held-out prompts move when there are none."""

    def __init__(self, writers: list[Writer], prompts: list[Prompt], setup: wire.Setup, tell: Tell) -> None:
        from prefloop.generate import SamplingConfig

        self.writers, self.prompts, self.sampling, self.tell = writers, prompts, SamplingConfig(**setup.sampling), tell
        self.asked: dict[str, list[Iterator[wire.Reply]]] = {}
        self.batches: deque[Batch] = deque()
        self.batch: Iterator[wire.Reply | None] = iter(())  # the first of them, being written

    @property
    def idle(self) -> bool:
        return not self.asked and not self.batches

    def take(self, request: wire.Request) -> None:
        if isinstance(request, wire.Stop):
            self.asked.pop(request.ask, None)
        elif isinstance(request, wire.HeldOut):
            self.batches += owed(self.writers[request.run].chat, request, self.prompts, self.sampling)
        elif isinstance(request, wire.Ask):
            try:
                self.asked[request.ask] = self.columns(request)
            except RequestError as error:
                self.tell(wire.Declined(request.ask, str(error)))

    def columns(self, request: wire.Ask) -> list[Iterator[wire.Reply]]:
        from prefloop.models import require_context
        from prefloop.records import Message, Prompt

        prompt = Prompt(tuple(Message(**message) for message in request.messages))
        writers = [self.writers[number] for number in request.runs]
        rows = [one.chat.prompt_ids(prompt) for one in writers]
        longest = max(map(len, rows))
        if longest > self.sampling.max_prompt_tokens:
            raise RequestError(f"this prompt has {longest} tokens, and sampling.max_prompt_tokens is "
                               f"{self.sampling.max_prompt_tokens}")
        for one, ids in zip(writers, rows, strict=True):
            require_context(one.model, len(ids) + request.max_new_tokens, "this prompt and the longest answer")
        return [stream(one, ids, request, place) for place, (one, ids) in enumerate(zip(writers, rows, strict=True))]

    def step(self) -> None:
        """One token of every answer that is being written."""
        from prefloop import memory

        for ask in list(self.asked)[:AT_ONCE]:
            if not memory.suffices(lambda ask=ask: self.move(ask)):
                del self.asked[ask]
                self.tell(wire.Declined(ask, "out of memory; a shorter answer or fewer checkpoints may fit"))
        if self.batches and not self.asked and not memory.suffices(self.move_held_out):
            self.halve()

    def move(self, ask: str) -> None:
        self.asked[ask] = [column for column in self.asked[ask] if self.moved(column)]
        if not self.asked[ask]:
            del self.asked[ask]

    def move_held_out(self) -> None:
        if not self.moved(self.batch):
            first = self.batches[0]
            self.batch = written(self.writers[first.run], first, self.sampling)
            self.moved(self.batch)

    def moved(self, column: Iterator[wire.Reply | None]) -> bool:
        """Lets it write one token; false if it has no more to say."""
        try:
            reply = next(column)
        except StopIteration:
            return False
        if reply is not None:
            self.tell(reply)
        if isinstance(reply, wire.Answered):
            self.batches.popleft()
        return True

    def halve(self) -> None:
        """Memory ran out with the batch as it is."""
        first = self.batches.popleft()
        half = len(first.jobs) // 2
        if half:
            self.batches.extendleft((Batch(first.run, first.jobs[half:]), Batch(first.run, first.jobs[:half])))
        else:
            self.batches.clear()
            self.tell(wire.Declined("", "out of memory with one held-out prompt at a time; lower sampling."
                                        "max_new_tokens, or hold the base in 4 bits (model.four_bit=true)"))


def owed(chat: Chat, request: wire.HeldOut, prompts: list[Prompt], sampling: Any) -> list[Batch]:
    """The batches of `prefloop compare` that are not done, each whole: a batch of other rows could round otherwise."""
    from prefloop import generate

    return [Batch(request.run, jobs) for jobs in generate.batches(chat, prompts, sampling)
            if not all(job.prompt in request.done for job in jobs)]


def stream(writer: Writer, ids: list[int], request: wire.Ask, place: int) -> Iterator[wire.Reply]:
    """An answer as it grows: the very tokens that `generate.sample` gives for this seed."""
    written: list[int] = []
    sent = ""
    for [(_, token)] in steps(writer, [ids], [request.seed], request.max_new_tokens, request.temperature):
        written.append(token)
        text = writer.chat.text(written)
        ready = text.rstrip(UNFINISHED)
        if ready.startswith(sent):
            yield wire.Piece(request.ask, place, ready[len(sent):])
        else:
            yield wire.Piece(request.ask, place, ready, whole=True)
        sent = ready
    yield wire.Ended(request.ask, place, writer.chat.text(written), len(written), written[-1] == writer.chat.end_id)


def written(writer: Writer, batch: Batch, sampling: Any) -> Iterator[wire.Reply | None]:
    """The answers of a batch, once it is whole; None between its tokens."""
    rows: list[list[int]] = [[] for _ in batch.jobs]
    for tokens in steps(writer, [job.ids for job in batch.jobs], [job.seed for job in batch.jobs],
                        sampling.max_new_tokens, sampling.temperature):
        for row, token in tokens:
            rows[row].append(token)
        yield None
    yield wire.Answered(batch.run, tuple(
        wire.Written(job.prompt, writer.chat.text(ids), len(ids), ids[-1] == writer.chat.end_id)
        for job, ids in zip(batch.jobs, rows, strict=True)))


def steps(writer: Writer, rows: list[list[int]], seeds: list[int], max_new_tokens: int,
          temperature: float) -> Iterator[list[tuple[int, int]]]:
    """The steps of a sample, each under the writer's own adapter: between two of them another may act."""
    from prefloop import generate
    from prefloop.passes import acting

    own = generate.steps(writer.model, rows, seeds, max_new_tokens, temperature, writer.chat.end_id,
                         writer.chat.pad_id)
    while True:
        with acting(writer.model, writer.role):
            tokens = next(own, None)
        if tokens is None:
            return
        yield tokens


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # an ordinary exit would abort, for the listening thread holds stdin
