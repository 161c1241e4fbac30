"""The routes of the review queue. What raters read is masked here as it was for them; who rated is not."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any, Literal

from fastapi import FastAPI, Request
from pydantic import Field

from prefloop.errors import RequestError
from prefloop.store import Store
from prefloop.store.cases import Case, Decision, Opinion, Predicted, Review
from prefloop.store.disputing import Ranks, Why
from prefloop.store.reviewing import NOTE, PART, Reviews

from . import bodies, telling
from .assignment import hidden_of
from .names import masked
from .rating_web import Who

REST = 20  # times as long as a sweep took, none is made again: of a large store it reads a lot


class Listed(bodies.Body):
    campaign: str | None = Field(None, max_length=bodies.NAME)
    state: Literal["open", "decided", "dismissed"] = "open"
    why: Literal["disagreement", "model", "flag"] | None = None
    after: int | None = Field(None, ge=1, lt=2**63)


class Which(bodies.Body):
    """A review by its own number, or by its item's."""

    id: int | None = Field(None, ge=1, lt=2**63)
    item: int | None = Field(None, ge=1, lt=2**63)


class Dismissed(bodies.Body):
    id: int = Field(ge=1, lt=2**63)
    note: str = Field("", max_length=NOTE)
    again: bool = False


class Decided(Dismissed):
    """`ranks` in the order in which the answers were listed; `again`: the reviewer saw what was decided before."""

    ranks: list[int | None] = Field(max_length=64)
    none_acceptable: bool = False
    cause: str = Field(max_length=bodies.TOKEN)
    gold: bool = False


class Sweeper:
    """Brings the queue up to date when somebody looks at it, and rests in between."""

    def __init__(self, reviews: Reviews) -> None:
        self._reviews, self._rested, self._turn = reviews, 0.0, threading.Lock()

    def sweep(self) -> None:
        """Nobody waits for a sweep that somebody else began."""
        began = time.monotonic()
        if began < self._rested or not self._turn.acquire(blocking=False):
            return
        try:
            self._reviews.sweep()
            ended = time.monotonic()
            self._rested = ended + REST * (ended - began)
        finally:
            self._turn.release()


def routes(app: FastAPI, store: Store, lead_of: Who) -> None:
    reviews = Reviews(store)
    sweeper = Sweeper(reviews)

    @app.post("/api/lead/reviews")
    def listed(request: Request, body: Listed) -> dict[str, Any]:
        lead_of(request)
        if body.after is None:
            sweeper.sweep()
        found = reviews.listed(body.state, body.campaign, body.why, body.after)
        return {"reviews": list(map(row, found)), "more": len(found) == PART,
                "counts": reviews.waiting(body.campaign),
                "causes": [vars(one) for one in reviews.causes(body.campaign)]}

    @app.post("/api/lead/review")
    def review(request: Request, body: Which) -> dict[str, Any]:
        lead_of(request)
        if (body.id is None) == (body.item is None):
            raise RequestError("id: name a review by its id, or by its item")
        return case(reviews.case(body.id) if body.id is not None else reviews.case_of(body.item or 0))

    @app.post("/api/lead/review/decide")
    def decide(request: Request, body: Decided) -> dict[str, Any]:
        name = lead_of(request)
        order = reviews.order(body.id)
        if len(body.ranks) != len(order):
            raise RequestError(f"ranks: {len(body.ranks)} ranks for {len(order)} answers")
        place = dict(zip(order, body.ranks, strict=True))
        said = Decision(tuple(place[i] for i in range(len(order))), body.cause, body.none_acceptable, body.note,
                        body.gold)
        return {"gold": reviews.decide(body.id, name, said, body.again), "counts": reviews.waiting()}

    @app.post("/api/lead/review/dismiss")
    def dismiss(request: Request, body: Dismissed) -> dict[str, Any]:
        reviews.dismiss(body.id, lead_of(request), body.note, body.again)
        return {"counts": reviews.waiting()}


# -- as JSON ----------------------------------------------------------------------------------------------------------


def row(one: Review) -> dict[str, Any]:
    last = masked([one.prompt.messages[-1].content], hidden_of(one.campaign, one.responses))[0]
    return {"id": one.id, "item": one.item, "campaign": one.campaign.name, "prompt": " ".join(last.split())[:160],
            "state": one.state, "opened": one.opened, "closed": one.closed, "reviewer": one.reviewer,
            "kinds": sorted({why["kind"] for why in one.why}),
            "flags": [flag for why in one.why for flag in why.get("flags", ())],
            "cause": one.decision.cause if one.decision else None}


def case(one: Case) -> dict[str, Any]:
    review, order = one.review, one.order
    hidden = hidden_of(review.campaign, review.responses)
    answers = [review.responses[place].text for place in order]
    return {
        **row(review), "kind": review.kind, "gold_share": review.campaign.gold_share, "note": review.note,
        "why": [_why(why, order) for why in review.why],
        "conversation": [{"role": message.role, "html": telling.html(message.content, hidden, one.pictures)}
                         for message in review.prompt.messages],
        "answers": [{"letter": letter, "html": telling.html(text, hidden), "text": masked([text], hidden)[0]}
                    for letter, text in zip(ascii_uppercase, answers, strict=False)],
        "given": [_opinion(opinion, order) for opinion in one.opinions],
        "flagged": [vars(remark) for remark in one.remarks],
        "models": [_model(model, order) for model in one.models],
        "decision": review.decision and {"ranks": _as_shown(review.decision.ranks, order),
                                         "order": telling.order(_as_shown(review.decision.ranks, order)),
                                         "none_acceptable": review.decision.none_acceptable,
                                         "cause": review.decision.cause, "gold": review.decision.gold}}


def _why(why: Why, order: Sequence[int]) -> dict[str, Any]:
    """Pairs of answers by their letters."""
    letter = {place: ascii_uppercase[at] for at, place in enumerate(order)}
    pairs = [[letter[i] for i in pair] for pair in why.get("pairs", ())]
    return {**why, "pairs": sorted(map(sorted, pairs) if why["kind"] == "disagreement" else pairs)}


def _opinion(one: Opinion, order: Sequence[int]) -> dict[str, Any]:
    ranks = _as_shown(one.ranks, order)
    return {**vars(one), "ranks": ranks, "order": telling.order(ranks)}


def _model(one: Predicted, order: Sequence[int]) -> dict[str, Any]:
    """Its order: the highest score first."""
    scores = [one.scores[place] for place in order]
    places = sorted(set(scores), reverse=True)
    return {"model": one.model, "scores": scores, "spread": one.spread,
            "order": telling.order(tuple(places.index(score) + 1 for score in scores))}


def _as_shown(ranks: Ranks, order: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(ranks[place] for place in order)
