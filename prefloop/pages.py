"""Reports as pages: one file each, without scripts, which fetches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

STYLE = Path(__file__).with_name("report.css")


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
    """A page in the style of all reports. Texts from outside are escaped."""
    made = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        template.read_text(encoding="utf-8"))
    return made.render(style=Markup(STYLE.read_text(encoding="utf-8")), Bar=Bar, **facts)
