"""The routes of the review queue: what they tell, what they hide, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reviewed_house import NOTE, POLICY, REASON, waiting
from starlette.testclient import TestClient

from prefloop.feedback_ui import exporting, server
from prefloop.formats import snapshot
from prefloop.store import Store
from prefloop.store.cases import Decision
from prefloop.store.reviewing import Reviews
from prefloop.store.verifying import verify


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}", seed=1) as opened:
        waiting(opened)
        yield opened


@pytest.fixture
def lead(store: Store) -> Iterator[TestClient]:
    from prefloop.feedback_ui.web import build

    with TestClient(build(store, server.FeedbackConfig()), base_url="http://127.0.0.1") as client:
        yield client


def told(lead: TestClient, path: str, **body: Any) -> dict[str, Any]:
    reply = lead.post(f"/api/lead/{path}", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def by_kind(lead: TestClient, kind: str) -> dict[str, Any]:
    (row,) = told(lead, "reviews", why=kind)["reviews"]
    return told(lead, "review", id=row["id"])


def test_the_list_counts_what_waits_and_why(lead: TestClient) -> None:
    found = told(lead, "reviews")
    assert found["counts"] == {"all": 3, "disagreement": 1, "model": 1, "flag": 1}
    assert [row["kinds"] for row in found["reviews"]] == [["disagreement"], ["model"], ["flag"]]
    assert found["reviews"][2]["flags"] == ["unsafe"]
    assert not found["more"]
    assert told(lead, "reviews", campaign="default")["reviews"] == []
    assert told(lead, "reviews", state="decided")["reviews"] == []


def test_a_case_has_everything_and_not_who_wrote_it(lead: TestClient, store: Store) -> None:
    case = by_kind(lead, "disagreement")
    assert POLICY not in json.dumps(case)
    assert "secret-policy" not in json.dumps(case)
    assert "<img" not in json.dumps([case["conversation"], [one["html"] for one in case["answers"]]])
    assert [(one["rater"], one["guideline"], one["seconds"]) for one in case["given"]] \
        == [("ann", 1, 12.0), ("bob", 1, 12.0), ("cy", 1, 12.0)]
    assert case["given"][0]["reason"] == REASON
    letters = [one["letter"] for one in case["answers"]]
    assert sorted(letter for tier in case["given"][0]["order"] for letter in tier) == letters == ["A", "B", "C"]
    first, last = (case["given"][0]["order"][place][0] for place in (0, 2))
    assert sorted((first, last)) in case["why"][0]["pairs"], "bob has them the other way round"
    flagged = by_kind(lead, "flag")
    assert [(one["rater"], one["kind"], one["note"]) for one in flagged["flagged"]] == [("bob", "unsafe", NOTE)]
    assert told(lead, "review", item=flagged["item"]) == flagged


def test_a_model_is_told_in_the_order_shown(lead: TestClient) -> None:
    case = by_kind(lead, "model")
    (model,) = case["models"]
    texts = {one["letter"]: one["text"] for one in case["answers"]}
    assert [texts[tier[0]] for tier in model["order"]] == ["two", "one"]
    assert [texts[letter] for letter in case["why"][0]["pairs"][0]] == ["one", "two"], "as the rater had it"


def test_ranks_are_taken_in_the_order_shown_and_kept_in_the_stored_one(lead: TestClient, store: Store) -> None:
    case = by_kind(lead, "disagreement")
    ranks = {"middling": 1}
    said = [ranks.get(one["text"], 2 + place) for place, one in enumerate(case["answers"])]
    assert told(lead, "review/decide", id=case["id"], ranks=said, cause="edge", note="so")["gold"] is None
    (made,) = Reviews(store).decisions()
    assert made.ranks[1] == 1
    again = told(lead, "review", id=case["id"])
    assert again["decision"]["ranks"] == said
    assert again["state"] == "decided"
    assert told(lead, "reviews", state="decided")["causes"] == [{"cause": "edge", "reviews": 1, "guideline": None}]


@pytest.mark.parametrize(("path", "body", "status", "what"), [
    ("review", {}, 422, "by its id, or by its item"),
    ("review", {"id": 99}, 422, "no review 99"),
    ("review", {"item": 99}, 422, "item 99"),
    ("review", {"id": 2**63}, 422, "less than"),
    ("reviews", {"why": "%"}, 422, "why"),
    ("reviews", {"campaign": "x" * 300}, 422, "campaign"),
    ("review/decide", {"id": 1, "ranks": [1], "cause": "edge"}, 422, "1 ranks for 3 answers"),
    ("review/decide", {"id": 1, "ranks": [1, 2, 3], "cause": "boredom"}, 422, "cause"),
    ("review/decide", {"id": 1, "ranks": [None] * 3, "cause": "edge"}, 422, "no answer was ranked"),
    ("review/decide", {"id": 1, "ranks": [1, 2, 3], "cause": "edge", "note": "a\x00b"}, 422, "note"),
    ("review/dismiss", {"id": 1, "note": "x" * 2001}, 422, "note"),
])
def test_what_is_wrong_is_said_in_a_line(path: str, body: dict[str, Any], status: int, what: str,
                                         lead: TestClient) -> None:
    told(lead, "reviews")
    reply = lead.post(f"/api/lead/{path}", json=body)
    assert reply.status_code == status
    assert what in reply.json()["error"]
    assert "\n" not in reply.json()["error"]
    assert told(lead, "reviews")["counts"]["all"] == 3


def test_who_is_slower_is_told_whose_decision_stands(lead: TestClient) -> None:
    case = by_kind(lead, "model")
    told(lead, "review/dismiss", id=case["id"])
    reply = lead.post("/api/lead/review/decide", json={"id": case["id"], "ranks": [1, 2], "cause": "edge"})
    assert reply.status_code == 409
    assert "me dismissed it" in reply.json()["error"]
    told(lead, "review/decide", id=case["id"], ranks=[1, 2], cause="edge", again=True)


@pytest.mark.parametrize(("decisions", "raters"), [
    ("beside", ["ann", "ann", "bob", "cy", "review:me"]), ("instead", ["ann", "review:me"]),
    ("none", ["ann", "ann", "bob", "cy"])])
def test_a_snapshot_has_what_was_decided(decisions: str, raters: list[str], lead: TestClient, store: Store,
                                         tmp_path: Path) -> None:
    case = by_kind(lead, "disagreement")
    told(lead, "review/decide", id=case["id"], ranks=[1, 2, 3], cause="mistake")
    made = snapshot.read(exporting.export(store, tmp_path / "made", decisions=decisions))
    assert sorted(one.rater for one in made.rankings) == raters


def test_reviews_are_the_same_on_both_databases(store_url: str) -> None:
    with Store(store_url, seed=1) as store:
        waiting(store)
        reviews = Reviews(store)
        assert reviews.sweep() == 3
        disputed, contradicted, flagged = reviews.listed(campaign="study")
        assert [reviews.listed(why=kind) for kind in ("disagreement", "model", "flag")] \
            == [[disputed], [contradicted], [flagged]]
        assert reviews.listed(after=disputed.id, limit=1) == [contradicted]
        assert reviews.waiting("study") == {"all": 3, "disagreement": 1, "model": 1, "flag": 1}
        assert [one.rater for one in reviews.case_of(disputed.item).opinions] == ["ann", "bob", "cy"]
        gold = reviews.decide(disputed.id, "lea", Decision((1, 2, 3), "guideline", gold=True))
        reviews.dismiss(contradicted.id, "lea")
        assert reviews.decide(disputed.id, "lea", Decision((2, 1, 3), "guideline", gold=True), again=True) == gold
        assert (reviews.causes()[0].cause, reviews.causes()[0].guideline) == ("guideline", 1)
        assert [one.ranks for one in reviews.decisions()] == [(2, 1, 3)]
        assert reviews.sweep() == 0
        with store.reading() as db:
            assert not verify(db).bad
