"""The process that answers for the page, as it is: a child with pipes, against what `sample` and `compare` give."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import tiny

from prefloop import serving, wire
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Message, Prompt

T = TypeVar("T")
SAMPLING = {"answers": 1, "max_new_tokens": 12, "batch": 4, "seed": 3}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters on one base, and a base of its own."""
    root = tmp_path_factory.mktemp("serving")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data")
    tiny.tiny_adapter(root / "runs" / "sft", root / "base", 1)
    tiny.tiny_adapter(root / "runs" / "other", root / "base", 2)
    tiny.tiny_model(root / "runs" / "whole", seed=3)
    (root / "runs" / "again").symlink_to(root / "runs" / "sft")
    return root


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


def setup(home: Path, *names: str, data: str = "data") -> wire.Setup:
    return wire.Setup(tuple(str(home / "runs" / name) for name in names), str(home / data) if data else "", "train",
                      10, SAMPLING, False, "auto")


@pytest.fixture(scope="module")
def talk(home: Path) -> Iterator[Talk]:
    made = Talk(setup(home, "sft", "other", "whole"))
    prompts = made.until(wire.Found).prompts
    assert [Prompt.from_json(one) for one in prompts] == snapshot.read(home / "data").prompts_of("train")[:10]
    made.until(wire.Ready)
    yield made
    made.process.kill()
    made.process.wait()


def ask(name: str, runs: tuple[int, ...], words: str, seed: int, tokens: int = 40) -> wire.Ask:
    return wire.Ask(name, ({"role": "user", "content": words},), runs, 1.0, tokens, seed)


def asked_of_sample(run: Path, words: str, seed: int, tokens: int = 40) -> tuple[str, int]:
    """The same question to `sample`, in this process, on a model loaded by itself."""
    from prefloop import generate, models
    from prefloop.passes import acting

    found = models.resolve(str(run))
    chat, settings = models.load_chat(found), models.ModelConfig(path=str(run))
    model: Any = models.load_base(found, settings)
    if found.adapter:
        model = models.add_adapter(model, "alone", found.adapter, settings)
    with acting(model.eval(), "alone" if found.adapter else None):
        (ids,) = generate.sample(model, [chat.prompt_ids(Prompt((Message("user", words),)))], [seed], tokens, 1.0,
                                 chat.end_id, chat.pad_id)
    return chat.text(ids), len(ids)


def test_what_is_streamed_is_what_sample_gives(home: Path, talk: Talk) -> None:
    """Two prompts at once, five columns in all, on two bases; each column as if it had been alone."""
    talk.say(ask("first", (2, 0, 1), "Say something about cats 😀", 7))
    talk.say(ask("second", (1, 0), "red", 8))
    wanted = {("first", 0): ("whole", "Say something about cats 😀", 7),
              ("first", 1): ("sft", "Say something about cats 😀", 7),
              ("first", 2): ("other", "Say something about cats 😀", 7),
              ("second", 0): ("other", "red", 8), ("second", 1): ("sft", "red", 8)}
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
        text, tokens = asked_of_sample(home / "runs" / name, words, seed)
        assert (ended[at].text, ended[at].tokens) == (text, tokens)
        assert text.startswith(grown[at])
        assert ended[at].ended == (tokens < 40)
    firsts = [at for at in order if at[0] == "first"]
    assert firsts[:6] == [("first", 0), ("first", 1), ("first", 2)] * 2, "the columns move together"
    assert len({one.text for one in ended.values()}) > 2


def test_held_out_answers_are_those_of_compare(home: Path, talk: Talk, tmp_path: Path) -> None:
    names = ("sft", "other", "whole")
    tiny.launch("compare", f"compare.runs=[{','.join(str(home / 'runs' / name) for name in names)}]",
                f"data.path={home / 'data'}", "compare.split=train", "compare.limit=10", f"compare.out={tmp_path}",
                f"run.root={tmp_path}", *(f"sampling.{key}={value}" for key, value in SAMPLING.items()))
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").open()]
    for number, name in enumerate(names):
        talk.say(wire.HeldOut(number, ()))
        batches = [talk.until(wire.Answered) for _ in range(3)]
        answers = {one.prompt: one.text for batch in batches for one in batch.answers}
        assert [len(batch.answers) for batch in batches] == [4, 4, 2]
        assert answers == {n: row["answers"][str(home / "runs" / name)][0] for n, row in enumerate(rows)}
    talk.say(wire.HeldOut(0, tuple(one.prompt for one in batches[0].answers[1:])))
    again = [talk.until(wire.Answered) for _ in range(1)]
    assert {one.prompt for one in again[0].answers} >= {batches[0].answers[0].prompt}, "a batch is taken whole"


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
    (("sft", "nowhere"), "data", "there is no such folder"),
    (("sft", "again"), "data", "twice, by two paths"),
    (("sft", "other"), "no-data", "not a snapshot"),
])
def test_a_wrong_setup_is_told(home: Path, names: tuple[str, ...], data: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        serving.look_up(setup(home, *names, data=data))


def test_the_process_tells_what_is_wrong_and_ends(home: Path) -> None:
    wrong = Talk(setup(home, "sft", "nowhere"))
    heard = wrong.hear()
    assert isinstance(heard, wire.Failed)
    assert heard.request
    assert "there is no such folder" in heard.why
    assert wrong.process.wait(60) == 2


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_ends_with_whoever_started_it(home: Path) -> None:
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
    starter.stdin.write(wire.encode(setup(home, "sft", data="")) + wire.encode(ask("long", (0,), "go on", 1, 490)))
    starter.stdin.close()
    pid = int(starter.stdout.readline())
    assert not gone(pid)
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    for _ in range(300):
        if gone(pid):
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the process that answers outlived its starter by 30 seconds")


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
