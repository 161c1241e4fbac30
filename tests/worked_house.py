"""For the dashboard's bench and tests: a store as raters leave it after so many answers, written at once.

Answers are written into the tables themselves, not through the queue: 100,000 take seconds. Items have strata that are
harder or easier, some go to three raters, gold comes in between, and the guideline changes halfway and helps.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, update

from prefloop.records import Answers, Message, Prompt, Ranking, Response
from prefloop.store import Campaign, Store
from prefloop.store.schema import answers, choices, golds, guidelines, items, leases

STRATA = {"maths": 0.5, "code": 0.7, "writing": 1.3, "safety": 0.9, "advice": 1.6}  # how much raters' views differ
NAME = "november"
DAY = 86400


@dataclass(frozen=True)
class Rater:
    """`noise` is the spread of what they see around what is so; who has none of either clicks at random."""

    name: str
    noise: float
    first: float = 0.0  # added to what stands first
    at_random: bool = False


def raters(count: int, seed: int = 0) -> list[Rater]:
    drawn = random.Random(seed)
    return [Rater(f"rater {number:02}", drawn.uniform(0.3, 1.2), drawn.choice((0, 0, 0, 0.6)), number % 12 == 7)
            for number in range(count)]


def row(number: int, drawn: random.Random, kind: str = "question") -> Answers:
    stratum = drawn.choice(list(STRATA))
    prompt = Prompt((Message("user", f"{kind} {number} about {stratum}"),), stratum=stratum)
    size = drawn.choice((2, 3, 4))
    return Answers(prompt, tuple(Response(f"answer {n} to {number}", "runs/policy") for n in range(size)))


def worked(store: Store, wanted: int, people: Sequence[Rater], days: int = 60, seed: int = 0) -> None:
    """So many answers over the last days, by these raters; a tenth of the items stays open."""
    drawn = random.Random(seed)
    gold = [Ranking(one.prompt, one.responses, tuple(range(1, len(one.responses) + 1)), "us")
            for one in (row(number, drawn, "gold") for number in range(60))]
    rows = [row(number, drawn) for number in range(int(wanted / 1.2))]
    three = set(drawn.sample(range(len(rows)), len(rows) // 10))
    need = {one.prompt.id: 3 if number in three else 1 for number, one in enumerate(rows)}
    store.apply(Campaign(NAME, "November: is it true?", gold_share=0.1), "Be true.", gold=gold, rows=rows,
                need=lambda one: need[one.prompt.id])
    store.apply(Campaign(NAME, "November: is it true?", gold_share=0.1), "Be true. Of two that are true, the shorter.")
    with store.reading() as db:
        versions = db.scalars(select(guidelines.c.version).where(guidelines.c.version != "").order_by(
            guidelines.c.number)).all()
        known = [dict(one) for one in db.execute(
            select(items.c.id, items.c.kind, items.c.need, items.c.stratum, golds.c.ranks.label("key"),
                   func.count(choices.c.place).label("size"))
            .outerjoin(golds).join(choices, choices.c.item == items.c.id)
            .group_by(items.c.id, items.c.kind, items.c.need, items.c.stratum, golds.c.ranks)).mappings()]
    made = list(_given(known, wanted, people, versions, days, drawn))
    done: dict[int, int] = {}
    for one in made:
        done[one["item"]] = done.get(one["item"], 0) + (one["kind"] == "normal")

    def work(db: Any) -> None:
        db.execute(insert(leases), [{name: one[name] for name in ("item", "rater", "token", "shown")} | {
            "state": "done", "issued": one["created"], "expires": one["created"]} for one in made])
        db.execute(insert(answers), made)
        for count in (1, 2, 3):
            own = [item for item, have in done.items() if have == count]
            for start in range(0, len(own), 500):
                db.execute(update(items).where(items.c.id.in_(own[start:start + 500])).values(done=count))

    store.write(work)


def _given(known: Sequence[dict[str, Any]], wanted: int, people: Sequence[Rater], versions: Sequence[str], days: int,
           drawn: random.Random) -> Iterator[dict[str, Any]]:
    """The answers' rows, oldest first."""
    normal = [(one, who) for one in known if one["kind"] == "normal"
              for who in drawn.sample(range(len(people)), one["need"])]
    key = [(one, who) for one in known if one["kind"] == "gold" for who in range(len(people))]
    drawn.shuffle(normal)
    key = drawn.sample(key, min(len(key), wanted // 10))
    every = normal[:wanted - len(key)] + key
    drawn.shuffle(every)
    now, busy = int(time.time()), [drawn.uniform(0.4, 1.6) * (0.2 if n % 7 > 4 else 1) for n in range(days)]
    at = sorted(drawn.choices(range(days), busy, k=len(every)))
    for number, (item, who) in enumerate(every):
        part = number / len(every)
        yield {"id": number + 1, "token": f"t{number}", "item": item["id"], "revision": 1, "key": "",
               **_said(item, people[who], part, drawn), "none_acceptable": 0, "reason": "", "edited": "",
               "seconds": round(drawn.lognormvariate(3.6, 0.5), 1), "guideline": versions[part > 0.5],
               "kind": item["kind"], "surplus": 0,
               "created": now - (days - at[number]) * DAY + int(DAY * drawn.random())}


def _said(item: dict[str, Any], rater: Rater, part: float, drawn: random.Random) -> dict[str, Any]:
    of = random.Random(item["id"])  # what is so of this item: of the first answer most
    size = item["size"]
    worth = [-n if item["key"] else of.gauss(0, 1) for n in range(size)]
    shown = drawn.sample(range(size), size)
    noise = rater.noise * STRATA[item["stratum"]] * (1.0 if part < 0.5 else 0.6)
    seen = [drawn.random() if rater.at_random else worth[place] + drawn.gauss(0, noise) for place in shown]
    seen[0] += rater.first
    ranks = [1 + sum(other > own for other in seen) for own in seen]
    if drawn.random() < 0.08:
        ranks = [min(rank, 2) for rank in ranks]
    return {"rater": rater.name, "shown": json.dumps(shown), "ranks": json.dumps(ranks)}
