"""The side-by-side page's server: real processes over HTTP, and the rules of blind votes by themselves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import arena_server
import explored
import pytest
import tiny
from arena_server import Served, asked_of_sample, is_gone

from prefloop import wire
from prefloop.compare.records import Answer, Question, Rewards
from prefloop.compare.records import Contestant as Compared
from prefloop.errors import RequestError
from prefloop.feedback_ui import held_out, looking
from prefloop.feedback_ui.held_out import Contestant, HeldOut, Written
from prefloop.feedback_ui.looking import Wish
from prefloop.feedback_ui.tally import tally
from prefloop.feedback_ui.trying import Tries
from prefloop.feedback_ui.votes_seen import PEOPLE, with_votes
from prefloop.feedback_ui.voting import Voting
from prefloop.records import Message, Prompt, Ranking, Response
from prefloop.store import Judgement, Store

WHOLE = ("first", "second", "whole")
SAMPLING = ("arena.split=train", "arena.limit=6", "sampling.max_new_tokens=12", "sampling.batch=4")


@pytest.fixture(scope="module")
def served(arena_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = arena_server.serve(tmp_path_factory.mktemp("live") / "arena", arena_server.runs(arena_home, *WHOLE),
                              f"data.path={arena_home / 'data'}", *SAMPLING)
    yield made
    made.stop()


def answers(lines: list[dict[str, Any]]) -> list[str]:
    """The texts as they ended, by place."""
    return [line["text"] for place in range(3) for line in lines if line.get("place") == place and "tokens" in line]


# -- typed prompts, over HTTP ----------------------------------------------------------------------------------------


def test_a_typed_prompt_from_stream_to_store(served: Served, arena_home: Path) -> None:
    served.until("ready", sampled=True)
    lines = list(served.ask("Say something about cats"))
    first, last = lines[0], lines[-1]
    assert (first["places"], first["names"]) == (3, None)
    assert last == {"done": True, "same": False, "before": False, "votable": True}
    grown = [line for line in lines if line.get("place") == 0 and "tokens" not in line]
    assert len(grown) > 5, "it comes piece by piece"
    text = ""
    for line in grown:
        text = line["text"] if line["whole"] else text + line["text"]
    assert text == answers(lines)[0].rstrip("\ufffd"), "the beginning of a character waits for its end"

    status, got = served.call("/api/next", {"ask": first["ask"]})
    assert status == 200
    task = got["task"]
    assert [one["text"] for one in task["answers"]] == answers(lines), "the same letters as in the stream"
    assert str(arena_home) not in json.dumps([lines, got])
    status, told = served.call("/api/submit", {"token": task["token"], "ranks": [2, 1, 2]})
    assert status == 200
    texts = {str(arena_home / name): asked_of_sample(arena_home / name, "Say something about cats", 5, 30)[0]
             for name in WHOLE}
    assert [texts[writer] for writer in told["writers"]] == answers(lines), "and each wrote what `sample` gives"
    (ranking,) = served.rankings()
    assert ranking.prompt == Prompt((Message("user", "Say something about cats"),), source="arena")
    best = ranking.responses[ranking.ranks.index(1)]
    assert (best.policy, best.text, best.seed) == (told["writers"][1], answers(lines)[1], 5)
    assert {response.policy: rank for response, rank in zip(ranking.responses, ranking.ranks, strict=True)} == dict(
        zip(told["writers"], (2, 1, 2), strict=True))
    assert all(len(response.checksum) == 64 for response in ranking.responses)
    again = list(served.ask("Say something about cats"))
    assert (again[-1]["before"], again[-1]["votable"]) == (True, False)
    status, got = served.call("/api/next", {"ask": again[0]["ask"]})
    assert (status, "ranked before" in got["error"]) == (422, True)


def test_names_before_a_vote_are_no_blind_vote(served: Served) -> None:
    served.until("ready")
    lines = list(served.ask("a dog", seed=6))
    status, told = served.call("/api/arena/reveal", {"ask": lines[0]["ask"]})
    assert (status, sorted(Path(name).name for name in told["names"])) == (200, sorted(WHOLE))
    status, got = served.call("/api/next", {"ask": lines[0]["ask"]})
    assert (status, "would not be blind" in got["error"]) == (422, True)
    openly = list(served.ask("a dog", blind=False))
    assert [Path(name).name for name in openly[0]["names"]] == list(WHOLE)
    assert not openly[-1]["votable"]


def test_the_order_is_a_shuffle(served: Served, arena_home: Path) -> None:
    served.until("ready")
    orders = set()
    for seed in range(12):
        lines = list(served.ask("order", seed=seed, max_new_tokens=1))
        orders.add(tuple(served.call("/api/arena/reveal", {"ask": lines[0]["ask"]})[1]["names"]))
    assert len(orders) >= 3


def test_whoever_hangs_up_stops_the_writing(served: Served) -> None:
    served.until("ready", sampled=True)
    talk = served.ask("go on", max_new_tokens=480)
    while "place" not in next(talk):
        pass
    talk.close()
    child = served.child
    assert child is not None

    def busy() -> int:
        return sum(map(int, Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:13]))

    for _ in range(100):
        before = busy()
        time.sleep(0.3)
        if busy() == before:
            return
    pytest.fail("it went on writing for nobody")


def test_two_prompts_at_once(served: Served) -> None:
    served.until("ready")
    one, other = served.ask("one", max_new_tokens=200), served.ask("other", max_new_tokens=20)
    heard = [next(one), next(other)]
    ends = list(other)
    assert ends[-1]["done"]
    rest = list(one)
    assert rest[-1]["done"]
    assert heard[0]["ask"] != heard[1]["ask"]


@pytest.mark.parametrize(("body", "status", "why"), [
    ({"text": "x", "temperature": -1, "max_new_tokens": 5, "seed": 0}, 422, "temperature"),
    ({"text": "x", "temperature": 1, "max_new_tokens": 10**6, "seed": 0}, 422, "max_new_tokens"),
    ({"text": "  ", "temperature": 1, "max_new_tokens": 5, "seed": 0}, 422, "it is empty"),
    ({"text": "\ud800", "temperature": 1, "max_new_tokens": 5, "seed": 0}, 422, "text"),
    ({"text": "x"}, 422, "temperature"),
])
def test_a_malformed_prompt_is_refused(served: Served, body: dict[str, Any], status: int, why: str) -> None:
    got = served.call("/api/arena/ask", body)
    assert got[0] == status
    assert why in got[1]["error"]


def test_a_prompt_that_is_too_long_is_told(served: Served) -> None:
    served.until("ready")
    assert "sampling.max_prompt_tokens is 1024" in list(served.ask("many words " * 600))[-1]["error"]


def test_other_pages_are_not_let_in(served: Served) -> None:
    for path in ("/api/arena/ask", "/api/arena/look", "/api/arena/list", "/api/arena/reveal", "/api/next"):
        assert served.call(path, {}, origin="http://evil.example")[0] == 403
        assert served.call(path, {}, host="evil.example")[0] == 421
    assert served.call("/api/arena/status", host="evil.example")[0] == 421


def test_a_killed_child_is_told_and_started_again(served: Served) -> None:
    served.until("ready")
    talk = served.ask("go on", max_new_tokens=480, seed=9)
    while "place" not in next(talk):
        pass
    child = served.child
    assert child is not None
    os.kill(child, signal.SIGKILL)
    last = list(talk)[-1]
    assert "was killed" in last["error"]
    assert "started again" in last["error"]
    served.until("ready")
    assert served.child not in (None, child)
    assert list(served.ask("again", seed=9))[-1]["done"]


def test_what_was_sampled_is_kept_and_the_child_ends_with_the_page(arena_home: Path, tmp_path: Path) -> None:
    asked = (arena_server.runs(arena_home, "first", "second"), f"data.path={arena_home / 'data'}", *SAMPLING)
    first = arena_server.serve(tmp_path / "arena", *asked)
    first.until("ready", sampled=True)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "arena").glob("answers-*.jsonl")}
    assert len(kept) == 2
    child = first.child
    assert child is not None
    first.stop()  # by SIGKILL
    assert is_gone(child)
    second = arena_server.serve(tmp_path / "arena", *asked)
    _, status = second.call("/api/arena/status")
    second.stop()
    assert (status["done"], status["wanted"]) == (12, 12), "nothing is sampled again"
    assert {path.name: path.read_bytes() for path in (tmp_path / "arena").glob("answers-*.jsonl")} == kept


# -- wrong requests --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("overrides", "why"), [
    ((), "arena.runs names two or more runs"),
    (("arena.runs=[{first}]",), "arena.runs names 1 runs"),
    (("arena.runs=[{first},{first}]",), "twice"),
    (("arena.rums=[{first},{second}]",), "did you mean arena.runs?"),
    (("arena.runs=[{first},{second}]", "sampling.answers=2"), "sampling.answers"),
    (("arena.runs=[{first},{second}]", "arena.host=0.0.0.0"), "no sign-in"),
    (("arena.answers={first}/nothing.jsonl",), "cannot read these answers"),
    (("arena.runs=[{first},{reward}]",), "a reward model writes no answers"),
    (("arena.runs=[{first},{again}]",), "twice"),
])
def test_a_wrong_request_is_one_line(arena_home: Path, tmp_path: Path, overrides: tuple[str, ...], why: str,
                                     capfd: pytest.CaptureFixture[str]) -> None:
    from prefloop import heads, models

    places = {name: arena_home / name for name in ("first", "second", "again")}
    if "reward" in str(overrides):
        reward = tiny.tiny_adapter(tmp_path / "reward", arena_home / "base", 4)
        heads.Head(64).save(reward)
        models.seal(reward, models.resolve(str(arena_home / "base")), "reward")
        places["reward"] = reward
    capfd.readouterr()
    assert tiny.launch("arena", f"arena.folder={tmp_path / 'arena'}", "arena.port=0",
                       *(override.format(**places) for override in overrides)) == 2
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert why in said[0]
    assert not (tmp_path / "arena").exists()


# -- held-out prompts ------------------------------------------------------------------------------------------------


CONTESTANTS = (Contestant("runs/a", "a" * 64), Contestant("runs/b", "b" * 64), Contestant("runs/c", "c" * 64))


def prompt(number: int) -> Prompt:
    return Prompt((Message("user", f"question {number}"),))


def filled(*rows: tuple[str, ...]) -> HeldOut:
    made = HeldOut(CONTESTANTS[: len(rows[0])], tuple(map(prompt, range(len(rows)))))
    made.written = [{n: Written((row[place],)) for n, row in enumerate(rows)} for place in range(len(rows[0]))]
    return made


def test_answers_survive_a_torn_line(tmp_path: Path) -> None:
    def opened() -> HeldOut:
        return HeldOut(CONTESTANTS[:2], tuple(map(prompt, range(3))), {"seed": 1}, tmp_path)

    one = opened()
    one.add(wire.Answered(1, (wire.Written(0, "zero\u2028\x00", 2, True), wire.Written(2, "two", 1, False))))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    two = opened()
    assert two.row(0) == [None, Written(("zero\u2028\x00",), (2,), (True,))]
    assert two.owed() == [wire.HeldOut(0, ()), wire.HeldOut(1, (0,))]
    two.add(wire.Answered(1, (wire.Written(1, "one", 1, True),)))
    assert set(opened().written[1]) == {0, 1}
    other = HeldOut(CONTESTANTS[:2], tuple(map(prompt, range(3))), {"seed": 2}, tmp_path)
    assert other.done == 0, "other settings are other answers"


def test_answers_of_compare_are_read_with_rewards_and_checksums(tmp_path: Path) -> None:
    questions = [Question(prompt(0)), Question(prompt(1)), Question(prompt(2), "typos")]
    first = (Answer("x", 1, True, 0.0), Answer("y", 3, False, 0.0))
    second = (Answer("z", 1, True, 2.5), Answer("x", 1, True))
    rewards = [Rewards("one", "", (((1.0, 2.0),) * 3, ((0.0, 0.5),) * 3)),
               Rewards("other", "", (((), (3.0, 4.0), ()), ((), (1.0, 1.0), ())))]
    place = explored.written(tmp_path / "compare-0001", questions, [
        Compared("runs/a", "aa", (first,) * 3), Compared("runs/b", "bb", (second,) * 3)], rewards, {"seed": 4})
    (place / "answers.jsonl").rename(place / "renamed.jsonl")
    made = held_out.read(place / "renamed.jsonl")
    assert made.contestants == (Contestant("runs/a", "aa"), Contestant("runs/b", "bb"))
    assert made.row(1) == [
        Written(("x", "y"), (1, 3), (True, False), (0.0, 0.0), {"one": (1.0, 2.0), "other": (3.0, 4.0)}),
        Written(("z", "x"), (1, 1), (True, True), (2.5, None), {"one": (0.0, 0.5), "other": (1.0, 1.0)})]
    one, other = made.row(0)
    assert one is not None
    assert (one.reward("one"), one.reward("other"), one.length, one.cut, one.empty) == (1.5, None, 2.0, True, False)
    assert other is not None
    assert not other.cut
    assert looking.judges(made) == ["one", "other"]
    item = made.item(1)
    assert item is not None
    sampling = {"temperature": 1.0, "max_new_tokens": 256.0}
    assert item.responses == (Response("x", "runs/a", "aa", sampling, 4), Response("z", "runs/b", "bb", sampling, 4))
    assert made.item(2) is None, "only held-out prompts are voted on"


@pytest.mark.parametrize(("old", "new"), [("{", "{{"), ('"typos"', "3, 4"), ("[2.5", "[NaN"), ("[2.5", "[1e999"),
                                          ("[0.25]", "[NaN]"), ("[0.25]", '["x"]'), ("[0.25]", "[]")])
def test_a_file_that_compare_did_not_write_is_named(tmp_path: Path, old: str, new: str) -> None:
    answers = [Compared(name, name, ((Answer("x", 1, True, 2.5),),)) for name in "ab"]
    place = explored.written(tmp_path / "compare", [Question(prompt(0), "typos")], answers,
                             [Rewards("judge", "", (((0.25,),), ((0.25,),)))]) / "answers.jsonl"
    line = place.read_text()
    assert old in line
    place.write_text(line.replace(old, new, 1))
    with pytest.raises(RequestError, match=r"answers\.jsonl:1: .*not a row that `prefloop compare` wrote"):
        held_out.read(place)


def test_the_list_is_searched_filtered_and_sorted() -> None:
    made = filled(("same", "same"), ("short", "much longer"), ("Needle", "x"))
    made.written[0][1] = Written(("short",), rewards={"one": (1.0,), "other": (0.0,)})
    made.written[1][1] = Written(("much longer",), rewards={"one": (0.25,), "other": (2.0,)})

    def numbers(**asked: Any) -> list[int]:
        return [line.number for line in looking.listed(made, Wish(**asked))]

    assert numbers() == [0, 1, 2]
    assert numbers(only="differing") == [1, 2]
    assert (numbers(only="worse"), numbers(only="worse", judge="other"), numbers(only="worse", against=0)) == (
        [1], [], [])
    assert numbers(text="needle") == [2]
    assert numbers(text="question 1") == [1]
    assert numbers(order="longer") == [1, 0, 2]
    assert numbers(order="shorter") == [2, 0, 1]
    assert numbers(order="worse") == [1, 0, 2], "without rewards at the end"
    assert looking.listed(made, Wish(order="worse"))[0].gap == -0.75
    assert looking.listed(made, Wish(order="worse", judge="other"))[0].gap == 2.0
    made.written[0][2] = Written(("cut",), (9,), (False,))
    made.written[1][0] = Written((" ",), (1,), (True,))
    assert [line.mark for line in looking.listed(made, Wish())] == ["empty", "", "cut"]
    assert (numbers(only="cut"), numbers(only="empty")) == ([2], [0])
    del made.written[1][0]
    assert [line.complete for line in looking.listed(made, Wish())] == [False, True, True]


def test_the_list_is_cut_into_slices() -> None:
    prompts = tuple(Prompt((Message("user", f"question {n}"),), stratum="ab"[n % 2]) for n in range(4))
    made = HeldOut(CONTESTANTS[:2], prompts, sets=("held out", "held out", "typos", "typos"))

    def numbers(**asked: Any) -> list[int]:
        return [line.number for line in looking.listed(made, Wish(**asked))]

    assert (numbers(stratum="b"), numbers(set="typos"), numbers(set="typos", stratum="a")) == ([1, 3], [2, 3], [2])


def test_peoples_votes_stand_among_the_judges(tmp_path: Path) -> None:
    made = filled(("a0", "b0"), ("a1", "b1"))
    url = f"sqlite:///{tmp_path / 'votes.db'}"
    with Store(url) as store:
        store.add_items([item for n in range(2) if (item := made.item(n))], need=2)
        for rater, ranks in (("ann", (1, 2)), ("bea", (1, 1))):
            lease = store.lease(rater, 60)
            assert lease
            store.submit(lease.token, rater, Judgement(ranks))
    assert with_votes(made, [url]) == "people's votes: 2 counted"
    assert [one and one.reward(PEOPLE) for one in made.row(0)] == [0.75, 0.25]
    assert [one and one.reward(PEOPLE) for one in made.row(1)] == [None, None]


# -- votes -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(f"sqlite:///{tmp_path / 'votes.db'}", seed=3) as opened:
        yield opened


def voting(store: Store, made: HeldOut, tmp_path: Path, step: int = 2) -> Voting:
    return Voting(store, "me", made, Tries(made.contestants, store.seed), tmp_path / "looked.jsonl", step)


def test_who_wins_is_told_in_steps_and_at_the_end(store: Store, tmp_path: Path) -> None:
    made = filled(*((f"a{n}", f"b{n}") for n in range(5)), ("same", "same"))
    held = voting(store, made, tmp_path)
    told = []
    while (task := held.next(skipped=False)) is not None:
        ranks = tuple(1 if text.startswith("b") else 2 for text in task.answers)
        assert held.submit(task.token, Judgement(ranks)).writers == (), "nothing says who wrote what"
        standings = held.standings()
        told.append(standings["held_out"] and standings["held_out"]["votes"])
    assert told == [None, 2, 2, 4, 5]
    final = held.standings()["held_out"]
    assert [one["win_rate"]["value"] for one in final["standings"]] == [0.0, 1.0]
    assert (held.same, held.progress().wanted) == (1, 5)


def test_what_was_seen_under_its_names_is_not_asked(store: Store, tmp_path: Path) -> None:
    made = filled(*((f"a{n}", f"b{n}") for n in range(4)))
    held = voting(store, made, tmp_path)
    task = held.next(skipped=False)
    assert task is not None
    assert task.conversation == prompt(0).messages
    held.look(0)
    held.look(2)
    held = voting(store, made, tmp_path)  # and after a restart
    assert (held.queue() and held.looked_away) == 2
    asked = []
    while (task := held.next(skipped=False)) is not None:
        asked.append(task.conversation)
        held.submit(task.token, Judgement((1, 2)))
    assert asked == [prompt(1).messages, prompt(3).messages]
    held.look(1)
    assert held.looked_away == 2, "a vote that is given was blind"


def test_a_list_that_compares_is_a_look(store: Store, tmp_path: Path) -> None:
    made = filled(*((f"a{n}", "longer " * n) for n in range(1, 6)), ("same", "same"))
    for n in range(6):
        made.written[0][n] = Written(made.written[0][n].texts, rewards={"one": (1.0,)})
        made.written[1][n] = Written(made.written[1][n].texts, rewards={"one": (0.5 * n,)})
    held = voting(store, made, tmp_path)
    task = held.next(skipped=False)
    assert task is not None
    held.submit(task.token, Judgement((1, 2)))

    def gaps(**asked: Any) -> list[tuple[int, float | None]]:
        return [(line.number, line.gap) for line in looking.told(made, Wish(**asked), held)]

    assert gaps() == [(0, -1.0), (1, None), (2, None), (3, None), (4, None), (5, 1.5)], "the rest is open"
    assert (gaps(only="cut"), held.looked_away, held.progress().wanted) == ([], 0, 5)
    assert [number for number, _ in gaps(text="a2", order="longer")] == [1]
    assert (held.looked_away, held.progress().wanted) == (1, 4)
    assert gaps(only="worse") == [(0, -1.0), (1, -0.5)]
    assert (held.looked_away, held.progress().wanted) == (4, 1), "those that are not listed did not lose"
    held = voting(store, made, tmp_path)  # and after a restart
    assert None not in [gap for _, gap in gaps()]
    assert held.next(skipped=False) is None


def test_answers_that_come_later_are_asked_later(store: Store, tmp_path: Path) -> None:
    made = filled(("a0", "b0"), ("a1", "b1"))
    late = made.written[1].pop(0)
    held = voting(store, made, tmp_path)
    assert held.progress().wanted == 1
    made.written[1][0] = late
    assert held.progress().wanted == 2


def test_items_of_other_checkpoints_stay_out(store: Store, tmp_path: Path) -> None:
    old = voting(store, filled(("old a", "old b")), tmp_path)
    assert old.next(skipped=False) is not None
    assert store.progress().items == 1
    new = voting(store, filled(("new a", "new b")), tmp_path)
    task = new.next(skipped=False)
    assert task is not None
    assert set(task.answers) == {"new a", "new b"}


def ranking(ranks: tuple[int | None, ...], *writers: tuple[int, ...], none: bool = False) -> Ranking:
    responses = tuple(Response(f"text {n}", ", ".join(CONTESTANTS[i].name for i in own),
                               ", ".join(CONTESTANTS[i].checksum for i in own)) for n, own in enumerate(writers))
    return Ranking(prompt(0), responses, ranks, "me", none_acceptable=none)


def test_the_tally_by_hand() -> None:
    votes = [ranking((1, 2, 3), (0,), (1,), (2,)),          # a > b > c
             ranking((2, 1), (0, 2), (1,)),                 # b > a = c, which wrote the same text
             ranking((None, 1, 1), (0,), (1,), (2,)),       # b = c > a
             ranking((None, None, None), (0,), (1,), (2,), none=True)]
    alone = Ranking(prompt(0), (Response("x", "else", "d" * 64), Response("y", "runs/a", "a" * 64)), (1, 2), "me")
    found = tally([*votes, alone], CONTESTANTS)  # one of only one of them says nothing
    assert found is not None
    assert found["votes"] == 4
    assert found["beat"] == [[0, 1.5, 2.0], [2.5, 0, 3.0], [2.0, 1.0, 0]]
    a, b, c = found["standings"]
    assert [one["name"] for one in (a, b, c)] == ["runs/a", "runs/b", "runs/c"]
    assert [one["win_rate"]["value"] for one in (a, b, c)] == [(1 + 0.25 + 0 + 0.5) / 4, (0.5 + 1 + 0.75 + 0.5) / 4,
                                                               (0 + 0.25 + 0.75 + 0.5) / 4]
    assert [one["best"] for one in (a, b, c)] == [2, 3, 2]
    assert b["strength"] > a["strength"] > c["strength"]
    some = tally([*votes, ranking((1, 2), (0,), (1,))], CONTESTANTS)  # c did not take part
    assert some is not None
    assert (some["votes"], some["beat"][0][1], some["beat"][0][2]) == (5, 2.5, 2.0)
    assert some["standings"][0]["win_rate"]["value"] == (1 + 0.25 + 0 + 0.5 + 1) / 5
    assert tally([], CONTESTANTS) is None
