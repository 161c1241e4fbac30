"""A comparison judged by people, in a real Chromium: nothing says whose answer is whose before all is in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import explored
import pytest
import rated_page
from playwright.sync_api import Browser, Page, Response
from rated_page import Served, opened, question, saved, went_on

from prefloop.compare import people
from prefloop.compare.records import Answer, Contestant, Question
from prefloop.records import Message, Prompt

pytestmark = pytest.mark.skipif(not rated_page.CHROMIUM.exists(), reason="no /usr/bin/chromium")

SUMS = {"runs/secret-sft-0007": "5ec1e7" + "a" * 58, "runs/hidden-dpo-0003": "5ec2e7" + "b" * 58,
        "elsewhere/lurking-ppo-0001": "5ec3e7" + "c" * 58}
LEAKS = (*SUMS, *(name.rpartition("/")[2] for name in SUMS), "secret", "hidden-dpo", "lurking", *SUMS.values(),
         *(checksum[:6] for checksum in SUMS.values()), "compare-0042", "answers.jsonl",
         '"policy"', '"checksum"', '"contestants"')


def prompt(number: int) -> Prompt:
    """A checkpoint's name may stand in a question, too."""
    return Prompt((Message("user", f"question {number}: are you hidden-dpo-0003?"),))


@pytest.fixture(params=[2, 3], ids=["two checkpoints", "three"])
def texts(request: pytest.FixtureRequest) -> list[tuple[str, ...]]:
    """Of each question, the answers. The candidates are better; on question 2 all are the same, on 3 one is empty."""
    rows = [("bad 0", "good 0", "best 0"), ("bad 1", "good 1", "best 1"), ("same", "same", "same"),
            ("bad 3", "", "best 3"), ("bad 4", "good 4", "best 4")]
    return [row[: request.param] for row in rows]


@pytest.fixture
def compared(texts: list[tuple[str, ...]], tmp_path: Path) -> Path:
    """What `prefloop compare` leaves in its run's folder."""
    answers = [tuple((Answer(own[place], 2, True),) for own in (*texts, texts[0])) for place in range(len(texts[0]))]
    questions = [*(Question(prompt(n)) for n in range(len(texts))), Question(prompt(9), "typos", of=0)]
    return explored.written(tmp_path / "compare-0042", questions, [
        Contestant(name, checksum, own) for (name, checksum), own in zip(SUMS.items(), answers, strict=False)],
        sampling={"seed": 3, "temperature": 1.0})


@pytest.fixture
def served(compared: Path, tmp_path: Path) -> Iterator[Served]:
    made = rated_page.serve(tmp_path, f"campaign.answers={compared}", "campaign.gold_share=0", "campaign.repeats=0")
    yield made
    made.stop()


def heard(page: Page) -> list[str]:
    """All that came over the wire and went: addresses, bodies, headers."""
    found: list[str] = []

    def came(reply: Response) -> None:
        found.extend([reply.url, str(reply.headers), str(reply.request.headers), reply.request.post_data or ""])
        if "/api/" in reply.url:
            found.append(reply.text())

    page.on("response", came)
    return found


def leaks(*parts: str) -> list[str]:
    whole = "\n".join(parts)
    return [name for name in LEAKS if name in whole]


def vote(page: Page) -> None:
    """The better text is put first, whatever letter it has."""
    shown = [text.split()[0] for text in rated_page.texts_of(page)]
    ranks = {word: rank for rank, word in enumerate(sorted(shown, key=("best", "good", "bad").index), start=1)}
    asked = question(page)
    page.keyboard.type(("1" if ranks[shown[0]] == 1 else "9") if len(shown) == 2 else
                       "".join(str(ranks[word]) for word in shown))
    page.keyboard.press("Enter")
    went_on(page, asked)


