"""The ranking page in a real Chromium, against a real server in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, ViewportSize, sync_playwright

from prefloop.records import Answers, Message, Prompt, Ranking, Response
from prefloop.store import Store

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium (apt-get install chromium)")

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>${alert(3)} {{value}} ![](http://evil.example/pixel.png)"
TEXTS = ("short", "middling", HOSTILE, "long " * 100)
SERVE = "import sys; from prefloop import config; from prefloop.feedback_ui import server; " \
        "server.main(config.read('feedback', None, sys.argv[1:]))"


@dataclass
class Served:
    url: str
    process: subprocess.Popen[str]
    store: str

    def rankings(self) -> list[Ranking]:
        with Store(self.store, read_only=True) as store:
            return list(store.rankings())


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    rows = [Answers(Prompt((Message("system", "be brief"), Message("user", f"question {n} {HOSTILE}"))),
                    tuple(Response(text, "runs/secret-policy") for text in TEXTS)) for n in range(3)]
    answers = tmp_path / "answers.jsonl"
    answers.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    store = f"sqlite:///{tmp_path / 'feedback.db'}"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, f"feedback.store={store}", f"feedback.answers={answers}", "feedback.port=0"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        url = next(word for line in process.stdout for word in line.split() if word.startswith("http://127.0.0.1:"))
        yield Served(url, process, store)
    finally:
        process.kill()
        process.wait()


@dataclass
class Seen:
    """What the browser did besides drawing."""

    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(browser: Browser, served: Served, phone: bool = False) -> tuple[Page, Seen]:
    size: ViewportSize = {"width": 390 if phone else 1280, "height": 800}
    page, seen = browser.new_page(viewport=size, has_touch=phone, is_mobile=phone), Seen()

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
    page.goto(served.url)
    page.wait_for_selector(".pl-card", timeout=60_000)
    return page, seen


def texts_of(page: Page) -> list[str]:
    return [card.text_content() or "" for card in page.locator(".pl-card .pl-text").all()]


def question(page: Page) -> str:
    return page.locator(".pl-user .pl-text").inner_text()


def went_on(page: Page, asked: str) -> None:
    page.wait_for_function("old => document.querySelector('.pl-user .pl-text')?.textContent !== old "
                           "|| !document.querySelector('.pl-done').hidden", arg=asked)


def seen_ranks(ranking: Ranking) -> list[int | None]:
    return [ranking.ranks[place] for place in ranking.shown]


def test_a_ranking_by_keyboard(browser: Browser, served: Served) -> None:
    page, seen = opened(browser, served)
    asked, shown = question(page), texts_of(page)
    assert sorted(shown) == sorted(TEXTS)

    page.keyboard.press("Enter")
    assert "Rank at least one answer" in page.locator(".pl-error").inner_text(), "an untouched order is no answer"
    page.keyboard.type("24")  # A is 2, B is 4, and C is next
    page.keyboard.press("d")
    page.keyboard.type("1")  # D is 1, back to C, the only one without a rank
    page.keyboard.press("Enter")
    assert "C is unranked" in page.locator(".pl-error").inner_text()
    assert served.rankings() == []
    page.keyboard.type("3")
    page.keyboard.press("z")
    assert page.locator(".pl-state").inner_text().split("\n")[0] == "D  ›  A  ›  B"
    page.keyboard.type("2")  # a tie with A
    assert page.locator(".pl-order").inner_text() == "D  ›  A = C  ›  B"
    page.keyboard.press("Enter")
    went_on(page, asked)

    (ranking,) = served.rankings()
    assert seen_ranks(ranking) == [2, 4, 2, 1]
    assert [ranking.responses[place].text for place in ranking.shown] == shown
    assert ranking.prompt.messages[-1].content == asked
    assert ranking.seconds is not None
    assert page.locator(".pl-count").inner_text() == "1 of 3 answers · 1 by you"

    page.keyboard.press("x")
    page.keyboard.press("Enter")  # none is acceptable, and no ranks
    page.wait_for_function("document.querySelector('.pl-count').textContent.startsWith('2 of 3')")
    page.keyboard.press("n")  # skip the last one
    page.wait_for_selector(".pl-done:not([hidden])")
    assert [r.none_acceptable for r in served.rankings()] == [False, True]
    page.get_by_text("Show the one you skipped").click()
    page.wait_for_selector(".pl-card")

    assert {url.split("/")[2] for url in seen.requests} == {served.url.split("/")[2]}, "no request to another host"
    assert seen.dialogs == seen.complaints == []


def test_hostile_text_is_shown_as_text(browser: Browser, served: Served) -> None:
    page, seen = opened(browser, served)
    assert HOSTILE in texts_of(page)
    assert HOSTILE in question(page)
    page.wait_for_timeout(500)
    for tag in ("img", "script", "b", "form", "input"):
        assert page.locator(f"#ranking {tag}").count() == 0
    assert "secret-policy" not in page.content()
    assert not [url for url in seen.requests if "evil" in url or url.endswith("/x")]
    assert seen.dialogs == seen.complaints == []


def test_a_ranking_by_thumb_on_a_phone(browser: Browser, served: Served) -> None:
    page, seen = opened(browser, served, phone=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing to scroll sideways for"
    asked = question(page)
    for letter, rank in zip("ABCD", (3, 1, 1, 2), strict=True):
        button = page.get_by_role("button", name=f"Rank {rank} for answer {letter}", exact=True)
        size = button.bounding_box()
        assert size is not None
        assert min(size["width"], size["height"]) >= 40
        button.tap()
    again = page.get_by_role("button", name="Rank 2 for answer D", exact=True)
    assert again.get_attribute("aria-pressed") == "true"
    again.tap()
    assert "Still to rank: D" in page.locator(".pl-state").inner_text()
    again.tap()
    page.get_by_role("button", name="Submit").tap()
    went_on(page, asked)
    assert seen_ranks(served.rankings()[0]) == [3, 1, 1, 2]
    assert seen.complaints == []


def test_what_cannot_be_saved_stays_on_the_page(browser: Browser, served: Served) -> None:
    page, _ = opened(browser, served)
    asked = question(page)
    page.route("**/api/submit", lambda route: route.fulfill(status=503, json={"error": "the disk is full"}))
    page.keyboard.type("1234")
    page.keyboard.press("Enter")
    page.wait_for_selector(".pl-error:not([hidden])")
    assert "the disk is full" in page.locator(".pl-error").inner_text()
    page.unroute("**/api/submit")
    page.route("**/api/next", lambda route: route.abort())
    page.keyboard.press("Enter")  # saved, but the next item does not come
    page.wait_for_function("document.querySelector('.pl-error').textContent.includes('cannot be reached')")
    assert page.locator(".pl-order").inner_text() == "A  ›  B  ›  C  ›  D"
    page.unroute("**/api/next")
    page.keyboard.press("Enter")  # the same answer again: saved once
    went_on(page, asked)
    assert [seen_ranks(r) for r in served.rankings()] == [[1, 2, 3, 4]]


def test_a_page_of_another_site_cannot_submit(browser: Browser, served: Served) -> None:
    page, _ = opened(browser, served)
    evil = browser.new_page()
    evil.route("http://evil.example/", lambda route: route.fulfill(body="win a prize", content_type="text/html"))
    refused: list[int] = []
    evil.on("response", lambda reply: refused.append(reply.status) if served.url in reply.url else None)
    evil.goto("http://evil.example/")
    sent = "url => fetch(url, {method: 'POST', mode: 'no-cors', body: '{}'}).then(r => r.type, e => 'refused')"
    assert evil.evaluate(sent, served.url + "/api/next") in ("opaque", "refused"), "nothing can be read"
    assert set(refused) <= {403}, "and if the browser sent it at all, it changed nothing"
    evil.set_content(f"<iframe src='{served.url}'></iframe>")
    evil.wait_for_timeout(1000)
    assert [frame.locator(".pl-card").count() for frame in evil.frames] == [0, 0], "and it cannot be framed"
    request = urllib.request.Request(served.url + "/api/next", b"{}", {"Content-Type": "application/json",
                                                                       "Origin": "http://evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
    assert question(page)
