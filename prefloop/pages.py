"""Reports as pages: one file each, without scripts, which fetches nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

HERE = Path(__file__).parent
# Controls, marks of the writing direction, what has no width, tags, and what no XML may hold: in a name they hide or
# turn what stands there.
ODD = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
                 r"\ufffe\uffff\U000e0000-\U000e007f]")
STYLE = HERE / "report.css"


@dataclass(frozen=True)
class Bar:
    """An interval on an axis from `least` to `most`, in per cent of its width."""

    low: float
    value: float
    high: float

    @classmethod
    def of(cls, estimate: dict[str, float], least: float = 0.0, most: float = 1.0) -> Bar:
        return cls(*(100 * (min(max(estimate[key], least), most) - least) / (most - least)
                     for key in ("low", "value", "high")))


def rendered(template: Path, **facts: Any) -> str:
    """A page in the style of all reports. Texts from outside are escaped; what is absent is nothing. It may import
    plots.html. Odd letters are spelled out, but in what a template escapes itself (`| e`): people's and models' texts,
    which have a direction of their own."""
    pages = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=ChainableUndefined,
                        finalize=spelled, loader=FileSystemLoader([template.parent, HERE]))
    pages.filters |= {"share": share, "number": number, "between": between, "whole": whole}
    made = pages.get_template(template.name)
    return made.render(style=Markup(STYLE.read_text(encoding="utf-8")), Bar=Bar, **facts)


def spelled(one: Any) -> Any:
    """Odd letters by their numbers."""
    if not isinstance(one, str) or isinstance(one, Markup):
        return one
    return ODD.sub(lambda found: f"U+{ord(found[0]):04X}", one)


def share(value: Any, signed: bool = False) -> str:
    """A part of 1, in per cent."""
    return f"{100 * value:{'+' if signed else ''}.1f}%" if _known(value) else "–"


def number(value: Any, signed: bool = False) -> str:
    """Three figures that matter (two where it is small), and no exponent where none is needed."""
    if not _known(value):
        return "–"
    size, sign = abs(value), "+" if signed else ""
    value = value if size > 1e-9 else 0.0  # what rounding leaves
    if 1e-9 < size < 0.001 or size >= 1e7:
        return f"{value:{sign}.2g}"
    places = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:{sign},.{places}f}"


def whole(value: Any) -> str:
    return f"{round(value):,}" if _known(value) else "–"


def between(estimate: Mapping[str, float], percent: bool = False) -> str:
    """An interval in words."""
    low, high = estimate["low"], estimate["high"]
    if percent:
        return f"{share(low).removesuffix('%')} to {share(high)}"
    return f"{number(low)} to {number(high)}"


def _known(value: Any) -> bool:
    return isinstance(value, int | float) and isfinite(value)
