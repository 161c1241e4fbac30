"""A run folder: `done` is written last, numbers are taken once, and what is not finished does not exist."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from prefloop import checkpoints, cli, runs
from prefloop.config import Asked
from prefloop.errors import RequestError, RunError

ASKED = Asked("sft", {"model": {"path": "x"}, "train": {"learning_rate": 5e-6}})


def status(path: Path) -> str:
    return json.loads((path / "run.json").read_text())["status"]


def test_a_run_ends_done_and_can_be_asked_again(tmp_path: Path) -> None:
    from prefloop import config

    with runs.start(ASKED, runs.RunConfig(str(tmp_path)), base={"path": "b", "checksum": "c"}) as run:
        assert status(run.path) == "running"
        run.note(metrics={"accuracy": 0.75})
    assert status(run.path) == "done"
    assert run.path.name == "sft-0001"
    assert config.read("sft", run.path / "run.yaml", []) == ASKED
    assert "accuracy" in (run.path / "README.md").read_text()
    with runs.start(ASKED, runs.RunConfig(str(tmp_path))) as second:
        assert second.path.name == "sft-0002"


@pytest.mark.parametrize(("error", "ends"), [(ValueError("boom"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_every_other_ending_says_why(tmp_path: Path, error: BaseException, ends: str) -> None:
    with pytest.raises((ValueError, RunError)), runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")):
        raise error
    assert status(tmp_path / "r") == ends
    assert json.loads((tmp_path / "r" / "run.json").read_text())["reason"]
    with pytest.raises(RequestError, match=f"{ends}, not done"):
        runs.finished(tmp_path / "r")


def test_a_killed_run_is_seen_to_be_interrupted(tmp_path: Path) -> None:
    with runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")) as run:
        pass
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    run.note(status="running", pid=child)
    assert runs.status_of(runs.load(run.path)) == "interrupted"


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "/abs"])
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"run\.name"), runs.start(ASKED, runs.RunConfig(str(tmp_path), name)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    with runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")):
        pass
    with pytest.raises(RequestError, match="this run exists"), runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")):
        pass


def test_a_number_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with (pytest.raises(RunError, match=r"loss is nan at step 3"),
          runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")) as run):
        run.log({"step": 3, "loss": float("nan")})
    assert status(tmp_path / "r") == "failed"


def test_changed_parents_are_refused_on_resume(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), runs.start(ASKED, runs.RunConfig(str(tmp_path), "r"), base={"c": "1"}):
        raise ValueError("x")
    with (pytest.raises(RequestError, match="changed since it began: base"),
          runs.start(ASKED, runs.RunConfig(), tmp_path / "r", base={"c": "2"})):
        pass


def checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(str(step))
    checkpoints.seal(folder)
    return folder


def test_the_newest_checkpoint_is_the_newest_that_verifies(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-11").mkdir()
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-10"
    (tmp_path / "checkpoint-10" / "weights").write_text("11")
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-2"
    checkpoints.clear_unfinished(tmp_path)
    assert not (tmp_path / "checkpoint-11").exists()


def test_rotation_keeps_the_newest_that_verifies(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        checkpoint(tmp_path, step)
    for step in (3, 4):
        (tmp_path / f"checkpoint-{step}" / "weights").write_text("x")
    checkpoints.rotate(tmp_path, 1)
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_the_list_shows_status_parents_and_headline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with runs.start(ASKED, runs.RunConfig(str(tmp_path), "r"), base={"path": "some/base", "checksum": "c"}) as run:
        run.note(metrics={"accuracy": 0.75})
    assert cli.main(["runs", f"run.root={tmp_path}"]) == 0
    line = capsys.readouterr().out
    for part in ("r ", "sft", "done", "accuracy 0.75", "some/base"):
        assert part in line


@pytest.mark.parametrize(("words", "says"), [
    (["runs", "run.nme=x"], "did you mean run.name?"),
    (["snapsot"], "did you mean snapshot?"),
    (["resume"], "expected one run folder"),
    (["resume", "nothing/here"], "not a run"),
    (["sft", "no/such.yaml"], "cannot read this config"),
    (["runs", "run.root=x", "run.root"], "expected section.key=value"),
])
def test_a_wrong_request_is_one_line_and_exit_code_2(words: list[str], says: str,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_changed_byte_of_the_manifest_itself_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 1)
    manifest = (folder / checkpoints.MANIFEST).read_bytes()
    for place in range(0, len(manifest), 7):
        if manifest[place : place + 1].isspace():
            continue
        (folder / checkpoints.MANIFEST).write_bytes(
            manifest[:place] + bytes([manifest[place] ^ 1]) + manifest[place + 1:])
        with pytest.raises(RequestError, match=r"manifest\.json"):
            checkpoints.verify(folder)
