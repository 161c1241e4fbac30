"""The ranking page with accounts, in Chromium: the way in, a warning, guidelines, practice, being signed out."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import rated_page
from playwright.sync_api import Browser, Page
from rated_page import Served, item, opened, order, question, saved, seen_ranks, texts_of, went_on

from prefloop.records import Ranking
from prefloop.store import Store
from prefloop.store.accounts import Accounts

pytestmark = pytest.mark.skipif(not rated_page.CHROMIUM.exists(), reason="no /usr/bin/chromium")

PASSWORD = "a long and quiet sentence"
TEXTS = ("one", "two", "three")


@dataclass
class House:
    folder: Path
    port: int = 0
    served: Served | None = None
    invitations: dict[str, str] = field(default_factory=dict)

    def open(self, *overrides: str) -> str:
        """The page's address, with ann's account made."""
        answers = rated_page.written(self.folder / "answers.jsonl", [item(f"question {n}", TEXTS) for n in range(6)])
        if self.served:
            self.served.stop()
        else:
            self._accounts()
            with socket.create_server(("127.0.0.1", 0)) as free:
                self.port = free.getsockname()[1]  # the cookie is named after it
        self.served = rated_page.serve(self.folder, "feedback.sign_in=true", f"campaign.answers={answers}",
                                       "campaign.repeats=0", "campaign.overlap=0", *overrides, port=self.port)
        return self.served.url

    def _accounts(self) -> None:
        with Store(f"sqlite:///{self.folder / 'feedback.db'}") as store:
            accounts = Accounts(store)
            accounts.add("ann", PASSWORD, "rater")
            self.invitations = {"join": accounts.invite(), "reset": accounts.invite(purpose="reset", name="ann")}

    def rankings(self) -> list[Ranking]:
        assert self.served is not None
        return self.served.rankings()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    if made.served:
        made.served.stop()


def sign_in(page: Page, name: str = "ann", password: str = PASSWORD) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_label("Password", exact=True).press("Enter")


def rank(page: Page, best: str) -> None:
    """This answer is best, the others are tied."""
    for place, text in enumerate(texts_of(page)):
        page.keyboard.press("ABC"[place])
        page.keyboard.press("1" if text == best else "2")


def test_the_way_in(browser: Browser, house: House) -> None:
    url = house.open()
    page, seen = opened(browser, url, wait="form")
    assert page.url.endswith("/sign-in")
    page.get_by_role("button", name="Sign in").click()
    assert "name and password" in page.get_by_role("alert").inner_text()
    sign_in(page, password="wrong wrong wrong")
    page.get_by_role("alert").get_by_text("not right").wait_for()
    sign_in(page)
    page.wait_for_selector(".pl-card", timeout=60_000)
    assert page.locator(".pl-rater").inner_text() == "ann"
    assert page.locator(".pl-count").inner_text() == "0 answers by you", "all answers would tell what is gold"
    page.locator(".pl-menu summary").click()
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/sign-in")
    page.goto(url)
    assert page.url.endswith("/sign-in")
    assert seen.hosts() == {url.split("/")[2]}
    assert [one for one in seen.complaints if "Failed to load" not in one] == []


@pytest.mark.parametrize("way", ["join", "reset"])
def test_an_invitation(browser: Browser, house: House, way: str) -> None:
    url = house.open()
    page, _ = opened(browser, f"{url.rstrip('/')}/{way}#t={house.invitations[way]}", phone=True, wait="form")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if way == "join":
        page.get_by_label("Name").fill("bob")
    page.get_by_label("Password", exact=True).fill("another quiet sentence")
    page.get_by_label("Password, once more").fill("another quiet mistake")
    page.get_by_role("button").click()
    assert "differ" in page.get_by_role("alert").inner_text()
    page.get_by_label("Password, once more").fill("another quiet sentence")
    page.get_by_role("button").click()
    page.wait_for_selector(".pl-card", timeout=60_000)
    assert page.locator(".pl-rater").inner_text() == {"join": "bob", "reset": "ann"}[way]


def test_from_the_warning_to_the_first_answer(browser: Browser, house: House) -> None:
    right = [Ranking(row.prompt, row.responses, (1, 2, 2), "lea", reason=f"because *{n}*")
             for n, row in enumerate(item(f"practice {n}", ("best", "worse", "bad")) for n in range(2))]
    path = rated_page.written(house.folder / "qualification.jsonl", right)
    url = house.open(f"campaign.qualification={path}", "campaign.warning='**Sad** texts.'",
                     "campaign.guideline='# Be true'", "campaign.title=Spring")
    page, seen = opened(browser, url, wait="form")
    sign_in(page)
    page.wait_for_selector(".pl-gate:not([hidden])", timeout=60_000)
    assert "Sad texts." in page.locator(".pl-gate").inner_text()
    page.get_by_role("button", name="I would rather not").click()
    page.wait_for_selector(".pl-done:not([hidden])")
    page.get_by_role("button", name="Look again").click()
    page.get_by_role("button", name="I understand").click()
    page.get_by_role("heading", name="Be true").wait_for()
    page.keyboard.press("Enter")
    page.wait_for_selector(".pl-card")
    for number in (1, 2):
        assert f"Practice {number} of 2" in page.locator(".pl-practice").inner_text()
        asked = question(page)
        rank(page, "best")
        page.keyboard.press("Enter")
        page.wait_for_selector(".pl-lesson:not([hidden])")
        assert "Right" in page.locator(".pl-lesson").inner_text()
        assert page.locator(".pl-lesson em").inner_text() in "01"
        page.keyboard.press("Enter")
        went_on(page, asked)
    assert "You passed: 2 of 2 right" in page.locator(".pl-passed").inner_text()
    assert house.rankings() == []
    rank(page, "two")
    asked = question(page)
    page.keyboard.press("i")
    assert page.locator(".pl-drawer").get_by_role("heading", name="Be true").is_visible()
    page.keyboard.press("Enter")
    went_on(page, asked)
    saved(page)
    (ranking,) = house.rankings()
    assert (ranking.rater, ranking.responses[ranking.ranks.index(1)].text) == ("ann", "two")

    house.open(f"campaign.qualification={path}", "campaign.warning='**Sad** texts.'", "campaign.guideline='# Be kind'")
    page.reload()
    page.get_by_role("heading", name="The guidelines have changed").wait_for(timeout=60_000)
    page.get_by_role("button", name="I have read them").click()
    page.wait_for_selector(".pl-work:not([hidden])")
    rank(page, "three")
    page.keyboard.press("Enter")
    saved(page)
    page.wait_for_function("document.querySelector('.pl-count').textContent === '2 answers by you'")
    first, second = house.rankings()
    assert first.guideline
    assert second.guideline not in ("", first.guideline)
    assert [one for one in seen.complaints if "Failed to load" not in one] == []


def test_practice_that_goes_wrong(browser: Browser, house: House) -> None:
    row = item("practice", ("best", "worse", "bad"))
    path = rated_page.written(house.folder / "qualification.jsonl",
                              [Ranking(row.prompt, row.responses, (1, 2, 2), "lea", reason="it is true")])
    page, _ = opened(browser, house.open(f"campaign.qualification={path}"), wait="form")
    sign_in(page)
    page.wait_for_selector(".pl-card", timeout=60_000)
    rank(page, "bad")
    page.keyboard.press("Enter")
    page.wait_for_selector(".pl-lesson:not([hidden])")
    told = page.locator(".pl-lesson").inner_text()
    assert "Not quite" in told
    assert "it is true" in told
    assert f"It should be {'ABC'[texts_of(page).index('best')]}" in told
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Thank you for trying").wait_for()


def test_on_a_phone_without_a_connection(browser: Browser, house: House) -> None:
    page, seen = opened(browser, house.open("campaign.warning='Sad texts.'"), phone=True, wait="form", locale="de")
    page.locator("[name=name]").fill("ann")
    page.locator("[name=password]").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Bevor Sie beginnen").wait_for(timeout=60_000)
    wide = """[...document.querySelectorAll('#ranking *')].filter(one => one.checkVisibility()
        && !one.matches('.pl-live')).map(one => [one.outerHTML, one.getBoundingClientRect()])
        .filter(([_, box]) => box.left < 0 || box.right > 390)"""
    page.locator(".pl-menu summary").tap()
    assert page.evaluate(wide) == []
    page.locator(".pl-language").select_option("en")
    assert page.get_by_role("heading", name="Before you begin").is_visible()
    assert page.locator(".pl-count").inner_text() == "0 answers by you"
    assert page.locator(".pl-meter").is_hidden(), "of 6 answers it would show nothing before the last"
    page.locator(".pl-language").select_option("de")
    page.locator(".pl-menu summary").tap()
    page.locator("[data-act=agree]").tap()
    page.wait_for_selector(".pl-card")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    assert page.get_by_role("button", name="Trotzdem absenden").is_visible()
    assert page.evaluate(wide) == []
    page.context.set_offline(True)
    page.keyboard.press("Enter")
    saved(page, "Ohne Verbindung: 1 hier behalten")
    page.locator(".pl-menu summary").tap()
    page.get_by_role("button", name="Abmelden").tap()
    assert "eine Antwort ist nur hier" in page.locator(".pl-menubox").get_by_role("alert").inner_text()
    page.context.set_offline(False)
    saved(page, "Alles gespeichert")
    assert len(house.rankings()) == 1
    assert seen.dialogs == []


def test_being_signed_out_loses_nothing(browser: Browser, house: House) -> None:
    page, _ = opened(browser, house.open(), wait="form")
    sign_in(page)
    page.wait_for_selector(".pl-card", timeout=60_000)
    asked = question(page)
    page.keyboard.type("123")
    page.context.clear_cookies()
    page.keyboard.press("Enter")
    page.wait_for_selector(".pl-sign[open]")
    dialog = page.locator(".pl-sign")
    assert dialog.get_by_label("Name").input_value() == "ann"
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_label("Password").press("Enter")
    page.wait_for_selector(".pl-sign", state="hidden")
    saved(page)
    went_on(page, asked)
    assert [seen_ranks(one) for one in house.rankings()] == [[1, 2, 3]]


def test_a_restart_of_the_server_goes_unnoticed(browser: Browser, house: House) -> None:
    page, _ = opened(browser, house.open(), wait="form")
    sign_in(page)
    page.wait_for_selector(".pl-card", timeout=60_000)
    asked = question(page)
    assert house.served is not None
    house.served.stop()
    page.keyboard.type("321")
    page.keyboard.press("Enter")
    saved(page, "Offline: 1 kept here")
    house.open()
    page.locator(".pl-sync").click()
    page.get_by_role("button", name="Try now").click()
    saved(page)
    went_on(page, asked)
    assert [seen_ranks(one) for one in house.rankings()] == [[3, 2, 1]]
    assert order(page) == ""
