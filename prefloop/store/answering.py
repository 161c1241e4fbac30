"""What raters say: kept once, revised by rows that are added, withdrawn, and read again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, insert, select, update

from prefloop.errors import RequestError
from prefloop.records import Prompt, Ranking, Response, digest
from prefloop.store import events, predicting
from prefloop.store.admission import acknowledged, conclude, quarantined
from prefloop.store.dialects import upsert
from prefloop.store.items import contents, contents_of, settings_of, storable
from prefloop.store.queue import live
from prefloop.store.records import FLAGS, AlreadyAnswered, Campaign, Flagged, Judgement, NotLeased, Past, Receipt
from prefloop.store.schema import answers, campaigns, flags, items, leases

EDITABLE = 20  # of a rater's last answers, so many can still be changed
KEY = 64  # characters of a submission's own name
NOTE = 2000
PART = 500  # answers that are read at once

_counting = answers.c.retracted.is_(None)
_asked = select(answers, leases.c.propensity).join(leases, leases.c.token == answers.c.token)


def leased(db: Connection, token: str, rater: str) -> RowMapping:
    row = db.execute(select(leases, items.c.need, items.c.done, items.c.kind, items.c.campaign, campaigns.c.name)
                     .join(items, items.c.id == leases.c.item).join(campaigns, campaigns.c.id == items.c.campaign)
                     .where(leases.c.token == token)).mappings().first()
    if row is None or row["rater"] != rater:
        raise NotLeased("token: you hold no lease by this name; fetch an item first")
    return row


def reason_required(seed: int, lease: RowMapping, settings: Campaign) -> bool:
    """Decided once for each rater and item; not where one only practises."""
    dice = Random(digest(str(seed), "reason", str(lease["item"]), lease["rater"]))
    return lease["kind"] != "qualification" and dice.random() < settings.reason_share


def _require_reason(db: Connection, seed: int, lease: RowMapping, said: Judgement) -> None:
    if not said.reason.strip() and reason_required(seed, lease, settings_of(db, lease["campaign"])):
        raise RequestError("reason: for this item, say in a few words why")


# -- giving an answer -------------------------------------------------------------------------------------------------


def submit(db: Connection, at: int, seed: int, lease: RowMapping, said: Judgement, key: str) -> Receipt:
    """The same answer twice is one answer; a different one under the same lease is refused."""
    earlier = _by_key(db, lease, key)
    if earlier is None:
        earlier = db.execute(select(answers).where(answers.c.item == lease["item"], answers.c.rater == lease["rater"],
                                                    _counting)).mappings().first()
    if earlier is not None:
        if _content(judgement(earlier)) != _content(said):
            raise AlreadyAnswered("token: this item was already answered, and differently")
        return _receipt(db, seed, lease, earlier["id"], bool(earlier["surplus"]))
    _check(contents(db, lease["item"]), lease, said)
    _require_reason(db, seed, lease, said)
    running = db.scalar(select(live(at)).where(items.c.id == lease["item"])) or 0
    in_time = lease["state"] == "open" and lease["expires"] > at
    excluded = quarantined(db, lease["rater"])
    counted = lease["kind"] == "normal" and not excluded
    surplus = counted and not in_time and lease["done"] + running >= lease["need"]
    answer = _add(db, at, lease, said, key, surplus, excluded)
    db.execute(update(leases).where(leases.c.token == lease["token"]).values(state="done"))
    if counted and not surplus:
        db.execute(update(items).where(items.c.id == lease["item"]).values(done=items.c.done + 1))
    if lease["kind"] == "qualification":
        conclude(db, at, lease["rater"], lease["campaign"], settings_of(db, lease["campaign"]))
    return _receipt(db, seed, lease, answer, surplus)


def _receipt(db: Connection, seed: int, lease: RowMapping, answer: int, surplus: bool) -> Receipt:
    """The rater has answered, and so may be told what a model said of the item."""
    model = predicting.inform(db, seed, lease, settings_of(db, lease["campaign"]))
    return Receipt(answer, surplus, lease["name"], model)


def revise(db: Connection, at: int, seed: int, answer: int, rater: str, said: Judgement, key: str) -> Receipt:
    """Another judgement in the place of one's own recent one."""
    current = _own(db, answer, rater)
    lease = leased(db, current["token"], rater)
    earlier = _by_key(db, lease, key)
    if earlier is not None:
        if _content(judgement(earlier)) != _content(said):
            raise AlreadyAnswered("key: it came before, with another judgement")
        return _receipt(db, seed, lease, earlier["id"], bool(earlier["surplus"]))
    _check(contents(db, lease["item"]), lease, said)
    _require_editable(db, current)
    _require_reason(db, seed, lease, said)
    _retract(db, at, "replaced", current)
    answer = _add(db, at, lease, said, key, bool(current["surplus"]), bool(current["excluded"]))
    return _receipt(db, seed, lease, answer, bool(current["surplus"]))


