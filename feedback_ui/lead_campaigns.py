"""Campaigns on the leads' page: made and changed, started and paused, and how far each is, stratum by stratum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from pydantic import Field
from sqlalchemy import distinct, func, select

from prefloop import config
from prefloop.errors import RequestError
from prefloop.store import Campaign, Store, filling
from prefloop.store.items import campaign_id, settings_of
from prefloop.store.schema import answers, guidelines, items

from . import bodies, campaigns, lead_overview, model_agreement, uploads
from .campaigns import CampaignConfig
from .lead_quality import Facts
from .rating_web import Who
from .server import FeedbackConfig

LONGEST = 100_000  # characters of a guideline
FILES = ("answers", *campaigns.FILES)
CLOSED = {"state": "start or pause the campaign instead", "guideline": "it is given beside the settings"}


class Named(bodies.Body):
    name: str = Field(max_length=bodies.NAME)


class Saved(bodies.Body):
    """`settings` has keys of `campaign:`; what is left out stays as it is. Files are named as the upload's reply says,
    or by their place below feedback.files.
    """

    settings: dict[str, Any]
    guideline: str | None = Field(None, max_length=LONGEST)


def routes(app: FastAPI, store: Store, settings: FeedbackConfig, lead_of: Who, quality: Facts) -> None:
    @app.post("/api/lead/campaigns")
    def every(request: Request, body: bodies.Nothing) -> dict[str, Any]:
        lead_of(request)
        return {"campaigns": told(store)}

    @app.post("/api/lead/campaign")
    def one(request: Request, body: Named) -> dict[str, Any]:
        lead_of(request)
        found = about(store, body.name, settings.sign_in)
        alpha = {row["stratum"]: row["alpha"] for row in quality.of(body.name)["agreement"]["by_stratum"]}
        return {**found, "coverage": [{**row, "agreement": alpha.get(row["stratum"])} for row in found["coverage"]]}

    @app.post("/api/lead/campaign/save")
    def save(request: Request, body: Saved) -> dict[str, Any]:
        lead = lead_of(request)
        sent = [_place(store, settings, str(own)) for name in FILES for own in _files(body.settings, name)]
        try:
            wanted = _wanted(store, settings, body.settings)
            said = campaigns.save(store, wanted, body.guideline, settings.sign_in, lead)
        except RequestError as error:
            raise RequestError(_plainly(str(error), sent)) from None
        return {"said": _plainly(said, sent)}

    @app.post("/api/lead/campaign/start")
    def start(request: Request, body: Named) -> dict[str, Any]:
        return turned(request, body.name, "open")

    @app.post("/api/lead/campaign/pause")
    def pause(request: Request, body: Named) -> dict[str, Any]:
        return turned(request, body.name, "paused")

    def turned(request: Request, name: str, state: str) -> dict[str, Any]:
        lead = lead_of(request)
        found = store.write(lambda db: filling.set_state(db, store.clock(), lead, name, state, settings.sign_in))
        return {"state": state, "fillable": [one.words for one in found]}

    @app.post("/api/lead/model")
    def model(request: Request, body: lead_overview.Of) -> dict[str, Any]:
        lead_of(request)
        return model_agreement.facts(store, body.campaign)


def told(store: Store) -> list[dict[str, Any]]:
    """Every campaign that has something in it: how far it is, how many have rated it, and whom it compares."""
    with store.reading() as db:
        found = lead_overview.progress(db)
        raters = {row.campaign: row.count for row in db.execute(
            select(items.c.campaign, func.count(distinct(answers.c.rater)).label("count"))
            .join(items, items.c.id == answers.c.item).where(answers.c.retracted.is_(None))
            .group_by(items.c.campaign)).all()}
        return [{**one, "raters": raters.get(own := campaign_id(db, one["name"]), 0),
                 "contestants": [name for name, _ in settings_of(db, own).contestants]} for one in found]


def about(store: Store, name: str, several: bool) -> dict[str, Any]:
    with store.reading() as db:
        own = campaign_id(db, name)
        settings, strata = settings_of(db, own), filling.coverage(db, own)
        guideline = db.scalar(select(guidelines.c.text).where(guidelines.c.campaign == own)
                              .order_by(guidelines.c.number.desc()).limit(1)) or ""
        obstacles = filling.obstacles(db, own, several)
        raters = db.scalar(select(func.count(distinct(answers.c.rater))).join(items, items.c.id == answers.c.item)
                           .where(items.c.campaign == own, answers.c.retracted.is_(None))) or 0
        state = filling.state_of(db, own)
    done = sum(one.answers for one in strata)
    return {"settings": _kept(settings), "state": state, "guideline": guideline, "raters": raters,
            "progress": {"items": sum(one.items for one in strata), "wanted": sum(one.wanted for one in strata),
                         "done": done},
            "coverage": [{**asdict(one), "quota": settings.quotas.get(one.stratum),
                          "share": one.answers / done if done else 0.0} for one in strata],
            "fillable": [one.words for one in obstacles], "refused": [one.words for one in obstacles if one.never]}


def _kept(settings: Campaign) -> dict[str, Any]:
    """The keys of `campaign:` that the store keeps."""
    known = {one.name for one in fields(CampaignConfig)}
    return {name: value for name, value in asdict(settings).items() if name in known}


def _wanted(store: Store, settings: FeedbackConfig, asked: Mapping[str, Any]) -> CampaignConfig:
    """What is asked, over what the campaign has; files by their paths on this machine."""
    before = next((_kept(one) for one in store.campaigns() if one.name == asked.get("name")), {})
    whole = {**before, **asked}
    for name in FILES:
        found = [str(_place(store, settings, str(own))) for own in _files(asked, name)]
        whole |= {name: found if name == "answers" else found[0]} if found else {}
    owner = config.Section(CampaignConfig, closed=CLOSED)
    wanted: CampaignConfig
    wanted, = config.build(config.Asked("feedback", {"campaign": whole}, None), {"campaign": owner})
    return wanted


def _files(asked: Mapping[str, Any], name: str) -> list[Any]:
    """The names of files that are given under one key."""
    own = asked.get(name) or []
    return own if isinstance(own, list) else [own]


def _place(store: Store, settings: FeedbackConfig, name: str) -> Path:
    """An upload, or what leads may read of this machine: a file or a run below feedback.files, and nothing else."""
    if uploads.NAMED.fullmatch(name):
        return uploads.path_of(store, name)
    whole = Path(settings.files).resolve() if settings.files else None
    try:
        path = (whole / name).resolve() if whole else None
    except (OSError, ValueError):  # a name that no file can have
        path = None
    if whole is None or path is None or not path.is_relative_to(whole) or not path.exists():
        raise RequestError(f"{name[:100]!r}: there is no such upload, nor such a file below feedback.files")
    return path


def _plainly(text: str, sent: Sequence[Path]) -> str:
    """Files by the names that leads know them by."""
    for path in sent:
        text = uploads.plainly(text, path)
    return text
