"""`prefloop feedback CONFIG`: queues a campaign's answers and serves the ranking page.

To one person on this machine; or, with `feedback.sign_in`, to everybody who has an account, behind a proxy that speaks
HTTPS.
"""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from prefloop import config
from prefloop.doors import address, listening, loopback
from prefloop.errors import RequestError
from prefloop.store import Store
from prefloop.store.accounts import Accounts
from prefloop.store.opening import place_of

from . import campaigns, control
from .campaigns import CampaignConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

WEEK = 7 * 86400
CONNECTIONS = 10_000  # at once, where the machine allows so many open files


@dataclass(frozen=True)
class FeedbackConfig:
    """`feedback:`. Without sign-in the page is for one person, `rater`, on this machine."""

    store: str = "sqlite:///feedback.db"
    lease_minutes: float = 30
    host: str = "127.0.0.1"
    port: int = 7860
    rater: str = "me"
    sign_in: bool = False
    origin: str = ""
    proxy: str = "127.0.0.1"
    language: str = ""
    files: str = ""

    def __post_init__(self) -> None:
        if not self.sign_in:
            require_local("feedback", self.host, self.port, ", or set feedback.sign_in=true")
        if not 0 <= self.port < 65536:
            raise ValueError(f"feedback.port: {self.port} is not a port")
        if not 1 <= self.lease_minutes * 60 <= WEEK:
            raise ValueError("feedback.lease_minutes: it is a second at least, and a week at most")
        try:
            ip_address(self.proxy)
        except ValueError:
            raise ValueError(f"feedback.proxy: {self.proxy!r} is not an address such as 127.0.0.1") from None
        if not self.rater.strip():
            raise ValueError("feedback.rater: it is empty")
        if self.origin and not self.sign_in:
            raise ValueError("feedback.origin: an address for others needs feedback.sign_in=true")
        if self.sign_in and not self.origin and not loopback(self.host):
            raise ValueError(f"feedback.host: {self.host!r} can be reached from other machines; say by which address, "
                             "such as feedback.origin=https://rate.example.org")
        if self.origin:
            require_origin(self.origin)


def require_origin(origin: str) -> None:
    """Exactly as a browser writes it."""
    try:
        parts = urlsplit(origin)
        written = origin == f"{parts.scheme}://{parts.netloc}" == origin.lower() and "@" not in origin
        found = parts.scheme in ("https", "http") and parts.hostname and parts.port not in (80, 443)
    except ValueError:  # of a bracket that is not closed, or a port that is no number
        written = found = False
    if not written or not found or origin.endswith(":"):
        raise ValueError(f"feedback.origin: {origin!r} is not an address such as https://rate.example.org (small "
                         "letters, no path, no slash at its end)")


def sections() -> config.Sections:
    return {"feedback": config.Section(FeedbackConfig), "campaign": config.Section(CampaignConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    campaign: CampaignConfig
    settings, campaign = config.build(asked, sections())
    refuse(settings, campaign)
    with Store(settings.store) as store:
        if campaign.files:
            print(campaigns.apply(store, campaign, several=settings.sign_in))
        if not store.progress().items:
            if not settings.sign_in:
                raise RequestError(f"{store.place}: {campaigns.NOTHING}")
            print("Nothing to rate yet: a lead makes a campaign on the page /lead.", flush=True)
        serve(store, settings)


def refuse(settings: FeedbackConfig, campaign: CampaignConfig) -> None:
    """What cannot go well, said before a store is made or anything is queued."""
    campaigns.refuse(campaign)
    place = place_of(settings.store)
    if not place.exists() and (campaign.files or not settings.sign_in):
        campaigns.require_items(campaign, place)
    with listening("feedback", settings.host, settings.port):
        pass  # it is free; gradio needs seconds to load, and then it is taken again


def serve(store: Store, settings: FeedbackConfig) -> None:
    """Serves the page until it is stopped. The port is taken first: gradio needs seconds to load."""
    with listening("feedback", settings.host, settings.port) as door, control.answering(store):
        waiting = store.progress(settings.rater)
        print(f"Rank answers at {settings.origin or address(door)} - {waiting.done} of {waiting.wanted} answers are "
              f"in; they are kept in {store.place}."
              f"{f' The proxy finds this server at {address(door)}.' if settings.origin else ''} Ctrl-C stops.",
              flush=True)
        if settings.sign_in and not Accounts(store).count():
            print("Nobody has an account yet: `prefloop feedback invite CONFIG` prints a link by which one is made.",
                  flush=True)
        if settings.origin.startswith("http:") and not loopback(urlsplit(settings.origin).hostname or ""):
            print("Note: without https, passwords and answers cross the network for all to read.", flush=True)

        def app() -> FastAPI:
            from .web import build

            return build(store, settings)

        until_stopped(app, door, settings.proxy if settings.origin else None)
        print(f"Stopped. {store.progress().done} answers are kept in {store.place}.")


def until_stopped(app: Callable[[], FastAPI], door: socket.socket, proxy: str | None = None) -> None:
    """Serves what `app` makes: gradio and its like are loaded only here. `proxy` may say for whom it asks."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    import uvicorn

    # Open pages hold a connection for ever: at the end they get two seconds, not the default's eternity. A proxy keeps
    # a connection for a minute.
    made = uvicorn.Server(uvicorn.Config(app(), log_level="warning", server_header=False, proxy_headers=bool(proxy),
                                         forwarded_allow_ips=proxy or "", limit_concurrency=most_connections(),
                                         timeout_keep_alive=75, timeout_graceful_shutdown=2, lifespan="on"))
    with suppress(KeyboardInterrupt):
        made.run(sockets=[door])


def most_connections() -> int:
    """Each is an open file; some are left for the store and the pages themselves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS)
    if soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(64, max(soft, allowed) - 128)


def require_local(section: str, host: str, port: int, unless: str = "") -> None:
    if not loopback(host):
        raise ValueError(f"{section}.host: {host!r} can be reached from other machines, and there is no sign-in: use "
                         f"127.0.0.1 (and an SSH tunnel from elsewhere){unless}")
    if not 0 <= port < 65536:
        raise ValueError(f"{section}.port: {port} is not a port")
