"""The lead's page on a store of 100,000 answers: seconds from the address to charts that are drawn, in Chromium.

Once as soon as the server answers, when it may still be reading what raters did, and then again. The server, Chromium
and this program share the machine.

    make bench NAME=dashboard
    python tests/benchmarks/dashboard.py --answers 10000
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

import rated_page  # pyright: ignore[reportMissingImports]
import worked_house
from playwright.sync_api import Browser

from prefloop.store import Store

DRAWN = ".ld-view.ld-{view} .ld-chart svg.ch"
AGAIN = 5


def opened(browser: Browser, url: str, view: str = "overview") -> float:
    """By a browser that was here before: its cache has the page's script."""
    page = browser.contexts[0].new_page() if browser.contexts else browser.new_context().new_page()
    began = time.perf_counter()
    page.goto(f"{url}lead#{view}")
    page.wait_for_selector(DRAWN.format(view=view), timeout=120_000)
    took = time.perf_counter() - began
    page.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--answers", type=int, default=100_000)
    parser.add_argument("--raters", type=int, default=60)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        with Store(f"sqlite:///{name}/feedback.db", seed=1) as store:
            worked_house.worked(store, asked.answers, worked_house.raters(asked.raters))
        built = time.perf_counter() - began
        print(f"a store of {asked.answers} answers in {built:.1f} s", flush=True)
        served = rated_page.serve(Path(name))
        url = served.url.rstrip("/") + "/"
        try:
            urllib.request.urlopen(f"{url}healthz", timeout=120).close()  # its pages take seconds to load
            with rated_page.chromium() as browser:
                first = opened(browser, url)
                again = [opened(browser, url) for _ in range(AGAIN)]
                views = {view: round(opened(browser, url, view), 2) for view in ("quality",)}
        finally:
            served.stop()
    print(json.dumps({"answers": asked.answers, "first_open_seconds": round(first, 2),
                      "open_seconds": round(median(again), 2), "open_seconds_slowest": round(max(again), 2),
                      "view_seconds": views, "build_seconds": round(built, 1)}))


if __name__ == "__main__":
    main()
