"""`prefloop feedback CONFIG`: queues answers and serves the ranking page to one person on this machine."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop import config
from prefloop.doors import address, listening, loopback
from prefloop.errors import RequestError
from prefloop.store import Store
from prefloop.store.opening import path_of

from .queueing import queue

if TYPE_CHECKING:
    from fastapi import FastAPI


@dataclass(frozen=True)
class FeedbackConfig:
    """`feedback:`. `answers` are files that `prefloop generate` wrote, queued before serving (once, however often)."""

    store: str = "sqlite:///feedback.db"
    answers: tuple[str, ...] | str = ()
    scores: str | None = None
    raters_per_item: int = 1
    lease_minutes: float = 30
    host: str = "127.0.0.1"
    port: int = 7860
    rater: str = "me"
    guideline: str = ""
    sign_in: bool = False
    language: str = "en"

    def __post_init__(self) -> None:
        require_local("feedback", self.host, self.port)
        if self.raters_per_item < 1 or self.lease_minutes * 60 < 1:
            raise ValueError("feedback.raters_per_item is at least 1, feedback.lease_minutes at least a second")
        if not self.rater.strip():
            raise ValueError("feedback.rater: it is empty")
        if not isinstance(self.answers, str) and not all(isinstance(one, str) for one in self.answers):
            raise ValueError(f"feedback.answers: {list(self.answers)} are not names of files")

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(map(Path, (self.answers,) if isinstance(self.answers, str) else self.answers))


def sections() -> config.Sections:
    return {"feedback": config.Section(FeedbackConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    (settings,) = config.build(asked, sections())
    refuse(settings)
    with Store(settings.store) as store:
        for path in settings.files:
            found = queue(store, path, settings.raters_per_item, Path(settings.scores) if settings.scores else None)
            print(f"{path}: {found.new} items queued, {found.known} queued before, {found.alone} left out (fewer than "
                  "two distinct answers)")
        if not store.progress().items:
            raise RequestError(f"{store.path}: nothing to rate; name a file of answers, such as "
                               "feedback.answers=runs/generate/answers.jsonl")
        serve(store, settings)


def refuse(settings: FeedbackConfig) -> None:
    """What cannot go well, said before a store is made or anything is queued."""
    for path in settings.files:
        if not path.is_file():
            raise RequestError(f"feedback.answers: there is no file {path}; `prefloop generate` makes one")
    if not settings.files and not path_of(settings.store).exists():
        raise RequestError(f"{path_of(settings.store)}: nothing to rate; name a file of answers, such as "
                           "feedback.answers=runs/generate/answers.jsonl")
    with listening("feedback", settings.host, settings.port):
        pass  # it is free; gradio needs seconds to load, and then it is taken again


def serve(store: Store, settings: FeedbackConfig) -> None:
    """Serves the page until it is stopped. The port is taken first: gradio needs seconds to load."""
    with listening("feedback", settings.host, settings.port) as door:
        waiting = store.progress(settings.rater)
        print(f"Rank answers at {address(door)} - {waiting.done} of {waiting.wanted} answers are in; they are kept in "
              f"{store.path}. Ctrl-C stops.", flush=True)

        def app() -> FastAPI:
            from .web import build

            return build(store, settings)

        until_stopped(app, door)
        print(f"Stopped. {store.progress().done} answers are kept in {store.path}.")


def until_stopped(app: Callable[[], FastAPI], door: socket.socket) -> None:
    """Serves what `app` makes: gradio and its like are loaded only here."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import uvicorn

    # Open pages hold a connection for ever: at the end they get two seconds, not the default's eternity.
    made = uvicorn.Server(uvicorn.Config(app(), log_level="warning", server_header=False,
                                         timeout_graceful_shutdown=2, lifespan="on"))
    with suppress(KeyboardInterrupt):
        made.run(sockets=[door])


def require_local(section: str, host: str, port: int) -> None:
    if not loopback(host):
        raise ValueError(f"{section}.host: {host!r} can be reached from other machines, and this page has no "
                         "sign-in yet; use 127.0.0.1 (and an SSH tunnel from elsewhere)")
    if not 0 <= port < 65536:
        raise ValueError(f"{section}.port: {port} is not a port")
