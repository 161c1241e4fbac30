"""What leads are told of raters' work, and what they can do about it, through the app's routes."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from simulated_raters import HONEST, NAME, Clock, campaign, worked
from test_lead_web import HOME, House, house  # noqa: F401 - a fixture

from prefloop.feedback_ui import lead_quality, server
from prefloop.feedback_ui.web import build
from prefloop.records import Answers, Message, Prompt, Response
from prefloop.store import Campaign, Judgement, Store, quarantining
from prefloop.store.forgetting import forget
from prefloop.store.watching import Watch


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    clock = Clock()
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}", clock=clock, seed=3) as opened:
        campaign(opened, 12, 6, 3, 3, Campaign(NAME, gold_share=0.2))
        worked(opened, dict.fromkeys(("ann", "bob", "cy"), HONEST), 20, random.Random(0), Watch(opened), clock.pass_by)
        yield opened


def test_the_odds_against_a_rater_are_said_in_words(store: Store) -> None:
    quarantining.propose(store, {"ann": [{"kind": kind, "answers": 33, "random": 24.5, "drift": 7.004}
                                         for kind in ("random", "doubt", "drift")]})
    told = here(store).post("/api/lead/quality", json={}).json()["raters"]
    words = " | ".join(next(one["why"] for one in told if one["rater"] == "ann"))
    assert "no more than chance would (33 answers; odds over a million to 1)" in words
    assert "(odds about 1,100 to 1)" in words
    assert "e^" not in words


def here(store: Store) -> TestClient:
    return TestClient(build(store, server.FeedbackConfig()), base_url="http://127.0.0.1:7860", client=("127.0.0.1", 1))


def test_a_lead_sees_figures_holds_a_rater_and_lifts_it(store: Store) -> None:
    client = here(store)
    before = client.post("/api/lead/quality", json={"campaign": NAME}).json()
    overall = before["agreement"]["overall"]
    assert overall["items"] == 12
    assert overall["alpha"]["low"] < overall["alpha"]["value"] <= overall["alpha"]["high"]
    assert {one["rater"]: one["state"] for one in before["raters"]} == dict.fromkeys(("ann", "bob", "cy"))
    answers = {one["rater"]: one["answers"] for one in before["raters"]}
    assert min(answers.values()) >= 12
    assert sum(one["items"] for one in before["agreement"]["by_stratum"]) == 12
    assert [one["name"] for one in before["agreement"]["by_guideline"]] == ["none"]
    everywhere = client.post("/api/lead/quality", json={}).json()["agreement"]["by_guideline"]
    assert [one["name"] for one in everywhere] == [f"{NAME}: none"]
    (point,) = before["over_time"]
    assert point["answers"] == sum(answers.values())
    of_ann = client.post("/api/lead/quality", json={"rater": "ann"}).json()["over_time"][0]
    assert of_ann["answers"] == answers["ann"]
    assert of_ann["agreement"]["value"] > 0.5

    held = client.post("/api/lead/quarantine", json={"rater": "ann", "action": "hold", "note": "too fast {by}"})
    assert held.json() == {"state": "held"}
    after = client.post("/api/lead/quality", json={"campaign": NAME}).json()
    ann = next(one for one in after["raters"] if one["rater"] == "ann")
    assert (ann["state"], ann["why"], ann["by"]) == ("held", ["quarantined by me: too fast {by}"], "me")
    assert after["agreement"]["overall"]["percent"] != overall["percent"]  # of two raters now
    assert 'prefloop_quarantines{state="held"} 1.0' in client.get("/metrics").text
    assert client.post("/api/lead/quarantine", json={"rater": "ann", "action": "dismiss"}).status_code == 422
    assert client.post("/api/lead/quarantine", json={"rater": "ann", "action": "lift"}).json() == {"state": None}


def test_what_is_kept_for_a_while_is_neither_who_is_in_quarantine_nor_who_was_deleted(
        store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lead_quality, "WORTH", 1e9)
    watch = Watch(store)
    known = lead_quality.Facts(store, watch)

    def states() -> dict[str, str | None]:
        return {one["rater"]: one["state"] for one in known.of()["raters"]}

    assert states() == {"ann": None, "bob": None, "cy": None}
    quarantining.hold(store, "ann", "another server's lead")
    assert states() == {"ann": "held", "bob": None, "cy": None}
    forget(store, "bob")
    watch.look()
    assert states() == {"ann": "held", "cy": None}


def test_the_server_looks_without_being_asked(store: Store) -> None:
    lease = store.lease("dan", 60)
    assert lease is None  # of these items
    store.add_items([Answers(Prompt((Message("user", "one more"),)), (Response("one"), Response("two")))])
    lease = store.lease("dan", 60)
    assert lease is not None
    store.submit(lease.token, "dan", Judgement((1, 2)))
    with here(store):
        for _ in range(100):
            if "dan" in store.doubted:
                break
            time.sleep(0.1)
    assert "dan" in store.doubted  # one answer settles nothing


def test_a_rater_who_is_held_is_told_so_kindly(house: House) -> None:  # noqa: F811
    lease = house.store.lease("ann", 60)
    assert lease is not None
    house.store.submit(lease.token, "ann", Judgement((1, 2)))
    quarantining.hold(house.store, "ann", "lea")
    reply = house.signed_in("ann").post("/api/next", json={}, headers={"origin": HOME}).json()
    assert (reply["task"], reply["gate"]) == (None, "quarantined")


def test_a_lead_sees_whom_a_test_has_flagged_and_why_until_it_is_dismissed(
        store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def flagged() -> dict[str, list[str]]:
        told = client.post("/api/lead/quality", json={}).json()["raters"]
        return {one["rater"]: one["flagged"] for one in told if one["state"] is None}

    client = here(store)
    assert flagged() == {"ann": [], "bob": [], "cy": []}
    monkeypatch.setattr("prefloop.quality.standing.FLAG", 0.0)
    client = here(store)
    assert "turned round (odds about " in flagged()["ann"][0]
    quarantining.propose(store, {"ann": [{"kind": "drift", "drift": 7.0}]})
    assert set(flagged()) == {"bob", "cy"}
    assert client.post("/api/lead/quarantine", json={"rater": "ann", "action": "dismiss", "note": "fine"}).is_success
    assert flagged()["ann"] == []
    assert flagged()["bob"]
