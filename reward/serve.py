"""`prefloop serve`: a reward model over HTTP, so that other trainers can use it as a remote reward.

    POST /score   {"prompts": [a text, or a list of {role, content}; ...], "answers": [text, ...]}
              ->  {"scores": [...], "rewards": the same, "spreads": [...], "objectives": {name: [...]}, "model": ...}
    GET  /health  {"status": "ok", "model": its checksum, "kind": "encoder"}

Instead of `answers`, `query` may hold prompt and answer in one text, as OpenRLHF's --remote_rm_url sends them; it
reads `rewards`. What is wrong is told as {"error": one line} with a status of 4xx. Rows of one request are scored
together; requests take turns, and beyond `waiting` of them are told to come again.
"""

from __future__ import annotations

import hmac
import json
import math
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from prefloop import config, doors, models, scoring
from prefloop.errors import RequestError, RunError
from prefloop.records import Prompt

from .score import prompt_of

HOSTS = ("127.0.0.1", "localhost", "[::1]")
ENDS = ["<|im_end|>", "<|eot_id|>", "<|endoftext|>", "</s>"]


@dataclass(frozen=True)
class ServeConfig:
    """`serve:`. Without a token only this machine is served. Limits are of one request."""

    host: str = "127.0.0.1"
    port: int = 7862
    token_file: str = ""
    batch: int = 32
    rows: int = 1024
    mebibytes: int = 16
    waiting: int = 16
    ends: list[str] = field(default_factory=lambda: list(ENDS))

    def __post_init__(self) -> None:
        if not doors.loopback(self.host) and not self.token_file:
            raise ValueError(f"serve.host: {self.host!r} can be reached from other machines; name a file that holds a "
                             "secret, serve.token_file, or use 127.0.0.1 (and an SSH tunnel from elsewhere)")
        if not 0 <= self.port < 65536:
            raise ValueError(f"serve.port: {self.port} is not a port")
        if min(self.batch, self.rows, self.mebibytes, self.waiting) < 1:
            raise ValueError("serve.batch, rows, mebibytes and waiting are at least 1")

    def token(self) -> bytes:
        if not self.token_file:
            return b""
        try:
            found = Path(self.token_file).read_bytes().strip()
        except OSError as error:
            raise RequestError(f"serve.token_file: {self.token_file}: {error.strerror}") from None
        if len(found) < 16 or not found.isascii():
            raise RequestError(f"serve.token_file: {self.token_file}: expected at least 16 plain characters, such as "
                               "`openssl rand -hex 32` makes")
        return found


def sections() -> config.Sections:
    return {"model": config.Section(models.ModelConfig), "serve": config.Section(ServeConfig)}


def main(asked: config.Asked) -> None:
    model_config, settings = config.build(asked, sections())
    token = settings.token()
    with doors.listening("serve", settings.host, settings.port) as door:  # first: loading takes its time
        found = models.resolve(model_config.path, model_config.revision)
        kind = models.require_reward(found)
        judge = Judge(scoring.load(found, model_config), settings, {"model": found.checksum, "kind": kind})
        print(f"Scores at {doors.address(door)}/score by {found.path} ({kind}, checksum {found.checksum[:12]}). "
              "Ctrl-C stops.", flush=True)
        server = uvicorn.Server(uvicorn.Config(build(judge, settings, token), log_level="warning",
                                               server_header=False, timeout_graceful_shutdown=10))
        with suppress(KeyboardInterrupt):
            server.run(sockets=[door])
        print("Stopped.")


class Refused(Exception):
    """A request that gets no scores: a status, and why in a line."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Judge:
    """The model, asked by one request at a time."""

    def __init__(self, scorer: scoring.Scorer, settings: ServeConfig, about: dict[str, str]) -> None:
        self.scorer, self.settings, self.about = scorer, settings, about
        self._turn, self._places = threading.Lock(), threading.BoundedSemaphore(settings.waiting)

    def reply(self, body: bytes) -> dict[str, Any]:
        """What a request's body gets; Refused says why not."""
        asked = parsed(body, self.settings)
        if not self._places.acquire(blocking=False):
            raise Refused(503, f"busy: {self.settings.waiting} requests are waiting; come again")
        try:
            with self._turn:
                found = self.scorer.score(asked, self.settings.batch)
        except RequestError as error:
            raise Refused(422, str(error)) from None
        except RunError as error:
            raise Refused(503, str(error)) from None
        finally:
            self._places.release()
        scores = found.mean_N.tolist()
        if not all(map(math.isfinite, scores)):
            raise Refused(500, "the model gave scores that are not finite; it is damaged")
        by_name = zip(self.scorer.objectives, found.objectives_ND.T.tolist(), strict=True)
        return {"scores": scores, "rewards": scores, "spreads": found.spread_N.tolist(), "objectives": dict(by_name),
                "model": self.about["model"]}


