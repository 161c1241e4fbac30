"""Campaigns and their items: how they come into the store, and how they are read from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from prefloop.errors import RequestError
from prefloop.records import Answers, Prompt, Ranking, Response, digest
from prefloop.store.records import KINDS, Campaign
from prefloop.store.schema import (
    campaigns,
    choices,
    golds,
    guidelines,
    illustrations,
    items,
    pictures,
    prompts,
    responses,
)

Picture = tuple[str, bytes]  # its kind, such as image/png, and what is in the file
Pictured = Callable[[Prompt], Mapping[str, Picture]]  # the pictures of a prompt by the sources its Markdown names


def item_name(row: Answers, kind: str = "normal") -> str:
    """What an item is known by in its campaign: a digest of all that it says."""
    return digest(*(digest(_text(record)) for record in (row.prompt, *row.responses)), kind)


# -- campaigns --------------------------------------------------------------------------------------------------------


def campaign_id(db: Connection, name: str) -> int:
    found = db.scalar(select(campaigns.c.id).where(campaigns.c.name == name))
    if found is None:
        raise RequestError(f"campaign: there is none named {name!r}")
    return found


def settings_of(db: Connection, campaign: int) -> Campaign:
    return campaign_of(db.execute(select(campaigns).where(campaigns.c.id == campaign)).one())


def campaign_of(row: Row[Any]) -> Campaign:
    """The settings of a row of `campaigns`; one that was made before a setting existed has its default."""
    told = json.loads(row.settings) | {"name": row.name}
    known: dict[str, Any] = {one.name: told[one.name] for one in fields(Campaign) if one.name in told}
    for name in ("raters", "hide"):
        known[name] = tuple(known.get(name, ()))
    return Campaign(**known)


def keep_campaign(db: Connection, at: int, campaign: Campaign, guideline: str) -> int:
    """Makes it, or gives it these settings; a guideline that says something else is a new one."""
    settings = json.dumps(asdict(campaign), ensure_ascii=False)
    storable(settings + guideline + campaign.name, "campaign")
    db.execute(upsert(campaigns).values(name=campaign.name, settings=settings, state="open", created=at)
               .on_conflict_do_update(index_elements=["name"], set_={"settings": settings}))
    own = campaign_id(db, campaign.name)
    last = db.execute(select(guidelines).where(guidelines.c.campaign == own)
                      .order_by(guidelines.c.number.desc()).limit(1)).first()
    if guideline != (last.text if last else ""):
        db.execute(insert(guidelines).values(campaign=own, number=last.number + 1 if last else 1, text=guideline,
                                             version=digest(guideline) if guideline else "", created=at))
    return own


def keep_golds(db: Connection, at: int, campaign: int, rows: Iterable[Ranking], kind: str) -> None:
    """These are the campaign's gold items, or those of its qualification; others that it had are given out no more."""
    known = db.scalars(select(items.c.id).where(items.c.campaign == campaign, items.c.kind == kind)).all()
    db.execute(update(golds).where(golds.c.item.in_(known)).values(retired=1))
    for row in rows:
        item, _ = add_item(db, at, campaign, Answers(row.prompt, row.responses), 1, kind)
        right = {"ranks": json.dumps(row.ranks), "none_acceptable": int(row.none_acceptable),
                 "explanation": row.reason, "retired": 0}
        db.execute(upsert(golds).values(item=item, **right).on_conflict_do_update(index_elements=["item"], set_=right))


# -- items ------------------------------------------------------------------------------------------------------------


def add_items(db: Connection, at: int, campaign: int, rows: Iterable[Answers], need: int | Callable[[Answers], int],
              kind: str, priority: int, pictured: Pictured | None = None) -> int:
    """How many of these are new."""
    if isinstance(need, int) and need < 1:
        raise RequestError(f"need: {need} is not a number of raters")
    if kind not in KINDS:
        raise RequestError(f"kind: {kind!r} is not one of {', '.join(KINDS)}")
    return sum(add_item(db, at, campaign, row, need if isinstance(need, int) else need(row), kind, priority,
                        pictured)[1] for row in rows)


def add_item(db: Connection, at: int, campaign: int, row: Answers, need: int, kind: str, priority: int = 0,
             pictured: Pictured | None = None) -> tuple[int, bool]:
    """The item's id, and whether it is new; the need of one that was there before is only raised."""
    Ranking(row.prompt, row.responses, (1,) * len(row.responses), rater="any")  # can it be ranked at all?
    storable(json.dumps(row.to_json(), ensure_ascii=False), "text")
    prompt = _keep(db, prompts, row.prompt)
    chosen = [_keep(db, responses, response) for response in row.responses]
    _illustrate(db, prompt, pictured(row.prompt) if pictured else {})
    name = item_name(row, kind)
    known = db.scalar(select(items.c.id).where(items.c.campaign == campaign, items.c.digest == name))
    if known is not None:
        db.execute(update(items).where(items.c.id == known, items.c.need < need).values(need=need))
        return known, False
    return insert_item(db, chosen, digest=name, campaign=campaign, prompt=prompt, need=need, kind=kind,
                       priority=priority, stratum=row.prompt.stratum, created=at), True


def insert_item(db: Connection, chosen: Iterable[str], **columns: Any) -> int:
    made = db.execute(insert(items).values(**columns)).inserted_primary_key
    assert made is not None
    db.execute(insert(choices), [{"item": made[0], "place": place, "response": response}
                                 for place, response in enumerate(chosen)])
    return made[0]


def _keep(db: Connection, table: Any, record: Prompt | Response) -> str:
    """Stores a record under the digest of all it says (its id does not cover everything); returns the digest."""
    text = _text(record)
    name = digest(text)
    db.execute(upsert(table).values(digest=name, id=record.id, record=text).on_conflict_do_nothing())
    return name


def _illustrate(db: Connection, prompt: str, pictured: Mapping[str, Picture]) -> None:
    for source, (kind, data) in pictured.items():
        name = hashlib.sha256(data).hexdigest()
        db.execute(upsert(pictures).values(digest=name, kind=kind, data=data).on_conflict_do_nothing())
        db.execute(upsert(illustrations).values(prompt=prompt, source=source, picture=name)
                   .on_conflict_do_update(index_elements=["prompt", "source"], set_={"picture": name}))


def contents(db: Connection, item: int) -> tuple[Prompt, tuple[Response, ...]]:
    prompt = db.scalar(select(prompts.c.record).join(items, items.c.prompt == prompts.c.digest)
                       .where(items.c.id == item))
    ordered = db.scalars(select(responses.c.record).join(choices, choices.c.response == responses.c.digest)
                         .where(choices.c.item == item).order_by(choices.c.place))
    return Prompt.from_json(json.loads(prompt or "null")), tuple(Response.from_json(json.loads(r)) for r in ordered)


def illustrated(db: Connection, item: int) -> dict[str, str]:
    """The pictures of an item's prompt, by the sources that its Markdown names."""
    return {row.source: row.picture for row in db.execute(
        select(illustrations).join(items, items.c.prompt == illustrations.c.prompt).where(items.c.id == item))}


def storable(text: str, name: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{name}: it holds half of a surrogate pair (such as \\ud800), which is not text") from None


def _text(record: Prompt | Response) -> str:
    return json.dumps(record.to_json(), sort_keys=True)
