"""Who judges in PPO: reward models of every kind, in ids or through text, and servers that say all sorts of things."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_serve import served
from tiny_loop import Loop
from twins import differences

from prefloop import encoders, heads, linear, models, remote, runs, scoring
from prefloop.errors import RequestError, RunError
from prefloop.formats import snapshot
from prefloop.ppo import judging, rollout
from prefloop.ppo import served as serving
from prefloop.ppo.settings import PPOConfig, RewardConfig
from prefloop.records import Message, Prompt
from prefloop.reward import linear as learning
from prefloop.reward.judgements import gathered

ASKED = [(Prompt((Message("user", f"Say something about cat {n}"),)), "red nice") for n in range(5)]


@pytest.fixture(scope="module")
def kinds(loop: Loop) -> dict[str, Path]:
    """A reward model of each kind: on the policy's base, on another with the same tokens, an encoder, a linear one."""
    found = {"adapter": loop.root / "runs/reward"}
    other = tiny.tiny_model(loop.root / "other-base", seed=1)
    found["elsewhere"] = tiny.tiny_adapter(loop.root / "elsewhere", other, seed=0)
    head = heads.Head(64)
    head.scale = 0.5
    head.save(found["elsewhere"])
    models.seal(found["elsewhere"], models.resolve(str(other)), "reward")
    loop.run("reward", "encoder", "model.kind=encoder", f"model.path={tiny.tiny_encoder(loop.root / 'encoder')}",
             "head.members=1")
    found["encoder"] = loop.root / "runs/encoder"
    found["linear"] = loop.root / "linear-judge"
    linear.save(learning.learn(gathered(snapshot.read(loop.root / "data").rankings_of("train"))).scorer,
                found["linear"])
    models.seal(found["linear"], models.resolve(str(loop.root / "base")), "reward")
    return found


def held(loop: Loop, path: Path, **changed: Any) -> tuple[judging.Judge, list[list[int]], list[int]]:
    """The judge that PPO would ask, and sampled rows for it: two ended, one cut, one twice."""
    policy = models.resolve(str(loop.root / "runs/sft"))
    config, chat = models.ModelConfig(str(loop.root / "runs/sft")), models.load_chat(policy)
    found = replace(judging.found_at(str(path), policy, "reward.path"), **changed)
    model = models.add_adapter(models.load_base(policy, config), "policy", policy.adapter, config)
    prompts = {prompt: chat.prompt_ids(prompt) for prompt, _ in ASKED[:3]}
    judge = judging.hold(found, "reward", model, chat, judging.texts_of(prompts, chat), config)
    answers = [chat.answer_ids("red nice"), chat.answer_ids("a big cat"), chat.answer_ids("play all day")[:-1]]
    rows = [ids + answer for ids, answer in zip(prompts.values(), answers, strict=True)]
    starts = [len(ids) for ids in prompts.values()]
    return judge, [*rows, rows[0]], [*starts, starts[0]]


@pytest.mark.parametrize("kind", ["adapter", "elsewhere", "encoder", "linear"])
def test_every_kind_scores_what_was_sampled(loop: Loop, kinds: dict[str, Path], kind: str) -> None:
    judge, rows, starts = held(loop, kinds[kind])
    assert isinstance(judge, judging.OnBase if kind == "adapter" else judging.ThroughText)
    path = str(kinds[kind])
    texts = [(ASKED[0][0], "red nice"), (ASKED[1][0], "a big cat"), (ASKED[2][0], "play all day")]
    wanted = scoring.load(path, models.ModelConfig(path)).score([*texts, texts[0]]).mean_N
    scores = judge.scores(rows, starts, 2)
    ended = slice(None) if kind != "adapter" else [0, 1, 3]  # in ids, an answer that was cut has no end to be scored
    np.testing.assert_allclose(scores.numpy()[ended], wanted[ended], atol=1e-4)
    assert len(set(scores[:3].tolist())) == 3


