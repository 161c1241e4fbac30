"""Campaigns on the leads' page: what is asked of the server, and what it says no to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient
from test_campaigns import answers, scored, written
from test_queue import key

from prefloop.feedback_ui import campaigns, model_agreement, server
from prefloop.feedback_ui.campaigns import CampaignConfig
from prefloop.records import Ranking
from prefloop.store import Campaign, Judgement, Store, filling
from prefloop.store.accounts import Accounts
from prefloop.store.items import campaign_id
from prefloop.store.predicting import Scores
from prefloop.store.schema import answers as given
from prefloop.store.schema import items, leases, predictions, quarantines
from prefloop.store.verifying import verify

HERE = "http://127.0.0.1:7860"
MINE = {"name": "mine", "raters_per_item": 1, "gold_share": 0, "repeats": 0}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}", seed=1) as opened:
        yield opened
        with opened.reading() as db:
            assert not verify(db).bad


@pytest.fixture
def client(store: Store, tmp_path: Path) -> Iterator[TestClient]:
    from prefloop.feedback_ui.web import build

    (tmp_path / "files").mkdir()
    with TestClient(build(store, server.FeedbackConfig(files=str(tmp_path / "files"))), base_url=HERE) as made:
        yield made


def asked(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    reply = client.post(f"/api/lead/{path}", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(client: TestClient, path: str, **body: Any) -> str:
    reply = client.post(f"/api/lead/{path}", json=body)
    assert reply.status_code == 422, reply.text
    return reply.json()["error"]


def sent(client: TestClient, text: str, name: str = "mine.jsonl") -> str:
    reply = client.post(f"/api/lead/upload?name={name}", content=text.encode("utf-8", "surrogateescape"),
                        headers={"content-type": "application/octet-stream"})
    assert reply.status_code == 200, reply.text
    return reply.json()["upload"]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row.to_json()) + "\n" for row in rows)


def test_a_campaign_from_a_draft_to_its_pause(client: TestClient, store: Store) -> None:
    rows = sent(client, lines([answers(n) for n in range(3)]))
    said = asked(client, "campaign/save", settings={**MINE, "answers": [rows]}, guideline="Be fair.")
    assert "campaign mine: 3 items queued" in said["said"]
    told = asked(client, "campaign", name="mine")
    assert (told["state"], told["guideline"], told["progress"]) == (
        "draft", "Be fair.", {"items": 3, "wanted": 3, "done": 0})
    assert told["coverage"] == [{"stratum": "", "items": 3, "wanted": 3, "answers": 0, "uncertainty": None,
                                 "quota": None, "share": 0.0, "agreement": None}]
    assert store.open_to("me") == [], "nobody is told of a draft"
    assert asked(client, "campaign/start", name="mine") == {"state": "open", "fillable": []}
    assert [one.name for one in store.open_to("me")] == ["mine"]
    store.acknowledge("me", "mine", told_version(store))
    token = client.post("/api/next", json={"campaign": "mine"}).json()["task"]["token"]
    assert asked(client, "campaign/pause", name="mine")["state"] == "paused"
    assert client.post("/api/next", json={"campaign": "mine"}).json()["gate"] == "paused"
    assert client.post("/api/submit", json={"token": token, "ranks": [1, 2, 3, 4]}).status_code == 200, "work is kept"
    asked(client, "campaign/save", settings={"name": "mine", "title": "Another"})
    told = asked(client, "campaign", name="mine")
    assert (told["state"], told["settings"]["title"], told["settings"]["gold_share"]) == ("paused", "Another", 0)
    assert told["guideline"] == "Be fair.", "what is left out stays as it is"
    asked(client, "campaign/save", settings={"name": "mine"}, guideline="")
    assert asked(client, "campaign", name="mine")["guideline"] == "", "what is emptied does not"
    row, = asked(client, "campaigns")["campaigns"]
    assert (row["state"], row["done"], row["wanted"], row["raters"]) == ("paused", 1, 3, 1)


def told_version(store: Store) -> str:
    guideline = store.guideline("me", "mine")
    assert guideline is not None
    return guideline.version


@pytest.mark.parametrize(("text", "names"), [
    (lines([answers(1)]) + "{", r"bad.jsonl:2: not a row of answers: not JSON at column 2"),
    (lines([answers(1)]) + '{"responses": []}', r"bad.jsonl:2: column 'prompt' is missing"),
    ("\x00\x00", r"bad.jsonl:1: not a row of answers"), ("[" * 100_000, r"bad.jsonl:1: not a row of answers")])
def test_a_malformed_upload_names_file_and_row_and_nothing_is_made(client: TestClient, store: Store, text: str,
                                                                   names: str, tmp_path: Path) -> None:
    said = refused(client, "campaign/save", settings={**MINE, "answers": [sent(client, text, "bad.jsonl")]})
    assert said.startswith(names)
    assert str(tmp_path) not in said
    assert [one.name for one in store.campaigns()] == ["default"]


@pytest.mark.parametrize(("settings", "names"), [
    ({"nam": "x"}, "unknown key campaign.nam; did you mean campaign.name?"), ({"gold_share": "much"}, "gold_share"),
    ({"state": "open"}, "campaign.state: start or pause"), ({"guideline": "x.md"}, "campaign.guideline: it is given"),
    ({"answers": ["/etc/passwd"]}, "no such upload"), ({"answers": ["../feedback.db"]}, "no such upload"),
    ({"gold": "0123456789abcdef/../../feedback.db"}, "no such upload"), ({"answers": ["\x00"]}, "no such upload"),
    ({"scores": "0123456789abcdef/gone.jsonl"}, "there is no such file any more"), ({"answers": [[1]]}, "no such"),
    ({"raters": 5}, "campaign.raters: expected"), ({"quotas": {"a": None}}, "campaign.quotas")])
def test_settings_that_a_page_must_not_send(client: TestClient, settings: dict[str, Any], names: str) -> None:
    assert names in refused(client, "campaign/save", settings={**MINE, **settings})


def test_a_guideline_is_a_text_and_never_a_file_of_the_server(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "secret.md").write_text("secret")
    path = str(tmp_path / "secret.md")
    asked(client, "campaign/save", settings=MINE, guideline=path)
    assert asked(client, "campaign", name="mine")["guideline"] == path


def test_files_below_a_folder_can_be_named_and_links_out_of_it_not(client: TestClient, tmp_path: Path) -> None:
    written(tmp_path / "files" / "run" / "answers.jsonl", [answers(1)])
    written(tmp_path / "outside.jsonl", [answers(2)])
    (tmp_path / "files" / "link.jsonl").symlink_to(tmp_path / "outside.jsonl")
    assert "1 item queued" in asked(client, "campaign/save", settings={**MINE, "answers": ["run"]})["said"]
    outside = {**MINE, "answers": ["link.jsonl"]}
    assert "nor such a file below feedback.files" in refused(client, "campaign/save", settings=outside)


def test_gold_stays_until_another_file_is_given(client: TestClient) -> None:
    rows = sent(client, lines([answers(n) for n in range(9)]))
    gold = sent(client, lines([key(1, "gold"), key(2, "gold")]))
    asked(client, "campaign/save", settings={**MINE, "gold_share": 0.1, "answers": [rows], "gold": gold})
    said = asked(client, "campaign/save", settings={"name": "mine", "title": "New"})["said"]
    assert "given out no more" not in said
    other = sent(client, lines([key(3, "gold")]))
    said = asked(client, "campaign/save", settings={"name": "mine", "gold": other})["said"]
    assert "2 earlier gold or qualification items are given out no more" in said


# -- what stands in the way -------------------------------------------------------------------------------------------


def made(store: Store, count: int = 9, **settings: Any) -> str:
    """What is told of a draft that is then opened."""
    path = Path(str(store.place)).with_name("a.jsonl")
    rows = [answers(n) for n in range(count)]
    written(path, rows)
    whole = {"name": "mine", "answers": str(path), "gold_share": 0, **settings}
    return campaigns.apply(store, CampaignConfig(**whole), several=True)


@pytest.mark.parametrize(("settings", "names"), [
    ({"count": 0}, "this file is empty"),
    ({"raters": ("ann", "bob"), "raters_per_item": 3}, "some items want 3 raters .* and campaign.raters names 2"),
    ({"raters": ("ann", "ANN"), "overlap": 1, "overlap_raters": 2}, "want 2 raters .* campaign.raters names 1"),
    ({"ask": "stratified", "quotas": {"maths": 1.0}}, "campaign.quotas: no item is of stratum 'maths'"),
    ({"ask": "uncertainty"}, "no item has scores of an ensemble")])
def test_what_can_never_be_filled_is_refused_before_it_starts(store: Store, settings: dict[str, Any],
                                                              names: str) -> None:
    with pytest.raises(campaigns.RequestError, match=names):
        made(store, **settings)
    assert store.progress().items == 0
    if "count" not in settings:
        made(store, state="draft", **settings)
        with pytest.raises(campaigns.RequestError, match=f"campaign mine can never be filled: .*{names}"):
            made(store, state="open", **settings)
        assert store.open_to("ann") == []


def test_what_accounts_may_still_mend_is_told(store: Store) -> None:
    assert "some items want 3 raters (campaign.raters_per_item, " in (told := made(store, raters_per_item=3))
    assert "and nobody can rate it as yet; invite 3 more" in told
    for name in ("ann", "bob", "cyd", "dan"):
        Accounts(store).add(name, "a long password")
    assert "can rate it as yet" not in made(store, raters_per_item=3)
    Accounts(store).disable("dan")
    held = {"rater": "cyd", "state": "held", "why": "[]", "by": "lead", "at": 1, "closed_by": ""}
    store.write(lambda db: db.execute(quarantines.insert(), [held]))
    assert "and 2 can rate it as yet; invite 1 more" in made(store, raters_per_item=3)
    store.write(lambda db: db.execute(quarantines.delete()))
    assert "gold_share: there are no gold items" in made(store, gold_share=0.1)
    assert "too few items to repeat" in made(store, count=2, name="small", repeats=0.1)
    assert "show_model: no item has a model's scores" in made(store, show_model=True)


def test_only_items_that_are_not_full_want_raters(store_url: str, tmp_path: Path) -> None:
    """By how many more, and of those who may rate and have not."""
    path = written(tmp_path / "a.jsonl", [answers(n) for n in range(3)])
    shared = CampaignConfig(answers=path, gold_share=0, repeats=0, overlap=1, overlap_raters=2)
    with Store(store_url, seed=1) as store:
        campaigns.apply(store, shared, several=True)
        for rater in ("ann", "bob"):
            while (lease := store.lease(rater, 60, campaign="default")) is not None:
                last = store.submit(lease.token, rater, Judgement((1, 2, 3, 4))).answer
        assert "want" not in campaigns.apply(store, shared, several=False), "it is full"
        campaigns.apply(store, replace(shared, raters=("cyd",)), several=True)
        store.withdraw(last, "bob")
        campaigns.apply(store, replace(shared, raters=("ann", "cyd")), several=True)
        assert "an item wants one rater, and nobody can" in campaigns.apply(store, shared, several=True)
        for alone in ("ann", "ANN"):
            with pytest.raises(campaigns.RequestError, match=r"want 2 raters .* campaign.raters names 1"):
                campaigns.apply(store, replace(shared, raters=(alone,)), several=True)
        with pytest.raises(campaigns.RequestError, match=r"want 2 raters .* without feedback.sign_in there is one"):
            campaigns.apply(store, shared, several=False)


def test_without_sign_in_there_is_one_rater(client: TestClient) -> None:
    rows = sent(client, lines([answers(1)]))
    asked(client, "campaign/save", settings={**MINE, "raters_per_item": 2, "answers": [rows]})
    assert "without feedback.sign_in there is one" in refused(client, "campaign/start", name="mine")
    told = asked(client, "campaign", name="mine")
    assert told["refused"] == told["fillable"]


# -- a model's opinion ------------------------------------------------------------------------------------------------


def test_the_model_is_told_after_the_answer_and_to_half_and_never_before(client: TestClient, store: Store,
                                                                         tmp_path: Path) -> None:
    rows, worth = [answers(n) for n in range(40)], [777.125, -777.375, 777.625, -777.875]
    scores = scored(tmp_path / "scores.jsonl", rows, [31.5] * 40, worth)
    campaigns.apply(store, CampaignConfig(name="mine", answers=written(tmp_path / "a.jsonl", rows), scores=scores,
                                          show_model=True, gold_share=0, repeats=0.3), several=False)
    best = {"three": 1, "one": 2, "two": 3, "four": 4}
    told, repeated = 0, []
    for _ in range(40):
        before = client.post("/api/next", json={"campaign": "mine"})
        others = [client.post("/api/history", json={}), client.post("/api/hello", json={})]
        task = before.json()["task"]
        if task is None:
            break
        assert "model" not in before.text
        assert not any(mark in one.text for one in (before, *others) for mark in ("777", "31.5", "uncertain"))
        said = {"token": task["token"], "ranks": [1, 2, 3, 4], "key": task["token"]}
        reply = client.post("/api/submit", json=said).json()
        assert client.post("/api/submit", json=said).json()["model"] == reply["model"], "a retry is told the same"
        with store.reading() as db:
            row = db.execute(select(items.c.kind, items.c.mirrors, leases.c.informed).join(
                leases, leases.c.item == items.c.id).where(leases.c.token == task["token"])).one()
        assert bool(row.informed) == (reply["model"] is not None)
        if reply["model"] is not None:
            told += 1
            texts = {one["letter"]: one["text"] for one in task["answers"]}
            assert [best[texts[letter]] for tier in reply["model"] for letter in tier] == [1, 2, 3, 4]
            changed = client.post("/api/revise", json={"answer": reply["answer"], "ranks": [4, 3, 2, 1], "key": "",
                                                       "reason": "the model said so"})
            assert changed.status_code == 200
        repeated += [row.mirrors] if row.kind == "repeat" else []
    with store.reading() as db:
        informed = set(db.scalars(select(leases.c.item).where(leases.c.informed == 1)))
        rows_ = db.execute(select(given.c.informed, given.c.reason, given.c.revision)).all()
    assert 10 <= told <= 30
    assert repeated
    assert not informed & set(repeated), "what one knows of a model is no check of oneself"
    assert all(bool(row.informed) == (row.reason != "") == (row.revision > 1) for row in rows_)
    history = client.post("/api/history", json={}).json()["answers"]
    assert {one["model"] is None for one in history} == {True, False}


def test_a_model_is_held_against_answers_that_did_not_know_it(store: Store, tmp_path: Path) -> None:
    rows = [answers(n) for n in range(3)]
    scores = scored(tmp_path / "scores.jsonl", rows, [None] * 3, [2.0, 1.0, 1.0, -3.0])
    campaigns.apply(store, CampaignConfig(answers=written(tmp_path / "a.jsonl", rows), scores=scores, gold_share=0,
                                          repeats=0), several=False)
    assert model_agreement.facts(store, "default")["over_time"] == []
    worth = {"one": 1, "two": 2, "three": 3, "four": 4}
    while (lease := store.lease("ann", 60, campaign="default")) is not None:
        ranks = tuple(worth[lease.responses[place].text] for place in lease.shown)
        store.submit(lease.token, "ann", Judgement(ranks))
    found = model_agreement.facts(store, "default")
    agree = found["over_time"][0]["agree"]
    assert agree["value"] == pytest.approx(5.5 / 6), "of six pairs one is a tie of the model"
    assert agree["n"] == 3
    by = {(one["least"], one["most"]): one["agree"] for one in found["by_confidence"]}
    assert by[0.5, 0.6]["value"] == 0.5, "the tie"
    assert by[0.7, 0.8]["value"] == 1, "a gap of 1 is a probability of 0.73"
    assert by[0.9, 1.0]["value"] == 1
    assert by[0.6, 0.7] is None
    store.write(lambda db: db.execute(update(predictions).values(at=1)))
    campaigns.apply(store, CampaignConfig(answers=written(tmp_path / "a.jsonl", rows), scores=scores, gold_share=0,
                                          repeats=0), several=False)
    with store.reading() as db:
        assert set(db.scalars(select(predictions.c.at))) == {1}, "applied again they are as old as they were"


def test_a_model_is_held_against_answers_that_came_after_it() -> None:
    old, new = (1.0, 0.0), (0.0, 1.0)
    assert [model_agreement.beforehand([(5, old), (9, new)], at) for at in (4, 5, 8, 9)] == [None, old, old, new]


def test_gold_is_told_of_like_any_item_and_what_has_no_scores_is_named(store: Store) -> None:
    rows, keys = [answers(n) for n in range(3)], [answers(n) for n in range(10, 40)]
    gold = [Ranking(one.prompt, one.responses, tuple(range(1, len(one.responses) + 1)), "us") for one in keys]
    said = {(row.prompt.id, one.id): (float(place), None) for row in (*rows, *keys)
            for place, one in enumerate(row.responses)}

    def obstacles() -> str:
        with store.reading() as db:
            return " | ".join(one.words for one in filling.obstacles(db, campaign_id(db, "own"), several=True))

    settings = Campaign("own", show_model=True, gold_share=0.9, probation=0.9)
    store.apply(settings, gold=gold, rows=rows, scores=Scores("m", dict(list(said.items())[:len(said) // 2])))
    assert "gold items have no scores" in obstacles()
    store.apply(settings, scores=Scores("m", said))
    assert "gold items have no scores" not in obstacles()
    told = []
    while (lease := store.lease("ann", 60, campaign="own")) is not None:
        receipt = store.submit(lease.token, "ann", Judgement(tuple(range(1, len(lease.responses) + 1))))
        told += [receipt.model] if lease.prompt.id in {one.prompt.id for one in keys} else []
    assert {one is None for one in told} == {True, False}


def test_an_unknown_campaign(client: TestClient, store: Store) -> None:
    store.apply(Campaign("other"))
    for path in ("campaign", "campaign/start", "campaign/pause"):
        assert "there is none named 'x'" in refused(client, path, name="x")
