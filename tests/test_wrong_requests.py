"""What users plausibly get wrong, key by key: one line that names it, before a model loads, and nothing is left."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from tiny_loop import Loop

from prefloop import models
from prefloop.errors import RequestError

TRL = [
    ("learning_rate=-1", "above 0"), ("learning_rate=.nan", "above 0"), ("learning_rate=fast", "expected float"),
    ("per_device_train_batch_size=0", "at least 1"), ("per_device_eval_batch_size=0", "at least 1"),
    ("gradient_accumulation_steps=0", "at least 1"), ("max_steps=abc", "expected int"), ("optim=foo", "is unknown"),
    ("lr_scheduler_type=cosin", "did you mean cosine?"), ("save_strategy=no", "in quotes"),
    ("save_steps=0", "above 0"),
    ("logging_steps=0", "above 0"), ("num_train_epochs=-1", "above 0"), ("max_length=0", "at least 1"),
    ("max_grad_norm=-1", "at least 0"), ("adam_beta1=2", "at most"), ("seed=-1", "at least 0"),
    ("seed=99999999999999999999", "at most"), ("output_dir=x", "run.name"), ("push_to_hub=true", "sent anywhere"),
    ("auto_find_batch_size=true", "by themselves"), ("resume_from_checkpoint=x", "prefloop resume"),
    ("learning_rat=1", "did you mean train.learning_rate?"), ("deepspeed=foo", "deepspeed"),
]
OWN = {
    "sft": [("data.limit=0", "at least 1"), ("data.path=nothing", "not a snapshot"), ("model.lora_r=0", "at least 1"),
            ("model.lora_alpha=0", "at least 1"), ("model.dtype=float16", "expected 'auto'"),
            ("model.four_bit=3", "expected bool"), ("model.path=ROOT/data", "a snapshot of data, not a model"),
            ("model.path=ROOT/data/manifest.json", "a file, where"), ("model.path=ROOT", "neither a run nor a model"),
            ("model.path=ROOT/pickled", r"no .safetensors"), ("model.path=ROOT/runs/reward", "writes no answers"),
            ("model.path=/no/such/place", "there is no such folder"), ("run.root=ROOT/data/manifest.json", "run.root"),
            ("run.root=ROOT/data/manifest.json/x", "run.root"), ("run.name=a/b", "plain folder name"),
            ("train.max_length=3", "no demonstration to train on")],
    "reward": [("head.pooling=foo", "expected 'mean' or 'last'"), ("model.whole=true", "leave it out"),
               ("train.center_rewards_coefficient=-1", "at least 0"),
               ("train.max_length=3", "no ranking to train on")],
    "dpo": [("train.beta=0", "above 0"), ("train.label_smoothing=2", "at most 0.5"), ("train.loss_type=foo", "list"),
            ("train.sync_ref_model=true", "frozen"), ("model.whole=true", "drop"),
            ("train.max_length=3", "no pair to train on")],
    "ppo": [("train.episodes=0", "at least 1"), ("train.learning_rate=-1", "above 0"), ("train.clip=foo", "float"),
            ("reward.path=ROOT/runs/sft", "no reward model"), ("reward.path=ROOT/base", "no reward model"),
            ("train.max_prompt_tokens=2", "no prompt to train on"), ("model.whole=true", "leave it out")],
    "generate": [("sampling.answers=0", "at least 1"), ("sampling.temperature=.nan", "at least 0"),
                 ("sampling.max_prompt_tokens=1", "every prompt is over"), ("data.split=foo", "validation, test"),
                 ("data.limit=0", "at least 1"), ("data.out=ROOT/data/manifest.json/x.jsonl", "data.out"),
                 ("data.out=ROOT", "data.out"), ("model.path=ROOT/runs/reward", "writes no answers")],
    "compare": [("compare.runs=[ROOT/runs/sft]", "two or more"), ("compare.runs=[1, 2]", "a list of names"),
                ("compare.limit=0", "at least 1"), ("compare.level=2", "between 0 and 1"),
                ("compare.out=ROOT/data/manifest.json", "compare.out"), ("compare.split=foo", "validation, test"),
                ("compare.reward=ROOT/runs/sft", "no reward model"), ("compare.split=train", "compare.allow_overlap"),
                ("compare.effect=0.5", "win rate between"), ("compare.answers=[ROOT/nowhere]", "cannot read these"),
                ("compare.by=people", "compare.votes names no votes"), ("compare.by=ai", "name none"),
                ("compare.votes=[sqlite:///ROOT/none.db]", "there is no store here"),
                ("compare.second=[people]", "cannot both be called 'people'"),
                ("compare.robust=[typo]", "typos"), ("metrics.use=[bleu]", "bleu"),
                ("metrics.functions={mine: nowhere.mine:f}", "metrics.functions.mine")],
    "score": [("score.answers=nothing", "no such file"), ("score.answers=ROOT/data/manifest.json", "not a row"),
              ("score.batch=0", "at least 1"), ("model.path=ROOT/runs/sft", "no reward model")],
    "feedback": [("campaign.answers=[1]", "not names of files"), ("campaign.answers=none.jsonl", "there is no file"),
                 ("campaign.answers=[]", "nothing to rate"), ("feedback.store=foo", "not a database URL"),
                 ("feedback.store=sqlite:///ROOT", "nothing to rate|a folder"), ("feedback.port=99999", "not a port"),
                 ("feedback.store=sqlite:///ROOT/data/manifest.json", "not a prefloop store"),
                 ("feedback.host=0.0.0.0", "sign-in"), ("feedback.rater=''", "feedback.rater")],
}
CASES = [(stage, f"train.{key}", told) for stage in ("sft", "reward", "dpo") for key, told in TRL]
CASES += [(stage, key, told) for stage, own in OWN.items() for key, told in own]


@pytest.fixture(scope="module", autouse=True)
def pickled(loop: Loop) -> None:
    shutil.copytree(loop.root / "base", loop.root / "pickled")
    (loop.root / "pickled" / "model.safetensors").rename(loop.root / "pickled" / "pytorch_model.bin")


def asked(loop: Loop, stage: str, root: Path) -> list[str]:
    model, data = f"model.path={loop.root / 'runs/sft'}", f"data.path={loop.root / 'data'}"
    return {
        "generate": ["generate", model, data, f"run.root={root}"],
        "compare": ["compare", f"compare.runs=[{loop.root / 'runs/sft'},{loop.root / 'base'}]", data,
                    f"run.root={root}"],
        "score": ["score", f"model.path={loop.root / 'runs/reward'}", f"score.answers={root / 'answers.jsonl'}",
                  f"score.out={root / 'scores.jsonl'}"],
        "feedback": ["feedback", f"feedback.store=sqlite:///{root / 'f.db'}", "feedback.port=0"],
    }.get(stage) or loop.asked(stage, "r", root=root)


@pytest.mark.parametrize(("stage", "override", "told"), CASES, ids=lambda part: str(part)[:40])
def test_a_wrong_key_is_one_line_that_names_it(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               said: Callable[[], str], stage: str, override: str, told: str) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(models, "load_base", never)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.jsonl").write_text('{"prompt": {"messages": [{"role": "user", "content": "Q"}]}, '
                                            '"responses": [{"text": "a"}]}\n')
    assert tiny.launch(*asked(loop, stage, tmp_path), override.replace("ROOT", str(loop.root))) == 2
    line = said()
    assert any(part in line for part in told.split("|")), line
    assert "\n" not in line.strip()
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("targets", ["foo", "(", "[]"])
def test_targets_that_are_not_there_are_named(loop: Loop, tmp_path: Path, said: Callable[[], str],
                                              targets: str) -> None:
    """Only the model itself can say."""
    assert tiny.launch(*loop.asked("sft", "r", f"model.lora_targets={targets!r}", root=tmp_path)) == 2
    assert "model.lora_targets=" in said()
    assert not (tmp_path / "r").exists()


def test_what_a_library_raises_is_one_line_and_the_traceback_is_kept(loop: Loop, tmp_path: Path,
                                                                     said: Callable[[], str]) -> None:
    run = loop.run("sft", "r", "train.lr_scheduler_kwargs={no_such: 1}", root=tmp_path, code=1)
    line = said()
    assert "TypeError" in line
    assert str(run / "traceback.txt") in line
    assert "Traceback" in (run / "traceback.txt").read_text()
    assert tiny.record(run)["status"] == "failed"


@pytest.mark.parametrize(("content", "told"), [
    (b"\xff\xfea", "byte 0 is not UTF-8"), ("# \xe9".encode("latin-1"), "byte 2 is not UTF-8"),
    (b"train:\n\tmax_steps: 1\n", "line 2: found character"), (b"a: [1\n", "not valid YAML in line"),
    ("\ufeffmodel:\n  path: /no/such/place\n".encode(), "data.path is missing")])
def test_a_config_in_another_encoding_or_with_tabs(tmp_path: Path, said: Callable[[], str], content: bytes,
                                                   told: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    assert tiny.launch("sft", tmp_path / "c.yaml") == 2
    line = said()
    assert told in line
    assert "unicode string" not in line


def test_a_folder_is_no_config(tmp_path: Path, said: Callable[[], str]) -> None:
    assert tiny.launch("sft", tmp_path) == 2
    assert "Is a directory" in said()


def test_a_second_writer_a_busy_port_and_a_foreign_database(loop: Loop, tmp_path: Path,
                                                            said: Callable[[], str]) -> None:
    """Each is said before anything is queued; the store that somebody else has open stays as it is."""
    import socket
    import sqlite3

    from prefloop.store import Store

    made, url = tmp_path / "a.jsonl", f"sqlite:///{tmp_path / 'f.db'}"
    made.write_text('{"prompt": {"messages": [{"role": "user", "content": "Q"}]}, "responses": [{"text": "a"}, '
                    '{"text": "b"}]}\n')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ("feedback", f"feedback.store={url}", f"campaign.answers={made}")
        assert tiny.launch(*words, f"feedback.port={port}") == 2
        assert f"port {port} is in use" in said()
    assert not (tmp_path / "f.db").exists()
    with Store(url) as store:
        assert tiny.launch(*words, "feedback.port=0") == 2
        assert "another process is writing to this store" in said()
        assert store.progress().items == 0
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("create table leases (x)")
    before = foreign.read_bytes()
    assert tiny.launch("feedback", f"feedback.store=sqlite:///{foreign}", f"campaign.answers={made}",
                       "feedback.port=0") == 2
    assert str(foreign) in said()
    with sqlite3.connect(foreign) as db:
        assert db.execute("select name from sqlite_master").fetchall() == [("leases",)]
    assert before[:16] == foreign.read_bytes()[:16]


def test_nothing_is_loaded_that_only_a_pickle_holds(loop: Loop) -> None:
    with pytest.raises(RequestError, match="safetensors"):
        models.resolve(str(loop.root / "pickled"))
