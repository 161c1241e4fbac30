"""How full a campaign is, stratum by stratum, and what stands in the way of filling it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select, update

from prefloop.errors import RequestError
from prefloop.store import events
from prefloop.store.disputing import COUNTS
from prefloop.store.items import campaign_id, settings_of
from prefloop.store.queue import APART
from prefloop.store.records import Campaign, folded
from prefloop.store.schema import accounts, answers, campaigns, golds, items, predictions, quarantines, verdicts

NAMED = 5  # strata that are told by name


@dataclass(frozen=True)
class Stratum:
    """The normal items of one stratum: how many, the answers they want and have, and how far models are apart on them
    (the mean of those that have scores).
    """

    stratum: str
    items: int
    wanted: int
    answers: int
    uncertainty: float | None


@dataclass(frozen=True)
class Obstacle:
    """What stands in the way. `never`: no account that may still be made takes it away."""

    words: str
    never: bool = False


def coverage(db: Connection, campaign: int) -> list[Stratum]:
    rows = db.execute(select(items.c.stratum, func.count(), func.sum(items.c.need), func.sum(items.c.done),
                             func.avg(items.c.uncertainty))
                      .where(items.c.campaign == campaign, items.c.kind == "normal")
                      .group_by(items.c.stratum).order_by(items.c.stratum)).all()
    return [Stratum(row[0], row[1], int(row[2]), int(row[3]), row[4]) for row in rows]


def set_state(db: Connection, at: int, by: str, name: str, state: str, several: bool) -> list[Obstacle]:
    """Drafts, opens or pauses a campaign; what stands in its way. One that can never be filled is not opened."""
    own = campaign_id(db, name)
    found = require_fillable(db, own, several) if state == "open" else []
    if state_of(db, own) != state:
        db.execute(update(campaigns).where(campaigns.c.id == own).values(state=state))
        events.wrote(db, at, {"draft": "drafted", "open": "opened", "paused": "paused"}[state], by, campaigns,
                     campaigns.c.id == own)
    return found


def state_of(db: Connection, campaign: int) -> str:
    return db.scalars(select(campaigns.c.state).where(campaigns.c.id == campaign)).one()


def require_fillable(db: Connection, campaign: int, several: bool) -> list[Obstacle]:
    found = obstacles(db, campaign, several)
    never = [one.words for one in found if one.never]
    if never:
        raise RequestError(f"campaign {settings_of(db, campaign).name} can never be filled: {'; '.join(never)}")
    return found


def obstacles(db: Connection, campaign: int, several: bool) -> list[Obstacle]:
    """`several`: raters sign in, so there can be more than one."""
    settings, strata = settings_of(db, campaign), coverage(db, campaign)
    if not strata:
        return [Obstacle("nothing to rate: no prompt has two different answers", never=True)]
    return [*_too_few_raters(db, campaign, settings, several), *_strata(settings, strata),
            *_models(db, campaign, settings, strata), *(_checks(db, campaign, settings, strata) if several else [])]


def _too_few_raters(db: Connection, campaign: int, settings: Campaign, several: bool) -> list[Obstacle]:
    """Of items that are not full yet; those who may not rate any more may have given some of the answers."""
    known = db.scalars(select(answers.c.rater).distinct().join(items, items.c.id == answers.c.item)
                       .where(items.c.campaign == campaign)).all()
    if not several:
        signed_in = set(db.scalars(select(accounts.c.name)))
        need = _wanted(db, campaign, [name for name in known if name not in signed_in])
        return [Obstacle(f"{_asked(need)}, and without feedback.sign_in there is one", never=True)] if need > 1 else []
    named, need = len(set(map(folded, settings.raters))), _wanted(db, campaign, list(filter(settings.admits, known)))
    if settings.raters and named < need:
        return [Obstacle(f"{_asked(need)}, and campaign.raters names {named}", never=True)]
    able = _able(db, campaign, settings)
    need, count = _wanted(db, campaign, able), len(able)
    return [] if count >= need else [Obstacle(f"{_asked(need)}, and {count or 'nobody'} can rate it as yet; invite "
                                              f"{need - count} more")]


def _asked(need: int) -> str:
    return (f"some items want {need} raters (campaign.raters_per_item, campaign.overlap_raters)" if need > 1 else
            "an item wants one rater")


def _wanted(db: Connection, campaign: int, raters: list[str]) -> int:
    """How many of these raters an item wants at most: for the answers it still waits for, and those they gave it."""
    theirs = select(func.count()).select_from(answers).where(
        answers.c.item == items.c.id, answers.c.rater.in_(raters), *COUNTS).scalar_subquery()
    return db.scalar(select(func.max(items.c.need - items.c.done + theirs)).where(
        items.c.campaign == campaign, items.c.kind == "normal", items.c.done < items.c.need)) or 0


def _able(db: Connection, campaign: int, settings: Campaign) -> list[str]:
    """Those who have an account, are admitted, and are neither in quarantine nor failed to qualify."""
    held = select(quarantines.c.rater).where(quarantines.c.state == "held")
    failed = select(verdicts.c.rater).where(verdicts.c.campaign == campaign, verdicts.c.state == "failed")
    names = db.scalars(select(accounts.c.name).where(accounts.c.state == "active", accounts.c.name.not_in(held),
                                                     accounts.c.name.not_in(failed)))
    return [name for name in names if settings.admits(name)]


def _strata(settings: Campaign, strata: list[Stratum]) -> list[Obstacle]:
    if settings.ask != "stratified":
        return []
    wanted = {one.stratum: one.wanted for one in strata}
    found = [Obstacle(f"campaign.quotas: no item is of stratum {name!r}", never=True)
             for name in settings.quotas if name not in wanted]
    total = sum(wanted.values())
    for name, share in settings.quotas.items():
        if name in wanted and wanted[name] < share * total:
            found.append(Obstacle(f"campaign.quotas: stratum {name!r} has room for {wanted[name]} answers, and "
                                  f"{share:.0%} of all {total} are more; once it is full the others are asked alone"))
    rest = [repr(name) for name in wanted if name not in settings.quotas]
    if rest:
        found.append(Obstacle(f"campaign.quotas: without one, and so asked last: {', '.join(rest[:NAMED])}"
                              f"{' ...' * (len(rest) > NAMED)}"))
    return found


def _models(db: Connection, campaign: int, settings: Campaign, strata: list[Stratum]) -> list[Obstacle]:
    def without(*columns: Any) -> int:
        return db.scalar(select(func.count()).select_from(items).where(
            items.c.campaign == campaign, items.c.kind == "normal", *columns)) or 0

    number = sum(one.items for one in strata)
    bare = without(items.c.uncertainty.is_(None))
    found = []
    if settings.ask == "uncertainty" and bare == number:
        found.append(Obstacle("campaign.ask is uncertainty, and no item has scores of an ensemble; name "
                              "campaign.scores", never=True))
    elif settings.ask == "uncertainty" and bare:
        found.append(Obstacle(f"{bare} of {number} items have no scores of an ensemble, and come by chance or last"))
    if settings.show_model and without(items.c.id.in_(select(predictions.c.item))) == 0:
        found.append(Obstacle("campaign.show_model: no item has a model's scores; name campaign.scores"))
    elif settings.show_model and (blind := _gold_without_scores(db, campaign)):
        found.append(Obstacle(f"campaign.show_model: {blind} gold items have no scores in campaign.scores, and "
                              "raters can tell them: no model's order comes after them"))
    return found


def _gold_without_scores(db: Connection, campaign: int) -> int:
    return db.scalar(select(func.count()).select_from(golds).join(items, items.c.id == golds.c.item).where(
        items.c.campaign == campaign, items.c.kind == "gold", golds.c.retired == 0,
        items.c.id.not_in(select(predictions.c.item)))) or 0


def _checks(db: Connection, campaign: int, settings: Campaign, strata: list[Stratum]) -> list[Obstacle]:
    gold = db.scalar(select(func.count()).select_from(golds).join(items, items.c.id == golds.c.item).where(
        items.c.campaign == campaign, items.c.kind == "gold", golds.c.retired == 0))
    found = []
    if settings.gold_share and not gold:
        found.append(Obstacle("campaign.gold_share: there are no gold items, so nothing tells who rates well"))
    if settings.repeats and sum(one.items for one in strata) <= APART:
        found.append(Obstacle(f"campaign.repeats: there are too few items to repeat one {APART} answers later"))
    return found
