"""Prompts that a run was trained on: found through its parents, word for word and nearly, and refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from prefloop import checkpoints
from prefloop.compare import overlap
from prefloop.compare.records import Question
from prefloop.errors import RequestError
from prefloop.formats import near, snapshot
from prefloop.records import Message, Prompt

PLACES = ("Lisbon", "Oslo", "Quito", "Dakar", "Hanoi", "Turin", "Perth", "Cairo")


def prompt(text: str) -> Prompt:
    return Prompt((Message("user", text),))


def drawn(split: str, count: int, form: str = "In {place}, which museums open late on day {number}?") -> list[Prompt]:
    made = (prompt(form.format(place=PLACES[n % len(PLACES)], number=n)) for n in range(2000))
    return [one for one in made if one.split == split][:count]


def saved(root: Path, name: str, parents: dict[str, Any], inside: str = "final") -> Any:
    """A run that is done, without any weights; as models.resolve finds it."""
    folder = root / name / inside
    folder.mkdir(parents=True)
    (folder / "weights").write_text(name)
    checkpoints.seal(folder)
    (root / name / "run.json").write_text(json.dumps({"stage": "sft", "status": "done", "parents": parents}))
    return SimpleNamespace(path=str(root / name), folder=folder,
                           checksum=checkpoints.file_sha256(folder / checkpoints.MANIFEST))


def data(root: Path, prompts: list[Prompt]) -> dict[str, str]:
    return snapshot.read(snapshot.write(root, prompts=prompts)).lineage()


def parent(one: Any) -> dict[str, str]:
    return {"path": one.path, "checksum": one.checksum}


def questions(*prompts: Prompt) -> list[Question]:
    return [Question(one) for one in prompts]


def test_what_a_grandparent_learned_counts(tmp_path: Path) -> None:
    seen, new = drawn("train", 30), drawn("test", 5)
    sft = saved(tmp_path, "sft", {"data": data(tmp_path / "data", seen)})
    reward = saved(tmp_path, "reward", {"policy": parent(sft), "data": data(tmp_path / "other", new)})
    ppo = saved(tmp_path, "ppo", {"policy": parent(sft), "reward": parent(reward)})
    asked = questions(new[0], seen[3], new[1], seen[4])
    found = overlap.overlaps([ppo], asked)
    assert found.exact == {1, 3}  # split test of `other` is not learned from
    assert found.unchecked == ()
    (shared,) = found.shared
    assert (shared.learned.model, shared.learned.run) == (ppo.path, sft.path)
    with pytest.raises(RequestError) as refused:
        overlap.require_none(found, asked)
    said = str(refused.value)
    assert said.startswith(f"{ppo.path}: ")
    for part in (sft.path, str(tmp_path / "data"), "2 of these 4 prompts", seen[3].messages[0].content,
                 "compare.allow_overlap=true"):
        assert part in said
    assert found.to_json()["in"] == [{"run": ppo.path, "by": sft.path, "snapshot": str(tmp_path / "data"),
                                      "exact": 2, "near": 0}]


def test_new_prompts_pass(tmp_path: Path) -> None:
    run = saved(tmp_path, "sft", {"data": data(tmp_path / "data", drawn("train", 30, "Say {number} about {place}"))})
    asked = questions(*drawn("test", 10))
    found = overlap.overlaps([run], asked)
    overlap.require_none(found, asked)
    assert found.to_json() == {"exact": 0, "near": 0, "in": [], "unchecked": []}


def test_many_near_copies_are_refused_and_a_few_are_told(tmp_path: Path) -> None:
    form = "Dear support, my order number {number} went to {place} and has not come back to me since the last week."
    seen = drawn("train", 200, form)
    copies = [one for one in (prompt(known.messages[0].content.replace("last week.", "last week!!")) for known in seen)
              if one.split == "test"][:3]
    assert len(copies) == 3
    run = saved(tmp_path, "sft", {"data": data(tmp_path / "data", seen)})
    asked = questions(*copies, *drawn("test", 7))
    found = overlap.overlaps([run], asked)
    assert found.near == {0, 1, 2}
    assert found.exact == set()
    with pytest.raises(RequestError, match=r"prompts nearly like 3 of these 10: .*week!!', like .*week\.'"):
        overlap.require_none(found, asked)
    asked = questions(*copies, *drawn("test", 27))
    found = overlap.overlaps([run], asked)
    overlap.require_none(found, asked)  # 3 of 30 is not more than a tenth
    assert found.to_json()["near"] == 3


def test_variants_go_by_their_originals(tmp_path: Path) -> None:
    seen = drawn("train", 1)
    run = saved(tmp_path, "sft", {"data": data(tmp_path / "data", seen)})
    asked = [*questions(*drawn("test", 1)), Question(seen[0], "typos", of=0)]
    assert overlap.overlaps([run], asked).exact == set()
    assert overlap.overlaps([run], [*asked, Question(seen[0], "far")]).exact == {2}


def test_what_cannot_be_checked_is_told(tmp_path: Path) -> None:
    seen = drawn("train", 4)
    gone, changed = data(tmp_path / "gone", seen), data(tmp_path / "changed", seen)
    (tmp_path / "gone").rename(tmp_path / "away")
    (tmp_path / "plain").mkdir()
    other = saved(tmp_path, "other", {})
    run = saved(tmp_path, "sft", {
        "data": gone, "more": {**changed, "checksum": "0" * 64}, "policy": {"path": "a/hub-model", "checksum": "1"},
        "base": {"path": str(tmp_path / "plain"), "checksum": "2"}, "reward": {**parent(other), "checksum": "3"}})
    found = overlap.overlaps([run], questions(*seen))
    assert found.shared == ()
    told = "\n".join(found.unchecked)
    for part in (f"{tmp_path / 'gone'}, which it was made from, is no folder here", "another snapshot now",
                 "a/hub-model, which it was made from, is no folder here", f"{tmp_path / 'plain'}: no run of ours",
                 f"{other.path}: another run stands there now"):
        assert part in told
    assert len(found.unchecked) == 5


def test_a_checkpoint_folder_belongs_to_its_run(tmp_path: Path) -> None:
    seen = drawn("train", 4)
    step = saved(tmp_path, "sft", {"data": data(tmp_path / "data", seen)}, "checkpoint-50")
    step.path += "/checkpoint-50"
    assert overlap.overlaps([step], questions(*seen)).exact == {0, 1, 2, 3}


def test_runs_that_name_each_other_come_to_an_end(tmp_path: Path) -> None:
    one = saved(tmp_path, "one", {})
    two = saved(tmp_path, "two", {"policy": parent(one)})
    (tmp_path / "one" / "run.json").write_text(json.dumps(
        {"stage": "sft", "status": "done", "parents": {"policy": parent(two), "odd": 3, "worse": {"path": []}}}))
    assert overlap.overlaps([one], questions(*drawn("test", 2))).unchecked == ()


def test_resembling_texts_are_found_and_others_are_not() -> None:
    known = [f"The train to {place} leaves from platform {n} every morning, except on "
             "Sundays and on holidays, when it leaves from the yard behind the old market hall, or so I was told."
             for n, place in enumerate(PLACES)]
    asked = [known[5].upper().replace(",", " -"), "Where is my parcel?", known[2].replace("The train", "Trains"), ""]
    assert near.resembling(asked, known) == [5, -1, 2, -1]
    assert near.resembling(asked, []) == [-1] * 4
    assert near.resembling([], known) == []
