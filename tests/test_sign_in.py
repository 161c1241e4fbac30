"""Accounts at the page: who gets in, what is closed to whom, and the commands that make accounts meanwhile."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.routing import Mount
from starlette.testclient import TestClient

from prefloop import cli, config
from prefloop.errors import RequestError, RunError
from prefloop.feedback_ui import control, guard, server, telling
from prefloop.feedback_ui.pace import Pace
from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Campaign, Progress, Store
from prefloop.store.accounts import Accounts
from prefloop.store.sqlite import SqliteFile

HOME = "https://rate.example.org"
PASSWORD = "a long and quiet sentence"
SETTINGS = server.FeedbackConfig(sign_in=True, origin=HOME)


@dataclass
class Clock:
    at: int = 1_800_000_000

    def __call__(self) -> int:
        return self.at


@dataclass
class House:
    """A store with accounts for ann, bob (raters) and lea (lead), and the app in front of it."""

    path: Path
    clock: Clock = field(default_factory=Clock)

    def open(self) -> House:
        from prefloop.feedback_ui.web import build

        self.store = Store(f"sqlite:///{self.path}", self.clock, seed=1)
        self.accounts = Accounts(self.store)
        self.app: FastAPI = build(self.store, SETTINGS)
        return self

    def visitor(self, peer: str = "203.0.113.7", **headers: str) -> TestClient:
        return TestClient(self.app, base_url=HOME, headers=headers, client=(peer, 1), follow_redirects=False)

    def signed_in(self, name: str) -> TestClient:
        made = self.visitor()
        reply = made.post("/api/sign_in", json={"name": name, "password": PASSWORD})
        assert reply.status_code == 200, reply.text
        return made


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "feedback.db").open()
    for name, role in (("ann", "rater"), ("bob", "rater"), ("lea", "lead")):
        made.accounts.add(name, PASSWORD, role)
    made.store.add_items([item(number) for number in range(3)], need=2)
    yield made
    made.store.close()


def item(number: int) -> Answers:
    return Answers(Prompt((Message("user", f"canary question {number}"),)),
                   tuple(Response(f"canary {text}", "runs/secret-policy") for text in ("one", "two", "three")))


def everything(router: Any, prefix: str = "") -> Iterator[tuple[str, set[str]]]:
    """Every path that is served, and its methods: ours, and those of what is mounted or included."""
    for route in router.routes:
        inner = getattr(route, "app", None) if isinstance(route, Mount) else getattr(route, "original_router", None)
        if inner is not None:
            yield from everything(inner, prefix + getattr(route, "path", ""))
        else:
            yield prefix + route.path, getattr(route, "methods", None) or set()


def api(app: FastAPI) -> list[str]:
    """The routes of ours that change something."""
    return sorted({path for path, methods in everything(app) if path.startswith("/api/") and "POST" in methods})


def sent(client: TestClient, path: str, body: Any, **headers: str) -> Any:
    """A POST as the path takes it: a file as it is, all else as JSON."""
    if path in guard.UPLOADS:
        return client.post(path, content=b"{}", headers={"content-type": "application/octet-stream", **headers})
    return client.post(path, json=body, headers=headers)


def fetched(client: TestClient) -> dict[str, Any]:
    reply = client.post("/api/next", json={})
    assert reply.status_code == 200, reply.text
    return reply.json()["task"]


# -- the way in ------------------------------------------------------------------------------------------------------


def test_nothing_but_the_way_in_is_reached_without_signing_in(house: House) -> None:
    client, open_to_all = house.visitor(), {"/sign-in", "/join", "/reset", "/sign_in.css", "/sign_in.js", "/healthz"}
    paths = {path for path, _ in everything(house.app)}
    assert {"/api/next", "/gradio_api/queue/join", "/gradio_api/upload", "/config"} <= paths, "it looks everywhere"
    for path in sorted(paths | {"/assets/index.js", "/api/lead", "/nowhere"}):
        got, posted = client.get(path).status_code, sent(client, path, {}).status_code
        assert got == 200 if path in open_to_all else got in (303, 401, 403, 404, 405), path
        if path in ("/api/sign_in", "/api/join", "/api/reset"):
            assert (got, posted) == (404, 422), path
        else:
            assert posted in (401, 405), path
    assert client.get("/").headers["location"] == "/sign-in"
    assert [client.get(path).status_code for path in ("/config", "/assets/index.js", "/api/picture/x")] == [401] * 3
    assert client.get("/metrics").status_code == 403


def test_signing_in_and_out(house: House) -> None:
    client = house.visitor()
    reply = client.post("/api/sign_in", json={"name": "ann", "password": PASSWORD})
    assert reply.json() == {"rater": "ann", "role": "rater"}
    cookie = reply.headers["set-cookie"]
    assert cookie.startswith("__Host-prefloop=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    hello = client.post("/api/hello", json={}).json()
    assert (hello["rater"], hello["role"], hello["sign_in"]) == ("ann", "rater", True)
    assert client.get("/").status_code == 200
    kept = dict(client.cookies)
    assert client.post("/api/sign_out", json={}).status_code == 200
    assert client.get("/").status_code == 303
    client.cookies.update(kept)
    assert client.get("/config").status_code == 401, "the session itself is over"


def test_a_made_up_session_is_none(house: House) -> None:
    for value in ("", "x", "0" * 43, "\x00", "ann", "é" * 30):
        cookie = [(b"cookie", f"__Host-prefloop={value}".encode())]
        reply = house.visitor().post("/api/hello", json={}, headers=cookie)
        assert reply.status_code == 401, value


def test_signing_in_again_ends_the_session_before(house: House) -> None:
    client = house.signed_in("ann")
    before = dict(client.cookies)
    assert client.post("/api/sign_in", json={"name": "bob", "password": PASSWORD}).status_code == 200
    assert client.post("/api/hello", json={}).json()["rater"] == "bob"
    old = house.visitor()
    old.cookies.update(before)
    assert old.post("/api/hello", json={}).status_code == 401


def test_a_stranger_elsewhere_does_not_lock_a_name(house: House) -> None:
    far = house.visitor("198.51.100.9")
    replies = [far.post("/api/sign_in", json={"name": "ann", "password": "a guess, and then another"}).status_code
               for _ in range(6)]
    assert replies == [403] * 5 + [429]
    house.signed_in("ann")


def test_a_wrong_password_says_nothing_and_locks_after_five(house: House) -> None:
    client, wrong = house.visitor(), {"password": "something else entirely"}
    told = {client.post("/api/sign_in", json={"name": name, **wrong}).text for name in ("ann", "nobody", "lea")}
    assert len(told) == 1, "an unknown name is told as a wrong password is"
    replies = [client.post("/api/sign_in", json={"name": "ann", **wrong}).status_code for _ in range(5)]
    assert replies == [403] * 4 + [429]
    locked = client.post("/api/sign_in", json={"name": "ann", "password": PASSWORD})
    assert (locked.status_code, "set-cookie" in locked.headers) == (429, False)
    assert 0 < int(locked.headers["retry-after"]) <= 15 * 60
    house.signed_in("bob")
    house.clock.at += 15 * 60 + 1
    house.signed_in("ann")


def test_sessions_survive_a_restart_and_end_by_themselves(house: House) -> None:
    kept = dict(house.signed_in("ann").cookies)
    house.store.close()
    house.open()
    client = house.visitor()
    client.cookies.update(kept)
    assert client.post("/api/hello", json={}).json()["rater"] == "ann"
    house.clock.at += 60 * 24 * 3600
    assert client.post("/api/hello", json={}).status_code == 401


def test_who_is_disabled_is_out_at_once(house: House) -> None:
    client = house.signed_in("ann")
    house.accounts.disable("ann")
    assert client.post("/api/hello", json={}).status_code == 401
    assert house.visitor().post("/api/sign_in", json={"name": "ann", "password": PASSWORD}).status_code == 403
    house.accounts.enable("ann")
    assert client.post("/api/hello", json={}).status_code == 401, "the session stays over"
    house.signed_in("ann")


def test_a_new_password_ends_the_other_sessions(house: House) -> None:
    here, elsewhere, new = house.signed_in("ann"), house.signed_in("ann"), "another quiet sentence"
    assert here.post("/api/password", json={"old": "not this", "new": new}).status_code == 403
    assert here.post("/api/password", json={"old": PASSWORD, "new": "short"}).status_code == 422
    assert elsewhere.post("/api/hello", json={}).status_code == 200
    assert here.post("/api/password", json={"old": PASSWORD, "new": new}).status_code == 200
    assert here.post("/api/hello", json={}).status_code == 200
    assert elsewhere.post("/api/hello", json={}).status_code == 401


def test_an_invitation_makes_one_account(house: House) -> None:
    token, client = house.accounts.invite("rater", "join", hours=1), house.visitor()
    said = {"invitation": token, "name": "cleo", "password": PASSWORD}
    assert client.post("/api/join", json={**said, "name": "ann"}).status_code == 422, "the name is taken"
    assert client.post("/api/join", json={**said, "role": "admin"}).status_code == 422
    assert client.post("/api/join", json=said).json() == {"rater": "cleo", "role": "rater"}
    assert client.post("/api/hello", json={}).json()["rater"] == "cleo"
    assert house.visitor().post("/api/join", json={**said, "name": "dan"}).status_code == 422, "it works once"
    late = house.accounts.invite("lead", "join", hours=1)
    house.clock.at += 3601
    assert house.visitor().post("/api/join", json={**said, "invitation": late, "name": "dan"}).status_code == 422


def test_a_reset_sets_one_password_and_signs_the_others_out(house: House) -> None:
    before, new = house.signed_in("ann"), "yet another sentence"
    token = house.accounts.invite("rater", "reset", name="ann", hours=1)
    client = house.visitor()
    assert client.post("/api/reset", json={"invitation": token, "password": "short"}).status_code == 422
    assert client.post("/api/reset", json={"invitation": token, "password": new}).json()["rater"] == "ann"
    assert client.post("/api/reset", json={"invitation": token, "password": PASSWORD}).status_code == 422
    assert before.post("/api/hello", json={}).status_code == 401
    assert house.visitor().post("/api/sign_in", json={"name": "ann", "password": PASSWORD}).status_code == 403


# -- what is another's ------------------------------------------------------------------------------------------------


def trespasses(token: str, answer: int) -> dict[str, dict[str, Any] | None]:
    """For every route, a request by bob for what is ann's; None: the route acts on the caller alone, whoever asks."""
    said = {"key": "k", "ranks": [1, 2, 3]}
    return {"/api/submit": {"token": token, **said}, "/api/skip": {"token": token}, "/api/renew": {"token": token},
            "/api/flag": {"token": token, "kind": "unsafe", "note": ""}, "/api/reopen": {"answer": answer},
            "/api/revise": {"answer": answer, **said}, "/api/withdraw": {"answer": answer},
            **dict.fromkeys(("/api/hello", "/api/next", "/api/history", "/api/acknowledge", "/api/warning",
                             "/api/sign_in", "/api/sign_out", "/api/join", "/api/reset", "/api/password"))}


