"""The page's routes, and what they must refuse; the page itself is tried in a real browser (tests/browser)."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from prefloop import config
from prefloop.errors import RequestError
from prefloop.feedback_ui import assignment, control, exporting, flagging, server
from prefloop.formats import snapshot
from prefloop.records import Answers, Message, Prompt, Ranking, Response
from prefloop.store import Campaign, Judgement, Store

HERE = "http://127.0.0.1:7860"
SECRETS = ("secret-policy", "5ec2e7c4ec5u", "secret-stratum", "secret-source", "gold")


def answers(number: int, texts: tuple[str, ...] = ("one", "two", "three", "four")) -> Answers:
    prompt = Prompt((Message("system", "be brief"), Message("user", f"question {number}")), "secret-stratum",
                    "secret-source")
    return Answers(prompt, tuple(Response(text, "runs/secret-policy", "5ec2e7c4ec5u", {"temperature": 0.7}, 12345)
                                 for text in texts))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}", seed=1) as opened:
        opened.add_items([answers(number) for number in range(3)])
        yield opened


@pytest.fixture
def client(store: Store) -> Iterator[TestClient]:
    from prefloop.feedback_ui.web import build

    with TestClient(build(store, server.FeedbackConfig()), base_url=HERE) as made:
        yield made


def fetched(client: TestClient, **asked: Any) -> dict[str, Any]:
    reply = client.post("/api/next", json=asked)
    assert reply.status_code == 200
    return reply.json()


# -- assignment ------------------------------------------------------------------------------------------------------


def test_each_rater_has_an_order_of_their_own_and_keeps_it(tmp_path: Path) -> None:
    with Store(f"sqlite:///{tmp_path / 'feedback.db'}", seed=1) as store:
        store.add_items([answers(0)], need=40)
        first = {f"rater {n}": assignment.next_task(store, f"rater {n}") for n in range(40)}
        again = {rater: assignment.next_task(store, rater) for rater in first}
    assert {rater: task and (task.token, task.answers) for rater, task in first.items()} == {
        rater: task and (task.token, task.answers) for rater, task in again.items()}
    leading = [task.answers[0] for task in first.values() if task is not None]
    assert {text: leading.count(text) >= 3 for text in ("one", "two", "three", "four")} == dict.fromkeys(
        ("one", "two", "three", "four"), True)


def test_assignment_maps_what_was_seen_to_what_is_stored(store: Store) -> None:
    wanted = {"one": 4, "two": 3, "three": 2, "four": 1}
    while (task := assignment.next_task(store, "ann")) is not None:
        assert task.letters == "ABCD"
        assignment.submit(store, "ann", task.token, Judgement(tuple(wanted[text] for text in task.answers)))
    assert [r.ranks for r in store.rankings()] == [(4, 3, 2, 1)] * 3
    assert len({r.shown for r in store.rankings()}) > 1


# -- routes ----------------------------------------------------------------------------------------------------------


def test_a_ranking_from_fetch_to_store(client: TestClient, store: Store) -> None:
    got = fetched(client)
    task = got["task"]
    assert [m["role"] for m in task["conversation"]] == ["system", "user"]
    assert [a["letter"] for a in task["answers"]] == ["A", "B", "C", "D"]
    assert got["progress"]["wanted"] == 3
    said = {"token": task["token"], "ranks": [1, 2, 2, None], "none_acceptable": True, "seconds": 4.5}
    first = client.post("/api/submit", json=said)
    assert first.status_code == 200
    assert client.post("/api/submit", json=said).json() == first.json()
    assert client.post("/api/submit", json={**said, "ranks": [4, 3, 2, 1]}).status_code == 409
    (ranking,) = store.rankings()
    texts = [ranking.responses[i].text for i in ranking.shown]
    assert texts == [a["text"] for a in task["answers"]]
    assert [ranking.ranks[i] for i in ranking.shown] == [1, 2, 2, None]
    assert (ranking.rater, ranking.none_acceptable, ranking.seconds) == ("me", True, 4.5)
    assert fetched(client)["task"]["token"] != task["token"]


def test_a_guideline_is_read_first_and_every_answer_keeps_its_version(client: TestClient, store: Store) -> None:
    store.apply(Campaign(warning="Some of it is **sad**."), "Be <b>fair</b>.")
    sad = fetched(client)
    assert (sad["gate"], sad["task"], sad["warning"]) == (
        "warning", None, '<p dir="auto">Some of it is <strong>sad</strong>.</p>')
    assert client.post("/api/warning", json={"campaign": "default", "accept": True}).status_code == 200
    told = fetched(client)
    assert (told["gate"], told["task"]) == ("guideline", None)
    assert "&lt;b&gt;fair" in told["guideline"]["html"]
    stale = {"campaign": "default", "version": "another"}
    assert client.post("/api/acknowledge", json=stale).status_code == 422
    assert client.post("/api/acknowledge", json={**stale, "version": told["guideline"]["version"]}).status_code == 200
    token = fetched(client)["task"]["token"]
    assert client.post("/api/submit", json={"token": token, "ranks": [1, 2, 3, 4]}).status_code == 200
    assert [ranking.guideline for ranking in store.rankings()] == [told["guideline"]["version"]]
    store.apply(Campaign(), "Be very fair.")
    assert (fetched(client)["gate"], fetched(client)["guideline"]["changed"]) == ("guideline", True)


def test_items_are_fetched_ahead(client: TestClient) -> None:
    held: list[str] = []
    for _ in range(3):
        held.append(fetched(client, holding=held)["task"]["token"])
    assert len(set(held)) == 3
    assert fetched(client, holding=held)["task"] is None
    assert fetched(client, holding=held[:1])["task"]["token"] == held[1]


def test_one_looks_back_revises_and_withdraws(client: TestClient, store: Store) -> None:
    task = fetched(client)["task"]
    said = {"key": "a", "ranks": [2, 1, 2, None], "strength": "better", "reason": "why", "edited": ""}
    first = client.post("/api/submit", json={"token": task["token"], **said}).json()["answer"]
    (past,) = client.post("/api/history", json={}).json()["answers"]
    assert (past["answer"], past["prompt"], past["order"], past["editable"]) == (
        first, "question 0", [["B"], ["A", "C"]], True)
    again = client.post("/api/reopen", json={"answer": first}).json()
    assert again["said"] == {"none_acceptable": False, **{name: said[name] for name in said if name != "key"}}
    assert again["task"]["answers"] == task["answers"]
    revised = client.post("/api/revise", json={"answer": first, **said, "key": "b", "ranks": [1, 2, 3, 4]})
    assert revised.status_code == 200
    assert [[r.ranks[i] for i in r.shown] for r in store.rankings()] == [[1, 2, 3, 4]]
    assert client.post("/api/withdraw", json={"answer": revised.json()["answer"]}).status_code == 200
    assert list(store.rankings()) == []
    assert fetched(client)["task"]["token"] == task["token"]


def test_practice_is_told_what_would_have_been_right(client: TestClient, store: Store) -> None:
    key = answers(100)
    store.apply(Campaign(qualification_pass=1), qualification=[
        Ranking(key.prompt, key.responses, (1, 2, 3, 4), "key", reason="the first is **right**")])
    before = fetched(client)
    assert before["qualification"] == {"needed": 1, "done": 0, "right": 0, "state": "open"}
    assert before["task"]["practice"] == {"number": 1, "of": 1}
    worst = {"one": 4, "two": 3, "three": 2, "four": 1}
    ranks = [worst[answer["text"]] for answer in before["task"]["answers"]]
    lesson = client.post("/api/submit", json={"token": before["task"]["token"], "ranks": ranks}).json()["lesson"]
    assert (lesson["right"], lesson["ranks"]) == (False, [5 - rank for rank in ranks])
    assert "<strong>right</strong>" in lesson["html"]
    assert (fetched(client)["gate"], fetched(client)["task"]) == ("failed", None)


def test_a_flag_is_kept_and_a_lease_renewed(client: TestClient) -> None:
    task = fetched(client)["task"]
    assert client.post("/api/renew", json={"token": task["token"]}).json()["expires"] >= task["expires"]
    flag = {"token": task["token"], "kind": "unsafe", "note": "it says how"}
    assert client.post("/api/flag", json=flag).status_code == 200
    assert client.post("/api/flag", json={**flag, "kind": "boring"}).status_code == 422


def test_reports_are_listed_newest_first_and_on_one_line_each(client: TestClient, store: Store,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    asked = config.Asked("feedback flags", {"feedback": {"store": f"sqlite:///{store.place}"}})
    flagging.main(asked)  # while another process could serve it: `store` is open
    assert capsys.readouterr().out == "Nobody has reported anything.\n"
    for kind, note in (("unsafe", "it says\nhow\x1b[2J\tto"), ("other", "")):
        store.clock = lambda kind=kind: 1_000 if kind == "unsafe" else 90_000
        task = fetched(client)["task"]
        assert client.post("/api/flag", json={"token": task["token"], "kind": kind, "note": note}).status_code == 200
    flagging.main(asked)
    newer, older = capsys.readouterr().out.splitlines()
    assert newer.startswith("1970-01-02 01:00 UTC\tdefault\tme\tother\t-\tquestion ")
    assert "\tunsafe\tit says howU+001B[2J to\tquestion " in older


def test_pictures_are_given_by_their_digest_alone(client: TestClient, store: Store) -> None:
    assert client.get("/api/picture/none").status_code == 404
    shown = answers(50)
    row = Answers(Prompt((Message("user", "see ![a cat](cat.png)"),)), shown.responses)
    store.apply(Campaign(), rows=[row], pictured=lambda _: {"cat.png": ("image/png", b"\x89PNG\r\n\x1a\nxyz")})
    for _ in range(3):
        client.post("/api/skip", json={"token": fetched(client)["task"]["token"]})
    html = fetched(client)["task"]["conversation"][0]["html"]
    address = html.partition('src="')[2].partition('"')[0]
    assert address.startswith("/api/picture/")
    got = client.get(address)
    assert (got.headers["content-type"], got.content[:4]) == ("image/png", b"\x89PNG")


def test_skip_until_nothing_is_left_and_bring_back(client: TestClient) -> None:
    for _ in range(3):
        assert client.post("/api/skip", json={"token": fetched(client)["task"]["token"]}).status_code == 200
    end = fetched(client)
    assert (end["task"], end["progress"]["skipped"]) == (None, 3)
    assert fetched(client, skipped=True)["task"] is not None


def test_nothing_sent_says_who_wrote_an_answer(client: TestClient) -> None:
    task = fetched(client)["task"]
    sent = [client.post("/api/next", json={}).text, client.get("/").text, client.get("/config").text,
            client.post("/api/submit", json={"token": task["token"], "ranks": [9, 9, 9, 9]}).text,
            client.post("/api/submit", json={"token": task["token"], "ranks": [1, 2, 3, 4]}).text,
            client.get("/healthz").text]
    ids = [response.id for response in answers(0).responses] + [answers(0).prompt.id]
    assert not [secret for secret in (*SECRETS, *ids) for text in sent if secret in text]
    assert "question" in sent[0], "this test looks at the right place"


@pytest.mark.parametrize("body", [
    {"token": "made-up", "ranks": [1, 2, 3, 4]},
    {"token": "", "ranks": [1, 2, 3, 4]},
    {"token": "\x00' or 1=1 --", "ranks": [1, 2, 3, 4]},
])
def test_no_lease_no_answer(client: TestClient, store: Store, body: dict[str, Any]) -> None:
    fetched(client)
    assert client.post("/api/submit", json=body).status_code == 403
    assert client.post("/api/skip", json={"token": body["token"]}).status_code == 403
    assert store.progress().done == 0


@pytest.mark.parametrize(("change", "names"), [
    ({"ranks": [1, 2]}, "ranks"), ({"ranks": [1, 2, 3, 5]}, "ranks"), ({"ranks": [1, 2, 3, "4"]}, "ranks"),
    ({"ranks": [1, 2, 3, True]}, "ranks"), ({"ranks": [None] * 4}, "ranks"), ({"ranks": None}, "ranks"),
    ({"ranks": [1, 2, 3, 10**30]}, "ranks"), ({"strength": "very"}, "strength"), ({"seconds": -1}, "seconds"),
    ({"reason": "\ud800"}, "reason"), ({"rater": "bob"}, "rater"), ({"none_acceptable": "yes"}, "none_acceptable"),
    ({"token": 5}, "token"), ({"reason": "x" * 10_001}, "reason"),
])
def test_what_is_not_an_answer_is_refused_by_name(client: TestClient, store: Store, change: dict[str, Any],
                                                  names: str) -> None:
    said = {"token": fetched(client)["task"]["token"], "ranks": [1, 2, 3, 4], **change}
    reply = client.post("/api/submit", content=json.dumps(said), headers={"content-type": "application/json"})
    assert reply.status_code == 422
    assert names in reply.json()["error"]
    assert "\n" not in reply.json()["error"]
    assert store.progress().done == 0


def test_broken_json_is_refused(client: TestClient) -> None:
    for content in (b"{", b"[]", b"null", b"\xff\xfe", b'{"token": NaN}', b"[" * 2000):
        reply = client.post("/api/submit", content=content, headers={"content-type": "application/json"})
        assert reply.status_code in (400, 422), content
        assert reply.json()["error"]


# -- the guard -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [
    {"origin": "http://evil.example"}, {"origin": "null"}, {"origin": "http://127.0.0.1:9999"}, {"origin": ""},
    {"origin": "http://127.0.0.1:7860.evil.example"},
    {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"},
])
def test_a_forged_origin_is_refused_everywhere(client: TestClient, store: Store, headers: dict[str, str]) -> None:
    token = fetched(client)["task"]["token"]
    for path, body in (("/api/next", {}), ("/api/skip", {"token": token}),
                       ("/api/submit", {"token": token, "ranks": [1, 2, 3, 4]})):
        assert client.post(path, json=body, headers=headers).status_code == 403
    assert store.progress().done == 0
    assert client.post("/api/next", json={}, headers={"origin": HERE}).status_code == 200


def test_a_foreign_host_name_is_refused(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example:7860", ""):
        assert client.get("/", headers={"host": host}).status_code == 421
        assert client.post("/api/next", json={}, headers={"host": host}).status_code == 421
    assert client.get("/healthz", headers={"host": "localhost:7860"}).status_code == 200


def test_gradio_takes_no_requests_that_do_anything(client: TestClient) -> None:
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/component_server", "/gradio_api/run/x",
                 "/login", "/"):
        assert client.post(path, json={}).status_code == 405, path
    for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/file=https://example.com", "/monitoring",
                 "/gradio_api/proxy=https://example.com", "/gradio_api/openapi.json", "/file=/etc/passwd"):
        assert client.get(path).status_code == 404, path
    for path in ("/docs", "/openapi.json"):
        assert "swagger" not in client.get(path).text.lower()


def test_bodies_are_small_declared_and_json(client: TestClient) -> None:
    as_json = {"content-type": "application/json"}
    assert client.post("/api/next", content=b" " * 300_000, headers=as_json).status_code == 413
    assert client.post("/api/next", content=iter([b"{}"]), headers=as_json).status_code == 411
    assert client.post("/api/next", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415


def test_every_reply_tells_the_browser_what_it_may_do(client: TestClient) -> None:
    for reply in (client.get("/"), client.get("/healthz"), client.post("/api/next", json={}), client.get("/nowhere"),
                  client.post("/login")):
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert "default-src 'self'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"


# -- the commands ----------------------------------------------------------------------------------------------------


def asked(**feedback: Any) -> config.Asked:
    return config.Asked("feedback", {"feedback": feedback})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.com", ""])
def test_other_machines_are_not_let_in(host: str) -> None:
    with pytest.raises(RequestError, match="there is no sign-in"):
        server.main(asked(host=host))


def test_a_busy_port_is_one_line_that_says_what_to_do(store: Store) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RequestError, match=rf"port {port} is in use .*feedback.port={port + 1}"):
            server.serve(store, server.FeedbackConfig(port=port))


def test_a_store_becomes_a_snapshot(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    url, out = f"sqlite:///{store.place}", str(tmp_path / "snapshots" / "first")
    wanted = config.Asked("snapshot", {"snapshot": {"store": url, "out": out}})
    with pytest.raises(RequestError, match="nobody has ranked anything yet"):
        exporting.main(wanted)
    for edited in ("a better answer", " two\n"):  # the second only says what was shown
        task = assignment.next_task(store, "ann")
        assert task is not None
        assignment.submit(store, "ann", task.token, Judgement((1, 2, 3, 3), edited=edited))
    with control.answering(store):
        exporting.main(wanted)
    made = snapshot.read(Path(out))
    assert list(made.rankings) == list(store.rankings())
    assert [d.answer for d in made.demonstrations] == ["a better answer"]
    assert "2 rankings by 1 raters, 10 pairs, 1 demonstrations, 2 prompts" in capsys.readouterr().out


def loaded(statement: str, *heavy: str) -> list[str]:
    """Which of the heavy packages a new process has after this import."""
    script = f"import sys, {statement}; print(*(set({heavy}) & set(sys.modules)))"
    seen = subprocess.run([sys.executable, "-c", script],
                          capture_output=True, text=True, check=True)
    return seen.stdout.split()


def test_the_ui_process_never_imports_torch() -> None:
    assert loaded("prefloop.feedback_ui.web, prefloop.feedback_ui.exporting", "torch", "transformers", "trl") == []


def test_the_commands_are_light_until_they_serve() -> None:
    light = "prefloop.feedback_ui.server, prefloop.feedback_ui.assignment, prefloop.feedback_ui.exporting"
    assert loaded(light, "gradio", "fastapi", "uvicorn") == []
    assert loaded("prefloop.feedback_ui.web", "gradio") == ["gradio"], "this test can fail"


def test_shipped_configs_build() -> None:
    for command, sections in (("feedback", server.sections()), ("snapshot", exporting.sections())):
        path = Path(__file__).parent.parent / "configs" / f"{command}.yaml"
        assert config.build(config.read(command, path, []), sections) == [one.owner() for one in sections.values()]


