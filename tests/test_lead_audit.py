"""The log, a person's data and their deletion on the lead's page: who may, and what is told."""

import json
from pathlib import Path

import pytest
from test_lead_web import PASSWORD, House, house  # noqa: F401 - a fixture

from prefloop.feedback_ui import lead_audit
from prefloop.store import Judgement, exports


def answered(house: House, rater: str) -> None:  # noqa: F811
    lease = house.store.lease(rater, 60)
    assert lease is not None
    house.store.submit(lease.token, rater, Judgement((1, 2), reason="so"))


def test_leads_read_and_verify_the_log(house: House) -> None:  # noqa: F811
    answered(house, "ann")
    lea = house.signed_in("lea")
    told = lea.post("/api/lead/events", json={}).json()
    assert [one["kind"] for one in told["events"]] == ["answered", "queued", *["account made"] * 3, "campaign made"]
    assert not told["more"]
    first, second = told["events"][:2]
    assert (first["actor"], first["subject"], first["payload"]["rows"]["answers"][0]["reason"]) == (
        "ann", "answers:1", "so")
    assert (second["subject"], len(second["payload"]["rows"]["items"])) == ("items:1-3", 3)
    about = lea.post("/api/lead/events", json={"about": "ann", "before": first["id"]}).json()["events"]
    assert [one["kind"] for one in about] == ["account made"]
    assert lea.post("/api/lead/verify", json={}).json() == {
        "ok": True, "events": 6, "rows": 9, "erased": 0, "head": exports.head(house.store), "first_bad": None,
        "bad": []}
    house.store.write(lambda db: db.exec_driver_sql("update answers set reason = 'no'"))
    found = lea.post("/api/lead/verify", json={}).json()
    assert (found["ok"], found["first_bad"]) == (False, "answers:1: reason changed behind the log's back")


def test_only_admins_see_and_delete_a_person(house: House, tmp_path: Path,  # noqa: F811
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where a server looks for runs
    answered(house, "ann")
    exports.exported(house.store, "snapshot", "/s", "c" * 64, {"ann": 1}, exports.head(house.store))
    run = tmp_path / "runs" / "reward"
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"stage": "reward", "status": "done", "parents": {
        "data": {"path": "/s", "checksum": "c" * 64}}}))
    lea, ada = house.signed_in("lea"), house.signed_in("ada")
    assert lea.get("/api/lead/rater_data?name=ann").status_code == 403
    assert lea.post("/api/lead/forget", json={"name": "ann", "confirm": "ann"}).status_code == 403
    whole = ada.get("/api/lead/rater_data?name=ann")
    assert whole.headers["content-disposition"] == 'attachment; filename="rater.json"'
    assert [row["reason"] for row in whole.json()["answers"]] == ["so"]
    told = ada.post("/api/lead/forget", json={"name": "ann"}).json()
    assert (told["forgotten"], [one["place"] for one in told["snapshots"]]) == (None, ["/s"])
    assert told["runs"] == [{"path": "runs/reward", "stage": "reward", "status": "done"}]
    refused = ada.post("/api/lead/forget", json={"name": "ada", "confirm": "ada"})
    assert (refused.status_code, "another admin" in refused.json()["error"]) == (422, True)
    done = ada.post("/api/lead/forget", json={"name": "ann", "confirm": "ann"}).json()["forgotten"]
    assert (done["answers"], done["items"]) == (1, 1)
    assert ada.get("/api/lead/rater_data?name=ann").status_code == 422
    sign_in = house.visitor().post("/api/sign_in", json={"name": "ann", "password": PASSWORD})
    assert sign_in.status_code == 403
    assert ada.post("/api/lead/verify", json={}).json()["ok"]


def test_of_many_rows_the_first_are_shown() -> None:
    rows = [{"id": number} for number in range(5)]
    assert lead_audit.shown({"actor": "a", "about": "", "rows": {"items": rows}}) == {
        "rows": {"items": rows[:3]}, "more": 2}
    assert lead_audit.shown({"actor": "a", "about": "", "answers": 3}) == {"answers": 3}
    assert lead_audit.shown(None) is None