def parsed(body: bytes, settings: ServeConfig) -> list[tuple[Prompt, str]]:
    """The prompts of a request with their answers."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"not JSON: {error}") from None
    keys = ("prompts", "answers") if isinstance(told, dict) and "answers" in told else ("prompts", "query")
    if not isinstance(told, dict) or not all(isinstance(told.get(key), list) for key in keys):
        raise Refused(422, 'expected {"prompts": [...], "answers": [...]}')
    prompts, texts = (told[key] for key in keys)
    if len(prompts) != len(texts) or not texts:
        raise Refused(422, f"{len(prompts)} prompts and {len(texts)} {keys[1]}: as many are needed, and one at least")
    if len(texts) > settings.rows:
        raise Refused(413, f"{len(texts)} rows, and a request may bring {settings.rows} (serve.rows)")
    asked = []
    for row, (said, text) in enumerate(zip(prompts, texts, strict=True)):
        try:
            if not isinstance(text, str):
                raise RequestError(f"{keys[1]}: expected a text, got {type(text).__name__}")
            asked.append((prompt_of(said), text if keys[1] == "answers" else after(said, text, settings.ends)))
        except (RequestError, KeyError, TypeError, AttributeError, ValueError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise Refused(422, f"row {row}: {why}") from None
    return asked


def after(prompt: object, query: str, ends: list[str]) -> str:
    """The answer in a text that begins with its prompt, without the tokens that end a turn."""
    if not isinstance(prompt, str) or not query.startswith(prompt):
        raise RequestError("query: it does not begin with its prompt; send answers")
    answer = query[len(prompt) :].rstrip()
    while end := next((one for one in ends if one and answer.endswith(one)), ""):  # templates may write several
        answer = answer.removesuffix(end).rstrip()
    return answer


def build(judge: Judge, settings: ServeConfig, token: bytes) -> FastAPI:
    # FastAPI's own documentation pages load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok", **judge.about}

    @app.post("/score")
    async def score(request: Request) -> Any:
        try:
            admit(request, settings, token)
            return JSONResponse(await run_in_threadpool(judge.reply, await request.body()))
        except Refused as error:
            return JSONResponse({"error": " ".join(str(error).split())[:500]}, error.status)
        except ClientDisconnect:
            return JSONResponse({"error": "gone"}, 499)
        except Exception as error:
            traceback.print_exc()
            return JSONResponse({"error": f"{type(error).__name__}; the server's own output says more"}, 500)

    @app.exception_handler(HTTPException)
    async def elsewhere(_: Request, error: HTTPException) -> Any:
        return JSONResponse({"error": "POST /score or GET /health"}, error.status_code)

    return app


def admit(request: Request, settings: ServeConfig, token: bytes) -> None:
    """Who may ask, and how much they may send: said before the body is read."""
    headers = request.headers
    host = headers.get("host", "")
    if token:
        given = headers.get("authorization", "").removeprefix("Bearer ").encode("utf-8", "replace")
        if not hmac.compare_digest(given, token):
            raise Refused(401, "expected the header `Authorization: Bearer TOKEN`")
    elif not {host, host.rpartition(":")[0]} & {*HOSTS, settings.host}:
        raise Refused(421, "without a token it answers only to this machine's own address")
    if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise Refused(415, "send JSON (content-type: application/json)")  # no other page's form can
    length = headers.get("content-length", "")
    # With a transfer-encoding the body ends where it says itself, whatever its length is said to be.
    if "transfer-encoding" in headers or not (length.isascii() and length.isdigit()):
        raise Refused(411, "say how long the request is (content-length, and no transfer-encoding)")
    if len(length) > 20 or int(length) > settings.mebibytes * 2**20:
        raise Refused(413, f"more than {settings.mebibytes} MiB (serve.mebibytes)")
