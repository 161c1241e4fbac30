"""Rollouts by a server that speaks vLLM's protocol. The server here is a stand-in that samples by our own code, since
vLLM needs a GPU: it loads the adapter from disk as vLLM does, and answers as vLLM 0.33's sources say."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_place import Place, make_place, record

from prefloop import cli, generate, models, passes, runs
from prefloop.ppo import loss, sampler


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("sampler"))


@dataclass
class Engine:
    """One base, adapters by name. `spoil` changes a completion on its way out; `gap` is added to its log-probs."""

    model: Any
    chat: Any
    loaded: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    gap: float = 0.0
    busy_after: float = math.inf
    stuck_until: float = 0  # these first ones are never answered
    forgets_after: float = math.inf  # so many answers of an adapter it starts again, and knows it no more
    forgets_again: bool = False  # each time that it is loaded, and not the first time only
    given: Counter[str] = field(default_factory=Counter)
    forgotten: set[str] = field(default_factory=set)
    released: threading.Event = field(default_factory=threading.Event)
    spoil: Callable[[dict[str, Any]], Any] = lambda told: told
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reply(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self.lock:
            if path == "/v1/models":
                return 200, {"data": [{"id": "base"}]}
            if path == "/v1/load_lora_adapter":
                folder = Path(body["lora_path"])
                self.model.add_adapter(body["lora_name"], models.adapter_settings(folder))
                models.load_adapter(self.model, body["lora_name"], folder)
                self.loaded.append(body["lora_name"])
                return 200, "Success: LoRA adapter added successfully."
            if path == "/v1/unload_lora_adapter":
                if body["lora_name"] not in self.model.peft_config:
                    return 404, {"error": {"message": "The lora adapter cannot be found."}}
                self.model.delete_adapter(body["lora_name"])
                return 200, "Success"
            self.asked.append(body)
            self.forget(body["model"])
            if body["model"] not in self.model.peft_config:
                return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
            if len(self.asked) > self.busy_after:
                return 503, {"error": "busy"}
            stuck = len(self.asked) <= self.stuck_until
            told = self.spoil(self.completion(body))
            self.given[body["model"]] += 1
        if stuck:
            self.released.wait()
        return 200, told

    def forget(self, name: str) -> None:
        if self.given[name] >= self.forgets_after and name in self.model.peft_config and (
                self.forgets_again or name not in self.forgotten):
            self.model.delete_adapter(name)
            self.forgotten.add(name)

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        (end_id,) = body["stop_token_ids"]
        with passes.acting(self.model, body["model"]), torch.no_grad():
            (ids,) = generate.sample(self.model, [body["prompt"]], [body["seed"]], body["max_tokens"],
                                     body["temperature"], end_id, self.chat.pad_id)
            (logprobs,) = passes.answer_logprobs(self.model, [body["prompt"] + ids], [len(body["prompt"])],
                                                 self.chat.pad_id, body["temperature"])
        return {"choices": [{"token_ids": ids, "logprobs": {
            "token_logprobs": [min(one - self.gap, 0.0) for one in logprobs.tolist()]}}]}


@pytest.fixture
def engine(place: Place) -> Iterator[tuple[Engine, str]]:
    checkpoint, config = models.resolve(str(place.sft)), models.ModelConfig(path=str(place.sft))
    model = models.add_adapter(models.load_base(checkpoint, config), "first", checkpoint.adapter, config)
    engine = Engine(model.eval(), models.load_chat(checkpoint))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
            status, told = engine.reply(self.path, body)
            content = (told if isinstance(told, str) else json.dumps(told)).encode()
            with suppress(ConnectionError):  # whoever asked was stopped
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield engine, f"http://127.0.0.1:{server.server_port}"
    engine.released.set()
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["critic", "rloo"])
def test_ppo_learns_from_answers_that_a_server_sampled(kind: str, place: Place, engine: tuple[Engine, str]) -> None:
    served, url = engine
    name = f"served-{kind}"
    assert cli.main(place.asked(f"run.name={name}", f"sampler.url={url}/v1", "train.rollouts=8", "train.episodes=32",
                                "train.micro_batch=32", "train.learning_rate=1e-2", "train.kl_coef=0.02",
                                f"train.advantage={kind}", "train.critic_learning_rate=1e-2")) == 0
    rows = [row for row in runs.read_lines(place.folder / name / "metrics.jsonl") if "score" in row]
    assert record(place.folder / name)["metrics"]["score_gain_low"] > 0
    assert max(row["sampler_gap"] for row in rows) < 1e-4  # every rollout from the policy as it then was
    assert [loaded.rpartition("-")[0] for loaded in served.loaded] == [f"prefloop-{name}-{n}" for n in range(8)]
    assert len({body["seed"] for body in served.asked}) == 8 * 32
    assert all(body["ignore_eos"] and body["top_p"] == 1 and body["top_k"] == 0 for body in served.asked)
    assert not list((place.folder / name / "rollouts").glob("*"))


def test_a_server_that_is_another_model_ends_the_run(place: Place, engine: tuple[Engine, str],
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    served, url = engine
    served.gap = 0.2
    assert cli.main(place.asked("run.name=other", f"sampler.url={url}")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prefloop ppo:")]
    assert url in line
    assert "same base" in line
    assert record(place.folder / "other")["status"] == "failed"


@pytest.mark.parametrize("spoilt", [
    {}, {"choices": []}, {"choices": [{"token_ids": [99999], "logprobs": {"token_logprobs": [-1.0]}}]},
    {"choices": [{"token_ids": [7, 7], "logprobs": {"token_logprobs": [-1.0]}}]},
    {"choices": [{"token_ids": [], "logprobs": {"token_logprobs": []}}]},
    {"choices": [{"token_ids": [2, 7], "logprobs": {"token_logprobs": [-1.0, -1.0]}}]},  # past its end
    {"choices": [{"token_ids": [7], "logprobs": {"token_logprobs": [-1.0]}}]},  # neither ended nor as long as asked
    {"choices": [{"token_ids": [2], "logprobs": {"token_logprobs": [0.5]}}]},
    {"choices": [{"token_ids": [2], "logprobs": {"token_logprobs": [None]}}]}])
def test_what_a_server_says_is_checked(spoilt: dict[str, Any], place: Place, engine: tuple[Engine, str],
                                       capsys: pytest.CaptureFixture[str]) -> None:
    served, url = engine
    served.spoil = lambda told: spoilt
    number = len(list(place.folder.glob("spoilt-*")))
    assert cli.main(place.asked(f"run.name=spoilt-{number}", f"sampler.url={url}")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prefloop ppo:")]
    assert url in line


def test_other_weights_never_have_a_name_that_the_server_knows(place: Place, engine: tuple[Engine, str],
                                                                tmp_path: Path) -> None:
    """It would answer from its cache. A run in another root, and one in the place of a run that was deleted."""
    served, url = engine

    def loaded(root: Path, *overrides: str) -> list[str]:
        served.loaded.clear()
        assert cli.main(place.asked("run.name=same", f"run.root={root}", f"sampler.url={url}", "watch.every=null",
                                    "train.rollouts=2", *overrides)) == 0
        return list(served.loaded)

    one, other = loaded(tmp_path / "one"), loaded(tmp_path / "other")
    assert len({*one, *other}) == 4
    shutil.rmtree(tmp_path / "one")
    again = loaded(tmp_path / "one", "train.learning_rate=3e-3")
    assert again[0] == one[0]  # the SFT model's weights, as before
    assert again[1] != one[1]


def test_a_server_that_starts_again_gets_the_adapter_again(place: Place, engine: tuple[Engine, str],
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    served, url = engine
    served.forgets_after = 5  # of a rollout of 16
    assert cli.main(place.asked("run.name=forgetful", f"sampler.url={url}", "train.rollouts=2")) == 0
    assert [served.loaded.count(name) for name in dict.fromkeys(served.loaded)] == [2, 2]
    assert len({body["seed"] for body in served.asked}) == 2 * 16
    served.forgets_again = True
    assert cli.main(place.asked("run.name=amnesiac", f"sampler.url={url}")) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("others", ["busy", "stuck"])
def test_when_one_answer_fails_the_others_are_not_waited_for(others: str, place: Place,
                                                             engine: tuple[Engine, str]) -> None:
    served, url = engine
    served.busy_after, served.stuck_until = (4, 0) if others == "busy" else (math.inf, 4)
    served.spoil = lambda told: {"choices": []}
    began = time.monotonic()
    assert cli.main(place.asked(f"run.name=all-{others}", f"sampler.url={url}", "sampler.connections=8")) == 1
    while any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()):
        assert time.monotonic() < began + 100, "a thread still asks"  # for sampler.patience or timeout, 300 or 600
        time.sleep(0.05)


def test_a_server_that_is_none_is_refused(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(place.asked("sampler.url=http://127.0.0.1:9")) == 2
    assert "sampler.url: http://127.0.0.1:9: no answer" in capsys.readouterr().err
    assert not list(place.folder.glob("ppo-0*"))  # said before a run is begun
    assert cli.main(place.asked("sampler.url=localhost:8000")) == 2
    assert "sampler.url is such as" in capsys.readouterr().err


def test_a_sample_weighs_as_much_as_it_is_likelier_to_us_up_to_the_cap() -> None:
    ours, theirs = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -2.0, -0.5])
    found = loss.importance(ours, theirs, 2.0).tolist()
    assert found == pytest.approx([1.0, 2.0, 0.6065307])


def test_leftovers_of_a_killed_rollout_are_cleared(tmp_path: Path) -> None:
    (tmp_path / "rollouts" / "3").mkdir(parents=True)
    sampler.clear(tmp_path)
    assert not (tmp_path / "rollouts").exists()
