"""The review queue in Chromium: a disagreement and a flagged item are decided by keyboard, and one becomes gold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import rated_page
from playwright.sync_api import Browser, Page
from rated_page import Served, opened
from reviewed_house import NOTE, POLICY, REASON, waiting

from prefloop.feedback_ui import assignment
from prefloop.store import Store
from prefloop.store.reviewing import Reviews
from prefloop.store.schema import golds


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}", seed=1) as store:
        waiting(store)
    running = rated_page.serve(tmp_path)
    yield running
    running.stop()


def asked(page: Page, question: str) -> None:
    page.locator(".rv-case .pl-user .pl-text", has_text=f"{question}:").wait_for()


def letter_of(page: Page, text: str) -> str:
    """The answer that begins so."""
    card = page.locator(".rv-answer").filter(has_text=text)
    return (card.locator(".rv-letter").text_content() or "").strip()


def given_to(rater: str, store: Store) -> list[str]:
    """The questions that the queue has for a rater."""
    version = store.guideline(rater, "study")
    assert version is not None
    store.acknowledge(rater, "study", version.version)
    found = []
    while task := assignment.next_task(store, rater, campaign="study"):
        found.append(task.conversation[-1].content.partition(":")[0])
        assignment.skip(store, rater, task.token)
    return found


def test_two_items_are_decided_by_keyboard_and_one_becomes_gold(served: Served, browser: Browser) -> None:
    page, seen = opened(browser, f"{served.url.rstrip('/')}/lead#review", wait=".rv-answer")
    page.set_default_timeout(60_000)
    asked(page, "disputed")
    assert [one.text_content() for one in page.locator(".rv-who > span").all()] == ["ann", "bob", "cy"]
    assert "both ways round" in (page.locator(".rv-why").text_content() or "")
    assert page.locator(".rv-case td", has_text="<b>bold</b>").count() == 1, "what ann wrote is text"
    page.keyboard.press("Enter")
    assert "Rank the answers first" in (page.locator(".rv-error").text_content() or "")
    for text, rank in (("middling", "1"), ("long long", "2"), ("says so", "2")):
        page.keyboard.press(letter_of(page, text))
        page.keyboard.press(rank)
    page.keyboard.press("Enter")
    assert "cause" in (page.locator(".rv-error").text_content() or "")
    page.keyboard.press("L")
    page.keyboard.press("T")
    page.keyboard.press("Z")  # back to the guideline
    assert page.locator("[aria-checked=true]").text_content() == "Guideline gap L"
    page.keyboard.press("R")
    page.keyboard.type("N is no key here")
    page.keyboard.press("Escape")
    page.keyboard.press("Y")
    page.keyboard.press("Enter")

    asked(page, "contradicted")
    assert "reward model is sure of the contrary" in (page.locator(".rv-why").text_content() or "")
    page.keyboard.press("N")
    asked(page, "flagged")
    assert page.locator(".rv-why q").inner_text() == NOTE.replace("\u202e", "U+202E")
    page.keyboard.press("3")  # of two, B is better
    page.keyboard.press("V")
    page.keyboard.press("Enter")
    asked(page, "contradicted")
    page.keyboard.press("J")
    page.wait_for_selector(".rv-nothing")
    page.get_by_role("button", name="Decided", exact=True).click()
    asked(page, "flagged")
    causes = page.locator(".rv-causes").inner_text()
    assert "Guideline gap, version 1" in causes
    assert "Edge case" in causes
    assert seen.dialogs == []
    assert seen.complaints == []
    assert POLICY not in page.content()
    assert REASON not in page.content(), "no tag of theirs came through"
    served.stop()

    with Store(served.store) as store:
        disputed, flagged = Reviews(store).decisions()
        assert (disputed.rater, disputed.reason, disputed.ranks) == ("review:me", "N is no key here", (2, 1, 2))
        assert sorted(filter(None, flagged.ranks)) == [1, 2]
        assert given_to("dee", store) == ["disputed", "contradicted", "flagged"], "as gold, and not as its item too"
        with store.reading() as db:
            assert [json.loads(row.ranks) for row in db.execute(golds.select())] == [[2, 1, 2]]


def test_a_second_reviewer_sees_what_the_first_decided(served: Served, browser: Browser) -> None:
    first, _ = opened(browser, f"{served.url.rstrip('/')}/lead#review", phone=True, wait=".rv-answer")
    second, _ = opened(browser, f"{served.url.rstrip('/')}/lead#review", wait=".rv-answer")
    for page in (first, second):
        page.set_default_timeout(60_000)
        asked(page, "disputed")
    wide = first.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390, "nothing stands out beside a phone"
    first.locator(".rv-answer").first.locator(".pl-rank").first.click()
    first.locator("[data-cause=taste]").click()
    first.locator(".rv-go").click()
    asked(first, "contradicted")
    second.keyboard.press("X")
    second.keyboard.press("K")
    second.keyboard.press("Enter")
    second.wait_for_selector(".ld-note.pl-error")
    assert "me decided it meanwhile" in (second.locator(".ld-note").text_content() or "")
    second.get_by_role("button", name="Decide again").wait_for()
    second.keyboard.press("Enter")
    asked(second, "contradicted")
    served.stop()
    with Store(served.store, read_only=True) as store:
        (kept,) = Reviews(store).decisions()
    assert kept.none_acceptable
