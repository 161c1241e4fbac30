"""`prefloop feedback invite CONFIG`: a link by which one person makes an account, or sets a new password."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefloop import config
from prefloop.errors import RequestError

from . import control, server
from .server import FeedbackConfig


@dataclass(frozen=True)
class InviteConfig:
    """`invite:`. The link works once. Only its digest is kept, so it cannot be shown again."""

    role: Literal["rater", "lead", "admin"] = "rater"
    purpose: Literal["join", "reset"] = "join"
    name: str | None = None
    hours: float = 72

    def __post_init__(self) -> None:
        if self.purpose == "reset" and not self.name:
            raise ValueError("invite.name: whose password is to be set anew?")
        if not 0 < self.hours <= 24 * 90:
            raise ValueError("invite.hours: it is above 0, and at most 90 days")


def sections() -> config.Sections:
    return {**server.sections(), "invite": config.Section(InviteConfig)}


def main(asked: config.Asked) -> None:
    settings: FeedbackConfig
    wanted: InviteConfig
    settings, _, wanted = config.build(asked, sections())
    require_sign_in(settings)
    if not settings.origin and not settings.port:
        raise RequestError("feedback.port: 0 is any that is free; name the one at which the page is served")
    if wanted.purpose == "join":
        made = control.perform(settings.store, "invite", role=wanted.role, name=wanted.name, hours=wanted.hours)
    else:
        made = control.perform(settings.store, "reset", name=wanted.name, hours=wanted.hours)
    home = settings.origin or f"http://{settings.host}:{settings.port}"
    # After the #, where browsers keep it to themselves: no proxy and no log sees it.
    print(f"{home}/{wanted.purpose}#t={made['token']}")


def require_sign_in(settings: FeedbackConfig) -> None:
    if not settings.sign_in:
        raise RequestError("feedback.sign_in is false, so nobody needs an account; set it in the config that the "
                           "server is started with")