def withdraw(db: Connection, at: int, seconds: int, answer: int, rater: str) -> None:
    """One's own recent answer counts no more, and its item is open again under the same lease.

    Done twice, it is done once; but not to an answer that came after the one that was meant.
    """
    current = _current(db, answer, rater)
    if current is None:
        return
    if current["id"] != answer:
        raise RequestError("answer: it was changed since; look at it again")
    _require_editable(db, current)
    _retract(db, at, "withdrawn", current)
    placeless = current["surplus"] or current["excluded"]
    if current["kind"] == "normal" and not placeless:
        db.execute(update(items).where(items.c.id == current["item"]).values(done=items.c.done - 1))
    # What had no place has none to give back: its lease has run out, and waits for a place like any late one.
    expires = at if placeless else at + seconds
    db.execute(update(leases).where(leases.c.token == current["token"]).values(state="open", expires=expires))


def _current(db: Connection, answer: int, rater: str) -> RowMapping | None:
    """The row that counts of one's own answer, by the id of any of its revisions; None if it was withdrawn."""
    known = answer if 0 < answer < 2**63 else 0  # what SQLite can count to
    asked = db.execute(select(answers.c.item, answers.c.rater).where(answers.c.id == known)).first()
    if asked is None or asked.rater != rater:
        raise NotLeased("answer: you gave no answer by this number")
    return db.execute(select(answers).where(answers.c.item == asked.item, answers.c.rater == rater, _counting)
                      ).mappings().first()


def _own(db: Connection, answer: int, rater: str) -> RowMapping:
    row = _current(db, answer, rater)
    if row is None:
        raise RequestError("answer: it was withdrawn")
    return row


def _require_editable(db: Connection, row: RowMapping) -> None:
    if row["kind"] == "qualification":
        raise RequestError("answer: what was said to qualify stays as it is")
    if revealed(db, db.scalars(select(items.c.campaign).where(items.c.id == row["item"])).one()):
        raise RequestError("answer: raters have been told who wrote what; what was said before stays as it is")
    if row["id"] < _oldest_editable(db, row["rater"]):
        raise RequestError(f"answer: only the last {EDITABLE} can be changed")


def revealed(db: Connection, campaign: int) -> bool:
    """May raters know who wrote what they read? Never before every item has all the answers that it needs: told
    sooner, the rest would not be blind.
    """
    settings = settings_of(db, campaign)
    if not (settings.reveal and settings.contestants):
        return False
    lacking = db.scalar(select(func.max(items.c.need - items.c.done))
                        .where(items.c.campaign == campaign, items.c.kind == "normal"))
    return lacking is not None and lacking <= 0


def _oldest_editable(db: Connection, rater: str) -> int:
    last = (select(answers.c.id).where(answers.c.rater == rater, _counting, answers.c.kind != "qualification")
            .order_by(answers.c.id.desc()).limit(EDITABLE).subquery())
    return db.scalar(select(func.min(last.c.id))) or 0


def _by_key(db: Connection, lease: RowMapping, key: str) -> RowMapping | None:
    if not key:
        return None
    if len(key) > KEY:
        raise RequestError(f"key: longer than {KEY} characters")
    storable(key, "key")
    own = (answers.c.rater == lease["rater"]) & (answers.c.key == key) & (answers.c.key != "")  # as the index says it
    row = db.execute(select(answers).where(own)).mappings().first()
    if row is not None and row["token"] != lease["token"]:
        raise RequestError("key: it came before, with another item")
    return row


