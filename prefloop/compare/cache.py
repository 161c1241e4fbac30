"""What was sampled and scored before, on disk: rows added as they come, so that a killed comparison goes on there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefloop import checkpoints, runs
from prefloop.records import Prompt, digest


@dataclass
class Kept:
    """Rows by their `key`. A row that a kill cut off is made again."""

    path: Path
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.rows[key]

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """On disk first, in one write."""
        new = list(rows)
        runs.append(self.path, *new)
        self.rows.update((row["key"], row) for row in new)


@dataclass(frozen=True)
class Cache:
    """A folder with a file for each kind of rows and each thing that made them."""

    folder: Path

    def of(self, kind: str, *makers: object) -> Kept:
        """The rows that exactly these `makers` (checksums, settings) made."""
        with checkpoints.naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{kind}-{digest(*(json.dumps(_plain(one), sort_keys=True) for one in makers))}.jsonl"
        return Kept(path, {str(row["key"]): row for row in runs.read_lines(path) if "key" in row})


def text_key(prompt: Prompt, text: str) -> str:
    """The name of an answer to a prompt, by every letter of both."""
    return digest(*(part for message in prompt.messages for part in (message.role, message.content)), "", text)


def _plain(maker: object) -> object:
    return maker if isinstance(maker, str | int | float | bool | None) else asdict(maker)  # type: ignore[call-overload]
