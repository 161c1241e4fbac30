"""The explorer in a real Chromium over a thousand prompts: of the list only what is seen is in the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import arena_server
import explored
import pytest
import rated_page
from arena_server import Served
from playwright.sync_api import Browser, Page
from rated_page import opened

from prefloop.feedback_ui import held_out, looking
from prefloop.feedback_ui.held_out import HeldOut
from prefloop.feedback_ui.looking import Wish
from prefloop.store import Judgement, Store

pytestmark = pytest.mark.skipif(not rated_page.CHROMIUM.exists(), reason="no /usr/bin/chromium")

MANY, VOTED = 1000, 12


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explored.comparison(tmp_path_factory.mktemp("explorer") / "compare-0001", MANY, variants=200)


@pytest.fixture(scope="module")
def known(compared: Path) -> HeldOut:
    return held_out.read(compared / "answers.jsonl")


@pytest.fixture(scope="module")
def served(compared: Path, known: HeldOut) -> Iterator[Served]:
    """People put the first checkpoint's answer last, wherever they voted."""
    votes = f"sqlite:///{compared.parent / 'votes.db'}"
    with Store(votes) as store:
        store.add_items([item for n in range(VOTED) if (item := known.item(n))])
        while lease := store.lease("ann", 60):
            first = [explored.RUNS[0] in response.policy for response in lease.responses]
            store.submit(lease.token, "ann", Judgement(tuple(2 if own else 1 for own in first)))
    made = arena_server.serve(compared.parent / "arena", f"arena.answers={compared}", f"arena.people=[{votes}]")
    yield made
    made.stop()


def numbers(page: Page) -> list[int]:
    return [int(one) for one in page.locator(".ar-list .ar-number").all_inner_texts()]


def counts(page: Page, expected: int) -> None:
    page.wait_for_function("n => document.querySelector('.ar-place').textContent === (n ? `1 of ${n}` : 'none')",
                           arg=expected)


def asks(page: Page, words: str) -> None:
    page.wait_for_function(
        "words => document.querySelector('.ar-look .pl-user .pl-text').textContent.startsWith(words)", arg=words)


def test_of_a_thousand_prompts_only_the_seen_are_in_the_page(browser: Browser, served: Served) -> None:
    page, seen = opened(browser, served.url, wait=".ar-column")
    assert page.locator(".ar-place").inner_text() == f"1 of {MANY}"
    assert page.locator(".ar-list li").count() < 80
    box = page.locator(".ar-list")
    assert box.evaluate("one => one.scrollHeight") == 36 * MANY
    line = page.locator(".ar-list li").first
    assert line.evaluate("one => one.getBoundingClientRect().height") == 36, "as LINE says"
    box.evaluate("one => { one.scrollTop = one.scrollHeight; }")
    page.wait_for_function("n => document.querySelector('.ar-list li:last-child .ar-number').textContent === n",
                           arg=str(MANY))
    shown = numbers(page)
    assert shown == list(range(shown[0], MANY + 1))
    assert len(shown) < 80
    page.locator(".ar-list button").last.click()
    asks(page, "Question 999:")
    page.keyboard.press("j")
    assert page.locator(".ar-place").inner_text() == f"{MANY} of {MANY}"
    page.keyboard.press("k")
    asks(page, "Question 998:")
    assert page.locator(".ar-list [aria-current=true] .ar-number").inner_text() == str(MANY - 1)
    assert page.locator(".ar-list [aria-current=true]").is_visible()
    assert seen.complaints == seen.dialogs == []
    page.close()


def test_the_keyboard_stays_where_it_was_in_the_list(browser: Browser, served: Served) -> None:
    page, _ = opened(browser, served.url, wait=".ar-column")
    page.locator(".ar-list [data-line='3']").focus()
    page.keyboard.press("Enter")
    asks(page, "Question 3:")
    assert page.evaluate("document.activeElement.dataset.line") == "3"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    asks(page, "Question 4:")
    assert page.evaluate("document.activeElement.dataset.line") == "4"
    page.close()


def test_filters_slices_and_the_judge_that_orders(browser: Browser, served: Served, known: HeldOut) -> None:
    page, seen = opened(browser, served.url, wait=".ar-column")

    def shows(**asked: str) -> None:
        expected = [line.number + 1 for line in looking.listed(known, Wish(**asked))]  # type: ignore[arg-type]
        page.wait_for_function(
            "some => [...document.querySelectorAll('.ar-number')].slice(0, 12).map((one) => one.textContent).join()"
            " === some", arg=",".join(map(str, expected[:12])))
        counts(page, len(expected))

    page.locator(".ar-only").select_option("cut")
    shows(only="cut")
    page.locator(".ar-only").select_option("empty")
    shows(only="empty")
    assert page.locator(".ar-list .ar-mark").first.inner_text() == "empty"
    page.wait_for_function("document.querySelectorAll('.ar-column')[2].textContent.includes('(no text)')")
    page.locator(".ar-stratum-of").select_option("delivery")
    shows(only="empty", stratum="delivery")
    page.locator(".ar-only").select_option("worse")
    page.locator(".ar-order").select_option("worse")  # at once: the reply to the first wish is not what is shown
    shows(only="worse", stratum="delivery", order="worse")
    page.locator(".ar-judge").select_option(explored.JUDGES[1])
    shows(only="worse", stratum="delivery", order="worse", judge=explored.JUDGES[1])
    page.locator(".ar-set").select_option("typos")
    shows(only="worse", stratum="delivery", order="worse", judge=explored.JUDGES[1], set="typos")
    page.wait_for_function("document.querySelector('.ar-stratum').textContent === 'typos · delivery'")
    page.locator(".ar-judge").select_option("people")
    counts(page, 0)
    assert seen.complaints == seen.dialogs == []
    page.close()


def test_what_is_known_of_an_answer_stands_above_it(browser: Browser, served: Served, known: HeldOut) -> None:
    page, _ = opened(browser, served.url, wait=".ar-column")
    page.locator(".ar-only").select_option("cut")
    counts(page, MANY // 10)
    asks(page, "Question 5:")
    first, _, last = (one.inner_text() for one in page.locator(".ar-column .ar-facts").all())
    own = known.written[2][5]
    rewards = {judge: f"{judge.split('/')[1]} {own.rewards[judge][0]:.2f}" for judge in explored.JUDGES}
    assert last == f"{own.tokens[0]} tokens · KL {own.kl[0]:.1f} · {' · '.join(rewards.values())} · people 75%"
    assert "KL" not in first
    assert first.endswith("people 0%")
    assert "Cut at the longest answer allowed." in page.locator(".ar-column").nth(2).inner_text()
    assert "Cut" not in page.locator(".ar-column").nth(0).inner_text()
    page.close()
