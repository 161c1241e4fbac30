"""JSON lines from files, plain or gzipped: one line at a time, however long the file."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from prefloop.errors import RequestError
from prefloop.formats.row import BadRow

GZIP = b"\x1f\x8b"


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The number, from 1 as an editor counts, and the bytes of each line that is not blank.

    A file that is missing, empty or cut short is refused whatever is done about bad rows.
    """
    found = False
    try:
        with _opened(path) as file:
            for number, line in enumerate(file, start=1):
                text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if text.strip():
                    found = True
                    yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"{path}: damaged gzip file, perhaps cut short: {error}") from None
    except OSError as error:
        raise RequestError(f"{path}: cannot read this file: {error.strerror or error}") from None
    if not found:
        raise RequestError(f"{path}: this file is empty")


def _opened(path: Path) -> IO[bytes]:
    """What the file is, its first bytes say; its name need not."""
    with path.open("rb") as file:
        zipped = file.read(2) == GZIP
    return cast(IO[bytes], gzip.open(path)) if zipped else path.open("rb")


def parse(line: bytes) -> dict[str, Any]:
    """The object that a line holds."""
    try:
        row = json.loads(line.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", f"not UTF-8 text, at byte {error.start} of the line") from None
    except json.JSONDecodeError as error:
        raise BadRow("malformed JSON", f"malformed JSON at character {error.pos + 1}: {error.msg}; "
                                       "a file holds one object a line") from None
    except (ValueError, RecursionError) as error:
        raise BadRow("malformed JSON", f"JSON that cannot be read: {error}") from None
    if not isinstance(row, dict):
        raise BadRow("not an object", f"expected an object with columns, got a JSON {_kind(row)}; "
                                      "a file holds one object a line")
    return row


def _kind(value: object) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