def _add(db: Connection, at: int, lease: RowMapping, said: Judgement, key: str, surplus: bool, excluded: bool) -> int:
    item, rater = lease["item"], lease["rater"]
    before = db.scalar(select(func.max(answers.c.revision)).where(answers.c.item == item, answers.c.rater == rater))
    guideline = said.guideline or acknowledged(db, rater, lease["campaign"])
    row = {"token": lease["token"], "item": item, "rater": rater, "revision": (before or 0) + 1, "key": key,
           "retracted": None, "ranks": json.dumps(said.ranks), "shown": lease["shown"], "strength": said.strength,
           "none_acceptable": int(said.none_acceptable), "reason": said.reason, "edited": said.edited,
           "seconds": said.seconds, "guideline": guideline, "kind": lease["kind"], "surplus": int(surplus),
           "created": at, "excluded": int(excluded), "informed": lease["informed"]}
    made = db.execute(insert(answers).values(row)).inserted_primary_key
    assert made is not None
    events.record(db, at, "answered", rater, f"answers:{made[0]}", {"rows": {
        "answers": [events.told(answers, row | {"id": made[0]})], "leases": [events.told(leases, lease)]}}, rater)
    return made[0]


def _retract(db: Connection, at: int, how: str, row: RowMapping) -> None:
    db.execute(update(answers).where(answers.c.id == row["id"]).values(retracted=at))
    events.kept(db, at, how, row["rater"], answers, [{**row, "retracted": at}])


def skip(db: Connection, at: int, lease: RowMapping) -> None:
    if lease["state"] != "open":
        return
    db.execute(update(leases).where(leases.c.token == lease["token"]).values(state="skipped", issued=at))
    events.record(db, at, "skipped", lease["rater"], f"items:{lease['item']}", {}, about=lease["rater"])


def flag(db: Connection, at: int, lease: RowMapping, kind: str, note: str) -> None:
    if kind not in FLAGS:
        raise RequestError(f"kind: {kind!r} is not one of {', '.join(FLAGS)}")
    if len(note) > NOTE:
        raise RequestError(f"note: longer than {NOTE} characters")
    storable(note, "note")
    db.execute(upsert(db, flags).values(item=lease["item"], rater=lease["rater"], kind=kind, note=note, at=at)
               .on_conflict_do_update(index_elements=["item", "rater", "kind"], set_={"note": note, "at": at}))
    events.wrote(db, at, "flagged", lease["rater"], flags, (flags.c.item == lease["item"])
                 & (flags.c.rater == lease["rater"]) & (flags.c.kind == kind))


def flagged(db: Connection) -> list[Flagged]:
    """What raters reported, newest first."""
    rows = db.execute(select(flags, campaigns.c.name.label("campaign")).join(items, items.c.id == flags.c.item)
                      .join(campaigns, campaigns.c.id == items.c.campaign)
                      .order_by(flags.c.at.desc(), flags.c.item, flags.c.rater, flags.c.kind)).all()
    said: dict[int, str] = {}
    wanted = list(dict.fromkeys(row.item for row in rows))
    for start in range(0, len(wanted), PART):
        of = contents_of(db, wanted[start:start + PART])
        said |= {item: prompt.messages[-1].content for item, (prompt, _) in of.items()}
    return [Flagged(row.at, row.campaign, row.rater, row.kind, row.note, said[row.item]) for row in rows]


# -- reading answers --------------------------------------------------------------------------------------------------


def counting(db: Connection, surplus: bool, campaign: int | None) -> Iterator[Ranking]:
    query = _asked.where(_counting, answers.c.kind != "qualification")
    if campaign is not None:
        query = query.join(items, items.c.id == answers.c.item).where(items.c.campaign == campaign)
    query = query.where(answers.c.excluded == 0)
    for _, one in _rankings(db, query if surplus else query.where(answers.c.surplus == 0)):
        yield one