def test_every_route_refuses_what_is_another_raters(house: House) -> None:
    ann, bob = house.signed_in("ann"), house.signed_in("bob")
    first, second = fetched(ann), ann.post("/api/next", json={"holding": []}).json()["task"]
    assert second["token"] == first["token"], "what is not held is given again"
    answer = ann.post("/api/submit", json={"token": first["token"], "key": "a", "ranks": [2, 1, 3]}).json()["answer"]
    open_one, before = fetched(ann), content(house.store)
    requests = trespasses(open_one["token"], answer)
    leads = {path: {} for path in api(house.app) if path.startswith("/api/lead/")}
    assert set(requests | leads) == set(api(house.app)), "a new route belongs into this list"
    for path, body in (requests | leads).items():
        if body is not None:
            reply = sent(bob, path, body)
            assert reply.status_code == 403, (path, reply.text)
    assert bob.post("/api/submit", json={"token": first["token"], "key": "a", "ranks": [2, 1, 3]}).status_code == 403
    assert content(house.store) == before
    assert bob.post("/api/history", json={}).json() == {"answers": []}
    assert fetched(bob)["token"] not in (first["token"], open_one["token"])


def content(store: Store) -> list[Any]:
    """All that is in the tables that raters write to."""
    from sqlalchemy import select

    from prefloop.store import schema

    with store.reading() as db:
        return [tuple(row) for table in (schema.answers, schema.leases, schema.flags, schema.items)
                for row in db.execute(select(table))]


