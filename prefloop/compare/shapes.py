"""Whether JSON that may come from anybody is what was expected of it."""

from __future__ import annotations

import json
from typing import Any

LARGEST = 1e12  # of any number: no figure of ours comes near it, and arithmetic with it stays finite
NAMES = {str: "a text", bool: "true or false", int: "a whole number from 0 to 1e12", float: "a number within 1e12",
         object: "a text, a number, true, false or null"}

# A type of NAMES; [shape], a list of it; {key: shape}, where the key `str` stands for all others, which are left alone
# without it; (None, shape), for which null will do, and no key at all.
Shape = Any


def require(value: Any, shape: Shape, name: str) -> None:
    """ValueError that names the first place where `value` has another shape; `name` is its own."""
    if isinstance(shape, tuple):
        if value is not None:
            require(value, shape[1], name)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise ValueError(f"{name} is not a list")
        for number, one in enumerate(value):
            require(one, shape[0], f"{name}[{number}]")
    elif isinstance(shape, dict):
        if not isinstance(value, dict):
            raise ValueError(f"{name} is not an object")
        for key in dict.fromkeys([*(key for key in shape if key is not str), *(value if str in shape else ())]):
            require(value.get(key), shape[key] if key in shape else shape[str], f"{name}.{key}")
    elif not _is(value, shape):
        raise ValueError(f"{name} is not {NAMES[shape]}")


def _is(value: Any, kind: type) -> bool:
    if kind is object:
        return value is None or isinstance(value, str | int | float)
    if kind in (int, float):  # true is no number, and NaN is within no bounds
        known = isinstance(value, int) or (kind is float and isinstance(value, float))
        return known and not isinstance(value, bool) and (0 if kind is int else -LARGEST) <= value <= LARGEST
    return isinstance(value, kind)


def require_text(value: Any) -> None:
    """ValueError where some text in it, or a key, cannot be written down again."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a surrogate pair (such as \\ud800), which is not text") from None
