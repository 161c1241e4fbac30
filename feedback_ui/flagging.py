"""`prefloop feedback flags CONFIG`: what raters reported, newest first; read also while the page is served."""

from __future__ import annotations

import time

from prefloop import config
from prefloop.store import Store
from prefloop.store.records import Flagged

from . import server
from .rendering import ODD
from .server import FeedbackConfig

FIRST = 80  # characters of a prompt


def sections() -> config.Sections:
    return server.sections()


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    settings, _ = config.build(asked, sections())
    with Store(settings.store, read_only=True) as store:
        found = store.flagged()
    if not found:
        print("Nobody has reported anything.")
    for one in found:
        print(line(one))


def line(one: Flagged) -> str:
    """Its parts are between tabs, which no part has."""
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(one.at))
    first = plain(one.prompt)
    first = first if len(first) <= FIRST else f"{first[:FIRST]} ..."
    return "\t".join([at, plain(one.campaign), plain(one.rater), one.kind, plain(one.note) or "-", first])


def plain(text: str) -> str:
    """On one line, and with what a terminal would obey spelled out."""
    return ODD.sub(lambda found: f"U+{ord(found[0]):04X}", " ".join(text.split()))