def test_what_a_lead_and_an_admin_may_is_closed_to_raters(house: House) -> None:
    ann, lea = house.signed_in("ann"), house.signed_in("lea")
    assert ann.get("/metrics").status_code == 403
    assert lea.get("/metrics").status_code == 200
    for path in ("/api/invite", "/api/account", "/api/campaign", "/api/backup", "/api/restore", "/api/lead",
                 "/api/accounts", "/admin", "/lead"):
        assert ann.post(path, json={}).status_code in (403, 404, 405), path
        assert ann.get(path).status_code in (403, 404, 405), path


def test_a_campaign_for_others_is_closed(house: House) -> None:
    house.store.apply(Campaign("theirs", raters=("bob",), warning="sad", title="canary"), "Be fair.", rows=[item(77)])
    ann, bob = house.signed_in("ann"), house.signed_in("bob")
    assert "canary" not in ann.post("/api/hello", json={}).text
    assert "canary" in bob.post("/api/hello", json={}).text
    told = ann.post("/api/next", json={"campaign": "theirs"}).json()
    assert (told["gate"], told["task"], told["guideline"], told["warning"]) == ("not_admitted", None, None, "")
    assert ann.post("/api/warning", json={"campaign": "theirs", "accept": True}).status_code == 403
    assert ann.post("/api/acknowledge", json={"campaign": "theirs", "version": "x"}).status_code == 403
    assert ann.post("/api/warning", json={"campaign": "none", "accept": True}).status_code == 422
    assert bob.post("/api/warning", json={"campaign": "theirs", "accept": True}).status_code == 200


