"""A reward model over HTTP: a real process on a free port, asked well, badly and by many at once."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from starlette.requests import Request
from tiny_loop import Loop

from prefloop import checkpoints, scoring
from prefloop.records import Message, Prompt
from prefloop.reward import serve

PROMPTS = ["Say something about cat 1", [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]]
ANSWERS = ["red nice", "red nasty nasty"]
ASKED = {"prompts": PROMPTS, "answers": ANSWERS}


@dataclass
class Served:
    port: int
    process: subprocess.Popen[str]

    def call(self, body: Any, path: str = "/score", **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        told = {"content-type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        connection.request("GET" if body is None else "POST", path, content, told)
        reply = connection.getresponse()
        found = json.loads(reply.read())
        connection.close()
        return reply.status, found


@contextmanager
def served(run: Path, *overrides: str) -> Iterator[Served]:
    process = subprocess.Popen([sys.executable, "-m", "prefloop.cli", "serve", f"model.path={run}", "serve.port=0",
                                *overrides], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/score by .* \(adapter, checksum", line)
        assert found, line
        yield Served(int(found[1]), process)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.fixture(scope="module")
def server(loop: Loop) -> Iterator[Served]:
    with served(loop.root / "runs/reward", "serve.rows=8", "serve.mebibytes=1") as one:
        yield one


def test_scores_are_those_of_the_model(server: Served, loop: Loop) -> None:
    path = str(loop.root / "runs/reward")
    asked = [(Prompt((Message("user", "Say something about cat 1"),)), ANSWERS[0]),
             (Prompt((Message("system", "Be kind."), Message("user", "Hi"))), ANSWERS[1])]
    wanted = scoring.load(path, scoring.models.ModelConfig(path)).score(asked)
    status, told = server.call(ASKED)
    assert status == 200
    np.testing.assert_allclose(told["scores"], wanted.mean_N, atol=1e-5)
    assert told["rewards"] == told["scores"]
    assert told["spreads"] == [0.0, 0.0]
    assert told["objectives"] == {"overall": pytest.approx(told["scores"], abs=1e-5)}
    checksum = checkpoints.file_sha256(loop.root / "runs/reward/final/manifest.json")
    assert told["model"] == checksum
    assert server.call(None, "/health") == (200, {"status": "ok", "model": checksum, "kind": "adapter"})


def test_a_query_is_a_prompt_with_its_answer(server: Served) -> None:
    """As OpenRLHF sends them: the whole text, and what it began with."""
    plain = server.call({"prompts": PROMPTS[:1], "answers": ["red nice"]})
    query = server.call({"prompts": PROMPTS[:1], "query": [f"{PROMPTS[0]}red nice</s>"], "labels": [None]})
    assert query == plain
    assert server.call({"prompts": ["other"], "query": ["red nice"]})[0] == 422


@pytest.mark.parametrize(("query", "answer"), [
    ("Q A<|eot_id|><|endoftext|>", " A"), ("Q A<|im_end|>\n<|endoftext|></s> ", " A"), ("Q A</s>B", " A</s>B"),
    ("Q", "")])
def test_every_token_that_ends_a_turn_is_cut_off(query: str, answer: str) -> None:
    assert serve.after("Q", query, ["", *serve.ENDS]) == answer


@pytest.mark.parametrize(("host", "status"), [("127.0.0.2:80", None), ("127.0.0.2", None), ("127.0.0.3:80", 421)])
def test_the_address_it_listens_on_is_its_own(host: str, status: int | None) -> None:
    told = {"host": host, "content-type": "application/json", "content-length": "2"}
    request = Request({"type": "http", "headers": [(name.encode(), said.encode()) for name, said in told.items()]})
    try:
        serve.admit(request, serve.ServeConfig(host="127.0.0.2"), b"")
        found = None
    except serve.Refused as refused:
        found = refused.status
    assert found == status


@pytest.mark.parametrize(("body", "status", "said"), [
    (b"{", 400, "not JSON"), (b"[" * 100_000, 400, "not JSON"), (b"\xff\xfe", 400, "not JSON"), (b"", 400, "not JSON"),
    ([], 422, "expected"), ({}, 422, "expected"), ({"prompts": "a", "answers": "b"}, 422, "expected"),
    ({"prompts": [], "answers": []}, 422, "one at least"), ({"prompts": ["a"], "answers": []}, 422, "as many"),
    ({"prompts": ["a"] * 9, "answers": ["b"] * 9}, 413, "serve.rows"),
    ({"prompts": [3], "answers": ["b"]}, 422, "row 0"), ({"prompts": [""], "answers": ["b"]}, 422, "empty"),
    ({"prompts": ["a", ["b"]], "answers": ["b", "c"]}, 422, "row 1"),
    ({"prompts": ["a"], "answers": [None]}, 422, "expected a text"),
    ({"prompts": [[{"role": "user"}]], "answers": ["b"]}, 422, "'content' is missing"),
    ({"prompts": [[{"role": "boss", "content": "a"}]], "answers": ["b"]}, 422, "boss"),
    ({"prompts": [[{"role": "assistant", "content": "a"}]], "answers": ["b"]}, 422, "nothing to answer"),
    ({"prompts": ["a"], "answers": ["b " * 2000]}, 422, "longer than"),
    (b'{"prompts": ["a"], "answers": ["' + b"x" * 2**20 + b'"]}', 413, "1 MiB"),
])
def test_what_is_wrong_is_told_in_a_line(server: Served, body: Any, status: int, said: str) -> None:
    found, told = server.call(body)
    assert found == status
    assert told.keys() == {"error"}
    assert said in told["error"]
    assert "\n" not in told["error"]


def test_odd_texts_have_scores(server: Served) -> None:
    odd = ["", " ", "\x00", "<|end|>", "\ud83d\ude00", "é" * 50]
    status, told = server.call({"prompts": ["a"] * len(odd), "answers": odd})
    assert status == 200
    assert np.isfinite(told["scores"]).all()
    lone = server.call(b'{"prompts": ["a"], "answers": ["\\ud800"]}')
    assert lone[0] == 200


def test_other_addresses_pages_and_paths_are_refused(server: Served) -> None:
    assert server.call(ASKED, Host="rebound.example")[0] == 421
    assert server.call(ASKED, content_type="text/plain")[0] == 415
    assert server.call(ASKED, "/elsewhere")[0] == 404
    assert server.call(None, "/score") == (405, {"error": "POST /score or GET /health"})
    body = b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    for length, status in ((b"", b" 411 "), (b"Content-Length: 2\r\n", b" 411 ")):  # the body's own word counts
        assert status in said_to(server, length + body)
    refused = said_to(server, b"Content-Length: " + b"0" * 20 + b"1\r\n\r\n{")
    assert refused.split()[1] in (b"400", b"413")  # by the server's own reader, or by us
    with socket.create_connection(("127.0.0.1", server.port)) as door:  # and one that hangs up half-way
        door.sendall(b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                     b"Content-Length: 100\r\n\r\n{")
    assert server.call(ASKED)[0] == 200


def said_to(server: Served, rest: bytes) -> bytes:
    """The beginning of what a request gets whose last headers and body are `rest`."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as door:
        door.sendall(b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n" + rest)
        return door.recv(4096)


def test_many_at_once_take_turns(server: Served) -> None:
    alone = server.call(ASKED)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: server.call(ASKED), range(24))) == [alone] * 24


