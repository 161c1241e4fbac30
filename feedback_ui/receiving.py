"""`prefloop feedback import CONFIG`: rankings given elsewhere as answers of a campaign, or answers to be ranked."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from prefloop import config

from . import control, server
from .campaigns import CampaignConfig
from .data_in import ImportConfig
from .server import FeedbackConfig


def sections() -> config.Sections:
    return {**server.sections(), "import": config.Section(ImportConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    campaign: CampaignConfig
    wanted: ImportConfig
    settings, campaign, wanted = config.build(asked, sections())
    whole = asdict(wanted) | {"path": [str(Path(path).absolute()) for path in wanted.paths]}
    print(control.perform(settings.store, "import", campaign=campaign.name, settings=whole)["told"])
