"""What stands between a rater and a campaign's items: its list of raters, its warning, its guideline, its test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, func, insert, select

from prefloop.errors import RequestError
from prefloop.records import decided, digest
from prefloop.store import events
from prefloop.store.items import settings_of
from prefloop.store.records import Campaign, Guideline, Lesson, Qualification
from prefloop.store.schema import (
    acknowledgements,
    answers,
    campaigns,
    golds,
    guidelines,
    items,
    quarantines,
    verdicts,
    warnings,
)

ALIKE = 0.8  # of the pairs that a key decides: one neighbour out of place among four answers is still right


def gate(db: Connection, rater: str, campaign: int, settings: Campaign) -> str | None:
    """Why this rater gets nothing of this campaign yet, or for good; None if nothing stands in the way."""
    if not settings.admits(rater):
        return "not_admitted"
    if quarantined(db, rater):
        return "quarantined"
    if db.scalar(select(campaigns.c.state).where(campaigns.c.id == campaign)) != "open":
        return "paused"
    if settings.warning and not _accepted(db, rater, campaign, settings.warning):
        return "warning"
    current = guideline(db, rater, campaign)
    if current is not None and not current.acknowledged:
        return "guideline"
    return "failed" if qualification(db, rater, campaign, settings).state == "failed" else None


def quarantined(db: Connection, rater: str) -> bool:
    """Whether this rater's answers are held back (quarantining.py)."""
    return db.scalar(select(quarantines.c.id).where(quarantines.c.rater == rater, quarantines.c.state == "held",
                                                    quarantines.c.closed.is_(None))) is not None


def _accepted(db: Connection, rater: str, campaign: int, warning: str) -> bool:
    return bool(db.scalar(select(warnings.c.accepted).where(
        warnings.c.rater == rater, warnings.c.campaign == campaign, warnings.c.version == digest(warning))
        .order_by(warnings.c.id.desc()).limit(1)))


def answer_warning(db: Connection, at: int, rater: str, campaign: int, accepted: bool) -> None:
    text = settings_of(db, campaign).warning
    made = db.execute(insert(warnings).values(rater=rater, campaign=campaign, version=digest(text),
                                              accepted=int(accepted), at=at)).inserted_primary_key
    assert made is not None
    events.wrote(db, at, "warning accepted" if accepted else "warning declined", rater, warnings,
                 warnings.c.id == made[0])


# -- guidelines -------------------------------------------------------------------------------------------------------


def guideline(db: Connection, rater: str, campaign: int) -> Guideline | None:
    """The one in force, if there is one."""
    last = db.execute(select(guidelines).where(guidelines.c.campaign == campaign)
                      .order_by(guidelines.c.number.desc()).limit(1)).first()
    if last is None or not last.text:
        return None
    seen = db.scalar(select(func.max(acknowledgements.c.number)).where(
        acknowledgements.c.rater == rater, acknowledgements.c.campaign == campaign)) or 0
    return Guideline(last.version, last.number, last.text, seen == last.number, 0 < seen < last.number)


def acknowledge(db: Connection, at: int, rater: str, campaign: int, version: str) -> None:
    current = guideline(db, rater, campaign)
    if current is None or current.version != version:
        raise RequestError("version: the guideline has changed meanwhile; read the newest")
    if current.acknowledged:
        return
    db.execute(insert(acknowledgements).values(rater=rater, campaign=campaign, number=current.number, version=version,
                                               at=at))
    own = acknowledgements.c
    events.wrote(db, at, "guideline acknowledged", rater, acknowledgements, (own.rater == rater)
                 & (own.campaign == campaign) & (own.number == current.number))


def acknowledged(db: Connection, rater: str, campaign: int) -> str:
    """The version that this rater works by; "" is none."""
    return db.scalar(select(acknowledgements.c.version).where(
        acknowledgements.c.rater == rater, acknowledgements.c.campaign == campaign)
        .order_by(acknowledgements.c.number.desc()).limit(1)) or ""


