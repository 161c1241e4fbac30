"""Rankings that were given elsewhere, taken in as answers by their raters: all of a file, or none of it."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, func, insert, select, update

from prefloop.errors import RequestError
from prefloop.formats.losses import dense
from prefloop.records import Answers, Ranking, digest
from prefloop.store import events
from prefloop.store.items import Ready, add, campaign_id, ready, storable
from prefloop.store.pseudonyms import REVIEW, known
from prefloop.store.queue import live
from prefloop.store.schema import answers, items, leases, quarantines
from prefloop.store.store import Store

PART = 500
POLICY = "imported"  # how an item came to its rater


@dataclass(frozen=True)
class Taken:
    """What came of it. `known` said what was there already; `repeats` are second answers of a rater to an item, of
    which the first counts; `gold` are answers to another store's gold items, which are items like all others here.
    `decisions` of reviews are no rater's. `lost` counts what the store cannot hold of answers, by the names of losses.
    """

    answers: int
    items: int
    raters: int
    known: int
    repeats: int
    gold: int
    decisions: int
    lost: Mapping[str, int]


@dataclass(frozen=True)
class Given:
    """A ranking as it will be stored; `where` it stood, such as rankings.csv:7, and what of it is `lost`."""

    where: str
    item: Ready
    ranking: Ranking
    row: dict[str, Any]
    lost: tuple[str, ...]


def take(store: Store, campaign: str, found: Iterable[tuple[str, Ranking]], most: int,
         by: str = events.COMMAND) -> Taken:
    """Every ranking as an answer by its rater in one of the store's campaigns, in one transaction.

    An item has `most` answers at most, and a place for each ranking: its need is raised where it has none. Whoever
    answered it before must have said the same. A pseudonym of this store's is whom it stands for.
    """
    people = known(store)
    given: dict[tuple[str, str], Given] = {}
    counts = {"known": 0, "repeats": 0, "gold": 0, "decisions": 0}
    for where, ranking in found:
        if ranking.rater.startswith(REVIEW) or ranking.kind == "repeat":
            counts["decisions" if ranking.rater.startswith(REVIEW) else "repeats"] += 1
            continue
        one = _given(where, replace(ranking, rater=people.get(ranking.rater, ranking.rater)), most)
        before = given.setdefault((one.item.name, ranking.rater), one)
        if before is not one:
            _require_same(one, before.row)
            counts["known"] += 1
        elif ranking.kind == "gold":
            counts["gold"] += 1

    def work(db: Connection) -> Taken:
        at, own = store.clock(), campaign_id(db, campaign)
        ids, new = add(db, at, by, own, list({one.item.name: one.item for one in given.values()}.values()))
        fresh = _fresh(db, [(ids[one.item.name], one) for one in given.values()])
        _answered(db, at, by, fresh)
        raters = {one.ranking.rater for _, one in fresh}
        return Taken(len(fresh), len(new), len(raters), counts["known"] + len(given) - len(fresh), counts["repeats"],
                     counts["gold"], counts["decisions"], Counter(name for _, one in fresh for name in one.lost))

    return store.write(work)


def queue(store: Store, campaign: str, found: Iterable[tuple[str, Answers | Ranking]], most: int, need: int,
          by: str = events.COMMAND) -> tuple[int, int]:
    """The answers alone, to be ranked by `need` raters: how many items there are of them, and how many are new."""
    rows: dict[str, Ready] = {}
    for where, one in found:
        made = _ready(where, Answers(one.prompt, one.responses), most, need)
        rows.setdefault(made.name, made)
    return len(rows), len(store.write(
        lambda db: add(db, store.clock(), by, campaign_id(db, campaign), list(rows.values()))[1]))


def _ready(where: str, row: Answers, most: int, need: int = 1) -> Ready:
    if len(row.responses) > most:
        raise RequestError(f"{where}: {len(row.responses)} answers; a rater can rank {most} at most; nothing was "
                           "imported")
    try:
        return ready([row], need)[0]
    except RequestError as error:
        raise RequestError(f"{where}: {error}; nothing was imported") from None


def _given(where: str, one: Ranking, most: int) -> Given:
    """Its row, but for the item and what the store gives it; ranks in the order shown, as answers hold them."""
    item = _ready(where, Answers(one.prompt, one.responses), most)
    for name in ("rater", "reason", "edited", "guideline"):
        storable(getattr(one, name), f"{where}: {name}")
    # Where nobody knows the order, one is drawn: files often have the better answer first, and all their raters would
    # seem to favour the first place.
    dice = Random(digest("shown", item.name, one.rater))
    shown = one.shown or tuple(dice.sample(range(len(one.responses)), len(one.responses)))
    beyond = any(rank is not None and rank > len(one.ranks) for rank in one.ranks)
    ranks = dense(one.ranks) if beyond else one.ranks
    row = {"rater": one.rater, "revision": 1, "key": "", "ranks": json.dumps([ranks[place] for place in shown]),
           "shown": json.dumps(shown), "strength": one.strength, "none_acceptable": int(one.none_acceptable),
           "reason": one.reason, "edited": one.edited, "seconds": one.seconds, "guideline": one.guideline,
           "kind": "normal", "surplus": 0}
    lost = ("rank numbers",) * (ranks != one.ranks) + ("dimensions",) * bool(one.dimensions)
    return Given(where, item, replace(one, kind="normal"), row, lost)


def _require_same(one: Given, before: dict[str, Any] | RowMapping) -> None:
    """A rater has one answer to an item."""
    said, there = (_by_answer(row) for row in (one.row, before))
    if said != there:
        raise RequestError(f"{one.where}: column 'ranks': {one.ranking.rater!r} has answered this item before, and "
                           "otherwise; nothing was imported")


def _by_answer(row: dict[str, Any] | RowMapping) -> tuple[Any, ...]:
    ranks = dict(zip(json.loads(row["shown"]), json.loads(row["ranks"]), strict=True))
    return sorted(ranks.items()), row["none_acceptable"], row["strength"], row["reason"], row["edited"]


def _fresh(db: Connection, found: Sequence[tuple[int, Given]]) -> list[tuple[int, Given]]:
    """Those whose rater has not said the same of the item already."""
    there: dict[tuple[int, str], RowMapping] = {}
    for part in _parts(sorted({item for item, _ in found})):
        there |= {(row["item"], row["rater"]): row for row in db.execute(
            select(answers).where(answers.c.item.in_(part), answers.c.retracted.is_(None))).mappings()}
    fresh = []
    for item, one in found:
        before = there.get((item, one.ranking.rater))
        if before is None:
            fresh.append((item, one))
        else:
            _require_same(one, before)
    return fresh


def _answered(db: Connection, at: int, by: str, fresh: Sequence[tuple[int, Given]]) -> None:
    tokens = _leased(db, at, fresh)
    held = set(db.scalars(select(quarantines.c.rater).where(quarantines.c.state == "held")))
    revisions = _revisions(db, fresh)
    filled: dict[int, int] = {}
    last = db.scalar(select(func.max(answers.c.id))) or 0
    rows = []
    for number, (item, one) in enumerate(fresh, start=last + 1):
        excluded = int(one.ranking.rater in held)
        rows.append({**one.row, "id": number, "token": tokens[item, one.ranking.rater], "item": item, "created": at,
                     "retracted": None, "excluded": excluded, "informed": 0,
                     "revision": revisions.get((item, one.ranking.rater), 0) + 1})
        filled[item] = filled.get(item, 0) + 1 - excluded
    if rows:
        db.execute(insert(answers), rows)
        _fill(db, at, by, filled)
    events.kept(db, at, "answers imported", by, answers, rows)
    own = leases.c.token.in_(select(answers.c.token).where(answers.c.id > last))
    events.wrote(db, at, "answers imported", by, leases, own)


def _leased(db: Connection, at: int, fresh: Sequence[tuple[int, Given]]) -> dict[tuple[int, str], str]:
    """The tokens of done leases, which all answers have; one that a rater holds is done now."""
    there: dict[tuple[int, str], str] = {}
    for part in _parts(sorted({item for item, _ in fresh})):
        there |= {(row.item, row.rater): row.token for row in db.execute(
            select(leases.c.item, leases.c.rater, leases.c.token).where(leases.c.item.in_(part)))}
    tokens: dict[tuple[int, str], str] = {}
    new = []
    for item, one in fresh:
        key = (item, one.ranking.rater)
        tokens[key] = there.get(key) or secrets.token_urlsafe(18)
        if key not in there:
            new.append({"item": item, "rater": one.ranking.rater, "token": tokens[key], "shown": one.row["shown"],
                        "state": "done", "issued": at, "expires": at, "policy": POLICY,
                        "propensity": one.ranking.propensity})
    if new:
        db.execute(insert(leases), new)
    taken = [{"of": tokens[item, one.ranking.rater], "seen": one.row["shown"], "chance": one.ranking.propensity}
             for item, one in fresh if (item, one.ranking.rater) in there]
    if taken:
        db.execute(update(leases).where(leases.c.token == bindparam("of"))
                   .values(state="done", shown=bindparam("seen"), policy=POLICY, propensity=bindparam("chance")),
                   taken)
    return tokens


def _revisions(db: Connection, fresh: Sequence[tuple[int, Given]]) -> dict[tuple[int, str], int]:
    """The last revision of answers that were withdrawn."""
    found: dict[tuple[int, str], int] = {}
    for part in _parts(sorted({item for item, _ in fresh})):
        found |= {(row.item, row.rater): row.last for row in db.execute(
            select(answers.c.item, answers.c.rater, func.max(answers.c.revision).label("last"))
            .where(answers.c.item.in_(part)).group_by(answers.c.item, answers.c.rater))}
    return found


def _fill(db: Connection, at: int, by: str, filled: dict[int, int]) -> None:
    """Counts the answers of items, and makes room for them beside whoever is at work on the item."""
    raised: list[int] = []
    for part in _parts(sorted(filled)):
        rows = db.execute(select(items.c.id, items.c.need, items.c.done, live(at).label("live"))
                          .where(items.c.id.in_(part))).all()
        done = {row.id: row.done + filled[row.id] for row in rows}
        places = {row.id: max(row.need, done[row.id] + row.live) for row in rows}
        raised += [row.id for row in rows if places[row.id] > row.need]
        db.execute(update(items).where(items.c.id == bindparam("of"))
                   .values(need=bindparam("places"), done=bindparam("filled")),
                   [{"of": row.id, "places": places[row.id], "filled": done[row.id]} for row in rows])
    for part in _parts(raised):
        events.wrote(db, at, "need raised", by, items, items.c.id.in_(part))


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    return (ids[start:start + PART] for start in range(0, len(ids), PART))
