"""Leads take data out and in over HTTP: what they send is hostile, and what they get is whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from test_data_in_out import rated
from test_feedback_ui import HERE

from prefloop.errors import RequestError
from prefloop.feedback_ui import administering, data_in, guard, server, uploads
from prefloop.formats.layouts import LAYOUTS
from prefloop.store import Store

RAW = {"content-type": "application/octet-stream"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}", seed=1) as made:
        yield made


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    from prefloop.feedback_ui.web import build

    with TestClient(build(store, server.FeedbackConfig()), base_url=HERE) as made:
        yield made


def test_out_of_one_campaign_and_into_another(client: TestClient, store: Store) -> None:
    rated(store, seed=2, raters=("ann", "bob"))
    told = {one["name"]: one for one in client.get("/api/lead/formats").json()["formats"]}
    assert set(told) == set(LAYOUTS)
    assert told["rankings"]["kinds"] == ["jsonl", "json", "csv", "parquet"]
    assert told["rankings"]["holds_not"] == []
    assert "reasons" in told["helpsteer"]["holds_not"]
    lost = client.post("/api/lead/losses", json={"format": "trl"}).json()
    assert (lost["rankings"], lost["raters"]) == (sum(bool(one.decided()) for one in store.rankings()), 2)
    assert {"what": "rankings whose raters are not named", "count": lost["rankings"]} in lost["lost"]
    for kind in told["rankings"]["kinds"]:
        reply = client.get(f"/api/lead/export?format=rankings&kind={kind}&campaign=default&raters=names")
        assert reply.headers["content-disposition"] == f'attachment; filename="default-rankings.{kind}"'
        sent = client.post(f"/api/lead/upload?name=back.{kind}", content=reply.content, headers=RAW).json()
        assert sent["size"] == len(reply.content)
        said = client.post("/api/lead/import", json={"upload": sent["upload"], "campaign": "default"}).json()
        assert "0 answers by 0 raters to 0 new items; 24 there before" in said["said"]
    assert client.get("/api/lead/export?format=battles").status_code == 200
    for wrong, why in (("format=battle", "did you mean 'battles'?"), ("kind=datasets", "cannot be downloaded"),
                       ("format=argilla&kind=csv", "not written as csv"), ("campaign=none", "none named 'none'")):
        reply = client.get(f"/api/lead/export?{wrong}")
        assert reply.status_code == 422
        assert why in reply.json()["error"]


def test_a_malformed_upload_is_named_as_the_lead_knows_it(client: TestClient, store: Store) -> None:
    rows = [{"prompt": "q", "responses": ["a", "b"], "ranks": ranks, "rater": "ann"} for ranks in ([1, 2], [1])]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    sent = client.post("/api/lead/upload?name=../../my votes.jsonl", content=content, headers=RAW).json()["upload"]
    reply = client.post("/api/lead/import", json={"upload": sent, "campaign": "default"})
    assert reply.status_code == 422
    assert reply.json()["error"].startswith("my_votes.jsonl:2: column 'ranks': expected a list of 2 ranks")
    assert str(store.place) not in reply.json()["error"]
    assert list(store.rankings()) == []


def test_one_import_at_a_time(client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.dumps({"prompt": "q", "responses": ["a", "b"], "ranks": [1, 2], "rater": "ann"}).encode()
    body = {"upload": client.post("/api/lead/upload?name=x.jsonl", content=content, headers=RAW).json()["upload"],
            "campaign": "default"}
    whole, replies = data_in.received, []

    def slow(*given: Any) -> str:
        replies.append(client.post("/api/lead/import", json=body))
        return whole(*given)

    monkeypatch.setattr(data_in, "received", slow)
    assert client.post("/api/lead/import", json=body).status_code == 200
    assert [(one.status_code, one.json()["error"]) for one in replies] == [
        (422, "another import is under way; wait for that")]
    assert len(list(store.rankings())) == 1


@pytest.mark.parametrize("name", ["", "..", "a/../../etc/passwd", "\\..\\x", ".hidden", "\x00\n", "ü" * 300,
                                  "a" * 999, "a" + "." * 100, "a" + "_" * 500])
def test_an_upload_s_name_goes_nowhere(client: TestClient, store: Store, name: str) -> None:
    reply = client.post("/api/lead/upload", params={"name": name}, content=b"x", headers=RAW)
    path = uploads.path_of(store, reply.json()["upload"])
    assert path.resolve().parent.parent == uploads.folder(store).resolve()
    assert path.read_bytes() == b"x"


def test_uploads_go_once_they_are_imported_a_day_old_or_somebody_is_deleted(client: TestClient, store: Store) -> None:
    ranked = {"prompt": "q", "responses": ["a", "b"], "ranks": [1, 2], "rater": "ann"}

    def sent(row: dict[str, Any]) -> str:
        return client.post("/api/lead/upload?name=x.jsonl", content=json.dumps(row).encode(), headers=RAW
                           ).json()["upload"]

    def kept() -> list[str]:
        return sorted(path.name for path in uploads.folder(store).iterdir())

    good, bad = sent(ranked), sent({**ranked, "ranks": [1]})
    replies = [client.post("/api/lead/import", json={"upload": one, "campaign": "default"}) for one in (good, bad)]
    assert [one.status_code for one in replies] == [200, 422]
    assert kept() == [bad.split("/")[0]]
    os.utime(uploads.path_of(store, bad).parent, (1, 1))
    uploads.sweep(uploads.folder(store))
    assert kept() == []
    sent(ranked)
    asked = {"name": "ann"}
    assert client.post("/api/lead/forget", json=asked).json()["forgotten"] is None
    assert len(kept()) == 1
    assert client.post("/api/lead/forget", json={**asked, "confirm": "ann"}).json()["forgotten"]["answers"] == 1
    assert kept() == []
    good = sent({**ranked, "rater": "bob"})
    client.post("/api/lead/import", json={"upload": good, "campaign": "default"})
    sent(ranked)
    administering.forget(store, "bob")
    assert kept() == []


def test_uploads_that_are_not_there(store: Store) -> None:
    uploads.folder(store)
    for name in ("", "../feedback.db", "0123456789abcdef/../../feedback.db", "0123456789abcdef/x", "/etc/passwd"):
        with pytest.raises(RequestError, match="no such file any more"):
            uploads.path_of(store, name)


def test_uploads_that_are_refused(client: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    post = client.post
    assert post("/api/lead/upload?name=x", content=b"{}", headers={"content-type": "application/json"}
                ).status_code == 415
    assert post("/api/lead/import", content=b"{}", headers=RAW).status_code == 415
    assert post("/api/lead/upload?name=x", content=b"x", headers={**RAW, "origin": "http://evil"}).status_code == 403
    assert post("/api/lead/upload?name=x", content=b"", headers=RAW).status_code == 422
    monkeypatch.setitem(guard.UPLOADS, "/api/lead/upload", 10)
    assert post("/api/lead/upload?name=x", content=b"x" * 11, headers=RAW).status_code == 413
    assert list(uploads.folder(store).iterdir()) == []
    monkeypatch.setattr(uploads, "MOST", 3)
    for _ in range(5):
        sent = post("/api/lead/upload?name=x", content=b"x", headers=RAW).json()["upload"]
    assert len(list(uploads.folder(store).iterdir())) == 3
    assert uploads.path_of(store, sent)
