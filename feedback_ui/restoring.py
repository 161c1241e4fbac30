"""`prefloop feedback restore CONFIG`: a backup in the place of a store that nobody serves now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefloop import config
from prefloop.store.backup import restore
from prefloop.store.opening import place_of

from . import server
from .server import FeedbackConfig


@dataclass(frozen=True)
class RestoreConfig:
    """`restore:`."""

    backup: str
    overwrite: bool = False


def sections() -> config.Sections:
    return {**server.sections(), "restore": config.Section(RestoreConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    wanted: RestoreConfig
    settings, _, wanted = config.build(asked, sections())
    told = restore(Path(wanted.backup), place_of(settings.store), wanted.overwrite)
    print(f"{place_of(settings.store)}: restored from {wanted.backup}, {told.answers} answers")
