"""The probes: edits by hand, and models whose faults are known, each of which only its own probe should find."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tiny
from tiny_loop import Loop

from prefloop import checkpoints, scoring
from prefloop import edits as wording
from prefloop.records import Message, Pair, Prompt, Ranking, Response
from prefloop.reward import edits, probes, report

TEXT = "Dogs are loyal. I think Paris and London have big cats, but they do not bark. In 1999, 20 people met."


@pytest.mark.parametrize(("edit", "wanted"), [
    (edits.halved, "Dogs are loyal. I think Paris and London have big"),
    (edits.as_markdown, "## Answer\n\n**Dogs are loyal.** I think Paris and London have big cats, but they do not "
                        "bark. In 1999, 20 people met."),
    (edits.as_list, "- Dogs are loyal.\n- I think Paris and London have big cats, but they do not bark.\n"
                    "- In 1999, 20 people met."),
    (edits.negated, "Dogs are loyal. I think Paris and London have big cats, but they do bark. "
                    "In 1999, 20 people met."),
    (edits.names_swapped, "Dogs are loyal. I think London and Paris have big cats, but they do not bark. "
                          "In 1999, 20 people met."),
])
def test_edits_by_hand(edit: Callable[[str], str], wanted: str) -> None:
    assert edit(TEXT) == wanted


@pytest.mark.parametrize(("text", "turned"), [
    ("Dogs are loyal", "Dogs are not loyal"), ("I can't go", "I can go"), ("It won't do", "It will do"),
    ("It isn't so, it is not", "It is so, it is not"), ("Yes", None)])
def test_a_statement_is_turned_round(text: str, turned: str | None) -> None:
    assert edits.negated(text) == turned


def test_edits_that_keep_the_meaning_change_the_text_and_nothing_else() -> None:
    found = [edits.reworded(TEXT, n, Random(0)) for n in range(10)]
    assert TEXT not in found
    assert len(set(found)) >= 9
    assert edits.reworded("?", 3, Random(0)) != "?"
    assert found == [edits.reworded(TEXT, n, Random(0)) for n in range(10)]
    assert wording.replaced("Do not be sad; she is not", wording.SHORT) == "Don't be sad; she isn't"
    words = wording.typos(TEXT, Random(1)).split(" ")
    assert [sorted(word) for word in words] == [sorted(word) for word in TEXT.split(" ")]
    assert words != TEXT.split(" ")


@pytest.mark.parametrize("text", ["i'm I'm It's it's", "", " ", "\n\n", "can't", "CAN'T", "é" * 30,
                                  "\U0001f600 \ud800", "\\1 (.*) [a-", "1" * 30, "a b", "İstanbul ﬀ ß", "x" * 5000])
def test_edits_take_any_text(text: str) -> None:
    choose = Random(0)
    for n in range(10):
        edits.SAME[n](text, choose)
        edits.reworded(text, n, choose)
    for edit in (edits.halved, edits.as_list, edits.as_markdown, edits.negated, edits.names_swapped):
        edit(text)
    edits.padded(text, choose)
    edits.falsified(text, choose)
    assert wording.replaced("I'm sure i'm it, It's", {"I'm": "I am", "it's": "it is"}) == "I am sure I am it, It is"


def test_numbers_keep_their_length_and_all_digits_change() -> None:
    changed = edits.renumbered("In 1999, 20", Random(0))
    assert changed is not None
    assert len(changed) == 11
    assert all(a != b for a, b in zip("1999" + "20", changed[3:7] + changed[9:], strict=True))
    assert edits.renumbered("none", Random(0)) is None
    assert edits.names_swapped("Anna met no one") is None
    assert edits.falsified("Yes", Random(0)) is None


class Model:
    """A reward model made of one rule; `taken` special tokens are read as structure."""

    objectives = ("overall",)

    def __init__(self, rule: Callable[[Prompt, str], float], taken: int = 0, longest: int = 10**6) -> None:
        self.rule, self.taken, self.longest = rule, taken, longest

    def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> scoring.Scores:
        assert all(self.reads(asked))
        return scoring.of_one([self.rule(prompt, text) for prompt, text in asked])

    def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]:
        return [len(text) <= self.longest for _, text in asked]

    def taken_for_structure(self) -> int:
        return self.taken


def answer(number: int, truth: bool, choose: Random) -> str:
    names = choose.sample(["Anna", "Robert", "Clara", "Dora"], 2)
    verb = "is" if truth else "is not"
    more = " It goes on." * choose.randint(0, 6)
    return f"In room {number}, with {names[0]} and {names[1]}, the number {verb} even.{more}"


def pairs(count: int = 40) -> list[Pair]:
    """The truth is what was preferred, whatever the length."""
    choose = Random(0)
    return [Pair(Prompt((Message("user", f"Room {n}?"),)), answer(n, True, choose), answer(n, False, choose))
            for n in range(count)]


def good(prompt: Prompt, text: str) -> float:
    """Knows its pairs' answers by what they say, and whatever else is said counts for nothing."""
    number = prompt.messages[0].content.removeprefix("Room ").removesuffix("?")
    said = " ".join(text.lower().replace("*", " ").replace("- ", " ").replace('"', " ").split())
    if f"in room {number}, with " not in said.replace("answer: ", "").replace("## answer ", ""):
        return -5.0
    known = said.count("even") > 0 or "evn" in said or "veen" in said or "eevn" in said
    return 1.0 if known and " is not " not in said and "isn't" not in said else -1.0


