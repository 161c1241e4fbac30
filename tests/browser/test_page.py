"""The ranking page in a real Chromium, against a real server in a process of its own: one person, no sign-in."""

from __future__ import annotations

import base64
import statistics
import struct
import urllib.error
import urllib.request
import zlib
from pathlib import Path

import pytest
import rated_page
from playwright.sync_api import Browser, Page
from rated_page import (
    PLAIN,
    TEXTS,
    Start,
    drag,
    item,
    opened,
    order,
    question,
    saved,
    seen_ranks,
    texts_of,
    went_on,
)

pytestmark = pytest.mark.skipif(not rated_page.CHROMIUM.exists(), reason="no /usr/bin/chromium")

# Every ranking of 2 to 4 answers, every answer of it, every move.
MOVES = """() => {
  const side = (ranks, a, b) => ranks[a] === null || ranks[b] === null ? null : Math.sign(ranks[a] - ranks[b]);
  const wrong = [];
  let tried = 0;
  const hold = (...facts) => { tried += 1; if (facts.pop() === false) wrong.push(JSON.stringify(facts)); };
  for (const count of [2, 3, 4]) for (let code = 0; code < (count + 1) ** count; code++) {
    const ranks = [...Array(count).keys()].map((i) => Math.floor(code / (count + 1) ** i) % (count + 1) || null);
    for (let one = 0; one < count; one++) {
      const others = [...ranks.keys()].filter((i) => i !== one);
      for (let gap = 1; gap <= count + 1; gap++) {
        const made = inserted(ranks, one, gap);
        hold("inserted", ranks, one, gap, made, made[one] >= 1 && made[one] <= count
          && others.every((a) => made[a] !== made[one] && others.every((b) => side(ranks, a, b) === side(made, a, b))
            && (ranks[a] === null || (ranks[a] < gap ? made[a] < made[one] : made[a] > made[one]))));
      }
      const up = stepped(ranks, one, -1);
      hold("stepped", ranks, one, up, up[one] !== null && tiersOf(up).length >= tiersOf(ranks).length);
      const [best = []] = tiersOf(ranks);
      const made = tied(ranks, one);
      const alone = made.filter((rank) => rank === made[one]).length === 1;
      hold("tied", ranks, one, made, !best.length || best.includes(one) || !alone);
    }
  }
  return { tried, wrong };
}"""
# What is written in a colour too close to its ground: class, text and contrast.
POOR = """() => {
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map((v) => linear(Number(v) / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const clear = (colour) => /, 0\\)$|transparent/.test(colour);
  const ground = (one) => {
    while (one && clear(getComputedStyle(one).backgroundColor)) one = one.parentElement;
    return one ? getComputedStyle(one).backgroundColor : 'rgb(255, 255, 255)';
  };
  const says = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  return [...document.querySelectorAll('#ranking *')]
    .filter((one) => one.checkVisibility() && says(one) && !one.closest('kbd, .pl-live, .pl-menubox'))
    .map((one) => {
      const [low, high] = [getComputedStyle(one).color, ground(one)].map(light).sort((x, y) => x - y);
      return [one.className || one.tagName, one.textContent.slice(0, 20), (high + 0.05) / (low + 0.05)];
    })
    .filter(([, , ratio]) => ratio < 4.5);
}"""


def error(page: Page) -> str:
    return page.locator(".pl-bar .pl-error").inner_text()


def test_a_ranking_by_keyboard(browser: Browser, start: Start) -> None:
    served = start()
    page, seen = opened(browser, served.url)
    asked, shown = question(page), texts_of(page)
    assert sorted(shown) == sorted(PLAIN)

    page.keyboard.press("Enter")
    assert "Rank at least one answer" in error(page), "an untouched order is no answer"
    page.keyboard.type("24")  # A is 2, B is 4, and C is next
    page.keyboard.press("d")
    page.keyboard.type("1")  # D is 1, back to C, the only one without a rank
    page.keyboard.press("Enter")
    assert "C is unranked" in error(page)
    assert served.rankings() == []
    page.keyboard.type("3")
    page.keyboard.press("z")
    assert order(page) == "D › A › B"
    page.keyboard.type("2")
    assert order(page) == "D › A = C › B"
    page.keyboard.press("Shift+ArrowDown")
    assert order(page) == "D › A › C › B", "out of its tie"
    page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Shift+ArrowUp")
    assert order(page) == "C › D › A › B"
    page.keyboard.press("b")
    page.keyboard.press("=")
    page.keyboard.press("s")
    page.keyboard.press("s")
    assert order(page) == "C › D › A = B"
    page.keyboard.press("Enter")
    went_on(page, asked)
    saved(page)

    (ranking,) = served.rankings()
    assert seen_ranks(ranking) == [3, 3, 1, 2]
    assert ranking.strength == "slightly"
    assert [ranking.responses[place].text for place in ranking.shown] == [TEXTS[PLAIN.index(text)] for text in shown]
    assert ranking.prompt.messages[-1].content == asked
    assert ranking.seconds is not None
    assert page.locator(".pl-count").inner_text() == "1 of 3 answers · 1 by you"

    page.keyboard.press("x")
    page.keyboard.press("Enter")  # none is acceptable, and no ranks
    page.wait_for_function("document.querySelector('.pl-count').textContent.startsWith('2 of 3')")
    page.keyboard.press("n")  # skip the last one
    page.wait_for_selector(".pl-done:not([hidden])")
    assert [r.none_acceptable for r in served.rankings()] == [False, True]
    saved(page)
    page.get_by_text("Look again").click()
    page.get_by_text("Show the one you skipped").click()
    page.wait_for_selector(".pl-work:not([hidden])")

    assert seen.hosts() == {served.url.split("/")[2]}, "no request to another host"
    assert seen.dialogs == seen.complaints == []


