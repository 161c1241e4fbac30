"""The page's words: each language says everything, with the same places to fill in, and nothing is left over."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prefloop.feedback_ui import app

HERE = Path(app.__file__).parent
ENGLISH = json.loads((HERE / "words.en.json").read_text(encoding="utf-8"))
LANGUAGES = sorted(path.name.split(".")[1] for path in HERE.glob("words.*.json"))


def shape(words: Any) -> Any:
    """What must be alike: the places to fill in, how many choices there are, which keys are explained."""
    if isinstance(words, str):
        return sorted(set(re.findall(r"\{\w+\}", words)) - {"{n}"}), words.count("|")
    if isinstance(words, dict):
        return {name: shape(own) for name, own in words.items()}
    return [key for key, _ in words]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_says_everything(language: str) -> None:
    own = json.loads((HERE / f"words.{language}.json").read_text(encoding="utf-8"))
    assert {key: shape(words) for key, words in own.items()} == {key: shape(words) for key, words in ENGLISH.items()}


def test_every_word_is_used_and_every_word_used_is_there() -> None:
    files = [*HERE.glob("ranking*.js"), HERE / "words.js", HERE / "sign_in.js", HERE / "ranking.html",
             HERE / "sign_in.html"]
    source = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [key for key in ENGLISH if not re.search(rf"""["']{key}["']""", source)] == []
    asked = set(re.findall(r"""(?:\bt|choices|table)\("(\w+)\"""", source)) | set(
        re.findall(r"""data-(?:t|label)="(\w+)\"""", source))
    assert asked - set(ENGLISH) == set()


@pytest.mark.parametrize("path", sorted(HERE.glob("*.js")), ids=lambda path: path.name)
def test_scripts_stay_readable(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= 420