def test_an_answer_too_long_to_be_read_counts_as_bad_and_not_as_an_error(loop: Loop, kinds: dict[str, Path]) -> None:
    judge, rows, starts = held(loop, kinds["encoder"])
    assert isinstance(judge, judging.ThroughText)
    assert isinstance(judge.reader, encoders.EncoderScorer)
    short = replace(judge, reader=replace(judge.reader, reader=replace(judge.reader.reader, max_length=5)))
    (_, none_B), (cut_B, unread_B) = (rollout.scores(one, rows, starts, PPOConfig()) for one in (judge, short))
    assert not none_B.any()
    assert unread_B.tolist() == [0, 1, 1, 0]
    assert cut_B[[1, 2]].tolist() == [rollout.UNREAD, rollout.UNREAD]
    assert cut_B[0] == cut_B[3] != rollout.UNREAD


def test_a_scale_from_the_answers_of_the_sft_model() -> None:
    judge = judging.ThroughText(Any, Any, {})  # type: ignore[arg-type]
    found = judging.rescaled(judge, torch.arange(101.0))
    assert found.shift == 50
    assert found.scale == pytest.approx(50 / 1.349)
    with pytest.raises(RunError, match="says 3 of nearly all of 20 answers"):
        judging.rescaled(judge, torch.full((20,), 3.0))


def test_ppo_by_an_encoder_rescaled(loop: Loop, kinds: dict[str, Path], tmp_path: Path) -> None:
    run = loop.run("ppo", "p", f"reward.path={kinds['encoder']}", "reward.rescale=true",
                   f"watch.reward={loop.root / 'runs/reward'}", root=tmp_path)
    record = tiny.record(run)
    assert record["parents"]["reward"]["checksum"] == models.resolve(str(kinds["encoder"])).checksum
    assert record["parents"]["second"]["path"] == str(loop.root / "runs/reward")
    assert {"second is frozen", "sft is frozen", "scores and padding"} <= record["checks"].keys()
    assert {"reward is frozen", "EOS is scored"}.isdisjoint(record["checks"])
    known = record["reward_scale"]
    row = next(row for row in runs.read_lines(run / "metrics.jsonl") if row["step"] == 1)
    assert known["answers"] > 10
    assert abs(row["score"]) < 2  # of the SFT model's own answers, in units of their spread
    assert row["explained_variance"] == pytest.approx(0, abs=1e-4)  # the critic begins silent


@pytest.mark.parametrize(("kind", "scaled"), [("adapter", True), ("encoder", True), ("linear", False)])
def test_a_linear_models_log_odds_have_no_unit(loop: Loop, kinds: dict[str, Path], kind: str, scaled: bool) -> None:
    policy = models.resolve_policy(str(loop.root / "runs/sft"))
    assert judging.find(RewardConfig(path=str(kinds[kind])), policy).scaled == scaled


def test_a_scale_is_not_asked_of_what_has_it(loop: Loop, kinds: dict[str, Path], tmp_path: Path,
                                             said: Callable[[], str]) -> None:
    loop.run("ppo", "p", "reward.rescale=true", root=tmp_path, code=2)
    assert "reward.rescale: " in said()


@pytest.mark.parametrize(("overrides", "told"), [
    (["reward.path=null"], "reward.path is missing"), (["reward.url=http://127.0.0.1:1"], "give one of them"),
    (["reward.path=null", "reward.url=ftp://x"], "reward.url is such as"),
    (["reward.path=null", "reward.url=http://u:p@x"], "reward.url is such as"),
    (["reward.path=null", "reward.url=http://x:99999999"], "reward.url is such as"),
    (["reward.timeout=0"], "reward.timeout"), (["reward.rows=0"], "reward.rows"),
    (["reward.path=null", "reward.url=http://127.0.0.1:1"], "no answer (ConnectionRefusedError"),
    (["watch.every=null", "watch.reward=x"], "watch.every"), (["watch.every=0"], "watch.every"),
    (["watch.prompts=3"], "watch.prompts"), (["watch.max_kl=0"], "watch.max_kl"),
    (["watch.patience=0"], "watch.patience"), (["watch.reward=no/such/run"], "there is no such folder"),
    (["watch.reward=BASE"], "watch.reward: ")])