def test_a_ranking_by_drag_and_drop(browser: Browser, start: Start) -> None:
    served = start()
    page, seen = opened(browser, served.url)
    asked = question(page)
    drag(page, "C", "[data-slot='1']")
    drag(page, "A", "[data-slot='2']")
    drag(page, "B", "[data-gap='2']")
    assert order(page) == "C › B › A", "dropped between two"
    drag(page, "D", "[data-slot='2']")
    assert order(page) == "C › B = D › A", "dropped onto a taken place: a tie"
    drag(page, "C", "[data-slot='0']")
    assert order(page) == "B = D › A", "back to the tray"
    drag(page, "C", "[data-gap='5']")
    assert order(page) == "B = D › A › C"
    page.keyboard.press("z")
    page.keyboard.press("z")
    assert order(page) == "C › B = D › A"
    page.get_by_role("radio", name="significantly").click()
    page.get_by_role("button", name="Submit").click()
    went_on(page, asked)
    saved(page)
    (ranking,) = served.rankings()
    assert (seen_ranks(ranking), ranking.strength) == ([3, 2, 1, 2], "significantly")
    assert seen.complaints == []


def test_a_ranking_by_thumb_on_a_phone(browser: Browser, start: Start) -> None:
    served = start()
    page, seen = opened(browser, served.url, phone=True)
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
    saved(page)
    assert seen_ranks(served.rankings()[0]) == [3, 1, 1, 2]
    assert seen.complaints == []


@pytest.mark.parametrize("phone", [False, True])
def test_two_answers_are_a_choice_with_a_strength(browser: Browser, start: Start, phone: bool) -> None:
    served = start(("one", "two"), 4)
    page, seen = opened(browser, served.url, phone)
    assert page.evaluate("document.documentElement.scrollWidth") <= (390 if phone else 1280)
    assert page.locator(".pl-rank").count() == 0
    asked = question(page)
    if phone:
        page.get_by_role("radio", name="B is slightly better").tap()
        page.get_by_role("button", name="Submit").tap()
    else:
        page.keyboard.press("Enter")
        assert "Choose which answer is better" in error(page)
        page.keyboard.press("5")
        assert "Both are equally good" in page.locator(".pl-state").inner_text()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
    went_on(page, asked)
    asked = question(page)
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    went_on(page, asked)
    saved(page)
    first, second = served.rankings()
    assert (seen_ranks(first), first.strength) == ([2, 1], "slightly")
    assert (seen_ranks(second), second.strength) == ([1, 2], "significantly")
    assert seen.complaints == []


def test_what_is_written_is_kept(browser: Browser, start: Start) -> None:
    served = start(TEXTS, 3, "campaign.reason_share=1")
    page, _ = opened(browser, served.url)
    asked = question(page)
    page.keyboard.type("1234")
    page.keyboard.press("Enter")
    assert "asks for a reason" in error(page)
    page.keyboard.type("A is true")  # the box has the focus
    page.keyboard.press("Escape")
    page.keyboard.press("w")
    page.keyboard.type("a better answer")
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    page.keyboard.press("ArrowDown")
    page.get_by_label("What is it?").fill("a phone number")
    page.get_by_role("button", name="Report and go on").click()
    page.keyboard.press("Enter")
    went_on(page, asked)
    saved(page)
    (ranking,) = served.rankings()
    assert (ranking.reason, ranking.edited) == ("A is true", "a better answer")


def test_long_answers_are_cut_evenly(browser: Browser, start: Start) -> None:
    page, _ = opened(browser, start(("short", "a paragraph\n\n" * 90, "another\n\n" * 60)).url)
    heights = [one.bounding_box() for one in page.locator(".pl-cut").all()]
    assert len(heights) == 2
    assert len({round(box["height"]) for box in heights if box}) == 1
    page.keyboard.press("o")
    assert page.locator(".pl-cut").count() == 0
    page.keyboard.press("q")
    assert page.locator(".pl-card .pl-plaintext").count() == 3


