"""For tests: `prefloop feedback` in a process of its own, and Chromium in front of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, ViewportSize, sync_playwright

from prefloop.records import Answers, Message, Prompt, Ranking, Response
from prefloop.store import Store

CHROMIUM = Path("/usr/bin/chromium")
SERVE = "import sys; from prefloop import config; from prefloop.feedback_ui import server; " \
        "server.main(config.read('feedback', None, sys.argv[1:]))"
POLICY = "runs/secret-policy"
TEXTS = ("short", "middling", "**bold** and `code`", "long " * 100)
PLAIN = ("short", "middling", "bold and code", ("long " * 100).strip())


@dataclass
class Served:
    url: str
    process: subprocess.Popen[str]
    store: str

    def rankings(self) -> list[Ranking]:
        with Store(self.store, read_only=True) as store:
            return list(store.rankings())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Seen:
    """What the browser did besides drawing."""

    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def hosts(self) -> set[str]:
        return {url.split("/")[2] for url in self.requests if url.startswith("http")}


Start = Callable[..., Served]  # with texts, a number of items and overrides


def item(question: str, texts: Sequence[str], *before: Message) -> Answers:
    return Answers(Prompt((*before, Message("user", question))), tuple(Response(text, POLICY) for text in texts))


def written(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    return path


def serve(folder: Path, *overrides: str, port: int = 0) -> Served:
    """Serves the store of this folder; without a port it takes a free one."""
    store = f"sqlite:///{folder / 'feedback.db'}"
    process = subprocess.Popen([sys.executable, "-c", SERVE, f"feedback.store={store}", f"feedback.port={port}",
                                *overrides], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    for line in process.stdout:
        for word in line.split():
            if word.startswith("http://127.0.0.1:"):
                return Served(word, process, store)
    raise AssertionError(f"prefloop feedback ended with {process.wait()}")


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Browser, url: str, phone: bool = False, wait: str = ".pl-card", **context: Any,
           ) -> tuple[Page, Seen]:
    """A page of a browser without a past."""
    size: ViewportSize = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 800}
    own = browser.new_context(viewport=size, has_touch=phone, is_mobile=phone, **context)
    own.set_default_timeout(60_000)  # a busy machine is no failure
    page, seen = own.new_page(), Seen()

    def dismissed(dialog: Dialog) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    def logged(said: ConsoleMessage) -> None:
        if said.type == "error":
            seen.complaints.append(said.text)

    page.on("request", lambda request: seen.requests.append(request.url))
    page.on("dialog", dismissed)
    page.on("console", logged)
    page.on("pageerror", lambda error: seen.complaints.append(str(error)))
    page.goto(url)
    page.wait_for_selector(wait)
    return page, seen


def texts_of(page: Page) -> list[str]:
    return [(one.text_content() or "").strip() for one in page.locator(".pl-card > .pl-text").all()]


def question(page: Page) -> str:
    return page.locator(".pl-user .pl-text").last.inner_text()


def order(page: Page) -> str:
    """Such as "B › A = C"; nothing where nothing is ranked."""
    return " ".join((page.locator(".pl-order").text_content() or "").split())


def went_on(page: Page, asked: str) -> None:
    """The next item is shown, or the end."""
    page.wait_for_function("old => [...document.querySelectorAll('.pl-user .pl-text')].at(-1)?.innerText !== old "
                           "|| !document.querySelector('.pl-done').hidden", arg=asked)


def saved(page: Page, words: str = "All saved") -> None:
    page.wait_for_function("words => document.querySelector('.pl-sync span').textContent === words", arg=words)


def seen_ranks(ranking: Ranking) -> list[int | None]:
    return [ranking.ranks[place] for place in ranking.shown]


def drag(page: Page, letter: str, onto: str) -> None:
    """A letter of the strip onto what the selector names; gaps widen while one is dragged."""
    start = page.locator(f".pl-chip:text-is('{letter}')").bounding_box()
    assert start is not None
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(start["x"] + 30, start["y"] - 10, steps=3)
    end = page.locator(onto).bounding_box()
    assert end is not None
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=4)
    page.mouse.up()