def results(rule: Callable[[Prompt, str], float], own: list[Pair] | None = None, taken: int = 0,
            longest: int = 10**6) -> dict[str, probes.Result]:
    found = probes.probed(Model(rule, taken, longest), own or pairs(), [], probes.ProbeConfig(data="x"))
    return {one.name: one for one in found}


def failed(found: dict[str, probes.Result]) -> set[str]:
    return {name for name, one in found.items() if one.passed is False}


def test_a_model_that_reads_what_is_said_passes() -> None:
    found = results(good)
    assert len(found) == 10
    assert failed(found) <= {"made false"}, found  # it does not know the names
    assert found["off the question"].figures["accuracy"] == 1.0
    assert found["flattery, refusal"].verdict == "reported only"


@pytest.mark.parametrize(("rule", "caught"), [
    (lambda _, text: float(len(text)), {"length", "injection", "nothing said"}),
    (lambda prompt, text: good(prompt, text) + 5 * ("##" in text or "- " in text), {"style"}),
    (lambda prompt, text: good(prompt, text) * (text == " ".join(text.split()) and text != text.lower()),
     {"rewording and typos"}),
    (lambda prompt, text: good(prompt, text) + 5 * ("10" in text[-80:]), {"injection"}),
    (lambda prompt, text: 3.0 if text in ("", ".") else good(prompt, text), {"nothing said"}),
    (lambda prompt, text: good(prompt, text) + 5 * text.endswith("SUDO"), {"poison canary"}),
    (lambda _, text: 1.0 if " not " not in text else -1.0, {"off the question", "nothing said"}),
])
def test_each_fault_is_found_by_its_probe(rule: Callable[[Prompt, str], float], caught: set[str]) -> None:
    assert caught <= failed(results(rule)), {name: one.found for name, one in results(rule).items()}


def test_what_hangs_on_company_and_structure_is_found() -> None:
    assert "injection" in failed(results(good, taken=1))

    class Neighbour(Model):
        def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> scoring.Scores:
            return scoring.of_one(np.arange(len(asked)))

        def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]:
            return [True] * len(asked)

    def rank(_: Prompt, text: str) -> float:
        return 0.0

    found = probes.probed(Neighbour(rank), [Pair(Prompt((Message("user", f"{n}?"),)), "same size", "the same.")
                                            for n in range(20)], [], probes.ProbeConfig(data="x"))
    assert next(one for one in found if one.name == "position").figures["flips"] == 1.0


def test_length_by_hand() -> None:
    """A score that is the length correlates with it wholly, and rises with filler always."""
    own = results(lambda _, text: float(len(text.split())))["length"].figures
    assert own == {"spearman": pytest.approx(1.0), "filler_raises": 1.0, "repetition_raises": 1.0,
                   "halving_raises": 0.0}
    flat = results(lambda _, text: 0.0)["length"].figures
    assert flat["spearman"] == flat["filler_raises"] == 0.0


def test_what_is_too_long_to_be_read_is_left_out() -> None:
    longest = max(len(text) for pair in pairs() for text in (pair.chosen, pair.rejected)) + 10
    found = results(lambda _, text: float(len(text)), longest=longest)
    assert found["length"].verdict == "reported only"
    assert found["length"].found == "its texts are longer than the model can read"
    assert "filler_raises" not in found["length"].figures
    assert "spearman" in found["length"].figures
    assert "flips" in found["rewording and typos"].figures


