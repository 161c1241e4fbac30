"""The lead's page in Chromium: a campaign from file to export, a quarantine and its end, and whom it is for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import rated_page
from playwright.sync_api import Browser, Page
from rated_page import Served, opened, question, saved, went_on

from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Store
from prefloop.store.accounts import Accounts

pytestmark = pytest.mark.skipif(not rated_page.CHROMIUM.exists(), reason="no /usr/bin/chromium")

PASSWORD = "a long and quiet sentence"
STRATA = ("maths", "<img src=x onerror=alert(1)>")
VIEWS = ("overview", "campaigns", "quality", "raters", "review", "data", "people", "log")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server without a campaign, with accounts for ann (rater), lea (lead) and ada (admin)."""
    folder = tmp_path_factory.mktemp("lead")
    with Store(f"sqlite:///{folder / 'feedback.db'}") as store:
        accounts = Accounts(store)
        for name, role in (("ann", "rater"), ("lea", "lead"), ("ada", "admin")):
            accounts.add(name, PASSWORD, role)
    made = rated_page.serve(folder, "feedback.sign_in=true")
    yield made
    made.stop()


def signed_in(browser: Browser, url: str, name: str, wait: str, **context: bool) -> Page:
    page, _ = opened(browser, url, wait="form", **context)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(wait, timeout=60_000)
    return page


def view(page: Page, title: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=title).click()
    page.get_by_role("heading", name=title, level=1).wait_for()
    page.wait_for_selector(".ld-body:not([aria-busy])")


def rows() -> list[Answers]:
    return [Answers(Prompt((Message("user", f"question {n}"),), stratum=STRATA[n % 2]),
                    (Response("one", "runs/a"), Response("two", "runs/b"))) for n in range(4)]


def made_and_started(page: Page, file: Path) -> None:
    view(page, "Campaigns")
    page.get_by_role("button", name="New campaign").click()
    form = page.locator("dialog form")
    for name, said in {"name": "spring", "title": "Spring", "overlap": "0", "gold_share": "0", "repeats": "0"}.items():
        form.locator(f"[name={name}]").fill(said)
    form.locator("[name=answers]").set_input_files(file)
    form.get_by_role("button", name="Make it").click()


def rate(page: Page) -> None:
    for left in range(4, 0, -1):
        asked = question(page)
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        if left > 1:
            went_on(page, asked)
    saved(page)


def test_a_campaign_from_its_file_to_its_export(browser: Browser, served: Served, tmp_path: Path) -> None:
    lead = signed_in(browser, f"{served.url}/lead", "lea", ".ld-view")
    assert lead.get_by_role("link", name="People").count() == 0, "people are an admin's"
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(rows()[0].to_json()) + '\n{"prompt": 3}\n')
    made_and_started(lead, bad)
    said = lead.locator("dialog").get_by_role("alert")
    said.get_by_text("bad.jsonl").wait_for()
    assert "2" in said.inner_text(), "the row is named"
    lead.locator("dialog [name=answers]").set_input_files(rated_page.written(tmp_path / "answers.jsonl", rows()))
    lead.locator("dialog").get_by_role("button", name="Make it").click()
    lead.get_by_role("button", name="Start").wait_for()
    assert lead.locator(".ld-state").inner_text() == "draft"
    assert {one.inner_text() for one in lead.locator("td b").all()} == set(STRATA)
    lead.get_by_role("button", name="Start").click()
    lead.get_by_role("button", name="Pause").wait_for()

    rater = signed_in(browser, served.url, "ann", ".pl-card")
    rate(rater)
    rater.locator(".pl-menu summary").click()
    assert rater.get_by_role("link", name="Campaigns and quality").count() == 0
    assert rater.request.get(f"{served.url}/lead").status == 403

    lead.reload()
    lead.get_by_text("4 of 4 answers").wait_for()
    view(lead, "Data")
    lead.get_by_text("4 rankings.").wait_for()
    with lead.expect_download() as download:
        lead.get_by_role("button", name="Save the file").click()
    told = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert sorted(one["prompt"]["messages"][0]["content"] for one in told) == [f"question {n}" for n in range(4)]
    assert "ann" not in {one["rater"] for one in told}, "pseudonyms, unless asked for"


def test_a_quarantine_and_its_end(browser: Browser, served: Served) -> None:
    lead = signed_in(browser, f"{served.url}/lead#raters", "lea", ".ld-raters")
    assert len(served.rankings()) == 4

    def judged(action: str, note: str) -> None:
        lead.get_by_role("button", name=action).first.click()
        lead.locator("dialog [name=note]").fill(note)
        lead.locator("dialog").get_by_role("button", name=action).click()

    lead.get_by_label("What to do about ann").click()
    judged("Quarantine", "clicks <b>too</b> fast")
    held = lead.locator(".ld-card", has_text="In quarantine")
    held.get_by_text("clicks <b>too</b> fast").wait_for()
    assert served.rankings() == []
    judged("Lift", "it was a fast laptop")
    held.wait_for(state="detached")
    assert len(served.rankings()) == 4
    view(lead, "Log")
    lead.get_by_text("quarantine lifted").wait_for()
    lead.get_by_role("button", name="Verify the log").click()
    lead.get_by_text("as they were written").wait_for()


@pytest.mark.parametrize("phone", [False, True])
def test_every_view_fits_and_runs_nothing_of_others(browser: Browser, served: Served, phone: bool) -> None:
    page, seen = opened(browser, f"{served.url}/lead", phone=phone, wait="form", color_scheme="dark")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector(".ld-view")
    for name in VIEWS:
        page.goto(f"{served.url}/lead#{name}/spring")
        page.wait_for_selector(f".ld-{name} .ld-body:not([aria-busy])")
        assert page.get_by_text("This could not be loaded").count() == 0, name
        assert page.evaluate("document.documentElement.scrollWidth") <= (390 if phone else 1280), name
    assert seen.dialogs == []
    assert seen.complaints == []
    assert seen.hosts() == {served.url.split("/")[2]}
