"""A run folder: `done` is written last, numbers are taken once, and what is not finished does not exist."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import record

from prefloop import checkpoints, cli, holding, runs
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


HOLDER = """
import sys, time
from pathlib import Path
from prefloop import config, runs
with runs.start(config.Asked("sft", {}), runs.RunConfig(sys.argv[1], "r")):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of the run tmp_path/r."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_run_is_running_until_its_process_is_gone(elsewhere: subprocess.Popen[str], tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tmp_path / "r", tmp_path / "copied")
    assert runs.status_of(runs.load(tmp_path / "r")) == "running"
    assert runs.status_of(runs.load(tmp_path / "copied")) == "interrupted"
    assert cli.main(["resume", str(tmp_path / "r")]) == 2
    said = capsys.readouterr().err
    assert f"it is running now, as process {elsewhere.pid} on " in said
    assert said.count("\n") == 1
    elsewhere.kill()
    elsewhere.wait()
    assert status(tmp_path / "r") == "running"
    assert runs.status_of(runs.load(tmp_path / "r")) == "interrupted"
    assert cli.main(["runs", f"run.root={tmp_path}"]) == 0
    assert capsys.readouterr().out.count("interrupted") == 2


def test_two_processes_never_work_on_one_run(elsewhere: subprocess.Popen[str], tmp_path: Path) -> None:
    """The second may have looked before the first began: it is the lock that decides."""
    with pytest.raises(RequestError, match="running now"), runs.start(ASKED, runs.RunConfig(), tmp_path / "r"):
        pass
    elsewhere.kill()
    elsewhere.wait()
    with runs.start(ASKED, runs.RunConfig(), tmp_path / "r") as run:
        assert holding.holder(run.path).startswith(f", as process {os.getpid()} on ")
    with pytest.raises(RequestError, match="done already"), runs.start(ASKED, runs.RunConfig(), tmp_path / "r"):
        pass
    assert status(tmp_path / "r") == "done"


def test_who_only_looks_does_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    with (tmp_path / holding.LOCK).open("w") as looked:
        fcntl.flock(looked, fcntl.LOCK_SH)
        threading.Timer(0.2, looked.close).start()
        with holding.held(tmp_path):
            assert holding.is_held(tmp_path)
    assert not holding.is_held(tmp_path)


@pytest.mark.parametrize("left", [(), ("lock",), ("lock", "run.yaml"), ("lock", "run.yaml", "run.json.tmp")])
def test_a_run_killed_before_it_began_is_begun_by_the_same_command(tmp_path: Path, left: tuple[str, ...]) -> None:
    (tmp_path / "r").mkdir()
    for name in left:
        (tmp_path / "r" / name).write_text("half")
    with pytest.raises(RequestError, match="stopped before it began" if "run.yaml" in left else "not a run"):
        runs.load(tmp_path / "r")
    with runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")):
        pass
    assert status(tmp_path / "r") == "done"


def test_someone_elses_folder_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.tex").write_text("x")
    with pytest.raises(RequestError, match="this run exists"), runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")):
        pass
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["thesis.tex"]


@pytest.fixture(autouse=True)
def in_front() -> Iterator[None]:
    """As a job in front has it: those in the background are born to ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_was_ignored_stays_ignored(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")):
        signalled(signal.SIGINT, seconds=0.01)
    assert status(tmp_path / "r") == "done"


def signalled(*numbers: signal.Signals, seconds: float = 60.0) -> None:
    for number in numbers:
        os.kill(os.getpid(), number)
    time.sleep(seconds)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "stopped by Ctrl-C"),
                                                (signal.SIGTERM, "stopped by SIGTERM")])
def test_a_signal_stops_a_run_at_once_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals,
                                                            reason: str) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with (pytest.raises(RunError, match=r"interrupted; `prefloop resume .*/r` continues it; there is no checkpoint"),
          runs.start(ASKED, runs.RunConfig(str(tmp_path), "r"))):
        signalled(number)
    assert record(tmp_path / "r")["reason"] == reason
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_what_must_be_whole_is_finished_first(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    done = []
    with (pytest.raises(RunError), runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")) as run,
          run.stop.finishing("this step")):
        done.append(signalled(signal.SIGINT, signal.SIGTERM, seconds=0.01))  # one: a launcher handed it on
    assert done
    assert status(tmp_path / "r") == "interrupted"
    assert "this step is finished and saved first; Ctrl-C again stops at once" in capfd.readouterr().err


def test_a_second_signal_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefloop.stopping.ONE", 0.0)
    done = []
    with (pytest.raises(RunError), runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")) as run,
          run.stop.finishing("this step")):
        done.append(signalled(signal.SIGINT, signal.SIGINT))
    assert not done
    assert status(tmp_path / "r") == "interrupted"


TALKER = """
import sys
from prefloop import config, runs
with runs.start(config.Asked("sft", {}), runs.RunConfig(sys.argv[1], "r")):
    for number in range(20_000):
        print("a line that nobody reads", flush=True)
"""


def test_a_run_outlives_the_reader_of_its_output(tmp_path: Path) -> None:
    """`prefloop ... | tee log`: Ctrl-C ends tee at once, while the step is still being saved."""
    process = subprocess.Popen([sys.executable, "-c", TALKER, str(tmp_path)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stderr
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    assert status(tmp_path / "r") == "done"


def test_a_run_that_is_not_resumed_says_how_it_is_done_again(tmp_path: Path,
                                                             capsys: pytest.CaptureFixture[str]) -> None:
    with (pytest.raises(RunError, match=r"`prefloop generate .*/run\.yaml run\.name=OTHER` does it again$"),
          runs.start(Asked("generate", {}), runs.RunConfig(str(tmp_path), "r"), resumable=False)):
        raise KeyboardInterrupt
    assert cli.main(["resume", str(tmp_path / "r")]) == 2
    assert "does it again" in capsys.readouterr().err


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


def test_models_that_a_run_sets_aside_are_not_in_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with runs.start(ASKED, runs.RunConfig(str(tmp_path), "r")) as run:
        aside = run.path / "folds/fold-1"
        aside.mkdir(parents=True)
        runs.Run(aside, {"stage": "reward"}).write()
        assert cli.main(["runs", f"run.root={tmp_path}"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert "running" in line


@pytest.mark.parametrize("before", ["", '{"a": 1}\n', '{"a": 1}\n{"a": 2, "b'])
def test_a_row_behind_one_that_a_kill_cut_off_is_whole(tmp_path: Path, before: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(before)
    runs.append(path, {"é": 3})
    runs.append(path, {"c": 4})
    assert runs.read_lines(path) == [{"a": 1}] * bool(before) + [{"é": 3}, {"c": 4}]
    assert b"\n\n" not in path.read_bytes()


@pytest.mark.parametrize(("words", "says"), [
    (["runs", "run.nme=x"], "did you mean run.name?"),
    (["snapsot"], "did you mean snapshot?"),
    (["resume"], "expected one run folder"),
    (["resume", "nothing/here"], "not a run"),
    (["sft", "no/such.yaml"], "cannot read this config"),
    (["feedback", "configs/fedback.yml"], "did you mean configs/feedback.yaml?"),
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