def test_a_wrong_request_is_one_line(loop: Loop, tmp_path: Path, said: Callable[[], str], overrides: list[str],
                                     told: str) -> None:
    loop.run("ppo", "p", *(one.replace("BASE", str(loop.root / "base")) for one in overrides), root=tmp_path, code=2)
    assert told in said()


def test_ppo_by_a_server(loop: Loop, tmp_path: Path) -> None:
    """The same reward model, once in memory and once served: the same scores, but for answers that were cut."""
    with served(loop.root / "runs/reward", "serve.rows=3") as server:
        url = f"http://127.0.0.1:{server.port}/score"
        run = loop.run("ppo", "p", "reward.path=null", f"reward.url={url}", "reward.rows=3", root=tmp_path)
    record = tiny.record(run)
    assert record["parents"]["reward"] == {"path": url, "checksum": models.resolve(
        str(loop.root / "runs/reward")).checksum}
    assert "reward_scale" not in record  # prefloop's own models have one
    assert record["metrics"]["held_out"] > 0


@contextmanager
def stub(*replies: tuple[int, Any] | bytes | None) -> Iterator[tuple[str, list[Any]]]:
    """A server of a reward model that says these things in turn, and the last of them for ever: a status and a body;
    bytes are the whole reply; None hangs up. Yields its address and what was asked."""
    left, asked = list(replies), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.told((200, {"model": "m"}))

        def do_POST(self) -> None:
            asked.append((json.loads(self.rfile.read(int(self.headers["content-length"]))), dict(self.headers)))
            self.told(left.pop(0) if len(left) > 1 else left[0])

        def told(self, reply: Any) -> None:
            if isinstance(reply, tuple):
                content = reply[1] if isinstance(reply[1], bytes) else json.dumps(reply[1]).encode()
                self.send_response(reply[0])
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            elif reply:
                self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", asked
        finally:
            server.shutdown()


