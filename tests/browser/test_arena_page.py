"""The side-by-side page in a real Chromium, against real servers: one with models, one with hostile answers alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import arena_server
import explored
import pytest
import rated_page
from arena_server import Served, asked_of_sample
from playwright.sync_api import Browser, Page
from rated_page import Seen

from prefloop.compare.records import Answer, Contestant, Question, Rewards
from prefloop.records import Message, Prompt

pytestmark = pytest.mark.skipif(not rated_page.CHROMIUM.exists(), reason="no /usr/bin/chromium")

HOSTILE = ("<img src=x onerror=alert(1)><script>alert(2)</script>${alert(3)} {{value}} ![](http://evil.example/p.png) "
           "<style>*{display:none}</style> \x1b[31mred\x1b[0m \u202egnp.exe\u202c " + "long" * 400)
NAMES = ("runs/secret-sft", "runs/secret-ppo")


@pytest.fixture(scope="module")
def live(arena_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = arena_server.serve(tmp_path_factory.mktemp("live") / "arena",
                              arena_server.runs(arena_home, "first", "second", "whole"))
    made.until("ready")
    yield made
    made.stop()


@pytest.fixture
def sampled(tmp_path: Path) -> Iterator[Served]:
    """Without models: what `compare` sampled. Prompt 1 has the same answer twice, prompt 2 the greatest loss."""
    texts = [(f"plain {HOSTILE}", f"worse {HOSTILE}"), ("the same", "the same"), ("good", "awful answer"),
             ("one two three", "one 2 three four"), ("c", "d")]
    rewards = [(1.0, 0.5), (0.0, 0.0), (2.0, -2.0), (0.0, 1.0), (0.0, 0.25)]
    questions = [Question(Prompt((Message("system", "be brief"), Message("user", f"question {n} {HOSTILE}"))))
                 for n in range(len(texts))]
    contestants = [Contestant(name, name, tuple((Answer(own[place], 9, True),) for own in texts))
                   for place, name in enumerate(NAMES)]
    judge = Rewards("runs/judge", "", tuple(tuple((own[place],) for own in rewards) for place in range(2)))
    place = explored.written(tmp_path / "compare-0001", questions, contestants, [judge])
    made = arena_server.serve(tmp_path / "arena", f"arena.answers={place}",
                              "arena.reveal_after=2")
    yield made
    made.stop()


def opened(browser: Browser, served: Served, phone: bool = False, view: str = ".ar-look") -> tuple[Page, Seen]:
    return rated_page.opened(browser, served.url, phone, wait=f"{view}:not([hidden])")


def place(page: Page) -> str:
    return page.locator(".ar-place").inner_text()


def columns(page: Page) -> list[str]:
    return [one.text_content() or "" for one in page.locator(".ar-look .ar-column > .pl-text").all()]


def moved(page: Page, key: str) -> None:
    before = page.locator(".ar-look .pl-user .pl-text").text_content()
    page.keyboard.press(key)
    page.wait_for_function("old => document.querySelector('.ar-look .pl-user .pl-text').textContent !== old",
                           arg=before)


def test_look_by_keyboard(browser: Browser, sampled: Served) -> None:
    page, seen = opened(browser, sampled)
    page.wait_for_selector(".ar-column")
    assert page.locator(".ar-name").all_inner_texts() == list(NAMES)
    assert place(page) == "1 of 5"
    heights = {round(one.bounding_box()["height"]) for one in page.locator(".ar-column").all()}  # type: ignore[index]
    assert len(heights) == 1, "columns of even height"
    moved(page, "j")
    assert columns(page) == ["the same", "the same"]
    assert "The same as the first." in page.locator(".ar-column").nth(1).inner_text()
    moved(page, "ArrowRight")
    moved(page, "j")
    page.keyboard.press("d")
    assert page.locator(".ar-column").nth(1).locator("ins").all_inner_texts() == ["2 ", "four"]
    assert page.locator(".ar-column").nth(1).locator("del").all_inner_texts() == ["two "]
    assert page.locator(".ar-column").nth(0).locator("ins, del").count() == 0
    moved(page, "k")
    page.locator(".ar-order").select_option("worse")
    page.wait_for_function("document.querySelector('.ar-place').textContent === '1 of 5'")
    page.wait_for_function("document.querySelector('.ar-facts b').textContent === '2.00'")
    assert page.locator(".ar-gap").first.inner_text() == "-4"
    page.locator(".ar-only").select_option("differing")
    page.wait_for_function("document.querySelector('.ar-place').textContent === '1 of 4'")
    page.keyboard.press("Escape")
    page.locator(".ar-search").fill("three four")
    page.wait_for_function("document.querySelector('.ar-place').textContent === '1 of 1'")
    page.locator(".ar-search").fill("nothing at all")
    page.wait_for_selector(".ar-empty:not([hidden])")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert "next and the previous prompt" in page.locator("#arena .pl-keys").inner_text()
    assert seen.dialogs == seen.complaints == []


def test_hostile_text_is_shown_as_text(browser: Browser, sampled: Served) -> None:
    for phone in (False, True):
        page, seen = opened(browser, sampled, phone)
        page.wait_for_selector(".ar-column")
        page.keyboard.press("d")
        page.wait_for_timeout(500)
        assert "<script>alert(2)</script>${alert(3)} {{value}}" in columns(page)[0]
        for tag in ("img", "script", "style", "b:not(.ar-facts b)", "form:not(.ar-form)"):
            assert page.locator(f"#arena .html-container :is({tag})").count() == 0
        odd = page.locator(".ar-look .ar-column").first.locator(".pl-odd").all_inner_texts()
        assert odd == ["U+001B", "U+001B", "U+202E", "U+202C"]
        assert page.evaluate("document.documentElement.scrollWidth") <= (390 if phone else 1280)
        hosts = {url.split("/")[2] for url in seen.requests}
        assert hosts == {sampled.url.split("/")[2]}, "no request to another host"
        assert seen.dialogs == seen.complaints == []
        page.close()


def test_a_blind_vote_by_keyboard(browser: Browser, sampled: Served) -> None:
    page, seen = opened(browser, sampled)
    page.wait_for_selector(".ar-column")  # prompt 0 is seen, so it will not be asked
    bodies: list[str] = []
    page.on("response", lambda reply: bodies.append(reply.text()) if "/api/" in reply.url else None)
    page.keyboard.press("v")
    page.wait_for_selector(".pl-card:visible")
    page.wait_for_function("document.querySelector('.ar-standings summary').textContent.includes('not told yet')")
    counted = "n => document.querySelector('.pl-count').textContent.startsWith(`${n} of 3`)"
    for vote in range(3):
        page.wait_for_function(counted, arg=vote)
        shown = [card.text_content() or "" for card in page.locator(".pl-card > .pl-text").all()]
        if vote < 2:
            content = page.content() + "".join(bodies)
            assert [name for name in ("secret", *NAMES) if name in content] == []
        page.keyboard.type("1" if shown[0].strip() in ("good", "one two three", "c") else "9")
        page.keyboard.press("Enter")
        page.wait_for_function(counted, arg=vote + 1)
    page.wait_for_selector(".pl-done:not([hidden])")
    found = sampled.rankings()
    assert [ranking.responses[ranking.ranks.index(1)].text for ranking in found] == ["good", "one two three", "c"]
    assert {ranking.responses[ranking.ranks.index(1)].policy for ranking in found} == {NAMES[0]}
    page.wait_for_function("document.querySelector('.ar-told').textContent.includes('after 3 votes')")
    rows = page.locator(".ar-told tr").all_inner_texts()
    assert rows[1].split("\t")[:2] == [NAMES[0], "100.0% (43.9% to 100.0%)"]
    assert "1 prompt is not asked: Look told you" in page.locator(".ar-told").inner_text()
    assert "1 prompt is not asked: all answers are the same" in page.locator(".ar-told").inner_text()
    page.keyboard.press("l")
    page.wait_for_selector(".ar-column")
    page.keyboard.press("t")
    page.locator(".ar-box").fill("anybody?")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".ar-trouble:not([hidden])")
    assert "start with arena.runs" in page.locator(".ar-trouble").inner_text()
    assert seen.dialogs == []


def asked(page: Page, text: str, tokens: int, seed: int = 5) -> None:
    page.locator(".ar-box").fill(text)
    page.locator("[name=max_new_tokens]").fill(str(tokens))
    page.locator("[name=seed]").fill(str(seed))
    page.locator(".ar-box").press("Control+Enter")


def lengths(page: Page) -> list[int]:
    return [len(one.text_content() or "") for one in page.locator(".ar-try .ar-column .pl-text").all()]


def test_answers_are_seen_growing_and_can_be_stopped(browser: Browser, live: Served) -> None:
    page, seen = opened(browser, live, view=".ar-try")
    asked(page, "a line\nand another", 480)
    page.wait_for_function("[...document.querySelectorAll('.ar-try .ar-column .pl-text')].filter("
                           "one => one.textContent.length > 3).length === 3")
    before = lengths(page)
    page.wait_for_function("old => [...document.querySelectorAll('.ar-try .ar-column .pl-text')].every("
                           "(one, i) => one.textContent.length > old[i])", arg=before)
    page.keyboard.press("Escape")
    assert page.locator("[data-act=stop]").is_disabled()
    stopped = lengths(page)
    page.wait_for_timeout(700)
    assert lengths(page) == stopped
    asked(page, "first", 480)
    page.wait_for_selector(".ar-writing")
    asked(page, "second replaces it", 6)
    page.wait_for_selector(".ar-after:not([hidden])")
    assert page.locator(".ar-try .ar-column .ar-facts").all_inner_texts() == ["6 tokens"] * 3
    assert seen.dialogs == seen.complaints == []


@pytest.mark.parametrize("phone", [False, True])
def test_a_typed_prompt_is_ranked_blind_and_then_named(browser: Browser, live: Served, arena_home: Path,
                                                       phone: bool) -> None:
    words, seed, known = f"Say something about {'phones' if phone else 'desks'}", 8, len(live.rankings())
    page, seen = opened(browser, live, phone, view=".ar-try")
    bodies: list[str] = []
    page.on("response", lambda reply: bodies.append(reply.text()) if "/api/next" in reply.url else None)
    asked(page, words, 20, seed)
    page.wait_for_selector(".ar-after:not([hidden])")
    assert page.evaluate("document.documentElement.scrollWidth") <= (390 if phone else 1280)
    assert [one[0] for one in page.locator(".ar-try .ar-name").all_inner_texts()] == ["A", "B", "C"]
    page.keyboard.press("Enter")
    page.wait_for_function("words => document.querySelector('#ranking .pl-user .pl-text')?.textContent === words",
                           arg=words)
    assert str(arena_home) not in page.content() + "".join(bodies)
    if phone:
        for letter, rank in zip("ABC", (2, 1, 2), strict=True):
            page.get_by_role("button", name=f"Rank {rank} for answer {letter}", exact=True).tap()
        page.get_by_role("button", name="Submit").tap()
    else:
        page.keyboard.type("212")
        page.keyboard.press("Enter")
    page.wait_for_selector(".pl-writer")
    writers = page.locator(".pl-writer").all_inner_texts()
    assert sorted(writers) == sorted(str(arena_home / name) for name in ("first", "second", "whole"))
    ranking = live.rankings()[known]
    best = ranking.responses[ranking.ranks.index(1)]
    assert best.policy == writers[1]
    assert best.text == asked_of_sample(Path(best.policy), words, seed, 20)[0]
    assert sorted(filter(None, ranking.ranks)) == [1, 2, 2]
    page.get_by_role("button", name="Go on").click()
    page.wait_for_function("name => document.querySelectorAll('.ar-try .ar-name')[1].textContent.endsWith(name)",
                           arg=writers[1])
    assert seen.dialogs == seen.complaints == []


def test_two_tabs_and_a_dead_child(browser: Browser, live: Served) -> None:
    (one, _), (other, _) = (opened(browser, live, view=".ar-try") for _ in range(2))
    asked(one, "one", 480)
    asked(other, "other", 10)
    other.wait_for_selector(".ar-after:not([hidden])")
    one.wait_for_selector(".ar-writing")
    child = live.child
    assert child is not None
    os.kill(child, signal.SIGKILL)
    one.wait_for_selector(".ar-trouble:not([hidden])")
    assert "was killed" in one.locator(".ar-trouble").inner_text()
    assert one.locator(".ar-writing").count() == 0
    asked(one, "again", 10)
    one.wait_for_selector(".ar-after:not([hidden])", timeout=60_000)
    assert one.locator(".ar-trouble").is_hidden()
