"""What the commands change in a store; a server that holds the store does it for them (control.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from prefloop.errors import RequestError
from prefloop.store import Store, exports, forgetting
from prefloop.store.accounts import Accounts

from . import campaigns, data_in, data_out


def invite(store: Store, role: str, name: str | None, hours: float) -> dict[str, Any]:
    with _named(store):
        return {"token": Accounts(store).invite(role, "join", name, hours)}


def reset(store: Store, name: str, hours: float) -> dict[str, Any]:
    with _named(store):
        return {"token": Accounts(store).invite("rater", "reset", name, hours)}


def add(store: Store, name: str, role: str, password: str) -> dict[str, Any]:
    with _named(store):
        Accounts(store).add(name, password, role)
    return {}


def account(store: Store, action: str, name: str, role: str) -> dict[str, Any]:
    """Changes one that is there."""
    accounts = Accounts(store)
    with _named(store):
        if action == "disable":
            accounts.disable(name)
        elif action == "enable":
            accounts.enable(name)
        elif action == "sign_out":
            accounts.end_all(name)
        elif action == "role":
            accounts.change_role(name, role)
        else:
            raise RequestError(f"account.action: {action!r} is not known")
    return {}


def campaign(store: Store, several: bool, **settings: Any) -> dict[str, Any]:
    try:
        wanted = campaigns.CampaignConfig(**settings)
    except ValueError as error:
        raise RequestError(str(error)) from None
    return {"told": campaigns.apply(store, wanted, several)}


def exported(store: Store, **said: Any) -> dict[str, Any]:
    exports.exported(store, **said)
    return {}


def forget(store: Store, name: str) -> dict[str, Any]:
    from . import uploads  # which needs what a server needs

    with _named(store):
        done = asdict(forgetting.forget(store, name))
    uploads.sweep(uploads.folder(store), 0)  # they may hold what was deleted
    return done


@contextmanager
def _named(store: Store) -> Iterator[None]:
    """An error says in which store a name is known or not."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{store.place}: {error}") from None


WORKS = {"invite": invite, "reset": reset, "add": add, "account": account, "campaign": campaign, "exported": exported,
         "forget": forget, "export": data_out.export, "import": data_in.work}
MAKING = ("campaign",)  # this makes a store where there is none; elsewhere a path that is not there is mistyped