class Hurried(remote.Calls):
    """Nobody waits, but for how long one would have is known."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)


def connected(url: str, calls: remote.Calls | None = None, **settings: Any) -> serving.Server:
    """A server that is not waited for."""
    server = serving.connect(RewardConfig(url=url, **settings))
    return replace(server, remote=replace(server.remote, calls=calls or Hurried()))


def test_a_server_is_asked_in_pieces_and_in_order() -> None:
    with stub((200, {"scores": [1, 2]}), (200, {"scores": [3.5, -4]}), (200, {"scores": [5]})) as (url, asked):
        server = connected(f"{url}/score", rows=2)
        assert server.score(ASKED).mean_N.tolist() == [1, 2, 3.5, -4, 5]
        assert not server.scaled  # it does not say of which kind it is, so nobody knows its scale
    assert [len(body["answers"]) for body, _ in asked] == [2, 2, 1]
    assert asked[0][0]["prompts"][1] == [{"role": "user", "content": "Say something about cat 1"}]


def test_a_server_that_was_away_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    good = (200, {"scores": [0.0] * 5, "model": "m"})
    with stub((503, {"error": "busy"}), None, b"no HTTP", (429, b""), (502, b"<html>"), good) as (url, asked):
        calls = Hurried()
        assert connected(url, calls).score(ASKED).mean_N.tolist() == [0.0] * 5
    assert calls.pauses == [1, 2, 4, 8, 16]
    assert len(asked) == 6
    assert capsys.readouterr().out == f"{url}: status 503, busy; asking again for 300 seconds\n"


@pytest.mark.parametrize(("reply", "told"), [
    ((200, {"scores": [1.0] * 4}), "4 scores for 5 answers"), ((200, {"scores": [1.0] * 6}), "6 scores for 5"),
    ((200, {"scores": "12345"}), "no scores for 5 answers"), ((200, []), "no scores"), ((200, {}), "no scores"),
    ((200, {"scores": [1, 2, None, 4, 5]}), "it gave None as a score"),
    ((200, b'{"scores": [1, 2, NaN, 4, 5]}'), "it gave nan as a score"),
    ((200, b'{"scores": [1, 2, -Infinity, 4, 5]}'), "it gave -inf as a score"),
    ((200, b'{"scores": [1, 2, 1' + b"0" * 400 + b', 4, 5]}'), "where a finite number was due"),
    ((200, {"scores": [1, 2, 1e300, 4, 5]}), "it gave 1e+300 as a score"),
    ((200, {"scores": [1, 2, -1e30, 4, 5]}), "it gave -1e+30 as a score"),
    ((200, {"scores": [1, 2, True, 4, 5]}), "it gave True as a score"),
    ((200, {"scores": [1, 2, {"a": "\x1b[31m"}, 4, 5]}), "it gave {'a': '\\x1b[31m'} as a score"),
    ((200, {"scores": [1.0] * 5, "model": "another"}), "another model answers there now (another)"),
    ((200, b"[" * 100_000), "no scores"), ((200, b"\xff"), "no scores"),
    ((500, {"error": "the model gave scores that are not finite\x1b[2J"}), "status 500, the model gave scores that are"
                                                                      " not finite?[2J"),
    ((401, {"error": "expected the header"}), "status 401, expected the header"),
    ((302, b""), "status 302"), ((200, b"x" * (2**24 + 1)), "longer than 16 MiB"),
])
def test_what_a_server_says_is_not_believed(reply: Any, told: str) -> None:
    with stub(reply) as (url, asked):
        with pytest.raises(RunError) as failed:
            connected(url).score(ASKED)
        assert len(asked) == 1  # asking again would not help
    assert str(failed.value).startswith(f"{url}: ")
    assert told in str(failed.value)
    assert str(failed.value).isprintable()


def test_a_server_that_stays_away_or_breaks_off_ends_the_run_with_its_name() -> None:
    with stub((503, b"")) as (url, asked):
        with pytest.raises(RunError, match=f"{url}: status 503.*asked for 5 seconds") as failed:
            connected(url, patience=5.0).score(ASKED)
        assert "reward.patience" in str(failed.value)
        assert len(asked) > 1
    with (stub(b"HTTP/1.0 200 OK\r\ncontent-length: 9\r\n\r\n{") as (url, _),
          pytest.raises(RunError, match="no answer")):
        connected(url, patience=0.0, timeout=0.5).score(ASKED)


def test_a_token_is_sent_and_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    with stub((200, {"scores": [0.0] * 5})) as (url, asked):
        connected(url, token_file=str(tmp_path / "token")).score(ASKED)
        assert asked[0][1]["authorization"] == "Bearer 0123456789abcdef"
        (tmp_path / "token").write_text("two\nlines")
        with pytest.raises(RequestError, match=r"reward.token_file: .*one line"):
            connected(url, token_file=str(tmp_path / "token"))
        with pytest.raises(RequestError, match=r"reward.token_file: .*No such file"):
            connected(url, token_file=str(tmp_path / "none"))


def test_nothing_is_lost_when_the_server_goes(loop: Loop, tmp_path: Path, said: Callable[[], str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes in the third rollout: the second's update is saved though no checkpoint was due, and resumed from."""
    reward, wire = loop.root / "runs/reward", remote.Remote.once
    with served(reward) as server:
        words = ["reward.path=null", f"reward.url=http://127.0.0.1:{server.port}", "reward.patience=0",
                 "watch.every=null", "train.save_every=100"]
        alone = loop.run("ppo", "alone", *words, root=tmp_path, steps=4)

        def once(*asked: Any) -> Any:
            if len(runs.read_lines(tmp_path / "gone/metrics.jsonl")) == 2:
                raise remote.Away("no answer (gone)")
            return wire(*asked)

        monkeypatch.setattr(remote.Remote, "once", once)
        run = loop.run("ppo", "gone", *words, root=tmp_path, steps=4, code=1)
        assert "no answer (gone); it was asked for 0 seconds" in said()
        assert (run / "checkpoint-2" / "manifest.json").is_file()
        monkeypatch.setattr(remote.Remote, "once", wire)
        assert tiny.launch("resume", run) == 0
    assert differences(alone, run) == []
