"""`prefloop feedback backup CONFIG`: a copy of the store, taken while raters go on, and looked at before it counts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefloop import config
from prefloop.store.backup import backup
from prefloop.store.opening import place_of

from . import server
from .server import FeedbackConfig


@dataclass(frozen=True)
class BackupConfig:
    """`backup:`."""

    out: str


def sections() -> config.Sections:
    return {**server.sections(), "backup": config.Section(BackupConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    wanted: BackupConfig
    settings, _, wanted = config.build(asked, sections())
    made = backup(place_of(settings.store), Path(wanted.out))
    print(f"{wanted.out}: {made.answers} answers, {made.size / 2**20:.1f} MiB, sha256 {made.sha256[:12]}")
