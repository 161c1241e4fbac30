"""Rows that belong together, wherever in the files they stand, kept in a scratch file and not in memory."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from prefloop.errors import RequestError, RunError
from prefloop.formats.row import Part
from prefloop.records import digest

MOST = 100_000  # rows that share a key; more is a key that says nothing, such as an empty prompt


class Groups:
    """Parts by their key. A group comes back at the place of its first part, its parts in their order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = sqlite3.connect(path, isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-65536", "temp_store=FILE"):
            self.database.execute(f"PRAGMA {setting}")
        self.database.execute("CREATE TABLE parts (place INTEGER PRIMARY KEY, key INTEGER, file INTEGER, row INTEGER, "
                              "content TEXT)")
        self.database.execute("BEGIN")
        self.count = 0

    def add(self, part: Part, file: int, row: int) -> None:
        self.count += 1
        key = int(digest("group", part.key), 16) - 2**63
        self._run("INSERT INTO parts VALUES (?, ?, ?, ?, ?)", (self.count, key, file, row, json.dumps(part.content)))

    def __iter__(self) -> Iterator[tuple[list[dict[str, Any]], list[tuple[int, int]]]]:
        """The contents of each group, and the file and row of each."""
        self._run("CREATE INDEX by_key ON parts (key, place)")
        for first, key in self._run("SELECT MIN(place) AS first, key FROM parts GROUP BY key ORDER BY first"):
            wanted = "SELECT file, row, content FROM parts WHERE key = ? ORDER BY place"
            with closing(self._run(wanted, (key,))) as own:
                rows = own.fetchmany(MOST + 1)
            if len(rows) > MOST:
                raise RequestError(f"more than {MOST} rows belong to one prompt and rater (from row {first} of "
                                   "all): is the right column mapped to prompt?")
            yield [json.loads(content) for _, _, content in rows], [(file, row) for file, row, _ in rows]

    def _run(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:
            return self.database.execute(statement, values)
        except sqlite3.Error as error:
            raise RunError(f"{self.path.parent}: cannot keep rows that belong together: {error}") from None

    def close(self) -> None:
        self.database.close()