def stays_as_it_is(page: Page) -> None:
    """The names are told, and so no vote is changed any more: not from the history, not by undoing, not by hand."""
    page.keyboard.press("m")
    page.wait_for_selector(".pl-past")
    assert page.locator(".pl-past button").count() == 0
    page.keyboard.press("z")
    page.wait_for_function("document.querySelector('.pl-bar .pl-error').textContent.includes('have been told who')")
    said = page.evaluate("""async () => {
      const post = (path, body) => fetch(path, { method: "POST", body: JSON.stringify(body),
        headers: { "content-type": "application/json" } }).then(async (one) => [one.status, await one.json()]);
      const [, { answers }] = await post("/api/history", {});
      const [{ answer }] = answers;
      return Promise.all([post("/api/reopen", { answer }), post("/api/withdraw", { answer }),
        post("/api/revise", { answer, key: "k", ranks: answers[0].order.flat().map(() => 1) })]);
    }""")
    assert [(status, "have been told who wrote what" in str(body)) for status, body in said] == [(422, True)] * 3


def test_names_come_when_all_is_in(browser: Browser, served: Served, compared: Path,
                                   texts: list[tuple[str, ...]]) -> None:
    count, wanted = len(texts[0]), 3 if len(texts[0]) == 2 else 4
    page, seen = opened(browser, served.url)
    known = heard(page)
    page.reload()
    page.wait_for_selector(".pl-card")
    for done in range(wanted):
        page.wait_for_timeout(400)  # what is fetched ahead may come late
        assert leaks(page.content(), *known, *seen.requests) == [], f"after {done} votes"
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, document.title])")
        assert leaks(kept) == []
        vote(page)
        saved(page)
        if done < wanted - 1:
            page.keyboard.press("m")
            page.wait_for_selector(".pl-past")
            assert page.locator(".pl-past button").count() == done + 1
            page.keyboard.press("m")
    page.get_by_role("button", name="Look again").click()
    page.wait_for_timeout(1000)  # what it showed before is drawn anew
    page.wait_for_selector(".pl-standings")
    assert "All answers are in" in page.locator(".pl-done").inner_text()
    rows = page.locator(".pl-standings tr").all_inner_texts()
    names = list(SUMS)[:count]
    assert [row.split("\t")[0] for row in rows[1:]] == names
    shares = [row.split("\t")[1].split("%")[0] for row in rows[1:]]
    assert shares == (["0.0", "100.0"] if count == 2 else ["0.0", "50.0", "100.0"])
    assert " to " in rows[1]
    assert seen.dialogs == seen.complaints == []
    stays_as_it_is(page)
    questions = [Question(prompt(n)) for n in range(len(texts))]
    found, counted = people.contests([served.store], [
        Contestant(name, SUMS[name], tuple((Answer(own[place], 2, True),) for own in texts))
        for place, name in enumerate(names)], questions)
    assert counted == {people.COUNTED: wanted}
    assert found.asked == 0
    assert sorted(found.won_D.tolist()) == ([0.0, 0.0, 0.0, 0.5, 1.0] if count == 2 else
                                            [0.0] * 11 + [0.5] * 3 + [1.0])
    page.close()


def test_all_typed_words_of_the_page_hold_on_a_phone(browser: Browser, served: Served,
                                                     texts: list[tuple[str, ...]]) -> None:
    page, _ = opened(browser, served.url)
    for _ in range(3 if len(texts[0]) == 2 else 4):
        vote(page)
    saved(page)
    phone, seen = opened(browser, served.url, phone=True, wait=".pl-standings", locale="de")
    assert "Diese Checkpoints haben Sie verglichen" in phone.locator(".pl-done").inner_text()
    assert re.search(r"100,0 % \(\d+,\d bis 100,0\)", phone.locator(".pl-standings").inner_text())
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert seen.complaints == []
    for one in (page, phone):
        one.close()


def test_what_is_not_to_be_revealed_is_not(browser: Browser, compared: Path, tmp_path: Path,
                                           texts: list[tuple[str, ...]]) -> None:
    made = rated_page.serve(tmp_path, f"campaign.answers={compared}", "campaign.reveal=false")
    page, _ = opened(browser, made.url)
    known = heard(page)
    for _ in range(3 if len(texts[0]) == 2 else 4):
        vote(page)
    saved(page)
    page.get_by_role("button", name="Look again").click()
    page.wait_for_timeout(500)
    assert leaks(page.content(), *known) == []
    page.close()
    made.stop()
