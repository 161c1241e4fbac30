"""`prefloop feedback campaign CONFIG`: queues a campaign's answers or changes its settings, even while it is rated."""

from __future__ import annotations

from dataclasses import asdict

from prefloop import config
from prefloop.store.opening import path_of

from . import campaigns, control, server
from .campaigns import CampaignConfig
from .server import FeedbackConfig


def sections() -> config.Sections:
    return server.sections()


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    campaign: CampaignConfig
    settings, campaign = config.build(asked, sections())
    campaigns.refuse(campaign)
    if not path_of(settings.store).exists():
        campaigns.require_items(campaign, path_of(settings.store))
    print(control.perform(settings.store, "campaign", several=settings.sign_in, **asdict(campaign.resolved()))["told"])
