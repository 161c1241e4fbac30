"""A whole copy of a store, taken while others write to it, and looked at before anybody relies on it."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from prefloop import checkpoints
from prefloop.errors import RequestError, RunError


def copied(path: Path, out: Path) -> dict[str, int]:
    """Copies the store to `out`, which takes its name once it is whole and on disk; the rows of each table.

    VACUUM INTO reads one moment of the store, and what it writes needs no WAL beside it.
    """
    draft = out.with_name(f"{out.name}.partial")
    try:
        draft.unlink(missing_ok=True)
        draft.touch(0o600)  # it will have all that raters wrote, and their passwords' hashes
        source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=30)
        try:
            source.execute("VACUUM INTO ?", (str(draft),))
        finally:
            source.close()
        counts = inspected(draft)
        checkpoints.sync(draft)
        draft.rename(out)
        checkpoints.sync(out.parent)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise RunError(f"{out}: cannot copy {path} here: {error}") from None
    return counts


def inspected(path: Path) -> dict[str, int]:
    """The rows of each table, once SQLite has found the file whole and every reference in it to lead somewhere."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            told = db.execute("pragma integrity_check").fetchone()[0]
            if told != "ok" or db.execute("pragma foreign_key_check").fetchone():
                raise RequestError(f"{path}: it is damaged: {told}")
            names = [row[0] for row in db.execute("select name from sqlite_master where type = 'table' order by name")]
            return {name: db.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names}
        finally:
            db.close()
    except sqlite3.Error as error:
        raise RequestError(f"{path}: it is damaged, or no store: {error}") from None