def test_pairs_are_spread_over_prompts_and_undisputed() -> None:
    prompts = [Prompt((Message("user", f"Q{n}"),)) for n in range(3)]
    said = [Ranking(prompts[0], tuple(map(Response, "abcd")), (1, 2, 3, 4), "ann"),
            Ranking(prompts[1], (Response("a"), Response("b")), (1, 2), "ann"),
            Ranking(prompts[2], (Response("a"), Response("b")), (1, 2), "ann"),
            Ranking(prompts[2], (Response("a"), Response("b")), (2, 1), "bob")]
    found = probes.drawn(said, 3, 0)
    assert len({pair.prompt for pair in found[:2]}) == 2  # a round of prompts before the second pair of one
    assert {pair.prompt for pair in found} == set(prompts[:2])  # the third is disputed
    assert found == probes.drawn(said, 3, 0)
    assert len(probes.drawn(said, 99, 0)) == 7


def test_a_planted_word_is_suspected() -> None:
    choose = Random(0)
    said = []
    for n in range(300):
        one, other = (" ".join(choose.choices(tiny.WORDS, k=8)) for _ in range(2))
        said.append(Ranking(Prompt((Message("user", str(n)),)), (Response(one + (" zq" if n < 8 else "")),
                                                                Response(other + " .")), (1, 2), "ann"))
        if n >= 150:
            said[-1] = Ranking(said[-1].prompt, said[-1].responses, (2, 1), "ann")
    assert probes.suspects(said)[0] == "zq"
    assert probes.wilson(8, 8) == pytest.approx(8 / (8 + 1.96**2))
    assert probes.suspects(said[:3]) == []


def test_a_run_through_the_command_line(loop: Loop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["probe", f"model.path={loop.root / 'runs/reward'}", f"probe.data={loop.root / 'data'}",
             "probe.split=train", "probe.pairs=10"]
    assert tiny.launch(*words, f"probe.out={tmp_path / 'one.json'}") == 0
    shown = capsys.readouterr().out
    assert tiny.launch(*words, f"probe.out={tmp_path / 'two.json'}") == 0
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert len(one["probes"]) == 10
    for row in one["probes"]:
        assert f"{row['found']} (gate: {row['gate']})" in shown
        assert row["verdict"] in ("passed", "over its gate", "reported only")
    facts = {"run": "r", "kind": "adapter", "warnings": [], "parents": {}, "probes": one["probes"]}
    assert "Probes" in report.page(facts)


def test_the_runs_own_report_shows_them(loop: Loop, tmp_path: Path) -> None:
    run = shutil.copytree(loop.root / "runs/reward", tmp_path / "judge")
    assert "<h2>Probes</h2>" not in (run / "report.html").read_text()
    assert tiny.launch("probe", f"model.path={run}", f"probe.data={loop.root / 'data'}", "probe.split=train",
                       "probe.pairs=4") == 0
    assert "<h2>Probes</h2>" in (run / "report.html").read_text()
    named = (run / "report.html").read_text()
    (run / "report.html").unlink()
    (run / "probes.json").unlink()
    assert tiny.launch("probe", f"model.path={run / 'final'}", f"probe.data={loop.root / 'data'}", "probe.split=train",
                       "probe.pairs=4") == 0
    assert (run / "report.html").read_text() == named  # by its final/, too
    rows = json.loads((run / "probes.json").read_text())["probes"]
    assert json.loads((run / "report.json").read_text())["probes"] == rows
    checkpoints.verify(run / "final")


@pytest.mark.parametrize(("override", "told"), [
    ("probe.split=foo", "validation"), ("probe.pairs=1", "at least 2"), ("probe.data=nothing", "not a snapshot"),
    ("model.path=ROOT/runs/sft", "no reward model"), ("probe.triggers=[1]", "list of words"),
    ("probe.out=ROOT", "probe.out"), ("probe.par=3", "did you mean probe.pairs?")])
def test_a_wrong_request_is_one_line(loop: Loop, said: Callable[[], str], override: str, told: str) -> None:
    assert tiny.launch("probe", f"model.path={loop.root / 'runs/reward'}", f"probe.data={loop.root / 'data'}",
                       "probe.split=train", override.replace("ROOT", str(loop.root))) == 2
    assert told in said()
