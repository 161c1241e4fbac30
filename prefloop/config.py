"""Sectioned YAML and `section.key=value` overrides, handed whole to the dataclass that owns each section."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from difflib import get_close_matches
from enum import Enum
from math import inf
from pathlib import Path
from typing import Any

import yaml

from prefloop.errors import RequestError


class _Loader(yaml.SafeLoader):
    """PyYAML reads 5e-6 as a string (YAML 1.1); here it is a number, as in YAML 1.2 and JSON. A key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Puts quotes around the texts that _Loader would read as numbers."""


for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float",
                                re.compile(r"^[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
                                list("-+.0123456789"))


@dataclass(frozen=True)
class Asked:
    """A request: the stage, the merged sections of its file and overrides, and which file that was."""

    stage: str
    sections: dict[str, dict[str, Any]]
    path: Path | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Range:
    """Which finite numbers are allowed."""

    least: float = -inf
    most: float = inf
    above: float = -inf

    def require(self, value: Any, key: str) -> None:
        if not isinstance(value, int | float):
            return
        if not (self.least <= value <= self.most and value > self.above and abs(value) < inf):
            said = [f"{word} {bound}" for word, bound in (("at least", self.least), ("above", self.above),
                                                          ("at most", self.most)) if abs(bound) < inf]
            raise RequestError(f"{key}: expected a number {' and '.join(said)}, got {value}")


@dataclass(frozen=True)
class Section:
    """Who owns a section, our defaults where they differ from the owner's, and keys that are not the user's to set."""

    owner: type
    defaults: Mapping[str, Any] = field(default_factory=dict)
    closed: Mapping[str, str] = field(default_factory=dict)  # the reason for each
    ranges: Mapping[str, Range] = field(default_factory=dict)  # what the owner would only trip over later


Sections = Mapping[str, Section]


def parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        hint = "; indent with spaces" if "\t" in text else ""
        raise RequestError(" ".join(f"{where}: not valid YAML{line}: {error.problem}{hint}".split())) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date such as 2024-13-45
        raise RequestError(" ".join(f"{where}: not valid YAML: {error}".split())) from None


def read(stage: str, path: Path | None, overrides: list[str]) -> Asked:
    """The request of one command line. Values of overrides are YAML: `a.b=[x, y]`, `a.b=null`, `a.b=5e-6`."""
    sections: dict[str, dict[str, Any]] = {}
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise RequestError(f"{path}: cannot read this config: {error.strerror}{_near(path)}") from None
        except UnicodeDecodeError as error:
            raise RequestError(f"{path}: cannot read this config: byte {error.start} is not UTF-8; save it as "
                               "UTF-8") from None
        tree = parse(text, str(path)) or {}
        if not isinstance(tree, dict):
            raise RequestError(f"{path}: expected sections such as `model:` and `train:`")
        for name, section in tree.items():
            if not isinstance(section, dict | None):
                raise RequestError(f"{path}: section {name!r} should hold keys, got {section!r}")
            sections[str(name)] = dict(section or {})
    for override in overrides:
        key, equals, value = override.partition("=")
        section, dot, name = key.partition(".")
        if not (equals and dot and section and name):
            raise RequestError(f"{override!r}: expected section.key=value, such as train.learning_rate=5e-6")
        sections.setdefault(section, {})[name] = parse(value, override)
    return Asked(stage, sections, path)


def _near(path: Path) -> str:
    """The file of a like name in the same folder, where there is no such file."""
    if path.exists() or not path.parent.is_dir():
        return ""
    near = get_close_matches(path.name, sorted(one.name for one in path.parent.glob("*.y*ml")), n=1)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def build(asked: Asked, sections: Sections) -> list[Any]:
    """One object per section, in their order. Unknown sections and keys are errors that suggest the nearest."""
    _known("section", asked.sections, list(sections), "")
    return [_built(one, asked.sections.get(name, {}), name) for name, one in sections.items()]


def _built(one: Section, given: dict[str, Any], name: str) -> Any:
    keys = [f for f in fields(one.owner) if f.init]
    for key in given:
        if key in one.closed:
            raise RequestError(f"{name}.{key}: {one.closed[key]}")
    _known("key", given, [key.name for key in keys], f"{name}.")
    values = {**one.defaults, **given}
    for key in keys:
        if key.name not in values and key.default is MISSING and key.default_factory is MISSING:
            raise RequestError(f"{name}.{key.name} is missing: set it in the config, or as "
                               f"{name}.{key.name}=... on the command line")
    hints = typing.get_type_hints(one.owner)
    typed = {key: _typed(value, hints[key], f"{name}.{key}") for key, value in values.items()}
    for key in typed.keys() & one.ranges.keys():
        one.ranges[key].require(typed[key], f"{name}.{key}")
    try:
        return one.owner(**typed)
    except (TypeError, ValueError, ImportError, OSError) as error:
        raise RequestError(f"section {name}: {' '.join(str(error).split())}") from None


def _known(what: str, given: typing.Iterable[str], known: list[str], prefix: str) -> None:
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known: {', '.join(known)}" * (len(known) < 20)
            raise RequestError(f"unknown {what} {prefix}{name}{hint}")


def _typed(value: Any, hint: Any, key: str) -> Any:
    """`value` if the annotation admits it (a whole number is a float too); else an error that names the key."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    plain = [typing.get_origin(option) or option for option in options]
    words = [word for option in options if typing.get_origin(option) is typing.Literal
             for word in typing.get_args(option)]
    if words and value not in words and set(plain) <= {typing.Literal, type(None)} and value is not None:
        raise RequestError(f"{key}: expected {' or '.join(map(repr, words))}, got {value!r}")
    if typing.Any in plain or typing.Literal in plain or (value is None and type(None) in plain):
        return value
    if isinstance(value, bool) and bool not in plain and (int in plain or float in plain):
        raise RequestError(f"{key}: expected {_names(plain)}, got {value!r}")
    if isinstance(value, int) and not isinstance(value, bool) and int not in plain and float in plain:
        return float(value)
    if isinstance(value, list) and tuple in plain:
        return tuple(value)
    classes = tuple(option for option in plain if isinstance(option, type))
    members = [str(one.value) for option in classes if issubclass(option, Enum) for one in option]
    if members and value is False and "no" in members:
        raise RequestError(f"{key}: YAML reads a bare no as false; put it in quotes, {key}=\"'no'\" in a shell")
    if members and isinstance(value, str) and value not in members:
        near = get_close_matches(value, members, n=1)
        raise RequestError(f"{key}: {value!r} is unknown" + (f"; did you mean {near[0]}?" if near else
                                                              f"; known: {', '.join(members[:20])}"))
    enumerated = any(issubclass(option, str) for option in classes) and isinstance(value, str)
    if not classes or isinstance(value, classes) or enumerated or (isinstance(value, str) and Path in classes):
        return Path(value) if isinstance(value, str) and Path in classes and str not in classes else value
    hint = f"; write [{value}]" if list in plain and isinstance(value, str | int | float) else ""
    raise RequestError(f"{key}: expected {_names(plain)}, got {value!r}{hint}")


def _names(options: list[Any]) -> str:
    return " or ".join("nothing" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)


def dump(asked: Asked) -> str:
    """The request as a file that repeats it."""
    return yaml.dump(asked.sections, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
