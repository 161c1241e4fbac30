"""The process that answers for the page, as it is: a child with pipes, against what `sample` and `compare` give."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import tiny
from arena_server import asked_of_sample, gone, is_gone

from prefloop import serving, wire
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Message, Prompt

T = TypeVar("T")
SAMPLING = {"answers": 1, "max_new_tokens": 12, "batch": 4, "seed": 3}


class Talk:
    """The other end of a serving process."""

    def __init__(self, setup: wire.Setup) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "prefloop.serving"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        self.say(setup)

    def say(self, request: wire.Request) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(wire.encode(request))
        self.process.stdin.flush()

    def hear(self) -> Any:
        assert self.process.stdout is not None
        return wire.decode(self.process.stdout.readline())

    def until(self, kind: type[T]) -> T:
        while not isinstance(heard := self.hear(), kind):
            assert not isinstance(heard, wire.Failed | wire.Declined), heard
        return heard


def setup(arena_home: Path, *names: str, data: str = "data") -> wire.Setup:
    return wire.Setup(tuple(str(arena_home / name) for name in names), str(arena_home / data) if data else "", "train",
                      10, SAMPLING, False, "auto")


@pytest.fixture(scope="module")
def talk(arena_home: Path) -> Iterator[Talk]:
    made = Talk(setup(arena_home, "first", "second", "whole"))
    prompts = made.until(wire.Found).prompts
    assert [Prompt.from_json(one) for one in prompts] == snapshot.read(arena_home / "data").prompts_of("train")[:10]
    made.until(wire.Ready)
    yield made
    made.process.kill()
    made.process.wait()


def ask(name: str, runs: tuple[int, ...], words: str, seed: int, tokens: int = 40) -> wire.Ask:
    return wire.Ask(name, ({"role": "user", "content": words},), runs, 1.0, tokens, seed)


def test_what_is_streamed_is_what_sample_gives(arena_home: Path, talk: Talk) -> None:
    """Two prompts at once, five columns in all, on two bases; each column as if it had been alone."""
    talk.say(ask("first", (2, 0, 1), "Say something about cats 😀", 7))
    talk.say(ask("second", (1, 0), "red", 8))
    wanted = {("first", 0): ("whole", "Say something about cats 😀", 7),
              ("first", 1): ("first", "Say something about cats 😀", 7),
              ("first", 2): ("second", "Say something about cats 😀", 7),
              ("second", 0): ("second", "red", 8), ("second", 1): ("first", "red", 8)}
    grown: dict[tuple[str, int], str] = dict.fromkeys(wanted, "")
    ended: dict[tuple[str, int], wire.Ended] = {}
    order = []
    while len(ended) < 5:
        heard = talk.hear()
        assert isinstance(heard, wire.Piece | wire.Ended), heard
        at = (heard.ask, heard.place)
        if isinstance(heard, wire.Ended):
            ended[at] = heard
        else:
            grown[at] = heard.text if heard.whole else grown[at] + heard.text
            order.append(at)
    for at, (name, words, seed) in wanted.items():
        text, tokens = asked_of_sample(arena_home / name, words, seed, 40)
        assert (ended[at].text, ended[at].tokens) == (text, tokens)
        assert text.startswith(grown[at])
        assert ended[at].ended == (tokens < 40)
    firsts = [at for at in order if at[0] == "first"]
    assert firsts[:6] == [("first", 0), ("first", 1), ("first", 2)] * 2, "the columns move together"
    assert len({one.text for one in ended.values()}) > 2


def test_held_out_answers_are_those_of_compare(arena_home: Path, talk: Talk, tmp_path: Path) -> None:
    names = ("first", "second", "whole")
    tiny.launch("compare", f"compare.runs=[{','.join(str(arena_home / name) for name in names)}]",
                f"data.path={arena_home / 'data'}", "compare.split=train", "compare.allow_overlap=true",
                "compare.limit=10", f"compare.out={tmp_path}", f"run.root={tmp_path}",
                *(f"sampling.{key}={value}" for key, value in SAMPLING.items()))
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").open()]
    for number, name in enumerate(names):
        talk.say(wire.HeldOut(number, ()))
        batches = [talk.until(wire.Answered) for _ in range(3)]
        answers = {one.prompt: one.text for batch in batches for one in batch.answers}
        assert [len(batch.answers) for batch in batches] == [4, 4, 2]
        assert answers == {n: row["answers"][str(arena_home / name)][0] for n, row in enumerate(rows)}
    last = batches[-1].answers[0].prompt
    talk.say(wire.HeldOut(2, tuple({*range(10)} - {last})))
    assert talk.until(wire.Answered) == batches[-1], "a batch is sampled whole, and as before"


def test_a_prompt_that_is_stopped_stops(talk: Talk) -> None:
    talk.say(ask("long", (0, 1), "go on", 1, 400))
    talk.until(wire.Piece)
    talk.say(wire.Stop("long"))
    talk.say(ask("next", (0,), "now", 1, 5))
    heard = []
    while not heard or not isinstance(heard[-1], wire.Ended):
        heard.append(talk.hear())
    assert heard[-1].ask == "next"
    assert not [one for one in heard if isinstance(one, wire.Ended) and one.ask == "long"]


@pytest.mark.parametrize(("words", "tokens", "why"), [
    ("many words " * 600, 10, "sampling.max_prompt_tokens is 1024"),
    ("hello", 600, "the model's context is 512"),
    ("  ", 10, "it is empty"),
])
def test_what_cannot_be_answered_is_declined_in_words(talk: Talk, words: str, tokens: int, why: str) -> None:
    talk.say(ask("wrong", (0,), words, 1, tokens))
    heard = talk.hear()
    assert isinstance(heard, wire.Declined)
    assert why in heard.why
    talk.say(ask("right", (0,), "hello", 1, 5))
    assert talk.until(wire.Ended).ask == "right", "and the process goes on"


@pytest.mark.parametrize(("names", "data", "why"), [
    (("first", "nowhere"), "data", "there is no such folder"),
    (("first", "again"), "data", "twice, by two paths"),
    (("first", "second"), "no-data", "not a snapshot"),
])
def test_a_wrong_setup_is_told(arena_home: Path, names: tuple[str, ...], data: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        serving.look_up(setup(arena_home, *names, data=data))


def test_the_process_tells_what_is_wrong_and_ends(arena_home: Path) -> None:
    wrong = Talk(setup(arena_home, "first", "nowhere"))
    heard = wrong.hear()
    assert isinstance(heard, wire.Failed)
    assert heard.request
    assert "there is no such folder" in heard.why
    assert wrong.process.wait(60) == 2


def test_it_ends_with_whoever_started_it(arena_home: Path) -> None:
    """The starter is killed by a signal that it cannot catch, in the middle of an answer."""
    script = ("import sys, subprocess, time\n"
              "child = subprocess.Popen([sys.executable, '-m', 'prefloop.serving'], stdin=-1, stdout=-1)\n"
              "child.stdin.write(sys.stdin.buffer.read()); child.stdin.flush()\n"
              "while b'Piece' not in child.stdout.readline(): pass\n"
              "print(child.pid, flush=True)\n"
              "while child.stdout.readline(): pass\n")
    starter = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert starter.stdin is not None
    assert starter.stdout is not None
    starter.stdin.write(wire.encode(setup(arena_home, "first", data=""))
                        + wire.encode(ask("long", (0,), "go on", 1, 490)))
    starter.stdin.close()
    pid = int(starter.stdout.readline())
    assert not gone(pid)
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    assert is_gone(pid)


def test_every_record_survives_the_pipe() -> None:
    prompt = Prompt((Message("user", "a\nb\u2028\x00"),)).to_json()
    for record in (wire.Setup(("a",), "d", "test", None, {"seed": 1}, True, "auto"),
                   wire.Ask("x", ({"role": "user", "content": "a\nb"},), (1, 0), 0.5, 3, 2), wire.Stop("x"),
                   wire.HeldOut(0, (1, 2)), wire.Found(("c",), (prompt,), 3), wire.Ready(),
                   wire.Piece("x", 0, "\u2028"), wire.Ended("x", 0, "t", 2, True), wire.Declined("", "why"),
                   wire.Answered(1, (wire.Written(0, "t", 2, False),)), wire.Failed("why", True)):
        line = wire.encode(record)
        assert line.count(b"\n") == 1
        assert wire.decode(line) == record


def test_a_batch_that_memory_does_not_hold_is_halved(arena_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from prefloop import generate

    asked = setup(arena_home, "first", "second")
    found, prompts, _ = serving.look_up(asked)
    told: list[Any] = []
    work = serving.Work(serving.load(found, asked), prompts, asked, told.append)
    tight, roomy = 1, generate.steps

    def steps(model: Any, rows: list[list[int]], *rest: Any) -> Iterator[list[tuple[int, int]]]:
        if len(rows) > tight:
            raise torch.OutOfMemoryError
        return roomy(model, rows, *rest)

    monkeypatch.setattr(generate, "steps", steps)
    work.take(wire.HeldOut(1, ()))
    while not work.idle:
        work.step()
    assert sorted(one.prompt for batch in told for one in batch.answers) == list(range(10))
    tight = 0
    work.take(wire.HeldOut(1, ()))
    while not work.idle:
        work.step()
    assert "out of memory with one held-out prompt" in told[-1].why
    work.take(ask("typed", (0, 1), "hello", 1))
    work.step()
    assert told[-1] == wire.Declined("typed", "out of memory; a shorter answer or fewer checkpoints may fit")
    assert work.idle
