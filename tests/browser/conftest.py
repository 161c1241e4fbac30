"""For tests in Chromium: the browser, and a rating page for one person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import rated_page
from playwright.sync_api import Browser
from rated_page import TEXTS, Served, Start, item

from prefloop.records import Message


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with rated_page.chromium() as chromium:
        yield chromium


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    running: list[Served] = []

    def started(texts: Sequence[str] = TEXTS, items: int = 3, *overrides: str) -> Served:
        rows = [item(f"question {n}", texts, Message("system", "be brief")) for n in range(items)]
        answers = rated_page.written(tmp_path / "answers.jsonl", rows)
        running.append(rated_page.serve(tmp_path, f"campaign.answers={answers}", "campaign.repeats=0",
                                        *overrides))
        return running[-1]

    yield started
    for one in running:
        one.stop()
