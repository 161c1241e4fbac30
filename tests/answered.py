"""A store with many answers, made in seconds: rows straight in, as the queue would have left them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, update

from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Store, schema

STRATA = ("maths", "code", "letters", "small talk")
DAY = 86400


def filled(path: Path, answers: int, raters: int = 50, each: int = 3, begun: int = 1_700_000_000) -> None:
    """`answers` to items of four that `each` raters share; raters agree with what is better three times in four."""
    dice = random.Random(8)
    with Store(f"sqlite:///{path}", seed=1, clock=lambda: begun) as store:
        store.add_items([_item(number) for number in range(-(-answers // each))], need=each)

        def work(db: Any) -> None:
            ids = db.scalars(select(schema.items.c.id).order_by(schema.items.c.id)).all()
            for n, stratum in enumerate(STRATA):
                db.execute(update(schema.items).where(schema.items.c.id % len(STRATA) == n).values(stratum=stratum))
            rows = [_answer(n, ids[n // each], n % each, raters, begun + n * 30 * DAY // answers, dice)
                    for n in range(answers)]
            db.execute(insert(schema.leases), [
                {name: row[name] for name in ("item", "rater", "token", "shown")} | {
                    "state": "done", "policy": "queued", "issued": row["created"] - 60, "expires": row["created"]}
                for row in rows])
            db.execute(insert(schema.answers), rows)
            db.execute(update(schema.items).values(done=each))

        store.write(work)


def _item(number: int) -> Answers:
    return Answers(Prompt((Message("user", f"question {number}"),)),
                   tuple(Response(f"answer {number}.{place}", "runs/some-policy") for place in range(4)))


def _answer(number: int, item: int, nth: int, raters: int, at: int, dice: random.Random) -> dict[str, Any]:
    shown = dice.sample(range(4), 4)
    scores = [place + dice.gauss(0, 2) for place in shown]
    ranks = [1 + sum(other < own for other in scores) for own in scores]
    return {"item": item, "rater": f"rater {(item + nth * 7) % raters:03}", "token": f"t{number}", "revision": 1,
            "key": f"k{number}", "ranks": json.dumps(ranks), "shown": json.dumps(shown), "none_acceptable": 0,
            "reason": "", "edited": "", "seconds": round(dice.lognormvariate(3.5, 0.5), 1), "guideline": "",
            "kind": "normal", "surplus": 0, "excluded": 0, "informed": 0, "created": at}