def test_what_a_screen_reader_is_told(browser: Browser, start: Start) -> None:
    page, _ = opened(browser, start().url)
    page.keyboard.type("12")
    tree = page.locator("#ranking").aria_snapshot()
    for line in ('article "Answer A, rank 1"', 'article "Answer C, not ranked"',
                 'button "Rank 1 for answer A" [pressed]', 'progressbar "Answers collected"', 'heading "Conversation"',
                 'region "Answers"'):
        assert line in tree, f"{line} in {tree}"
    nameless = page.evaluate("""[...document.querySelectorAll('#ranking :is(button, input, textarea, select)')]
        .filter(one => one.checkVisibility() && !one.innerText.trim() && !one.ariaLabel && !one.labels?.length)
        .map(one => one.outerHTML)""")
    assert nameless == []
    assert page.evaluate("document.querySelector('.pl-live').textContent") == "A, B"
    assert page.evaluate("document.documentElement.lang") == "en"
    page.locator(".pl-menu summary").click()
    page.locator(".pl-language").select_option("de")
    assert page.get_by_role("button", name="Absenden").is_visible()
    assert order(page) == "A › B"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read(browser: Browser, start: Start, scheme: str) -> None:
    """A contrast of at least 4.5 to 1, by the colours that the browser computed."""
    page, _ = opened(browser, start().url, color_scheme=scheme)
    page.keyboard.type("12")
    poor = page.evaluate(POOR)
    assert poor == []
    assert page.evaluate("document.body.classList.contains('dark')") is (scheme == "dark")


def test_a_page_of_another_site_cannot_submit(browser: Browser, start: Start) -> None:
    served = start()
    page, _ = opened(browser, served.url)
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


def test_the_next_item_is_there_at_once(browser: Browser, start: Start) -> None:
    """Prints how long it takes from the key to the next item on the page; machines differ, so nothing is asserted."""
    page, _ = opened(browser, start(TEXTS, 22).url)
    took = []
    for _ in range(20):
        page.keyboard.type("1234")
        page.wait_for_timeout(200)  # nobody reads faster
        took.append(page.evaluate("""() => new Promise((done) => {
          const began = performance.now();
          new MutationObserver((_, own) => { own.disconnect(); requestAnimationFrame(() => setTimeout(() =>
            done(performance.now() - began))); }).observe(document.querySelector('.pl-cards'), {childList: true});
          document.querySelector('[data-act=submit]').click(); })"""))
    print(f"next item: median {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms of {len(took)}")
    saved(page)
    assert page.locator(".pl-count").inner_text().startswith("20 of 22")


def test_pictures_of_a_prompt_are_shown(browser: Browser, start: Start, tmp_path: Path) -> None:
    inline = f"data:image/png;base64,{base64.b64encode(png()).decode()}"
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(png())
    (tmp_path / "figures" / "b.png").write_text("<svg/>")
    prompt = f"![one](figures/a.png) ![two]({inline}) ![three](figures/b.png) ![four](../a.png)"
    rows = [item(prompt, (f"![five]({inline})", "![six](figures/a.png)"))]
    served = start((), 0, f"campaign.answers={rated_page.written(tmp_path / 'pictured.jsonl', rows)}")
    page, seen = opened(browser, served.url)
    page.wait_for_function("[...document.querySelectorAll('.pl-user img')].every((one) => one.naturalWidth)")
    assert [one.get_attribute("alt") for one in page.locator(".pl-text img").all()] == ["one", "two"]
    assert seen.complaints == []


def png() -> bytes:
    """One grey pixel."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b""))


def test_a_break_is_suggested(browser: Browser, start: Start) -> None:
    served = start(TEXTS, 3, "campaign.break_minutes=2")
    page = browser.new_page()
    page.clock.install()
    page.goto(served.url)
    page.wait_for_selector(".pl-card", timeout=60_000)
    for _ in range(5):
        page.keyboard.press("1")
        page.clock.fast_forward("00:31")
    page.wait_for_selector(".pl-break:not([hidden])")
    assert "rating for 2 minutes" in page.locator(".pl-break").inner_text()
    page.get_by_role("button", name="I take one").click()
    assert page.locator(".pl-break").is_hidden()


def test_every_move_of_every_ranking(browser: Browser) -> None:
    """Of up to four answers: a letter dropped between two places stands alone there, and the others keep their order;
    a step up loses no place; a tie stands with the one above.
    """
    said = (Path(rated_page.__file__).parents[2] / "feedback_ui" / "ranking_said.js").read_text(encoding="utf-8")
    page = browser.new_page()
    wrong = page.evaluate("([said, check]) => new Function(`${said}; return (${check})();`)()", [said, MOVES])
    assert wrong == {"tried": 18742, "wrong": []}