def test_gradio_does_nothing_for_a_rater_either(house: House) -> None:
    ann = house.signed_in("ann")
    theirs = {path for path, _ in everything(house.app) if not path.startswith("/api/")}
    assert [path for path in sorted(theirs) if ann.post(path, json={}).status_code != 405] == []
    closed = [path for path in theirs if path.startswith(guard.CLOSED) and not path.startswith(guard.OPEN)]
    assert len(closed) > 10
    assert [path for path in closed if ann.get(path).status_code != 404] == []


def test_a_forged_origin_is_refused_on_every_route_that_changes_something(house: House) -> None:
    ann = house.signed_in("ann")
    token = fetched(ann)["token"]
    before, paths = content(house.store), api(house.app)
    assert len(paths) >= 16
    for origin in ("http://evil.example", "null", "", "http://rate.example.org", f"{HOME}.evil.example",
                   f"{HOME}:8443", "http://127.0.0.1:7860"):
        for path in paths:
            said = {"token": token, "ranks": [1, 2, 3], "kind": "other", "key": "k"}
            assert ann.post(path, json=said, headers={"origin": origin}).status_code == 403, (path, origin)
    for path in paths:
        assert ann.post(path, json={}, headers={"sec-fetch-site": "cross-site"}).status_code == 403, path
    assert content(house.store) == before
    assert ann.post("/api/hello", json={}, headers={"origin": HOME}).status_code == 200, "nobody was signed out"


