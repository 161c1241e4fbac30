"""The page of all keys says what the code does, and leaves nothing of ours unexplained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prefloop import cli, keys

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_of_keys_is_what_the_dataclasses_and_configs_say() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == keys.page(), "run: python -m prefloop.keys > docs/configuration.md"


def test_every_key_of_ours_has_a_meaning() -> None:
    silent = [f"{command}: {key.section}.{key.name}" for command, (module, _) in cli.COMMANDS.items() if module
              for key in keys.keys(command) if not key.meaning and not key.foreign]
    assert silent == []


def test_defaults_are_those_that_hold() -> None:
    found = {f"{key.section}.{key.name}": key.default for key in keys.keys("dpo")}
    assert found["train.learning_rate"] == "1e-05"  # ours, not TRL's 1e-6
    assert found["train.gradient_checkpointing"] == "true; without a GPU false"
    assert found["run.name"] == "null"
    assert "train.output_dir" not in found  # the run's folder is not the user's to name there


def test_meanings_are_read_beside_a_key_and_above_it(tmp_path: Path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text("# a file\nimport:\n  path: a.jsonl   # one file\n  # hh for pairs,\n  # or another\n"
                      "  format: hh\n  # limit: 3   # only so many\ntrain:\n  path: b # another\n")
    assert keys.meanings(config)["import", "path"] == "one file"
    assert keys.meanings(config)["import", "format"] == "hh for pairs, or another"
    assert keys.meanings(config)["import", "limit"] == "only so many"
    assert keys.meanings(config)["train", "path"] == "another"


@pytest.mark.parametrize("command", [command for command, (module, _) in cli.COMMANDS.items() if module])
def test_help_of_a_command_lists_its_sections(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: prefloop {command}")
    assert re.search(r"^(\w+:|It takes what `prefloop feedback` takes)", shown.partition("usage:")[2], re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 120
