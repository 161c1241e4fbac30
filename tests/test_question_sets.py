"""What a comparison asks: its sets, the variants of its prompts, references, and what must not get worse again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prefloop.compare import question_sets as sets
from prefloop.compare.records import HELD_OUT, Question
from prefloop.compare.settings import CompareConfig
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.formats.snapshot import Snapshot
from prefloop.records import Demonstration, Message, Prompt

SETTINGS = CompareConfig(runs=["a", "b"])


def ask(text: str, *before: Message) -> Prompt:
    return Prompt((*before, Message("user", text)), stratum="animals", source="made up")


def made(folder: Path, prompts: list[Prompt], demonstrations: tuple[Demonstration, ...] = ()) -> Snapshot:
    return snapshot.read(snapshot.write(folder, demonstrations=demonstrations, prompts=prompts))


def held_out(count: int) -> list[Prompt]:
    """Prompts that the split puts to the test."""
    many = (ask(f"Do many people think that number {n} is good? It is important.") for n in range(40 * count))
    return [one for one in many if one.split == "test"][:count]


def test_the_sets_in_order_each_prompt_once_with_its_reference(tmp_path: Path) -> None:
    prompts = held_out(12)
    source = made(tmp_path / "source", [*prompts, ask("Trained on? 1")],
                  (Demonstration(prompts[0], "first"), Demonstration(prompts[0], "second")))
    far = made(tmp_path / "far", [prompts[1], ask("Far away?"), ask("And further?")],
               (Demonstration(ask("Far away?"), "very"),))
    asked = sets.questions(source, replace(SETTINGS, limit=10, far=str(far.path), robust=["typos", "injection"]))
    by_set: dict[str, list[Question]] = {}
    for one in asked:
        by_set.setdefault(one.set, []).append(one)
    assert list(by_set) == [HELD_OUT, "typos", "injection", "far"]
    found = by_set[HELD_OUT]
    assert [one.prompt for one in found] == list(source.prompts_of("test"))[:10]
    assert [one.reference for one in found if one.prompt.id == prompts[0].id] == ["first"]
    assert prompts[1].id not in {one.prompt.id for one in by_set["far"]}, "it was asked already"
    assert {one.prompt.messages[-1].content: one.reference for one in by_set["far"]} == {
        "Far away?": "very", "And further?": ""}
    for one in (*by_set["typos"], *by_set["injection"]):
        assert one.of is not None
        original = asked[one.of]
        assert original.set == HELD_OUT
        assert (one.reference, one.prompt.stratum) == (original.reference, "animals")
        assert one.prompt.id != original.prompt.id
    assert asked == sets.questions(source, replace(SETTINGS, limit=10, far=str(far.path),
                                                   robust=["typos", "injection", "typos"]))


def test_variants_change_the_last_message_alone() -> None:
    system = Message("system", "Many people need help.")
    original = Question(ask("Do many people need help because it is big?", system), reference="Yes.")
    (typo,), (other,), (attacked,) = (sets.variants([original], name) for name in sets.VARIANTS)
    assert {one.prompt.messages[0] for one in (typo, other, attacked)} == {system}
    text = typo.prompt.messages[-1].content
    assert sorted(text) == sorted(original.prompt.messages[-1].content)
    assert any(frame.format("Do a lot of persons require assist since it's large?") ==
               other.prompt.messages[-1].content for frame in sets.FRAMES)
    tail = attacked.prompt.messages[-1].content.removeprefix(original.prompt.messages[-1].content)
    assert sets.injected_word(original.prompt) in tail
    assert tail != attacked.prompt.messages[-1].content


def test_what_a_change_leaves_as_it_is_has_no_variant() -> None:
    assert sets.variants([Question(ask("Why so?"))], "typos") == []
    assert len(sets.variants([Question(ask("Why so?"))], "injection")) == 1


@pytest.mark.parametrize("text", ["{} {0} {word}", "\U0001f600", "\\1 (", "", "a" * 9, "你好吗你好吗"])
def test_variants_take_any_text(text: str) -> None:
    for change in sets.VARIANTS.values():
        assert change(text, Random(0)) == change(text, Random(0))
    assert sets.injected(text, Random(0)).startswith(text)


def test_variants_of_what_does_not_fit_go_with_it() -> None:
    originals = [Question(ask(text)) for text in ("Short one?", "A longer question?", "Another one?")]
    asked = [*originals, *sets.variants(originals, "paraphrase")]
    left = sets.fitting(asked, lambda prompt: "longer" not in prompt.messages[-1].content)
    assert [one.prompt for one in left] == [asked[n].prompt for n in (0, 2, 3, 5)]
    assert [one.of for one in left] == [None, None, 0, 1]


def test_what_must_pass_is_asked_beside_the_same_prompt(tmp_path: Path) -> None:
    prompts = held_out(2)
    source = made(tmp_path / "source", prompts)
    rows = [{"prompt": prompts[0].to_json(), "before": "the good one", "after": "x"},
            {"prompt": ask("Old?").to_json(), "before": "gold"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    asked = sets.questions(source, replace(SETTINGS, must_pass=str(tmp_path / "rows.jsonl")))
    assert [(one.set, one.reference) for one in asked] == [
        (HELD_OUT, ""), (HELD_OUT, ""), ("must pass", "the good one"), ("must pass", "gold")]


@pytest.mark.parametrize(("line", "why"), [
    ("{", "JSONDecodeError"), ("[]", "not an object"), ("{}", "before is not a text"), ('{"before": 3}', "not a text"),
    ('{"before": "\\ud800", "prompt": {"messages": [{"role": "user", "content": "a"}]}}', "half of a surrogate pair"),
    ('{"before": "a", "prompt": {"messages": []}}', "no messages"), ("[" * 100_000, "RecursionError"), ("\udcff", "")])
def test_a_broken_row_is_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n" + line.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError, match=f"rows.jsonl:2: .*{why}"):
        sets.must_pass(path)


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    source, empty = made(tmp_path / "source", held_out(2)), made(tmp_path / "empty", [])
    (tmp_path / "nothing.jsonl").write_text("\n")
    wrong: list[tuple[Snapshot, dict[str, Any], str]] = [
        (source, {"robust": ["typo"]}, "compare.robust: 'typo' is not one of typos, paraphrase, injection"),
        (empty, {}, "no prompts in split 'test'"),
        (source, {"near": str(empty.path)}, "compare.near: .*empty has no prompts"),
        (source, {"far": str(tmp_path / "none")}, "not a snapshot"),
        (source, {"must_pass": str(tmp_path / "none.jsonl")}, "compare.must_pass: cannot read .*none.jsonl"),
        (source, {"must_pass": str(tmp_path / "nothing.jsonl")}, "has no questions")]
    for where, changes, why in wrong:
        with pytest.raises(RequestError, match=why):
            sets.questions(where, replace(SETTINGS, **changes))