def test_only_the_public_name_is_answered_to(house: House) -> None:
    for host in ("evil.example", "rate.example.org.evil.example", "127.0.0.1:7860", "localhost", "",
                 "rate.example.org:8443"):
        assert house.visitor().get("/sign-in", headers={"host": host}).status_code == 421, host
    assert house.visitor().get("/sign-in").status_code == 200
    assert house.visitor("127.0.0.1").get("/healthz", headers={"host": "127.0.0.1:7860"}).status_code == 200


# -- the pace ---------------------------------------------------------------------------------------------------------


def test_a_pace_is_a_burst_and_then_a_rate() -> None:
    at = [0.0]
    pace = Pace(burst=3, per_second=2, clock=lambda: at[0])
    assert [pace.wait("ann") for _ in range(4)] == [0, 0, 0, 1]
    assert pace.wait("bob") == 0
    at[0] = 0.5
    assert [pace.wait("ann") for _ in range(2)] == [0, 1]
    at[0] = 100
    assert [pace.wait("ann") for _ in range(4)] == [0, 0, 0, 1]


def test_who_sends_too_fast_is_told_to_wait_and_others_are_not(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Pace.wait

    def at_once(self: Pace, sender: str) -> int:  # however slow this machine is
        self._clock = lambda: 0.0
        return wait(self, sender)

    monkeypatch.setattr(Pace, "wait", at_once)
    ann, bob = house.signed_in("ann"), house.signed_in("bob")
    replies = [ann.post("/api/renew", json={"token": "x"}) for _ in range(60)]
    assert {reply.status_code for reply in replies} == {403, 429}
    assert int(replies[-1].headers["retry-after"]) >= 1
    assert bob.post("/api/hello", json={}).status_code == 200


# -- what goes wrong here ---------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_in_the_raters_words(house: House, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    ann = house.signed_in("ann")
    said = {"token": fetched(ann)["token"], "key": "a", "ranks": [1, 2, 3]}

    def full(_: Any) -> None:
        raise RunError(f"{house.path}: nothing was saved, for it cannot be written: disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(house.store, "write", full)
        house.clock.at += 3600  # long enough for a session's last use to be written down
        for _ in range(2):
            reply = ann.post("/api/submit", json=said)
            assert (reply.status_code, "nothing could be saved" in reply.text) == (503, True)
            assert str(house.path) not in reply.text
    assert "disk is full" in capsys.readouterr().err
    assert ann.post("/api/submit", json=said).status_code == 200


def test_what_nobody_thought_of_is_told_without_saying_how(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("canary")

    ann = house.signed_in("ann")
    calm = TestClient(house.app, base_url=HOME, cookies=dict(ann.cookies), raise_server_exceptions=False)
    monkeypatch.setattr(house.store, "release", broken)
    reply = calm.post("/api/skip", json={"token": "x"})
    assert (reply.status_code, "canary" in reply.text) == (500, False)
    assert "your work is kept" in reply.json()["error"]
    assert reply.headers["x-content-type-options"] == "nosniff"


# -- watching ---------------------------------------------------------------------------------------------------------


def test_metrics_are_for_this_machine_and_name_nobody(house: House) -> None:
    ann = house.signed_in("ann")
    ann.post("/api/submit", json={"token": fetched(ann)["token"], "key": "a", "ranks": [1, 2, 3]})
    ann.post("/api/canary", json={})
    ann.get("/canary")
    local = {"host": "127.0.0.1:7860"}
    read = house.visitor("127.0.0.1").get("/metrics", headers=local)
    assert read.status_code == 200
    assert 'prefloop_answers{state="done"} 1.0' in read.text
    assert 'route="/api/submit",status="200"' in read.text
    for secret in ("ann", "bob", "canary", "secret-policy", "question", str(house.path.parent)):
        assert secret not in read.text, secret
    assert house.visitor("127.0.0.1").get("/metrics").status_code == 403, "through a proxy that says nothing"
    for header in guard.FORWARDED:
        proxied = house.visitor("127.0.0.1").get("/metrics", headers={**local, header: "203.0.113.7"})
        assert proxied.status_code == 403, header
    assert house.visitor().get("/healthz").json() == {"status": "ok"}


# -- many at once -----------------------------------------------------------------------------------------------------


def test_a_thousand_answers_sent_five_times_at_once_are_a_thousand(tmp_path: Path) -> None:
    from prefloop.feedback_ui.web import build

    with Store(f"sqlite:///{tmp_path / 'many.db'}", seed=1) as store:
        store.add_items([item(number) for number in range(1000)])
        with TestClient(build(store, server.FeedbackConfig()), base_url="http://127.0.0.1:7860") as client, \
                ThreadPoolExecutor(15) as pool:
            answers: list[set[int]] = []
            while held := tokens(store):
                said = [{"token": token, "key": f"key of {token}", "ranks": [1, 2, 3]} for token in held]
                told = [[pool.submit(client.post, "/api/submit", json=one) for one in said] for _ in range(5)]
                answers += [{five[n].result().json()["answer"] for five in told} for n in range(len(held))]
        assert [len(ids) for ids in answers] == [1] * 1000
        assert len(set().union(*answers)) == 1000
        assert len(list(store.rankings())) == store.progress().done == 1000


def tokens(store: Store) -> list[str]:
    """As many items as one rater can have open at once."""
    held: list[str] = []
    while (lease := store.lease("me", 3600, holding=held)) is not None:
        held.append(lease.token)
    return held


def test_a_killed_server_loses_nothing_and_signs_nobody_out(tmp_path: Path) -> None:
    """`make soak NAME=feedback` is the same with 200 raters and ten kills."""
    from soak import feedback

    report = feedback.campaign(tmp_path, "sqlite", kills=1, raters=4, think=0.3, seed=0)
    assert report["acknowledged"] > 10
    assert {name: report[name] for name in feedback.WRONG} == dict.fromkeys(feedback.WRONG, 0)
    assert report["integrity"] == "ok"


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "feedback.yaml"
    path.write_text(f"feedback:\n  store: sqlite:///{tmp_path / 'feedback.db'}\n  sign_in: true\n  origin: {HOME}\n")
    return path


def test_accounts_are_made_while_the_page_is_served(house: House, config_file: Path, tmp_path: Path,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "secret").write_text("dora's long password\n")
    with control.answering(house.store):
        made = control.socket_of(SqliteFile(house.path))
        assert stat.S_IMODE(made.stat().st_mode) == 0o600
        words = ["feedback", "account", str(config_file), "account.name=dora"]
        assert cli.main([*words, f"account.password_file={tmp_path / 'secret'}"]) == 0
        reply = house.visitor().post("/api/sign_in", json={"name": "dora", "password": "dora's long password"})
        assert reply.status_code == 200
        assert cli.main([*words, f"account.password_file={tmp_path / 'secret'}"]) == 2, "the name is taken"
        capsys.readouterr()
        assert cli.main(["feedback", "invite", str(config_file), "invite.role=lead"]) == 0
        link = capsys.readouterr().out.strip()
        assert link.startswith(f"{HOME}/join#t=")
        said = {"invitation": link.partition("#t=")[2], "name": "eve", "password": PASSWORD}
        assert house.visitor().post("/api/join", json=said).json() == {"rater": "eve", "role": "lead"}
        assert cli.main([*words, "account.action=role", "account.role=lead"]) == 0
        again = house.visitor().post("/api/sign_in", json={"name": "Dora", "password": "dora's long password"})
        assert again.json() == {"rater": "dora", "role": "lead"}
        assert cli.main([*words, "account.action=disable"]) == 0
    assert not made.exists()


def test_only_what_makes_a_store_makes_one(config_file: Path, tmp_path: Path, said: Callable[[], str],
                                           capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["account", str(config_file), "account.name=ann", "account.action=disable"],
                  ["invite", str(config_file), "invite.purpose=reset", "invite.name=ann"],
                  ["invite", str(config_file)]):
        assert cli.main(["feedback", *words]) == 2
        assert "there is no store here; `prefloop feedback` or `prefloop feedback campaign` makes one" in said()
    answers = tmp_path / "answers.jsonl"
    asked = ["feedback", "campaign", str(config_file), f"campaign.answers={answers}"]
    for text, told in (("{}\n", "answers.jsonl:1: column 'prompt' is missing"), ("", "this file is empty"),
                       (json.dumps(item(1).to_json() | {"responses": []}), "nothing to rate")):
        answers.write_text(text)
        assert cli.main(asked) == 2
        assert told in said()
    assert cli.main(asked[:3]) == 2
    assert "nothing to rate" in said()
    assert list(tmp_path.glob("*.db*")) == []
    answers.write_text(json.dumps(item(1).to_json()))
    assert cli.main(asked) == 0
    assert "made a new store" in capsys.readouterr().out


def test_the_commands_work_without_a_server_and_after_one_was_killed(tmp_path: Path, config_file: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}"):
        pass
    control.socket_of(SqliteFile(tmp_path / "feedback.db")).touch()  # left by a server that was killed
    assert cli.main(["feedback", "invite", str(config_file)]) == 0
    assert "/join#t=" in capsys.readouterr().out
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}") as store, control.answering(store):
        assert cli.main(["feedback", "invite", str(config_file)]) == 0


def test_a_backup_is_taken_while_the_page_is_served_and_put_back(house: House, config_file: Path, tmp_path: Path,
                                                                said: Callable[[], str]) -> None:
    out, store = tmp_path / "monday.db", f"feedback.store=sqlite:///{tmp_path / 'again.db'}"
    ann = house.signed_in("ann")
    ann.post("/api/submit", json={"token": fetched(ann)["token"], "key": "a", "ranks": [1, 2, 3]})
    with control.answering(house.store):
        assert cli.main(["feedback", "backup", str(config_file), f"backup.out={out}"]) == 0
    restore = ["feedback", "restore", str(config_file), f"restore.backup={out}"]
    assert cli.main(restore) == 2, "the store is being served"
    assert "another process is writing" in said()
    assert cli.main([*restore, store]) == 0
    with Store(f"sqlite:///{tmp_path / 'again.db'}") as again:
        assert list(again.rankings()) == list(house.store.rankings())
        assert Accounts(again).verify("ann", PASSWORD)
    assert cli.main([*restore, store]) == 2
    assert "restore.overwrite=true" in said()


def test_a_campaign_is_changed_while_it_is_served(house: House, config_file: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are named from where the command is given, not from where the server was started."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    Path("answers.jsonl").write_text(json.dumps(item(9).to_json()) + "\n")
    Path("guide.md").write_text("Be *fair*.")
    asked = ["feedback", "campaign", str(config_file), "campaign.answers=answers.jsonl", "campaign.guideline=guide.md",
             "campaign.overlap=0"]
    with control.answering(house.store):
        monkeypatch.chdir(tmp_path)
        assert cli.main(asked) == 2
        monkeypatch.chdir(elsewhere)
        assert cli.main(asked) == 0
        assert cli.main([*asked, "campaign.raters=[bob, cy]"]) == 0
    assert house.store.progress().items == 4
    assert house.signed_in("bob").post("/api/next", json={}).json()["guideline"]["html"].startswith("<p")
    assert house.signed_in("ann").post("/api/next", json={}).json()["gate"] == "not_admitted"


def test_the_count_does_not_tell_which_items_were_gold(house: House) -> None:
    house.store.add_items([item(number) for number in range(3, 60)])
    ann, seen = house.signed_in("ann"), set()
    for number in range(6):
        told = ann.post("/api/submit", json={"token": fetched(ann)["token"], "key": f"{number}", "ranks": [1, 2, 3]})
        seen.add(told.json()["progress"]["done"])
    assert seen == {0}
    assert (told.json()["progress"]["mine"], told.json()["progress"]["surplus"]) == (6, 0)
    assert ann.post("/api/hello", json={}).json()["campaigns"] == [{"name": "default", "title": "", "waiting": 1}]
    many = Progress(items=1000, wanted=1000, done=374, surplus=3, mine=0, skipped=0)
    assert (telling.coarse(many).done, telling.coarse(replace(many, done=1000)).done) == (250, 1000)


def test_what_a_command_cannot_do_is_one_line(house: House, config_file: Path, said: Callable[[], str]) -> None:
    with control.answering(house.store):
        for words, told in (
                (["account", str(config_file), "account.action=disable", "account.name=nobody"], str(house.path)),
                (["account", str(config_file), "account.action=sing", "account.name=ann"], "sign_out"),
                (["account", str(config_file), "account.name=fay", f"account.password_file={house.path.parent}"],
                 "Is a directory"),
                (["account", str(config_file), "account.name=fay", "account.password_file=/dev/null"], "is empty"),
                (["invite", "feedback.sign_in=true", "feedback.port=0"], "feedback.port"),
                (["account", str(config_file), "account.name=fay"], "password_file"),
                (["account", str(config_file)], "account.name is missing"),
                (["invite", str(config_file), "invite.purpose=reset"], "invite.name"),
                (["invite", str(config_file), "invite.role=king"], "'rater'"),
                (["invite", "feedback.sign_in=false"], "sign_in"),
                (["invit", str(config_file)], "did you mean `prefloop feedback invite`?")):
            assert cli.main(["feedback", *words]) == 2, words
            assert told in said(), words


@pytest.mark.parametrize("command", ["account", "invite", "backup", "restore"])
def test_shipped_configs_of_the_commands_build(command: str) -> None:
    path = Path(__file__).parent.parent / "configs" / "feedback" / f"{command}.yaml"
    module = import_module(cli.COMMANDS[f"feedback {command}"][0])
    *_, built = config.build(config.read(f"feedback {command}", path, []), module.sections())
    assert type(built).__name__.lower().startswith(command)


def test_a_broken_request_does_not_end_the_control_socket(house: House) -> None:
    import socket

    with control.answering(house.store):
        for line in (b"", b"{", b"[]\n", b'{"work": "drop", "said": {}}\n', b'{"work": "invite", "said": {"x": 1}}\n'):
            with socket.socket(socket.AF_UNIX) as call:
                call.connect(str(control.socket_of(SqliteFile(house.path))))
                call.sendall(line)
                call.shutdown(socket.SHUT_WR)
                assert "failed" in json.loads(call.makefile().read())
        assert control.perform(f"sqlite:///{house.path}", "invite", role="rater", name=None, hours=1)
        with pytest.raises(RequestError, match=r"campaign\.repeats"):
            control.perform(f"sqlite:///{house.path}", "campaign", several=True, repeats=5)


@pytest.mark.parametrize(("settings", "told"), [
    ({"host": "0.0.0.0"}, "there is no sign-in"), ({"host": "0.0.0.0", "sign_in": True}, "feedback.origin"),
    ({"origin": HOME}, "sign_in"), ({"sign_in": True, "origin": f"{HOME}/"}, "not an address"),
    ({"sign_in": True, "origin": "rate.example.org"}, "not an address"),
    ({"sign_in": True, "origin": "https://Rate.example.org"}, "not an address"),
    ({"sign_in": True, "origin": "https://ann@rate.example.org"}, "not an address"),
    ({"sign_in": True, "origin": "https://rate.example.org:443"}, "not an address"),
    ({"sign_in": True, "origin": "ftp://rate.example.org"}, "not an address"),
    ({"sign_in": True, "origin": "https://["}, "not an address"), ({"proxy": "my-proxy"}, "feedback.proxy"),
    ({"sign_in": True, "origin": "https://rate.example.org:x"}, "not an address"),
    ({"lease_minutes": float("inf")}, "lease_minutes"), ({"lease_minutes": float("nan")}, "lease_minutes"),
])
def test_other_machines_are_let_in_only_with_sign_in_and_an_address(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        server.FeedbackConfig(**settings)
