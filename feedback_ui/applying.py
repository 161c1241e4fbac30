"""`prefloop feedback campaign CONFIG`: queues a campaign's answers or changes its settings, even while it is rated."""

from __future__ import annotations

from dataclasses import asdict

from prefloop import config
from prefloop.store.opening import place_of

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
    place = place_of(settings.store)
    if not place.exists():
        campaigns.require_items(campaign, place)
    print(control.perform(settings.store, "campaign", several=settings.sign_in, **asdict(campaign.resolved()))["told"])
