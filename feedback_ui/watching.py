"""A thread of the server that looks at raters' work as it comes in, apart from the raters' requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from prefloop.errors import RequestError, RunError
from prefloop.store.watching import Watch

from .lead_quality import Facts

SECONDS = 5.0  # between two looks


def while_served(watch: Watch, facts: Facts) -> Callable[[Any], AbstractAsyncContextManager[None]]:
    """As an app's lifespan. What leads ask for first is made ready at once."""
    over = threading.Event()

    def work() -> None:
        _tried(facts.of)
        while not over.wait(SECONDS):
            _tried(watch.look)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        thread = threading.Thread(target=work, name="watching", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(10)

    return lifespan


def _tried(work: Callable[[], object]) -> None:
    """A look that fails, for the disk is full or the database away, is made again."""
    try:
        work()
    except (RequestError, RunError) as error:
        logging.getLogger(__name__).warning("raters' work was not looked at: %s", error)
