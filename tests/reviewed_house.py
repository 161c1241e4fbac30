"""For tests of the review queue: a store in which items wait for a review; what people wrote is hostile."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import insert, select

from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Campaign, Judgement, Lease, Store
from prefloop.store.schema import items, predictions

POLICY = "runs/secret-policy"
HOSTILE = "<img src=x onerror=alert(1)>\u202eecived <b>bold</b>"
NOTE, REASON = f"flagged {HOSTILE}", f"reasoned {HOSTILE}"
STUDY = Campaign("study", "What is clearer?", gold_share=1.0, repeats=0)
MODEL = "runs/reward/9"


def waiting(store: Store) -> None:
    """Three items: one that raters disagree on, one that a model contradicts, and one that is flagged."""
    store.apply(STUDY, "Clear beats long.", need=3, rows=[
        asked("disputed", f"**{POLICY}** says so {HOSTILE}", "middling", "long " * 300),
        asked("contradicted", "one", "two"), asked("flagged", "three", "four")])
    for rater, ranks, reason in (("ann", (1, 2, 3), REASON), ("bob", (3, 2, 1), ""), ("cy", (1, 2, 2), "short")):
        answered(store, rater, "disputed", ranks, reason)
    answered(store, "ann", "contradicted", (1, 2), "")
    predicted(store, "contradicted", (0.0, 4.0))
    lease = leased(store, "bob", "flagged")
    store.flag(lease.token, "bob", "unsafe", NOTE)
    store.release(lease.token, "bob")


def asked(question: str, *texts: str) -> Answers:
    return Answers(Prompt((Message("user", f"{question}: which is clearer?"),)),
                   tuple(Response(text, POLICY) for text in texts))


def leased(store: Store, rater: str, question: str) -> Lease:
    """What stands before it in the queue is put aside, and comes back later."""
    while lease := store.lease(rater, 600):
        if lease.prompt.messages[0].content.startswith(question):
            return lease
        store.release(lease.token, rater)
    while lease := store.lease(rater, 600, skipped=True):
        if lease.prompt.messages[0].content.startswith(question):
            return lease
        store.release(lease.token, rater)
    raise AssertionError(f"{rater} cannot get {question}")


def answered(store: Store, rater: str, question: str, ranks: Sequence[int | None], reason: str) -> None:
    lease = leased(store, rater, question)
    version = store.guideline(rater, "study")
    assert version is not None
    store.acknowledge(rater, "study", version.version)
    store.submit(lease.token, rater, Judgement(tuple(ranks), reason=reason, seconds=12.0))


def item_of(store: Store, question: str) -> int:
    with store.reading() as db:
        found = db.scalars(select(items.c.id).where(items.c.kind == "normal").order_by(items.c.id)).all()
    return found[("disputed", "contradicted", "flagged").index(question)]


def predicted(store: Store, question: str, scores: Sequence[float]) -> None:
    own = item_of(store, question)
    store.write(lambda db: db.execute(insert(predictions).values(item=own, model=MODEL, scores=json.dumps(scores),
                                                                 spread=0.2, at=store.clock())))
