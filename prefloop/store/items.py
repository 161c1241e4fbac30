"""Campaigns and their items: how they come into the store, and how they are read from it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import count
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from prefloop.errors import RequestError
from prefloop.records import Answers, Prompt, Ranking, Response, digest
from prefloop.store import events
from prefloop.store.dialects import upsert
from prefloop.store.records import Campaign
from prefloop.store.schema import (
    campaigns,
    choices,
    golds,
    guidelines,
    illustrations,
    items,
    meta,
    pictures,
    prompts,
    responses,
    reviews,
)

T = TypeVar("T")
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
    known["contestants"] = tuple((name, checksum) for name, checksum in known.get("contestants", ()))
    return Campaign(**known)


def keep_campaign(db: Connection, at: int, by: str, campaign: Campaign, guideline: str | None,
                  state: str | None = None) -> int:
    """Makes it, or gives it these settings; a guideline that says something else is a new one, and None keeps
    the one in force.

    Without a `state` it is open when it is made, and then stays as it is.
    """
    settings = json.dumps(asdict(campaign), ensure_ascii=False)
    storable(settings + (guideline or "") + campaign.name, "campaign")
    before = db.execute(select(campaigns.c.settings, campaigns.c.state)
                        .where(campaigns.c.name == campaign.name)).first()
    db.execute(upsert(db, campaigns).values(name=campaign.name, settings=settings, state=state or "open", created=at)
               .on_conflict_do_update(index_elements=["name"], set_={
                   "settings": settings, "state": state or (before.state if before else "open")}))
    own = campaign_id(db, campaign.name)
    if before is None or (settings, state or before.state) != tuple(before):
        events.wrote(db, at, "campaign changed" if before else "campaign made", by, campaigns, campaigns.c.id == own)
    last = db.execute(select(guidelines).where(guidelines.c.campaign == own)
                      .order_by(guidelines.c.number.desc()).limit(1)).first()
    if guideline is not None and guideline != (last.text if last else ""):
        db.execute(insert(guidelines).values(campaign=own, number=last.number + 1 if last else 1, text=guideline,
                                             version=digest(guideline) if guideline else "", created=at))
        events.wrote(db, at, "guideline changed", by, guidelines, (guidelines.c.campaign == own)
                     & (guidelines.c.number == (last.number + 1 if last else 1)))
    return own


def keep_golds(db: Connection, at: int, by: str, campaign: int, rows: Sequence[Ranking], ready: Sequence[Ready],
               kind: str) -> int:
    """These are the campaign's gold items, or those of its qualification; others that it had are given out no more.

    Returns how many of them there are. What came of a review stays as the reviewer decided.
    """
    decided = set(db.scalars(select(reviews.c.gold).where(reviews.c.gold.is_not(None))))
    known = select(items.c.id).where(items.c.campaign == campaign, items.c.kind == kind, items.c.id.not_in(decided))
    before = {row["item"]: row for row in db.execute(select(golds).where(golds.c.item.in_(known))).mappings()}
    db.execute(update(golds).where(golds.c.item.in_(known)).values(retired=1))
    ids, _ = add(db, at, by, campaign, ready)
    for row, one in zip(rows, ready, strict=True):
        if ids[one.name] in decided:
            continue
        right = {"ranks": json.dumps(row.ranks), "none_acceptable": int(row.none_acceptable),
                 "explanation": row.reason, "retired": 0}
        db.execute(upsert(db, golds).values(item=ids[one.name], **right)
                   .on_conflict_do_update(index_elements=["item"], set_=right))
    after = db.execute(select(golds).where(golds.c.item.in_(known))).mappings().all()
    events.kept(db, at, f"{kind} changed", by, golds, [row for row in after if row != before.get(row["item"])])
    return len({item for item, row in before.items() if not row["retired"]} - set(ids.values()))


# -- items ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ready:
    """A row that can be ranked, as it will be stored: texts are looked at before others wait for the database."""

    name: str
    kind: str
    need: int
    priority: int
    stratum: str
    prompt: dict[str, str]
    responses: tuple[dict[str, str], ...]
    pictured: Mapping[str, Picture]


def ready(rows: Iterable[Answers], need: int | Callable[[Answers], int] = 1, kind: str = "normal", priority: int = 0,
          pictured: Pictured | None = None) -> list[Ready]:
    if isinstance(need, int) and need < 1:
        raise RequestError(f"need: {need} is not a number of raters")
    return [_ready(row, need if isinstance(need, int) else need(row), kind, priority,
                   pictured(row.prompt) if pictured else {}) for row in rows]


def _ready(row: Answers, need: int, kind: str, priority: int, pictured: Mapping[str, Picture]) -> Ready:
    Ranking(row.prompt, row.responses, (1,) * len(row.responses), rater="any")  # can it be ranked at all?
    storable(json.dumps(row.to_json(), ensure_ascii=False), "text")  # where a NUL is spelled out
    storable(row.prompt.stratum, "stratum")
    return Ready(item_name(row, kind), kind, need, priority, row.prompt.stratum, _kept(row.prompt),
                 tuple(map(_kept, row.responses)), pictured)


def _kept(record: Prompt | Response) -> dict[str, str]:
    """A record under the digest of all it says: its id does not cover everything."""
    text = _text(record)
    return {"digest": digest(text), "id": record.id, "record": text}


def add(db: Connection, at: int, by: str, campaign: int,
        rows: Sequence[Ready]) -> tuple[dict[str, int], set[str]]:
    """The items' ids by their names, and which are new; of one that was there before the need is only raised."""
    wanted = {row.name: row for row in sorted(rows, key=lambda row: row.need)}  # of two alike, the greater need
    if not wanted:
        return {}, set()
    db.execute(upsert(db, prompts).on_conflict_do_nothing(), [row.prompt for row in rows])
    db.execute(upsert(db, responses).on_conflict_do_nothing(), [one for row in rows for one in row.responses])
    known: dict[str, int] = {}
    raised: list[int] = []
    for names in _parts(list(wanted)):
        for row in db.execute(select(items.c.digest, items.c.id, items.c.need).where(
                items.c.campaign == campaign, items.c.digest.in_(names))):
            known[row.digest] = row.id
            raised += [row.id] if row.need < wanted[row.digest].need else []
    if raised:
        db.execute(update(items).where(items.c.id == bindparam("item"), items.c.need < bindparam("wanted"))
                   .values(need=bindparam("wanted")),
                   [{"item": item, "wanted": wanted[name].need} for name, item in known.items()])
        for part in _parts(raised):
            events.wrote(db, at, "need raised", by, items, items.c.id.in_(part))
    first = (db.scalar(select(func.max(items.c.id))) or 0) + 1
    new = dict(zip(dict.fromkeys(row.name for row in rows if row.name not in known), count(first), strict=False))
    if new:
        seed = db.scalars(select(meta.c.value).where(meta.c.name == "seed")).one()
        db.execute(insert(items), [_columns(wanted[name], campaign, at) | {"id": item, "chance": chance(seed, name)}
                                   for name, item in new.items()])
        db.execute(insert(choices), [{"item": item, "place": place, "response": response["digest"]}
                                     for name, item in new.items()
                                     for place, response in enumerate(wanted[name].responses)])
        events.wrote(db, at, "queued", by, items, items.c.id >= first)
    for row in wanted.values():
        _illustrate(db, at, by, row.prompt["digest"], row.pictured)
    return known | new, set(new)


