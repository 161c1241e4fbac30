"""What tests of every stage share: one tiny loop, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import arena_server
import postgres_server
import pytest
import tiny
from tiny_loop import SHORT, Loop


@pytest.fixture(scope="session")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    made = Loop(tmp_path_factory.mktemp("loop"))
    tiny.tiny_model(made.root / "base")
    tiny.tiny_snapshot(made.root / "data", prompts=30)
    for stage in SHORT:
        made.run(stage, stage)
    return made


@pytest.fixture(scope="session")
def arena_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints to stand side by side."""
    return arena_server.make(tmp_path_factory.mktemp("arena"))


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """The one line that a failed command ends in; asking empties it."""
    def last() -> str:
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prefloop ")]
        assert len(lines) == 1
        return lines[0]

    return last


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store can be made: what holds of one database holds of the other."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'feedback.db'}"
        return
    server = postgres_server.running()
    url = server.made()
    yield url
    server.emptied(url)
