"""How quick the explorer is over a thousand prompts of three checkpoints, in Chromium, from the change of a filter to
the list as it is drawn, and how long a frame takes while the list is scrolled.

    make bench NAME=explorer

The last line has milliseconds: the median and the slowest of 20 changes of a filter (the server's work and the
page's), the median of 10 searches (of which 50 are waited for the next key), frames of scrolling, and how many lines
are in the page at once.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "browser")]

import arena_server  # noqa: E402
import explored  # noqa: E402
import rated_page  # noqa: E402  # pyright: ignore[reportMissingImports]

MEASURED = """async ({ filters, searches }) => {
  const one = (name) => document.querySelector(name);
  const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const changed = async (name, value, kind) => {
    const seen = new Promise((done) => new MutationObserver((_, own) => { own.disconnect(); done(); })
      .observe(one(".ar-list"), { childList: true }));
    one(name).value = value;
    const began = performance.now();
    one(name).dispatchEvent(new Event(kind, { bubbles: true }));
    await seen;
    await drawn();
    const took = performance.now() - began;
    await new Promise((done) => setTimeout(done, 150));
    return took;
  };
  const found = { filters: [], searches: [], frames: [] };
  for (const [name, value] of filters) found.filters.push(await changed(name, value, "change"));
  for (const value of searches) found.searches.push(await changed(".ar-search", value, "input"));
  let last = performance.now();
  for (let frame = 0; frame < 120; frame++) {
    one(".ar-list").scrollTop += 280;
    await new Promise(requestAnimationFrame);
    found.frames.push(performance.now() - last);
    last = performance.now();
  }
  return { ...found, lines: document.querySelectorAll(".ar-list li").length };
}"""
CHANGES = [(".ar-only", "cut"), (".ar-only", "worse"), (".ar-order", "worse"), (".ar-only", "all"),
           (".ar-stratum-of", "billing"), (".ar-stratum-of", ""), (".ar-judge", explored.JUDGES[1]),
           (".ar-order", "longer"), (".ar-order", "given"), (".ar-judge", explored.JUDGES[0])] * 2
SEARCHES = ["question 99", "", "refund", "", "parcel arrives", "", "nothing of the kind", "", "question 1", ""]


def measured(prompts: int = 1000) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        place = explored.comparison(Path(name) / "compare-0001", prompts)
        served = arena_server.serve(Path(name) / "arena", f"arena.answers={place}")
        try:
            with rated_page.chromium() as browser:
                page, _ = rated_page.opened(browser, served.url, wait=".ar-column")
                return page.evaluate(MEASURED, {"filters": CHANGES, "searches": SEARCHES})
        finally:
            served.stop()


def main() -> None:
    found = measured()
    frames = sorted(found["frames"])
    print(json.dumps({"filter_ms": round(statistics.median(found["filters"]), 1),
                      "filter_ms_slowest": round(max(found["filters"]), 1),
                      "search_ms": round(statistics.median(found["searches"]), 1),
                      "frame_ms": round(statistics.median(frames), 1),
                      "frame_ms_95": round(frames[int(0.95 * len(frames))], 1), "lines_in_page": found["lines"]}))


if __name__ == "__main__":
    main()
