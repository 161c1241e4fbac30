"""SFT through the command line on a two-layer model: what is learned from and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from prefloop import checkpoints, models, passes
from prefloop.formats import snapshot
from prefloop.records import Demonstration, Message, Prompt
from prefloop.sft import train


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a snapshot with 3 long rows in it, and a finished SFT run."""
    root = tmp_path_factory.mktemp("sft")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data", long_rows=3)
    tiny.sft_run(root / "runs", root / "base", root / "data")
    return root


def rows(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_mask_is_the_assistants_turns_and_their_ends(home: Path) -> None:
    chat = models.load_chat(models.resolve(str(home / "base")))
    talk = Prompt((Message("system", "Be kind."), Message("user", "sun"), Message("assistant", "moon"),
                   Message("user", "red <|end|>")))
    found = train.tokenised(chat, [Demonstration(talk, "blue")], None)
    learned = [token for token, on in zip(found.ids[0], found.masks[0], strict=True) if on]
    assert learned == chat.answer_ids("moon") + chat.answer_ids("blue")
    assert learned[-1] == chat.tokenizer.convert_tokens_to_ids("<|end|>")
    assert found.ids[0].count(learned[-1]) == 2  # the user's literal <|end|> ends nothing


def test_the_loss_is_the_mean_over_the_assistants_tokens(home: Path, tmp_path: Path) -> None:
    """The first logged loss, on one batch of all rows, against plain transformers."""
    from transformers import AutoModelForCausalLM

    run = tiny.sft_run(tmp_path, home / "base", home / "data", "data.limit=4", "train.max_steps=1",
                       "train.logging_steps=1")
    chat = models.load_chat(models.resolve(str(home / "base")))
    base = AutoModelForCausalLM.from_pretrained(home / "base")
    total, count = 0.0, 0
    for one in snapshot.read(home / "data").demonstrations_of("train")[:4]:
        answer = chat.answer_ids(one.answer)
        ids = chat.prompt_ids(one.prompt) + answer
        with torch.no_grad():
            logprobs_TV = base(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(len(ids) - len(answer), len(ids))
        total -= sum(float(logprobs_TV[place - 1, ids[place]]) for place in places)
        count += len(answer)
    assert rows(run)[0]["loss"] == pytest.approx(total / count, abs=1e-4)


def test_a_run_is_whole(home: Path) -> None:
    run = home / "runs" / "sft"
    own = tiny.record(run)
    assert own["status"] == "done"
    assert all(check["passed"] for check in own["checks"].values())
    assert {"weights", "reload final"} <= own["checks"].keys()
    assert own["metrics"]["nll_after"] < own["metrics"]["nll_before"]
    assert {row["when"] for row in map(json.loads, (run / "samples.jsonl").open())} == {"before", "after"}
    assert not list(run.rglob("*.bin"))
    found = models.resolve(str(run))
    assert found.adapter == run / "final"
    assert found.base_checksum == models.fingerprint(home / "base")


def test_rows_over_the_length_are_left_out_and_counted(home: Path) -> None:
    source = snapshot.read(home / "data")
    short = [one for one in source.demonstrations if len(one.answer.split()) < 10]
    long = len([one for split in ("train", "test") for one in source.demonstrations_of(split) if one not in short])
    counted = tiny.record(home / "runs" / "sft")["rows"]
    assert long >= 1
    assert counted["over_length"] == long
    assert counted["train"] == len([one for one in short if one.prompt.split == "train"])


def test_a_whole_model_is_a_base_of_its_own(home: Path) -> None:
    from transformers import AutoModelForCausalLM

    run = tiny.sft_run(home / "runs", home / "base", home / "data", "model.whole=true", "train.learning_rate=1e-3",
                       name="whole")
    found = models.resolve(str(run))
    assert found.adapter is None
    assert found.base_checksum != models.fingerprint(home / "base")
    before, after = (AutoModelForCausalLM.from_pretrained(where).state_dict() for where in (home / "base", found.base))
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[key], after[key]) for key in before if "proj" in key or "head" in key)


def test_in_four_bits(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the trained adapter, which TRL would round to bf16."""
    seen = tiny.watch(monkeypatch)
    begun = home / "runs" / "sft"
    run = tiny.sft_run(tmp_path, begun, home / "data", "model.four_bit=true", "train.max_steps=1",
                       "train.gradient_checkpointing=true")
    assert seen.linear4bit == [14, 14]
    assert seen.dtypes == [{torch.float32}] * 2
    saved = load_file(begun / "final" / models.ADAPTER)
    assert all(torch.equal(weight, saved[key.replace(".default", "")]) for key, weight in seen.weights[0].items())
    tiny.check_round_trip(run, seen.models[1], models.ModelConfig(path=str(run), four_bit=True))


def test_gradients_in_four_bits_survive_an_evaluation(home: Path) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes would repack the weights into a layout without a backward."""
    settings = models.ModelConfig(path=str(home / "runs" / "sft"), four_bit=True)
    found = models.resolve(settings.path)
    model = models.add_adapter(models.load_base(found, settings), "default", found.adapter, settings)
    trained = models.train_only(model, {"default"})
    texts, pad_id = models.probe_rows(models.load_chat(found)), 0

    def gradients() -> list[torch.Tensor]:
        total = torch.cat(passes.answer_logprobs(model.train(), *texts, pad_id)).sum()
        return list(torch.autograd.grad(total, trained))

    before = gradients()
    passes.total_logprobs(model.eval(), "default", *texts, pad_id)
    after = gradients()
    assert all(bool(own.abs().sum() > 0) for own in before)
    assert all(torch.allclose(one, two, atol=1e-4) for one, two in zip(before, after, strict=True))


@pytest.mark.parametrize(("damaged", "said"), [
    ("runs/sft/final/adapter_model.safetensors", "final/adapter_model.safetensors: altered since it was saved"),
    ("base/model.safetensors", "its adapter was trained on another base"),
])
def test_a_flipped_byte_is_refused_by_name(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                           damaged: str, said: str) -> None:
    for part in ("base", "runs/sft"):
        shutil.copytree(home / part, tmp_path / part)
    final = tmp_path / "runs/sft/final"
    facts = {key: value for key, value in checkpoints.verify(final).items() if key not in ("files", "sha256")}
    checkpoints.seal(final, **facts | {"base": str(tmp_path / "base")})
    asked = ("generate", f"model.path={tmp_path / 'runs/sft'}", f"data.path={home / 'data'}",
             f"run.root={tmp_path / 'out'}", "sampling.max_new_tokens=2", "data.limit=2", "sampling.answers=2")
    assert tiny.launch(*asked) == 0
    tiny.flip_byte(tmp_path / damaged)
    capsys.readouterr()
    assert tiny.launch(*asked) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("override", "said"), [
    ("train.learning_rat=1", "did you mean train.learning_rate?"),
    ("model.path=/nowhere/at/all", "there is no such folder"),
    ("model.four_bit=true", "model.whole trains every weight"),
    ("run.name=sft", "this run exists"),
    ("data.path=nothing", "not a snapshot"),
    ("train.max_length=3", "no demonstration to train on"),
])
def test_a_wrong_request_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], override: str, said: str) -> None:
    capsys.readouterr()
    code = tiny.launch("sft", f"model.path={home / 'base'}", f"data.path={home / 'data'}", f"run.root={home / 'runs'}",
                       "model.whole=true", override)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2
    assert message.startswith("prefloop sft: ")
    assert said in message