def test_beyond_those_who_wait_more_are_told_to_come_again() -> None:
    """The scorer asks in its turn, when all places are taken: its own request is one of them."""
    def score(asked: Any, batch: int) -> scoring.Scores:
        with pytest.raises(serve.Refused, match="1 requests are waiting") as refused:
            judge.reply(json.dumps(ASKED).encode())
        assert refused.value.status == 503
        return scoring.of_one([float("nan")] * len(asked))

    scorer: Any = type("", (), {"score": staticmethod(score), "objectives": ("overall",)})()
    judge = serve.Judge(scorer, serve.ServeConfig(waiting=1), {"model": "x", "kind": "adapter"})
    for _ in range(2):  # the place is free again afterwards
        with pytest.raises(serve.Refused, match="not finite"):
            judge.reply(json.dumps(ASKED).encode())


def test_a_token_is_asked_for(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    with served(loop.root / "runs/reward", f"serve.token_file={tmp_path / 'token'}") as server:
        assert server.call(ASKED)[0] == 401
        assert server.call(ASKED, authorization="Bearer 0123456789abcdeF")[0] == 401
        assert server.call(ASKED, authorization="Bearer \xe9")[0] == 401
        assert server.call(ASKED, authorization="Bearer 0123456789abcdef", Host="far.example")[0] == 200


@pytest.mark.parametrize(("override", "told"), [
    ("serve.host=0.0.0.0", "serve.token_file"), ("serve.port=70000", "not a port"), ("serve.rows=0", "at least 1"),
    ("serve.token_file=/no/such", "No such file"), ("serve.token_file=ROOT/short", "at least 16"),
    ("model.path=ROOT/runs/sft", "no reward model"), ("model.path=ROOT/base", "no reward model"),
    ("serve.prot=1", "did you mean serve.port?"),
])
def test_a_wrong_request_is_one_line(loop: Loop, said: Callable[[], str], override: str, told: str) -> None:
    (loop.root / "short").write_text("secret")
    assert tiny.launch("serve", f"model.path={loop.root / 'runs/reward'}", "serve.port=0",
                       override.replace("ROOT", str(loop.root))) == 2
    assert told in said()


def test_a_busy_port_is_one_line_before_anything_loads(said: Callable[[], str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert tiny.launch("serve", "model.path=/no/such/model", f"serve.port={port}") == 2
        assert f"port {port} is in use on 127.0.0.1; choose another with serve.port={port + 1}" in said()