def set_aside(db: Connection) -> Iterator[tuple[str, Ranking]]:
    aside = ~_counting | (answers.c.surplus == 1) | (answers.c.excluded == 1)
    for row, one in _rankings(db, _asked.where(aside, answers.c.kind != "qualification")):
        yield "changed" if row["retracted"] is not None else "excluded" if row["excluded"] else "surplus", one


def _rankings(db: Connection, query: Select[Any]) -> Iterator[tuple[RowMapping, Ranking]]:
    for rows in db.execute(query.order_by(answers.c.id)).mappings().partitions(PART):
        of = contents_of(db, [row["item"] for row in rows])
        for row in rows:
            yield row, ranking(*of[row["item"]], tuple(json.loads(row["shown"])), row["rater"], row["kind"],
                               judgement(row), row["propensity"])


def history(db: Connection, rater: str, campaign: int | None, before: int | None, limit: int) -> list[Past]:
    """A rater's answers, newest first."""
    query = (select(answers, items.c.campaign, leases.c.informed.label("told"))
             .join(items, items.c.id == answers.c.item).join(leases, leases.c.token == answers.c.token)
             .where(answers.c.rater == rater, _counting).order_by(answers.c.id.desc()).limit(limit))
    query = query if campaign is None else query.where(items.c.campaign == campaign)
    query = query if before is None else query.where(answers.c.id < before)
    since = _oldest_editable(db, rater)
    rows = db.execute(query).all()
    of = contents_of(db, [row.item for row in rows])
    models = predicting.newest(db, [row.item for row in rows if row.told])
    under = {own: (settings_of(db, own), revealed(db, own)) for own in {row.campaign for row in rows}}
    return [Past(row.id, row.created, *of[row.item], under[row.campaign][0], tuple(json.loads(row.ranks)),
                 bool(row.none_acceptable),
                 row.id >= since and row.kind != "qualification" and not under[row.campaign][1],
                 predicting.as_shown(models.get(row.item), row.shown)) for row in rows]


def given(db: Connection, answer: int, rater: str) -> tuple[RowMapping, Judgement]:
    """The lease of one's own recent answer, and what was said under it."""
    row = _own(db, answer, rater)
    _require_editable(db, row)
    return leased(db, row["token"], rater), judgement(row)


def judgement(row: RowMapping) -> Judgement:
    return Judgement(tuple(json.loads(row["ranks"])), row["strength"], bool(row["none_acceptable"]), row["reason"],
                     row["edited"], row["seconds"], row["guideline"])


def ranking(prompt: Prompt, of: tuple[Response, ...], shown: tuple[int, ...], rater: str, kind: str,
            said: Judgement, propensity: float | None = None) -> Ranking:
    """The judgement in the stored order of the answers."""
    if len(said.ranks) != len(shown):
        raise RequestError(f"ranks: {len(said.ranks)} ranks for {len(shown)} answers")
    place = dict(zip(shown, said.ranks, strict=True))
    return Ranking(prompt, of, tuple(place[i] for i in range(len(of))), rater, said.strength, said.none_acceptable,
                   said.reason, said.edited, shown, said.seconds, said.guideline, kind, propensity=propensity)


def _content(said: Judgement) -> tuple[Any, ...]:
    """What makes two answers the same: a retry may have taken a second longer."""
    return said.ranks, said.strength, said.none_acceptable, said.reason, said.edited


def _check(of: tuple[Prompt, tuple[Response, ...]], lease: RowMapping, said: Judgement) -> None:
    """A ranking's own rules, and what they do not cover, because only raters' input needs it."""
    kind = "normal" if lease["kind"] == "qualification" else lease["kind"]
    made = ranking(*of, tuple(json.loads(lease["shown"])), lease["rater"], kind, said)
    for rank in made.ranks:
        if rank is not None and rank > len(made.ranks):
            raise RequestError(f"ranks: {rank} is beyond the {len(made.ranks)} answers")
    if made.seconds is not None and not (math.isfinite(made.seconds) and made.seconds >= 0):
        raise RequestError(f"seconds: {made.seconds} is not a time")
    for name, text in (("reason", said.reason), ("edited", said.edited), ("guideline", said.guideline)):
        storable(text, name)
