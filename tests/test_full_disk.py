"""A full disk, a real one of a few megabytes: one line, no half files, and the run goes on once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
from tiny_loop import SHORT, Loop

from prefloop import checkpoints, models
from prefloop.errors import RunError
from prefloop.formats import snapshot
from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Store


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", str(place), "-o", "size=8m"], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, leaving: int) -> Path:
    """All but the last `leaving` kilobytes are taken."""
    taken = disk / "taken"
    free = shutil.disk_usage(disk).free - leaving * 1024
    with taken.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free, 1))
    return taken


def sizes(run: Path) -> int:
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file()) // 1024


@pytest.mark.parametrize("stage", SHORT)
def test_a_run_that_fills_the_disk_goes_on_once_there_is_room(loop: Loop, disk: Path, stage: str,
                                                              said: Callable[[], str]) -> None:
    """Room for a checkpoint and a half, then for two and a half: the second save fails, then what comes after."""
    whole = loop.root / "runs" / stage
    first, final = sizes(whole / "checkpoint-1"), sizes(whole / "final")
    for room in (first + first // 2, 2 * first + final // 2):
        run = disk / f"room-{room}"
        taken = fill(disk, room + 60)
        assert tiny.launch(*loop.asked(stage, run.name, root=disk)) == 1
        line = said()
        assert str(run) in line
        assert "the disk is full" in line
        assert f"`prefloop resume {run}` continues it" in line
        good = checkpoints.newest(run)
        assert good is not None
        assert not (run / "final").exists()
        assert all((folder / checkpoints.MANIFEST).is_file() for folder in run.glob("checkpoint-*"))
        assert not list(run.rglob("*.tmp"))
        taken.unlink()
        assert tiny.launch("resume", run) == 0
        assert (run / "final" / models.ADAPTER).read_bytes() == (whole / "final" / models.ADAPTER).read_bytes()
        shutil.rmtree(run)


def test_a_run_that_cannot_begin_leaves_nothing(loop: Loop, disk: Path, said: Callable[[], str]) -> None:
    fill(disk, 0)
    assert tiny.launch(*loop.asked("sft", "r", root=disk)) == 1
    line = said()
    assert str(disk) in line
    assert "disk is full" in line or "No space left" in line


def answers(count: int, length: int = 20) -> list[Answers]:
    return [Answers(Prompt((Message("user", f"question {n}"),)), (Response("a" * length), Response("b" * length)))
            for n in range(count)]


def test_sampled_answers_scores_and_a_report_are_whole_or_absent(loop: Loop, disk: Path,
                                                                 said: Callable[[], str]) -> None:
    data, sft, reward = loop.root / "data", loop.root / "runs/sft", loop.root / "runs/reward"
    made = disk / "answers.jsonl"
    fast = ("sampling.max_new_tokens=4", "sampling.answers=4")
    generate = ("generate", f"model.path={sft}", f"data.path={data}", f"data.out={made}", f"run.root={loop.root}/g",
                *fast)
    taken = fill(disk, 8)
    assert tiny.launch(*generate) == 1
    assert str(made) in said()
    assert os.listdir(disk) == ["taken"]
    taken.unlink()
    assert tiny.launch(*generate) == 0
    scores = ("score", f"model.path={reward}", f"score.answers={made}", f"score.out={disk / 'scores.jsonl'}")
    taken = fill(disk, 4)
    assert tiny.launch(*scores) == 1
    assert str(disk / "scores.jsonl") in said()
    compared = ("compare", f"compare.runs=[{sft},{loop.root / 'runs/dpo'}]", f"compare.out={disk / 'verdict'}",
                f"data.path={data}", f"run.root={loop.root}/c", "compare.split=train",
                "compare.allow_overlap=true", *fast)
    assert tiny.launch(*compared) == 1
    assert str(disk / "verdict") in said()
    assert not [path for path in disk.rglob("*") if path.is_file() and path.name not in ("taken", "answers.jsonl")]


def test_a_snapshot_is_whole_or_absent(loop: Loop, disk: Path) -> None:
    source = snapshot.read(loop.root / "data")
    fill(disk, 8)
    with pytest.raises(RunError, match=f"{disk / 'copy'}: .*No space left"):
        snapshot.write(disk / "copy", source.rankings, source.demonstrations)
    assert os.listdir(disk) == ["taken"]


def test_an_answer_that_does_not_fit_is_not_acknowledged(disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rater is told so, and who serves the page why; what was acknowledged before is there, and the answer can be
    given again."""
    from starlette.testclient import TestClient

    from prefloop.feedback_ui import server
    from prefloop.feedback_ui.web import build

    url = f"sqlite:///{disk}/f.db"
    with Store(url) as store:
        store.add_items(answers(30))
        with TestClient(build(store, server.FeedbackConfig(store=url)), base_url="http://127.0.0.1:7860",
                        raise_server_exceptions=False) as page:
            taken, kept, refused = None, 0, None
            while refused is None:
                task = page.post("/api/next", json={}).json()["task"]
                if kept == 2 and taken is None:
                    taken = fill(disk, 0)
                body = {"token": task["token"], "ranks": [1, 2], "reason": "x" * 9000}
                told = page.post("/api/submit", json=body)
                kept, refused = (kept + 1, None) if told.status_code == 200 else (kept, told)
            assert refused.status_code == 503
            assert "nothing could be saved" in refused.json()["error"]
            assert "full" in capsys.readouterr().err
            assert store.progress().done == kept
            assert taken is not None
            taken.unlink()
            assert page.post("/api/submit", json=body).status_code == 200
            assert store.progress().done == kept + 1
    with Store(url, read_only=True) as again:
        assert len(list(again.rankings())) == kept + 1
