"""Cells of CSV that no spreadsheet takes for a formula, and that are read back byte for byte.

A cell that begins with a formula's sign runs when the file is opened, whoever wrote the text. OWASP ("CSV Injection")
advises an apostrophe before it. Every cell that begins so, whatever apostrophes it begins with already, is given one
more, and a reader takes one away: nothing is lost and nothing is ambiguous.
"""

from __future__ import annotations

import re

SIGNS = "=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b"  # with their fullwidth and small forms
SKIPPED = "\\s\\x00-\\x20'\"\ufeff\u200b-\u200f\u2060"  # what a spreadsheet may drop before it looks
# No two parts that take the same in a row, so that a long cell of apostrophes is looked through once.
RUNS = re.compile(f"'*[\\t\\r\\n]|[{SKIPPED}]*[{SIGNS}]")


def guarded(cell: str) -> str:
    return f"'{cell}" if RUNS.match(cell) else cell


def unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and RUNS.match(cell) else cell
