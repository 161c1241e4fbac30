"""What raters of a comparison are told at its end: which checkpoints they compared, and how each did."""

from __future__ import annotations

from typing import Any

from prefloop.store import Campaign, Store

from .held_out import Contestant
from .tally import tally


def standings(store: Store, campaign: Campaign) -> dict[str, Any] | None:
    """None while votes are to be blind. Gold items and repeats are no votes."""
    if not store.revealed(campaign.name):
        return None
    votes = (one for one in store.rankings(campaign=campaign.name) if one.kind == "normal")
    found = tally(votes, [Contestant(*one) for one in campaign.contestants])
    return found and {"votes": found["votes"], "standings": found["standings"]}
