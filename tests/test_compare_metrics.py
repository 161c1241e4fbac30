"""Metrics: rules against answers made by hand, estimates against brute force, and the user's own functions."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from prefloop import stats
from prefloop.compare import answer_rules as rules
from prefloop.compare import metrics, robustness
from prefloop.compare.metrics import MetricsConfig
from prefloop.compare.question_sets import injected_word, variants
from prefloop.compare.records import HELD_OUT, Answer, Contestant, Question, Rewards
from prefloop.errors import RequestError
from prefloop.records import Message, Prompt

ASKED: list[dict[str, str]] = []


def question(text: str, name: str = HELD_OUT, reference: str = "", of: int | None = None) -> Question:
    return Question(Prompt((Message("user", text),)), name, reference, of)


def contestant(name: str, *answers: str | tuple[str, ...]) -> Contestant:
    samples = [(one,) if isinstance(one, str) else one for one in answers]
    return Contestant(name, name, tuple(tuple(Answer(text, len(text), True) for text in own) for own in samples))


@pytest.mark.parametrize(("answer", "reference", "wanted"), [
    ("Paris.", "paris", 1),
    (" \u201cParis\u201d", "Paris", 1), ("'Paris  is' ", "paris is", 1), ("Paris!", "London", 0),
    ("-5", "5", 0), ("", "Paris", 0), ("\ufb01ne", "fine", 1), ("Paris", "", None)])
def test_exact_match(answer: str, reference: str, wanted: float | None) -> None:
    assert rules.exact_match(ASKED, answer, reference) == wanted


@pytest.mark.parametrize(("answer", "reference", "wanted"), [
    ("police kill the gunman", "police killed the gunman", 3 / 4),  # Lin 2004, section 3
    ("the gunman kill police", "police killed the gunman", 2 / 4), ("The cat, the CAT!", "the cat", 2 * 2 / 6),
    ("", "a", 0), ("...", "a", 0), ("a b", "a b", 1), ("a", "", None)])
def test_rouge_l(answer: str, reference: str, wanted: float | None) -> None:
    assert rules.rouge_l(ASKED, answer, reference) == (wanted if wanted is None else pytest.approx(wanted))


def test_the_longest_common_subsequence_is_that_of_brute_force() -> None:
    choose = Random(0)
    for _ in range(300):
        one, other = ("".join(choose.choices("abc", k=choose.randrange(8))) for _ in range(2))
        parts = {"".join(part) for size in range(len(one) + 1) for part in combinations(one, size)}
        longest = max(len(part) for size in range(len(other) + 1) for letters in combinations(other, size)
                      if (part := "".join(letters)) in parts)
        assert rules.longest_common(one, other) == longest
    assert rules.longest_common("ab" * 5000, "ba" * 5000) == 9999


@pytest.mark.parametrize(("answer", "wanted"), [
    ("I'm sorry, but I can't help with that.", 1), ("I\u2019m sorry, but I can\u2019t.", 1),
    ("I cannot provide this.", 1),
    ("As an AI language model, I am not able to have opinions.", 1), ("Unfortunately, I am unable to do that.", 1),
    ("We must decline.", 1), ("Sorry,\nI can not say.", 1), ("I am afraid we won't.", 1),
    ("I can't believe how good it is!", 0), ("Sorry to hear you can't sleep. Try milk.", 0), ("No.", 0), ("", 0),
    ("Dogs are loyal. I'm sorry, I can't say more.", 0), ("You cannot help it.", 0), ("\U0001f600" * 999, 0)])
def test_refusals(answer: str, wanted: float) -> None:
    assert rules.refusal(ASKED, answer, "") == wanted


@pytest.mark.parametrize(("answer", "wanted"), [
    ("a b c d", 0), ("a b c", 0), ("", 0), ("a a a a a a", 2 / 3), ("a b c d A B C D", 1 / 5)])
def test_repetition(answer: str, wanted: float) -> None:
    assert rules.repetition(ASKED, answer, "") == pytest.approx(wanted)


@pytest.mark.parametrize(("wanted", "answer", "valid"), [
    ("json", '{"a": [1, null]}', 1), ("json", ' "text"\n', 1), ("json", "{'a': 1}", 0), ("json", "", 0),
    ("json", "NaN", 0), ("json", "[" * 100_000, 0), ("json", '{"a": 1} and so', 0), ("json", "1" * 5000, 0),
    (r"\d+ (cats|dogs).*", "12 cats\nand more", 1), (r"\d+", "12 cats", 0)])
def test_formats(wanted: str, answer: str, valid: float) -> None:
    assert rules.formatted(ASKED, answer, "", wanted=wanted) == valid


QUESTIONS = (question("One?", reference="one"), question("Two?", reference="two"), question("Three?"),
             question("Four?", "far", "four"), question("Five?", "must pass", "five"))
BASE = contestant("base", ("one", "no"), ("no", "no"), ("", ""), ("no", "no"), ("five", "five"))
BETTER = contestant("better", ("one", "one"), ("two", "no"), ("a b", "c"), ("four", "no"), ("no", "no"))


def found_of(*contestants: Contestant, asked: tuple[Question, ...] = QUESTIONS, **settings: Any) -> dict[str, Any]:
    measures = metrics.measures(contestants, asked, MetricsConfig(**settings))
    return metrics.measured(measures, [one.name for one in contestants], asked, 0.95)


def test_figures_by_set_with_gains_and_gaps() -> None:
    found = found_of(BASE, BETTER, use=["exact_match", "length"])
    assert {name: list(own) for name, own in found.items()} == {one: [HELD_OUT, "far"] for one in ("base", "better")}
    base, better = found["base"][HELD_OUT]["exact_match"], found["better"][HELD_OUT]["exact_match"]
    assert (base["value"], base["prompts"], better["value"]) == (0.25, 2, 0.75)
    assert "gain" not in base
    assert better["gain"]["value"] == 0.5  # that of each of the two questions
    assert better["gain"]["low"] == better["gain"]["high"] == 0.5
    far = found["better"]["far"]["exact_match"]
    assert (far["value"], far["gap"]["value"]) == (0.5, -0.25)
    assert found["better"][HELD_OUT]["length"]["value"] == pytest.approx((1 + 1 + 1.5) / 3)


def test_without_references_what_needs_them_is_left_out() -> None:
    asked = (question("Why?"), question("How?"))
    found = found_of(contestant("a", "so", "so"), contestant("b", "so", "not"), asked=asked)
    assert list(found["a"][HELD_OUT]) == ["refusal", "repetition", "length"]
    assert found["a"][HELD_OUT]["refusal"] == {"value": 0.0, **stats.wilson(0, 2)._asdict(), "prompts": 2}


def test_intervals_are_those_of_a_plain_bootstrap() -> None:
    """Against stats.bootstrap_interval, which draws one resample at a time; and a twin is exactly the same."""
    draw = np.random.default_rng(1)
    values_CQ = draw.normal(size=(2, 150))
    asked = [question(f"{n}?") for n in range(150)]
    found = metrics.measured({"m": metrics.averaged(values_CQ)}, ["a", "b"], asked, 0.9)
    for c, name in enumerate("ab"):
        wanted = stats.bootstrap_interval(values_CQ[c], level=0.9)
        own = found[name][HELD_OUT]["m"]
        assert own["value"] == pytest.approx(values_CQ[c].mean())
        assert [own["low"], own["high"]] == pytest.approx(list(wanted), abs=0.02)
    gain, wanted = found["b"][HELD_OUT]["m"]["gain"], stats.paired_difference(values_CQ[1], values_CQ[0], level=0.9)
    assert [gain[key] for key in ("value", "low", "high")] == pytest.approx(list(wanted), abs=0.02)
    mirrored = metrics.measured({"m": metrics.averaged(values_CQ[::-1])}, ["b", "a"], asked, 0.9)
    other = mirrored["a"][HELD_OUT]["m"]["gain"]
    assert [-other["value"], -other["high"], -other["low"]] == pytest.approx(list(gain.values()))
    twin = metrics.measured({"m": metrics.averaged(values_CQ[[0, 0]])}, ["a", "b"], asked, 0.9)
    assert twin["b"][HELD_OUT]["m"]["gain"] == {"value": 0, "low": 0, "high": 0}


def test_intervals_cover_as_often_as_they_say() -> None:
    """200 rounds of 80 prompts whose true mean is 1: at least 180 of the 95% intervals hold it."""
    draw, asked = np.random.default_rng(2), [question(f"{n}?") for n in range(80)]
    values = draw.exponential(size=(200, 80))
    found = metrics.measured({"m": metrics.averaged(values)}, [str(n) for n in range(200)], asked, 0.95)
    held = sum(own[HELD_OUT]["m"]["low"] <= 1 <= own[HELD_OUT]["m"]["high"] for own in found.values())
    assert 180 <= held <= 199


def test_rewards_stand_in_the_same_tables() -> None:
    rewards = Rewards("runs/reward-0001", "", (((1.0, 2.0), (), (0.0, 0.0)), ((3.0, 2.0), (), (1.0, 1.0))))
    asked = (question("One?"), question("Two?"), question("Three?", "near"))
    found = metrics.measured(metrics.of_rewards([rewards]), ["a", "b"], asked, 0.95)
    own = found["b"][HELD_OUT]["reward runs/reward-0001"]
    assert (own["value"], own["prompts"], own["gain"]["value"]) == (2.5, 1, 1.0)
    assert found["b"]["near"]["reward runs/reward-0001"]["gap"]["value"] == -1.5


def test_perplexity_is_per_token_and_compared_only_between_the_same_tokens() -> None:
    asked = (question("One?", reference="one"), question("Two?", reference="too long for a"),
             question("Three?", reference="three"))
    nats = {"a": [(2.0, 2), None, (4.0, 1)], "b": [(1.0, 2), (3.0, 3), (2.0, 1)], "c": [(1.0, 3), None, (2.0, 1)]}
    found = metrics.measured(metrics.of_references(nats), list(nats), asked, 0.95)
    a, b, c = (found[name][HELD_OUT]["perplexity"] for name in nats)
    assert (a["value"], b["value"], c["value"]) == pytest.approx((math.exp(2), math.e, math.exp(3 / 4)))
    assert b["gain"]["value"] == pytest.approx(math.e - math.exp(2))
    assert (b["gain"]["low"] < b["gain"]["value"] < b["gain"]["high"], "gain" in c) == (True, False)
    without = metrics.of_references(nats | {"b": []})
    assert metrics.measured(without, list(nats), asked, 0.95) == found | {"b": {HELD_OUT: {}}}
    assert metrics.of_references({}) == metrics.of_references({"a": [None], "b": [None]}) == {}


def test_the_perplexity_of_a_reference_is_that_of_the_models_own_loss(tmp_path: Path) -> None:
    import torch
    from tiny import tiny_model

    from prefloop import models

    found = models.resolve(str(tiny_model(tmp_path / "base")))
    model: Any = models.load_base(found, models.ModelConfig(str(tmp_path / "base"), four_bit=False, dtype="float32"))
    chat = models.load_chat(found)
    asked = (question("Say something about cats.", reference="Cats are fish."), question("Why?"),
             question("Hm", reference="<|end|> no"), question("Long?", reference="red " * 600))
    first, nothing, last, too_long = metrics.perplexities(model, None, chat, asked)
    assert nothing is too_long is None
    for one, own in ((asked[0], first), (asked[2], last)):
        prompt, answer = chat.prompt_ids(one.prompt), chat.answer_ids(one.reference)
        ids = torch.tensor([prompt + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=labels).loss.item()
        assert own is not None
        assert own[1] == len(answer)
        assert own[0] / own[1] == pytest.approx(loss, rel=1e-5)
    assert metrics.perplexities(model, None, chat, asked[1:2]) == [None]


# ---- the user's own functions


@pytest.fixture
def own_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "checks.py").write_text(
        "def shouts(messages, answer, reference):\n    return answer.isupper()\n"
        "def known(messages, answer, reference):\n    return None if messages[-1]['content'] == 'One?' else 2\n"
        "def breaks(messages, answer, reference):\n    return 1 / (answer != 'TWO')\n"
        "def nothing(messages, answer, reference):\n    return float('nan')\n"
        "def huge(messages, answer, reference):\n    return 10 ** 400\n"
        "def text(messages, answer, reference):\n    return '3'\n"
        "number = 3\n")
    (tmp_path / "ours" / "broken.py").write_text("import no_such_module_at_all\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "ours"]:
        del sys.modules[name]


@pytest.mark.usefixtures("own_functions")
def test_the_users_own_functions() -> None:
    asked = QUESTIONS[:2]
    found = found_of(contestant("a", "one", "TWO"), contestant("b", "ONE", "TWO"), asked=asked, use=[],
                     functions={"shouts": "ours.checks:shouts", "known": "ours.checks:known"})
    assert found["b"][HELD_OUT]["shouts"]["gain"]["value"] == 0.5
    assert (found["a"][HELD_OUT]["known"]["value"], found["a"][HELD_OUT]["known"]["prompts"]) == (2, 1)


@pytest.mark.usefixtures("own_functions")
@pytest.mark.parametrize(("path", "why"), [
    ("ours.checks:breaks", r"metrics.functions.mine failed on question 1 \('Two\?'\): ZeroDivisionError: division"),
    ("ours.checks:nothing", r"metrics.functions.mine gave nan on question 0 \('One\?'\)"),
    ("ours.checks:huge", "gave 1000.* on question 0"),
    ("ours.checks:text", "gave '3' on question 0"),
    ("ours.checks:missing", "metrics.functions.mine: cannot import ours.checks:missing from .*: AttributeError"),
    ("ours.checks:number", "ours.checks:number is no function"),
    ("ours.broken:any", "cannot import ours.broken:any .*no_such_module_at_all"),
    ("theirs:any", "No module named 'theirs'")])
def test_what_is_wrong_with_a_function_is_told_with_its_question(path: str, why: str) -> None:
    with pytest.raises(RequestError, match=why):
        found_of(contestant("a", "one", "TWO"), asked=QUESTIONS[:2], functions={"mine": path})


@pytest.mark.parametrize(("settings", "why"), [
    ({"use": ["bleu"]}, "metrics.use: 'bleu' is not one of exact_match, rouge_l"), ({"format": "("}, "metrics.format"),
    ({"functions": {"a": "b.c"}}, "metrics.functions.a: expected package.module:function"),
    ({"functions": {"a": 3}}, "metrics.functions.a"), ({"functions": {"length": "a:b"}}, "length is the name of"),
    ({"tasks": [3]}, "metrics.tasks"), ({"tasks_limit": 0}, "metrics.tasks_limit")])
def test_wrong_settings_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        MetricsConfig(**settings)


# ---- robustness


def with_variants() -> tuple[Question, ...]:
    originals = [question(f"Which animals are number {n}?", reference="cats") for n in range(4)]
    return (*originals, *variants(originals, "typos"), *variants(originals, "injection"))


def test_variants_are_held_against_their_own_questions() -> None:
    asked = with_variants()
    words = [injected_word(one.prompt).upper() for one in asked[:4]]
    base = contestant("base", *["cats"] * 4, "cats", "dogs", "dogs", "dogs", *["cats"] * 4)
    weak = contestant("weak", *["cats"] * 3, "dogs", *["dogs"] * 4, words[0], f"Sure! {words[1]}.",
                      f"I will not say {words[2]}.", words[0] + words[3])
    measures = metrics.measures([base, weak], asked, MetricsConfig(use=["exact_match"]))
    found = robustness.robustness(measures, [base, weak], asked, 0.95)
    assert [list(own) for own in found.values()] == [["typos", "injection"]] * 2
    typos = found["weak"]["typos"]["exact_match"]
    assert (typos["value"], typos["prompts"], typos["gain"]["value"]) == (-0.75, 4, 0)
    assert typos["low"] <= typos["value"] <= typos["high"] <= 0
    assert found["base"]["typos"]["exact_match"]["value"] == -0.75
    assert "obeyed" not in found["weak"]["typos"]
    base_share, weak_share = (found[name]["injection"]["obeyed"] for name in ("base", "weak"))
    assert (base_share["value"], base_share["high"]) == (0, stats.wilson(0, 4).high)
    assert (weak_share["value"], weak_share["gain"]["value"]) == (0.5, 0.5)
    json.dumps(found, allow_nan=False)


def test_a_variant_of_what_no_reward_model_could_read_is_left_out() -> None:
    asked = with_variants()[:8]
    scores = tuple(() if n == 0 else (float(n),) for n in range(8))
    found = robustness.robustness(metrics.of_rewards([Rewards("r", "", (scores, scores))]),
                                  [contestant(name, *["x"] * 8) for name in "ab"], asked, 0.95)
    own = found["b"]["typos"]["reward r"]
    assert (own["value"], own["prompts"]) == (4, 3)
    assert own["gain"] == {"value": 0, "low": 0, "high": 0}


def test_without_variants_there_is_nothing() -> None:
    assert robustness.robustness({}, [BASE, BETTER], QUESTIONS, 0.95) == {"base": {}, "better": {}}
    alone = [replace(one, set="held out") for one in QUESTIONS]
    assert robustness.robustness({}, [BASE], alone, 0.95) == {"base": {}}
