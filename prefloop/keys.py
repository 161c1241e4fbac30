"""Every key of a command with its default and meaning: `prefloop COMMAND --help`, and docs/configuration.md.

Both are read off: a default from the dataclass that owns the section, a meaning from the comment beside the key in
configs/. Run `python -m prefloop.keys > docs/configuration.md` after a change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from importlib import import_module
from pathlib import Path
from textwrap import shorten, wrap

from prefloop import config
from prefloop.cli import COMMANDS

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
SECTION = re.compile(r"^(\w+):")
KEY = re.compile(r"^  (?:# )?(\w+):\s*([^#]*?)\s*(?:#\s*(.*))?$")
ABOVE = re.compile(r"^  #\s?(.*)$")
ON_A_LINE = 34


@dataclass(frozen=True)
class Key:
    """One key of one section. `foreign` names the class that a field belongs to when it is not ours."""

    section: str
    name: str
    default: str
    meaning: str
    foreign: str = ""


def keys(command: str) -> Iterator[Key]:
    """The keys of a command, section by section, in the order of their dataclasses.

    A command of two words takes the config of the first, and so its sections too; only what is its own is told.
    """
    own, second = _explained(command), command.partition(" ")[2]
    for name, section in _sections(command).items():
        if name in _shared(command) and name != second:
            continue
        foreign = "" if section.owner.__module__.startswith("prefloop.") else _public(section.owner)
        for one in fields(section.owner):
            if one.init and one.name not in section.closed:
                meaning = own.get((name, one.name)) or _elsewhere(name, one.name)
                yield Key(name, one.name, _default(section, one), meaning, foreign)


def _sections(command: str) -> config.Sections:
    return import_module(COMMANDS[command][0]).sections()


def _shared(command: str) -> config.Sections:
    """The sections that a command of two words has from the first."""
    first, _, second = command.partition(" ")
    return _sections(first) if second else {}


def _config(command: str) -> Path:
    return CONFIGS / f"{command.replace(' ', '/')}.yaml"


def _explained(command: str) -> dict[tuple[str, str], str]:
    """By its config, and where that is silent by a config of one way to use it, such as online_dpo.yaml of dpo."""
    ways = [meanings(path) for path in sorted(CONFIGS.glob(f"*_{command}.yaml"))]
    return {key: meaning for found in [*ways, meanings(_config(command))] for key, meaning in found.items()}


def _public(owner: type) -> str:
    return f"{owner.__module__.partition('.')[0]}.{owner.__name__}"


def _default(section: config.Section, one: Field) -> str:
    """What holds when nobody says anything, as it would be written in YAML."""
    from prefloop.training import WITHOUT_GPU

    foreign = not section.owner.__module__.startswith("prefloop.")
    ours = {key: value for key, value in section.defaults.items() if not (foreign and key in WITHOUT_GPU)}
    made = one.default_factory() if one.default_factory is not MISSING else one.default
    value = ours.get(one.name, made)
    if value is MISSING:
        return "(required)"
    text = _yaml(value)
    return f"{text}; without a GPU {_yaml(WITHOUT_GPU[one.name])}" if foreign and one.name in WITHOUT_GPU else text


def _yaml(value: object) -> str:
    if value == "" or isinstance(value, bool | int | float | list | tuple | dict | None):
        return json.dumps(value, default=str)
    return str(getattr(value, "value", value))


@cache
def meanings(path: Path) -> dict[tuple[str, str], str]:
    """What the comments of a config say: beside a key, or in the lines above it."""
    found: dict[tuple[str, str], str] = {}
    section, above = "", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        if match := SECTION.match(line):
            section, above = match[1], []
        elif match := KEY.match(line):
            said = match[3] or " ".join(above)
            if said:
                found[section, match[1]] = said
            above = []
        elif match := ABOVE.match(line):
            above.append(" ".join(match[1].split()))
    return found


def _elsewhere(section: str, key: str) -> str:
    """A key that its command's own config leaves out is explained where another command's config has it."""
    said = (meanings(_config(command)).get((section, key)) for command in COMMANDS)
    return next(filter(None, said), "")


def told(command: str) -> str:
    """`prefloop COMMAND --help`. Of a foreign section only the keys that our config sets: it has over a hundred."""
    start = CONFIGS / f"{command.partition(' ')[0]}.yaml"
    lines = [f"usage: prefloop {command} [CONFIG] [section.key=value ...]", "", COMMANDS[command][1] + ".",
             f"configs/{start.name} is a commented config to start from." if start.is_file() else ""]
    if _shared(command):
        lines += ["", f"It takes what `prefloop {command.partition(' ')[0]}` takes."]
    shown = ""
    for key in keys(command):
        if key.section != shown:
            shown = key.section
            more = f"    every field of {key.foreign}, such as these; all in docs/configuration.md"
            lines += ["", f"{key.section}:{more if key.foreign else ''}"]
        if key.meaning or not key.foreign:
            lines += _wrapped(f"  {key.name}: {shorten(key.default, 60, placeholder=' ...')}", key.meaning)
    return "\n".join(lines)


def _wrapped(head: str, meaning: str) -> list[str]:
    first, *rest = wrap(meaning, 118 - ON_A_LINE) or [""]
    started = [f"{head:{ON_A_LINE}}{first}".rstrip()] if len(head) < ON_A_LINE else [head, " " * ON_A_LINE + first]
    return [*started, *(" " * ON_A_LINE + line for line in rest)]


def page() -> str:
    """docs/configuration.md."""
    lines = ["# Every key and its default", "",
             "Made by `python -m prefloop.keys > docs/configuration.md` from the dataclasses that own the sections "
             "and the comments in `configs/`.", "",
             "A command takes a YAML file and overrides: `prefloop dpo configs/dpo.yaml train.beta=0.2`. Overrides "
             "win; a value is YAML (`null`, `[a, b]`, `5e-6`).", ""]
    foreign: dict[str, dict[str, str]] = {}
    for command in COMMANDS:
        if COMMANDS[command][0]:
            lines += _of_command(command, [key for key in keys(command) if key.section not in _shared(command)],
                                 foreign)
    return "\n".join([*lines, *_compared(foreign)]) + "\n"


def _of_command(command: str, found: list[Key], foreign: dict[str, dict[str, str]]) -> list[str]:
    what = COMMANDS[command][1]
    too = f" It takes what `prefloop {command.partition(' ')[0]}` takes." if _shared(command) else ""
    lines = [f"## prefloop {command}", "", f"{what[0].upper()}{what[1:]}.{too}", "",
             *(["| key | default | meaning |", "|---|---|---|"] if found else [])]
    for key in found:
        if key.foreign:
            foreign.setdefault(key.foreign, {})[key.name] = key.default
        if key.meaning or not key.foreign:
            lines.append(f"| `{key.section}.{key.name}` | `{key.default}` | {_cell(key.meaning)} |")
    theirs = sorted({(key.section, key.foreign) for key in found if key.foreign})
    told = [f"`{section}:` takes every field of `{owner}`: see the table at the end." for section, owner in theirs]
    return [*lines, *[""] * bool(found), *told, *[""] * bool(told)]


def _compared(foreign: dict[str, dict[str, str]]) -> list[str]:
    """The fields of TRL's three configs side by side, with the defaults that hold here."""
    names = sorted({name for own in foreign.values() for name in own})
    lines = ["## `train:` of TRL's trainers", "",
             "The defaults are those of the installed version of TRL, and ours where we differ. An empty cell: the "
             "config has no such field.", "",
             "| key | " + " | ".join(f"`{owner}`" for owner in foreign) + " |", "|---" * (len(foreign) + 1) + "|"]
    for name in names:
        cells = (f"`{_cell(own[name])}`" if name in own else "" for own in foreign.values())
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
