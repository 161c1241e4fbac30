"""A comparison's report in Chromium: it fits a phone and a sheet of paper, and fetches nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_reports import ROWS, estimate, run, told, whole
from playwright.sync_api import Browser, Page

from prefloop.compare import report

LONG = "runs/" + "a_long_name_of_a_run_" * 4  # which breaks nowhere by itself


@pytest.fixture
def place(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    page = report.page(whole(), ROWS).replace("runs/ppo", LONG).replace("runs/sft", f"{LONG}0")
    path.write_text(page, encoding="utf-8")
    return path


def opened(browser: Browser, place: Path, width: int, dark: bool = False) -> tuple[Page, list[str]]:
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme="dark" if dark else "light")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(place.as_uri())
    return page, asked


@pytest.mark.parametrize("width", [390, 720, 1280])
def test_the_page_is_no_wider_than_the_screen_and_asks_for_nothing(browser: Browser, place: Path, width: int) -> None:
    page, asked = opened(browser, place, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert asked == [place.as_uri()]
    # What reaches out of its card is scrolled inside of it.
    outside = page.evaluate("""() => [...document.querySelectorAll('.lane, .chart, dl, .text, h3')].filter(one =>
        one.getBoundingClientRect().right > one.closest('.card').getBoundingClientRect().right + 1).length""")
    assert outside == 0


def test_tables_of_many_metrics_fit_and_break_names_between_their_parts(browser: Browser, tmp_path: Path) -> None:
    figure = {**estimate(27.5, 26.5, 28.5), "prompts": 90, "gain": estimate(0.123, -0.234, 0.345)}
    names = [f"/home/a_person/runs/ppo/checkpoint-{n}00" for n in range(3)]
    metrics = {"held out": dict.fromkeys(
        ("refusal", "repetition", "length", "rouge_l", "obeyed", "perplexity", "exact_match"), figure)}
    facts = told(runs={name: run(metrics=metrics) for name in names}, baseline=names[0], best=None, by=None)
    path = tmp_path / "report.html"
    path.write_text(report.page(facts, []), encoding="utf-8")
    page, _ = opened(browser, path, 1280)
    hidden, broken = page.evaluate("""() => [
        Math.max(...[...document.querySelectorAll('.scroll')].map(one => one.scrollWidth - one.clientWidth)),
        [...document.querySelectorAll('.figures td.name')].filter(one => {
            const last = document.createRange(), text = one.firstChild;
            last.setStart(text, text.textContent.indexOf('checkpoint'));
            last.setEnd(text, text.textContent.trimEnd().length);
            return last.getClientRects().length > 1;
        }).length]""")
    assert (hidden, broken) == (0, 0)


def test_marks_stand_over_their_ticks(browser: Browser, place: Path) -> None:
    page, _ = opened(browser, place, 1280)
    drawn = page.evaluate("""() => [...document.querySelectorAll('.lanes')].flatMap(plot => {
        const middle = one => { const box = one.getBoundingClientRect(); return box.left + box.width / 2; };
        const even = plot.querySelector('.even');
        if (!even) return [];
        const ticks = [...plot.querySelectorAll('.under text')];
        const tick = ticks.find(one => ['50%', '0.0', '0'].includes(one.textContent));
        return [Math.abs(middle(even) - middle(tick))];
    })""")
    assert len(drawn) >= 4
    assert max(drawn) < 1


def test_dark_and_paper_have_their_own_ground(browser: Browser, place: Path) -> None:
    page, _ = opened(browser, place, 1280, dark=True)
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(20, 25, 30)"
    page.emulate_media(media="print")
    assert page.evaluate(ground) == "rgb(255, 255, 255)"


def test_what_is_folded_on_the_screen_is_open_on_paper(browser: Browser, place: Path) -> None:
    page, _ = opened(browser, place, 1280)
    folded = page.locator("details:not([open]) .lanes").first
    assert not folded.is_visible()
    page.emulate_media(media="print")
    assert folded.is_visible()
    cut = page.evaluate("[...document.querySelectorAll('.scroll')].map(one => one.scrollWidth - one.clientWidth)")
    assert max(cut) <= 1  # nothing is cut off at the edge of the sheet
