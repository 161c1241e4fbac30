"""What the commands change in a store; a server that holds the store does it for them (control.py)."""

from __future__ import annotations

from typing import Any

from prefloop.errors import RequestError
from prefloop.store import Store
from prefloop.store.accounts import Accounts

from . import campaigns


def invite(store: Store, role: str, purpose: str, name: str | None, hours: float) -> dict[str, Any]:
    return {"token": Accounts(store).invite(role, purpose, name, hours)}


def account(store: Store, action: str, name: str, role: str, password: str) -> dict[str, Any]:
    accounts = Accounts(store)
    if action == "add":
        accounts.add(name, password, role)
    elif action == "disable":
        accounts.disable(name)
    elif action == "enable":
        accounts.enable(name)
    elif action == "sign_out":
        accounts.end_all(name)
    else:
        raise RequestError(f"account.action: {action!r} is not add, disable, enable or sign_out")
    return {}


def campaign(store: Store, several: bool, **settings: Any) -> dict[str, Any]:
    return {"told": campaigns.apply(store, campaigns.CampaignConfig(**settings), several)}


WORKS = {"invite": invite, "account": account, "campaign": campaign}
