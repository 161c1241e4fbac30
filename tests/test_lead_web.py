"""The lead's page: whom it is for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Mount
from starlette.testclient import TestClient

from prefloop.feedback_ui import guard, server
from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Store
from prefloop.store.accounts import Accounts

HOME = "https://rate.example.org"
PASSWORD = "a long and quiet sentence"
PAGES = ("/lead", "/lead.css", "/lead.js")


@dataclass
class House:
    """The app in front of a store with accounts for ann (rater), lea (lead) and ada (admin)."""

    store: Store
    app: FastAPI

    def visitor(self) -> TestClient:
        return TestClient(self.app, base_url=HOME, follow_redirects=False)

    def signed_in(self, name: str) -> TestClient:
        made = self.visitor()
        assert made.post("/api/sign_in", json={"name": name, "password": PASSWORD}).status_code == 200
        return made

    def leads_routes(self) -> dict[str, set[str]]:
        return {route.path: route.methods for route in routes_of(self.app) if route.path.startswith("/api/lead/")}


def routes_of(router: Any) -> Iterator[Any]:
    for route in router.routes:
        if not isinstance(route, Mount) and hasattr(route, "methods"):
            yield route


def item(number: int) -> Answers:
    return Answers(Prompt((Message("user", f"question {number}"),)), (Response("one"), Response("two")))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    from prefloop.feedback_ui.web import build

    with Store(f"sqlite:///{tmp_path / 'feedback.db'}", seed=1) as store:
        accounts = Accounts(store)
        for name, role in (("ann", "rater"), ("lea", "lead"), ("ada", "admin")):
            accounts.add(name, PASSWORD, role)
        store.add_items([item(number) for number in range(3)], need=2)
        yield House(store, build(store, server.FeedbackConfig(sign_in=True, origin=HOME)))


def test_nothing_of_it_is_for_raters(house: House) -> None:
    ann, lea = house.signed_in("ann"), house.signed_in("lea")
    assert [ann.get(path).status_code for path in PAGES] == [403] * 3
    assert [lea.get(path).status_code for path in PAGES] == [200] * 3
    assert '<a href="/">' in ann.get("/lead").text, "a way back for who came by a link"
    routes = house.leads_routes()
    assert "/api/lead/hello" in routes
    for path, methods in routes.items():
        kind = "application/octet-stream" if path in guard.UPLOADS else "application/json"
        for method in methods - {"HEAD"}:
            said: dict[str, Any] = {"content": b"{}", "headers": {"content-type": kind}} if method == "POST" else {}
            assert ann.request(method, path, **said).status_code == 403, path
            assert lea.request(method, path, **said).status_code != 401, path


def test_who_is_not_signed_in_is_sent_there_and_back(house: House) -> None:
    reply = house.visitor().get("/lead")
    assert (reply.status_code, reply.headers["location"]) == (303, "/sign-in?to=lead")


def test_no_script_but_its_own_runs_on_it(house: House) -> None:
    reply = house.signed_in("lea").get("/lead")
    assert "script-src 'self';" in reply.headers["content-security-policy"]
    assert "unsafe" not in reply.headers["content-security-policy"]


def test_a_lead_is_told_their_role_and_how_far_campaigns_are(house: House) -> None:
    lea = house.signed_in("lea")
    told = lea.post("/api/lead/hello", json={}).json()
    assert (told["lead"], told["role"]) == ("lea", "lead")
    assert house.signed_in("ada").post("/api/lead/hello", json={}).json()["role"] == "admin"
    (row,) = lea.post("/api/lead/overview", json={}).json()["campaigns"]
    assert (row["name"], row["items"], row["wanted"], row["done"]) == ("default", 3, 6, 0)
