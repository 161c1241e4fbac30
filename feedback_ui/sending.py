"""`prefloop feedback export CONFIG`: the rankings given so far, in the form that another tool or trainer reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from prefloop import config
from prefloop.formats import leaving, writing
from prefloop.formats.importing import one_of
from prefloop.formats.layouts import LAYOUTS

from . import control, server
from .data_out import RATERS, Which
from .server import FeedbackConfig


@dataclass(frozen=True)
class ExportConfig:
    """`export:` of `prefloop feedback export`."""

    out: str
    format: str = "rankings"
    kind: str | None = None
    campaign: str | None = None
    raters: str = "pseudonyms"
    surplus: bool = False
    decisions: bool = True

    def __post_init__(self) -> None:
        one_of("format", self.format, tuple(LAYOUTS), "export")
        one_of("raters", self.raters, RATERS, "export")
        if self.kind is not None:
            one_of("kind", self.kind, writing.KINDS, "export")
        leaving.kind_for(self.format, Path(self.out), self.kind)


def sections() -> config.Sections:
    return {**server.sections(), "export": config.Section(ExportConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    wanted: ExportConfig
    settings, _, wanted = config.build(asked, sections())
    out = Path(wanted.out).absolute()
    kind = leaving.kind_for(wanted.format, out, wanted.kind)
    print(control.perform(settings.store, "export", form=wanted.format, kind=kind, out=str(out),
                          which=asdict(Which(wanted.campaign, wanted.raters, wanted.surplus,
                                             wanted.decisions)))["told"])
