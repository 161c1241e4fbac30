"""The arena's routes. A prompt's answers come as the lines of one long reply, which ends if the reader goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import Field

from prefloop import wire
from prefloop.errors import RequestError

from . import app as page
from . import bodies, looking, telling
from .arena import Arena
from .bodies import Body
from .child import Child
from .trying import Try
from .web import guarded

MOST_TOKENS = 4096


class Search(Body):
    text: str = Field("", max_length=1000)
    only: looking.Only = "all"
    order: looking.Order = "given"
    against: int = -1
    judge: str = Field("", max_length=1000)
    stratum: str = Field("", max_length=1000)
    set: str = Field("", max_length=1000)


class Look(Body):
    number: int = Field(ge=0)


class Question(Body):
    text: str = Field(max_length=100_000)
    temperature: float = Field(ge=0, le=100)
    max_new_tokens: int = Field(ge=1, le=MOST_TOKENS)
    seed: int = Field(ge=0, lt=2**53)  # what a browser can count to
    blind: bool = True


class Named(Body):
    ask: str = Field(max_length=64)


class NextVote(bodies.Next):
    ask: str | None = Field(None, max_length=64)


def build(arena: Arena) -> FastAPI:
    app = guarded()
    _look_routes(app, arena)
    _vote_routes(app, arena)
    _try_routes(app, arena)
    return page.mount(app, page.arena_page())


# The routes are coroutines: they take turns, so that nothing they share changes under them.


def _look_routes(app: FastAPI, arena: Arena) -> None:
    held_out, child = arena.held_out, arena.child

    @app.get("/api/arena/status")
    async def status() -> dict[str, Any]:
        """What the page's head says. No names: a vote may be open."""
        return {"prompts": len(held_out.prompts), "done": held_out.done, "wanted": held_out.wanted,
                "over_length": held_out.over_length, "checkpoints": len(held_out.contestants),
                "child": asdict(child.health) if child else None, "gave_up": child.gave_up if child else "",
                "defaults": {"temperature": arena.sampling.temperature, "seed": arena.sampling.seed,
                             "max_new_tokens": min(arena.sampling.max_new_tokens, MOST_TOKENS)}}

    @app.post("/api/arena/list")
    async def search(body: Search) -> JSONResponse:
        """A reply of its own: FastAPI's way of looking through a thousand lines takes longer than finding them."""
        if not -len(held_out.contestants) <= body.against < len(held_out.contestants):
            raise RequestError("against: there is no such checkpoint")
        lines = looking.told(held_out, looking.Wish(**body.model_dump()), arena.voting)
        return JSONResponse({
            "lines": [vars(line) for line in lines], "names": [one.name for one in held_out.contestants],
            "judges": looking.judges(held_out), "sets": list(dict.fromkeys(held_out.sets)),
            "strata": sorted({prompt.stratum for prompt in held_out.prompts} - {""})})

    @app.post("/api/arena/look")
    async def look(body: Look) -> dict[str, Any]:
        if body.number >= len(held_out.prompts):
            raise RequestError("number: there is no such prompt")
        arena.voting.look(body.number)
        row = held_out.row(body.number)
        return {"number": body.number, "conversation": held_out.prompts[body.number].chat(),
                "stratum": held_out.prompts[body.number].stratum, "set": held_out.sets[body.number],
                "answers": [{"name": one.name, **(vars(own) if own else {"texts": None})}
                            for one, own in zip(held_out.contestants, row, strict=True)]}


def _vote_routes(app: FastAPI, arena: Arena) -> None:
    """What the ranking widget asks for, as on the rating page; no campaign stands behind these votes."""
    voting = arena.voting

    @app.post("/api/hello")
    async def hello(body: bodies.Nothing) -> dict[str, Any]:
        return {"rater": arena.settings.rater, "role": "rater", "sign_in": False, "language": "en", "campaigns": [],
                "break_minutes": 0}

    @app.post("/api/next")
    async def next_task(body: NextVote) -> dict[str, Any]:
        task = voting.typed(arena.tries.named(body.ask)) if body.ask else voting.next(body.skipped)
        return {"task": task and telling.task(task), "gate": None, "warning": "", "guideline": None,
                "qualification": None, "progress": asdict(voting.progress())}

    @app.post("/api/submit")
    async def submit(body: bodies.Submission) -> dict[str, Any]:
        told = voting.submit(body.token, body.judgement())
        return {**telling.receipt(told.receipt), "progress": asdict(voting.progress()), "lesson": None,
                "writers": told.writers}

    @app.post("/api/skip")
    async def skip(body: bodies.Token) -> dict[str, Any]:
        voting.skip(body.token)
        return {}

    @app.get("/api/arena/standings")
    async def standings() -> dict[str, Any]:
        return {**voting.standings(), "same": voting.same, "seen": voting.looked_away}


def _try_routes(app: FastAPI, arena: Arena) -> None:
    @app.post("/api/arena/ask")
    async def ask(body: Question) -> StreamingResponse:
        if arena.child is None:
            raise RequestError("no checkpoints are loaded; start with arena.runs=[...]")
        one = arena.tries.new(body.text, body.temperature, body.max_new_tokens, body.seed, body.blind)
        names = one.names(arena.tries.contestants) if one.open else None
        return StreamingResponse(_lines(arena, arena.child, one, names), media_type="application/x-ndjson")

    @app.post("/api/arena/reveal")
    async def reveal(body: Named) -> dict[str, Any]:
        """Who wrote what, without a vote: there can be none afterwards."""
        one = arena.tries.named(body.ask)
        one.open = True
        return {"names": one.names(arena.tries.contestants)}


async def _lines(arena: Arena, child: Child, one: Try, names: list[str] | None) -> AsyncIterator[bytes]:
    """The answers as they grow. Whoever stops reading stops the writing."""
    inbox: asyncio.Queue[wire.Piece | wire.Ended | wire.Declined] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def hear(reply: Any) -> None:
        with suppress(RuntimeError):  # the page's process is going down
            loop.call_soon_threadsafe(inbox.put_nowait, reply)

    yield _line({"ask": one.name, "places": len(one.shown), "names": names})
    child.ask(one.request(), hear)
    try:
        while not one.whole:
            reply = await inbox.get()
            if isinstance(reply, wire.Declined):
                yield _line({"error": reply.why})
                return
            if isinstance(reply, wire.Ended):
                one.texts[reply.place] = reply.text
            if isinstance(reply, wire.Ended) or reply.text or reply.whole:
                yield _line({name: value for name, value in asdict(reply).items() if name != "ask"})
        choice = not one.open and len({text for text in one.texts.values() if text.strip()}) > 1
        before = choice and arena.voting.ranked_before(one)
        yield _line({"done": True, "same": len(set(one.texts.values())) == 1, "before": before,
                     "votable": choice and not before})
    finally:
        child.stop(one.name)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
