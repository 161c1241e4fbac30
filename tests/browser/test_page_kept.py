"""Nothing is lost on the ranking page: a refresh, no connection, a server that cannot save, second thoughts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rated_page
from playwright.sync_api import Browser
from rated_page import TEXTS, Start, item, opened, order, question, saved, seen_ranks, texts_of, went_on

from prefloop.records import Message

pytestmark = pytest.mark.skipif(not rated_page.CHROMIUM.exists(), reason="no /usr/bin/chromium")


def test_a_refresh_in_the_middle_loses_nothing(browser: Browser, start: Start) -> None:
    page, seen = opened(browser, start().url)
    asked, shown = question(page), texts_of(page)
    page.keyboard.type("21")
    page.keyboard.press("r")
    page.keyboard.type("because 123")
    page.keyboard.press("Escape")
    page.keyboard.press("w")
    page.get_by_role("button", name="Start from B").click()
    page.keyboard.type(" and more")
    before = (order(page), page.locator(".pl-better textarea").input_value())
    page.reload()
    page.wait_for_selector(".pl-card", timeout=60_000)
    assert (question(page), texts_of(page)) == (asked, shown)
    assert (order(page), page.locator(".pl-better textarea").input_value()) == before
    assert before[1].endswith(" and more")
    assert page.locator(".pl-reason textarea").input_value() == "because 123"
    assert seen.complaints == []


def test_back_to_the_last_answer(browser: Browser, start: Start) -> None:
    served = start()
    page, seen = opened(browser, served.url)
    first = question(page)
    page.keyboard.type("1234")
    page.keyboard.press("Enter")
    went_on(page, first)
    saved(page)
    second = question(page)
    page.keyboard.type("2")  # begun, and not to be lost
    page.keyboard.press("z")
    page.keyboard.press("z")
    page.wait_for_selector(".pl-editing:not([hidden])")
    assert (question(page), order(page)) == (first, "A › B › C › D")
    page.keyboard.type("4")  # A is 4
    page.keyboard.press("d")
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    page.wait_for_selector(".pl-editing", state="hidden")
    assert question(page) == second
    saved(page)
    assert [seen_ranks(one) for one in served.rankings()] == [[4, 2, 3, 1]]

    page.keyboard.press("m")
    page.wait_for_selector(".pl-past")
    assert "D › B › C › A" in page.locator(".pl-past").inner_text().replace("  ", " ")
    page.get_by_role("button", name="Change", exact=True).click()
    page.wait_for_selector(".pl-editing:not([hidden])")
    page.get_by_role("button", name="Take the answer back").click()
    page.wait_for_selector(".pl-editing", state="hidden")
    assert question(page) == first
    assert served.rankings() == []
    page.keyboard.press("Enter")
    went_on(page, first)
    saved(page)
    assert question(page) == second
    assert [seen_ranks(one) for one in served.rankings()] == [[4, 2, 3, 1]]
    assert seen.complaints == []


def test_without_a_connection_the_work_goes_on(browser: Browser, start: Start) -> None:
    served = start()
    page, _ = opened(browser, served.url)
    first = question(page)
    page.wait_for_timeout(500)  # the next item is fetched by now
    page.context.set_offline(True)
    page.keyboard.type("1234")
    page.keyboard.press("Enter")
    went_on(page, first)
    page.keyboard.type("4321")
    page.keyboard.press("Enter")
    page.wait_for_selector(".pl-done:not([hidden])")
    assert page.locator(".pl-sync span").inner_text() == "Offline: 2 kept here"
    assert served.rankings() == []
    page.context.set_offline(False)
    page.reload()
    page.wait_for_selector(".pl-card", timeout=60_000)
    saved(page)
    assert sorted(seen_ranks(one) for one in served.rankings()) == [[1, 2, 3, 4], [4, 3, 2, 1]]
    assert question(page) not in {one.prompt.messages[-1].content for one in served.rankings()}


def test_what_the_server_cannot_save_is_sent_again(browser: Browser, start: Start) -> None:
    served = start()
    page, _ = opened(browser, served.url)
    first = question(page)
    page.route("**/api/submit", lambda route: route.fulfill(status=503, json={"error": "the disk is full"}))
    page.keyboard.type("1234")
    page.keyboard.press("Enter")
    went_on(page, first)
    saved(page, "1 not saved")
    page.locator(".pl-sync").click()
    assert "the disk is full" in page.locator(".pl-drawer").inner_text()
    page.unroute("**/api/submit")
    saved(page)
    assert [seen_ranks(one) for one in served.rankings()] == [[1, 2, 3, 4]]


def test_a_lost_reply_counts_once(browser: Browser, start: Start) -> None:
    served = start()
    page, _ = opened(browser, served.url)
    first, lost = question(page), []

    def lose(route: Any) -> None:
        if lost:
            route.continue_()
        else:
            lost.append(route.fetch().status)
            route.abort()

    page.route("**/api/submit", lose)
    page.keyboard.type("1234")
    page.keyboard.press("Enter")
    went_on(page, first)
    saved(page, "Offline: 1 kept here")
    saved(page)
    assert lost == [200]
    assert [seen_ranks(one) for one in served.rankings()] == [[1, 2, 3, 4]]


def test_what_the_server_refuses_can_be_opened_again(browser: Browser, start: Start) -> None:
    served = start()
    page, _ = opened(browser, served.url)
    first = question(page)
    page.route("**/api/submit", lambda route: route.fulfill(status=422, json={"error": "ranks: no"}))
    page.keyboard.type("1234")
    page.keyboard.press("Enter")
    saved(page, "1 not saved")
    page.unroute("**/api/submit")
    page.locator(".pl-sync").click()
    page.get_by_role("button", name="Open again").click()
    assert (question(page), order(page)) == (first, "A › B › C › D")
    page.keyboard.press("Enter")
    went_on(page, first)
    saved(page)
    assert [seen_ranks(one) for one in served.rankings()] == [[1, 2, 3, 4]]


def test_a_models_order_comes_after_the_raters_own_and_nothing_of_it_before(browser: Browser, start: Start,
                                                                            tmp_path: Path) -> None:
    questions = [item(f"question {n}", TEXTS, Message("system", "be brief")) for n in range(12)]
    rows = [{"prompt_id": row.prompt.id, "response_id": one.id, "score": 777.125 - place, "spread": 31.5}
            for row in questions for place, one in enumerate(row.responses)]
    (tmp_path / "scores.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    served = start(TEXTS, 12, f"campaign.scores={tmp_path / 'scores.jsonl'}", "campaign.show_model=true")
    page, seen = opened(browser, served.url)
    told = page.locator(".pl-modelsaid:not([hidden])")
    replies: list[str] = []
    page.on("response", lambda reply: replies.append(reply.text()) if "/api/next" in reply.url else None)
    for _ in range(12):
        if told.count():
            break
        assert "model" not in page.locator("#ranking").inner_text().lower()
        before = question(page)
        page.keyboard.type("1234")
        page.keyboard.press("Enter")
        went_on(page, before)
        saved(page)
    words = told.inner_text()
    assert words.startswith("Your last one: A › B › C › D · a model said ")
    assert sorted(words.rpartition(" said ")[2].replace(" ", "").split("›")) == ["A", "B", "C", "D"]
    page.keyboard.press("m")
    page.wait_for_selector(".pl-past .pl-model")
    assert not any(mark in one for one in [page.content(), *replies] for mark in ("777.", "776.", "31.5"))
    assert not any('"model"' in one for one in replies)
    assert seen.complaints == []
