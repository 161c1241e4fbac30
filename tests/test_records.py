"""The rules of the records, and the facts that must never change: ids and splits."""

import json
from collections import Counter
from typing import Any

import pytest

from prefloop.errors import RequestError
from prefloop.records import Answers, Demonstration, Message, Prompt, Ranking, Response


def prompt(text: str = "hello", **more: str) -> Prompt:
    return Prompt((Message("user", text),), **more)


def ranking(texts: str = "abc", ranks: tuple[Any, ...] = (1, 2, 3), **more: Any) -> Ranking:
    return Ranking(prompt(), tuple(map(Response, texts)), ranks, **{"rater": "ann", **more})


def won(made: Ranking) -> dict[tuple[str, str], float]:
    return {(pair.chosen, pair.rejected): pair.weight for pair in made.pairs()}


# A change here moves prompts between training and test: old runs' held-out figures would be worth nothing.
@pytest.mark.parametrize(("text", "identity", "split"), [
    ("hello", "cf5260b45f16018e", "train"),
    ("What is 2+2?", "4d20f0e12bdfa94e", "validation"),
    ("d", "b06bd321f92e7412", "validation"),
    ("fine", "4482a8aa56b65c65", "test"),
    ("question 21", "5e96b9b454d63498", "test"),  # bucket 9
    ("question 97", "60729f9dd4a911b6", "validation"),  # bucket 10
    ("question 58", "be9eb0c57eb9b464", "validation"),  # bucket 19
    ("question 13", "c1ddcec438b20a1e", "train"),  # bucket 20
])
def test_id_and_split_are_for_ever(text: str, identity: str, split: str) -> None:
    assert (prompt(text).id, prompt(text).split) == (identity, split)


def test_case_spacing_and_unicode_form_do_not_make_another_prompt() -> None:
    assert prompt("  What IS\n2+2? ").id == prompt("What is 2+2?").id
    assert prompt("ﬁne").split == prompt("fine").split == "test"
    assert prompt("fine!").id != prompt("fine").id


def test_a_role_or_a_turn_makes_another_prompt() -> None:
    kind = Prompt((Message("system", "Be kind."), Message("user", "hello")))
    assert kind.id == "4e9fbf0315040e86"
    joined = prompt("a\nassistant:b\nuser:c")
    apart = Prompt((Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    assert joined.id != apart.id


def test_splits_are_80_10_10() -> None:
    found = Counter(prompt(f"question {number}").split for number in range(5000))
    assert found["validation"] == pytest.approx(500, abs=85)  # 4 standard deviations
    assert found["test"] == pytest.approx(500, abs=85)
    assert found.total() == 5000


def test_pairs_of_a_full_ranking() -> None:
    assert won(ranking("abc", (2, 1, 3))) == {("b", "a"): 1 / 3, ("b", "c"): 1 / 3, ("a", "c"): 1 / 3}


def test_a_tie_makes_no_pair() -> None:
    assert won(ranking("abc", (1, 1, 2))) == {("a", "c"): 0.5, ("b", "c"): 0.5}
    assert won(ranking("abc", (1, 1, 1))) == {}


def test_an_unranked_answer_lost_to_the_ranked_and_ties_with_the_unranked() -> None:
    assert won(ranking("abcd", (None, 1, None, 7))) == pytest.approx(
        {("b", "a"): 0.2, ("b", "c"): 0.2, ("b", "d"): 0.2, ("d", "a"): 0.2, ("d", "c"): 0.2})


def test_none_acceptable_may_leave_all_unranked() -> None:
    assert won(ranking("abc", (None, None, None), none_acceptable=True)) == {}


@pytest.mark.parametrize(("broken", "named"), [
    ({"texts": "a", "ranks": (1,)}, "two answers, got 1"),
    ({"texts": "aba"}, r"responses\[2\].*equals its rival responses\[0\]"),
    ({"texts": "a c"}, r"responses\[1\]: the answer is empty"),
    ({"ranks": (1, 2)}, "ranks: 2 ranks for 3"),
    ({"ranks": (0, 1, 2)}, "ranks: 0 is not"),
    ({"ranks": (1, 2.5, 3)}, "ranks: 2.5 is not"),
    ({"ranks": (True, 2, 3)}, "ranks: True is not"),
    ({"ranks": (1, "2", 3)}, "ranks: '2' is not"),
    ({"ranks": (None, None, None)}, "no answer was ranked"),
    ({"strength": "hugely"}, "strength: 'hugely'"),
    ({"strength": ["better"]}, "strength"),
    ({"kind": "odd"}, "kind: 'odd'"),
    ({"shown": (0, 1, 1)}, "shown"),
    ({"shown": (0, 1)}, "shown"),
    ({"shown": ("0", 1, 2)}, "shown"),
    ({"shown": ([0], [1], [2])}, "shown"),
    ({"shown": "012"}, "shown: expected tuple"),
    ({"rater": " "}, "rater: it is empty"),
    ({"rater": 7}, "rater: expected str, got int"),
    ({"seconds": float("nan")}, "seconds"),
    ({"seconds": -1}, "seconds"),
    ({"seconds": "9"}, "seconds: expected int or float"),
    ({"none_acceptable": 1}, "none_acceptable: expected bool"),
    ({"edited": None}, "edited: expected str"),
])
def test_a_ranking_knows_its_rules(broken: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=named):
        ranking(**broken)


@pytest.mark.parametrize("build", [
    lambda: Prompt(()),
    lambda: prompt("  \n"),
    lambda: Prompt((Message("user", "a"), Message("assistant", "b"))),
    lambda: prompt("a", stratum=3),  # type: ignore[arg-type]
    lambda: Message("wizard", "a"),
    lambda: Message("user", None),  # type: ignore[arg-type]
    lambda: Response(None),  # type: ignore[arg-type]
    lambda: Response("a", policy={}),  # type: ignore[arg-type]
    lambda: Demonstration(prompt(), " "),
])
def test_the_other_records_know_theirs(build) -> None:
    with pytest.raises(RequestError):
        build()


@pytest.mark.parametrize("record", [
    prompt("hé\u2028", stratum="s", source="f"),
    Answers(prompt(), (Response("a", "runs/x", "12", {"temperature": 0.7}, 3), Response("b"))),
    Demonstration(prompt(), "yes"),
    ranking("abc", (1, None, 1), strength="better", reason="r", edited="e", shown=(2, 0, 1), seconds=1.5,
            guideline="v1", kind="gold", none_acceptable=True),
])
def test_json_and_back(record: Any) -> None:
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record