# -- the qualification round ------------------------------------------------------------------------------------------


def qualification(db: Connection, rater: str, campaign: int, settings: Campaign) -> Qualification:
    """Of the items that are part of the round today, those this rater answered, and how many of them well.

    Once a round is finished its verdict holds, also when the round is changed.
    """
    needed = db.scalar(select(func.count()).select_from(golds).join(items, items.c.id == golds.c.item).where(
        items.c.campaign == campaign, items.c.kind == "qualification", golds.c.retired == 0)) or 0
    if not needed:
        return Qualification(0, 0, 0, "none")
    kept = db.execute(select(verdicts).where(verdicts.c.rater == rater, verdicts.c.campaign == campaign)).first()
    if kept is not None:
        return Qualification(kept.needed, kept.needed, kept.right, kept.state)
    rows = db.execute(select(answers.c.ranks, answers.c.shown, answers.c.none_acceptable, golds.c.ranks.label("key"),
                             golds.c.none_acceptable.label("key_none"))
                      .join(golds, golds.c.item == answers.c.item).join(items, items.c.id == answers.c.item)
                      .where(answers.c.rater == rater, answers.c.retracted.is_(None), golds.c.retired == 0,
                             items.c.campaign == campaign, items.c.kind == "qualification")).all()
    right = sum(map(is_right, rows))
    state = "open" if len(rows) < needed else "passed" if right >= settings.qualification_pass * needed else "failed"
    return Qualification(needed, len(rows), right, state)


def conclude(db: Connection, at: int, rater: str, campaign: int, settings: Campaign) -> None:
    """Keeps the verdict if that was the last item of the round."""
    found = qualification(db, rater, campaign, settings)
    own = (verdicts.c.rater == rater) & (verdicts.c.campaign == campaign)
    if found.state in ("passed", "failed") and db.execute(select(verdicts.c.at).where(own)).first() is None:
        db.execute(insert(verdicts).values(rater=rater, campaign=campaign, needed=found.needed, right=found.right,
                                           state=found.state, at=at))
        events.wrote(db, at, f"qualification {found.state}", rater, verdicts, own)


def lesson(db: Connection, answer: int, rater: str) -> Lesson | None:
    """What there is to learn from one's own answer of the qualification round; None of any other answer."""
    row = db.execute(select(answers, golds.c.ranks.label("right"), golds.c.none_acceptable.label("key_none"),
                            golds.c.explanation).join(golds, golds.c.item == answers.c.item)
                     .where(answers.c.id == answer, answers.c.rater == rater,
                            answers.c.kind == "qualification")).first()
    if row is None:
        return None
    key = _as_shown(row.right, row.shown)
    return Lesson(_right(json.loads(row.ranks), bool(row.none_acceptable), key, bool(row.key_none)), tuple(key),
                  row.explanation)


def _as_shown(key: str, shown: str) -> list[int | None]:
    stored = json.loads(key)
    return [stored[place] for place in json.loads(shown)]


def is_right(row: Any) -> bool:
    """Whether an answer, with `ranks`, `shown` and `none_acceptable`, matches the item's `key` and `key_none`."""
    return _right(json.loads(row.ranks), bool(row.none_acceptable), _as_shown(row.key, row.shown), bool(row.key_none))


def _right(ranks: Sequence[int | None], none_acceptable: bool, key: Sequence[int | None], key_none: bool) -> bool:
    share = agreement(ranks, key)
    return none_acceptable == key_none if share is None else share >= ALIKE


def agreement(ranks: Sequence[int | None], key: Sequence[int | None]) -> float | None:
    """The share of the pairs that `key` decides which `ranks` decides alike; a tie is half. None: it decides none."""
    right, said = decided(key), set(decided(ranks))
    if not right:
        return None
    return sum(1.0 if pair in said else 0.0 if pair[::-1] in said else 0.5 for pair in right) / len(right)