def prompts_of(db: Connection, campaign: int) -> set[str]:
    """The ids of the prompts that a campaign's normal items have."""
    return set(db.scalars(select(prompts.c.id).join(items, items.c.prompt == prompts.c.digest)
                          .where(items.c.campaign == campaign, items.c.kind == "normal")))


def chance(seed: str, name: str) -> int:
    """An item's place in a random order of all, the same whenever it is asked; 31 bits."""
    return int(digest(seed, name)[:8], 16) >> 1


def _columns(row: Ready, campaign: int, at: int) -> dict[str, Any]:
    return {"digest": row.name, "campaign": campaign, "prompt": row.prompt["digest"], "need": row.need, "done": 0,
            "kind": row.kind, "priority": row.priority, "stratum": row.stratum, "created": at}


def _illustrate(db: Connection, at: int, by: str, prompt: str, pictured: Mapping[str, Picture]) -> None:
    for source, (kind, data) in pictured.items():
        name = hashlib.sha256(data).hexdigest()
        own = (illustrations.c.prompt == prompt) & (illustrations.c.source == source)
        if db.scalar(select(illustrations.c.picture).where(own)) == name:
            continue
        if db.execute(select(pictures.c.kind).where(pictures.c.digest == name)).first() is None:
            db.execute(insert(pictures).values(digest=name, kind=kind, data=data))
            events.wrote(db, at, "pictured", by, pictures, pictures.c.digest == name)
        db.execute(upsert(db, illustrations).values(prompt=prompt, source=source, picture=name)
                   .on_conflict_do_update(index_elements=["prompt", "source"], set_={"picture": name}))
        events.wrote(db, at, "illustrated", by, illustrations, own)


def contents(db: Connection, item: int) -> tuple[Prompt, tuple[Response, ...]]:
    return contents_of(db, [item])[item]


def contents_of(db: Connection, wanted: Sequence[int]) -> dict[int, tuple[Prompt, tuple[Response, ...]]]:
    """The prompts and responses of items."""
    ordered: dict[int, list[Response]] = {item: [] for item in wanted}
    for row in db.execute(select(choices.c.item, responses.c.record)
                          .join(responses, choices.c.response == responses.c.digest)
                          .where(choices.c.item.in_(ordered)).order_by(choices.c.item, choices.c.place)):
        ordered[row.item].append(Response.from_json(json.loads(row.record)))
    found = db.execute(select(items.c.id, prompts.c.record).join(prompts, items.c.prompt == prompts.c.digest)
                       .where(items.c.id.in_(ordered)))
    return {row.id: (Prompt.from_json(json.loads(row.record)), tuple(ordered[row.id])) for row in found}


def _parts(names: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    return (names[start:start + size] for start in range(0, len(names), size))


def illustrated(db: Connection, item: int) -> dict[str, str]:
    """The pictures of an item's prompt, by the sources that its Markdown names."""
    return {row.source: row.picture for row in db.execute(
        select(illustrations).join(items, items.c.prompt == illustrations.c.prompt).where(items.c.id == item))}


def storable(text: str, name: str) -> None:
    """What both databases can keep as it is."""
    if "\0" in text:
        raise RequestError(f"{name}: it holds a NUL (\\u0000), which is not text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{name}: it holds half of a surrogate pair (such as \\ud800), which is not text") from None


def _text(record: Prompt | Response) -> str:
    return json.dumps(record.to_json(), sort_keys=True)
