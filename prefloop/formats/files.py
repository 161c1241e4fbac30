"""Rows of outside files, one at a time however long the file. What a file is, its first bytes say; its name need not.

Each reader yields the number of a row, as an editor or a table counts, and its columns, or the BadRow that it is.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from prefloop.errors import RequestError
from prefloop.formats.row import BadRow, brief

Rows = Iterator[tuple[int, dict[str, Any] | BadRow]]
PACKED: dict[bytes, tuple[str, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": ("gzip", lambda raw: gzip.GzipFile(fileobj=raw)), b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile)}
REFUSED = {b"PK\x03\x04": "a zip archive (or a spreadsheet): unpack it, or save it as CSV, first",
           b"\x28\xb5\x2f\xfd": "packed by zstd, which is not read: unpack it first (zstd -d)",
           b"SQLite format 3": "a database: export its table as CSV first"}
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text",
            ".log": "text", ".parquet": "parquet"}
KINDS = ("auto", "jsonl", "json", "csv", "tsv", "parquet", "text")
LONGEST = 64 << 20  # bytes of one row
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


@dataclass(frozen=True)
class Asked:
    """How files are read: their kind or `auto`, their encoding, and what stands between conversations of a text.

    `most` is how many bytes a packed file may hold: a few of them unpack to any number.
    """

    kind: str = "auto"
    encoding: str = "utf-8"
    between: str = r"[-=]{3,}"
    most: int | None = None


def rows(path: Path, how: Asked, plain_text: bool = False, noted: Callable[[int], None] = lambda _: None) -> Rows:
    """The rows of a file. `noted` is told now and then how many bytes were read.

    A file that is missing, empty or cut short is refused whatever is done about bad rows.
    """
    found, packed = False, "packed"
    if path.exists() and not path.is_file():
        raise RequestError(f"{path}: this is a folder, a pipe or a device, and not a file")
    try:
        with path.open("rb") as raw, _unpacked(raw, how.most) as (packed, file):
            kind = how.kind if how.kind != "auto" else _kind(path, file, plain_text)
            for count, row in enumerate(_reader(kind, path, file, raw, how)):
                if count % 256 == 0:
                    noted(raw.tell())
                found = True
                yield row
    except DAMAGED as error:
        raise RequestError(f"{path}: damaged {packed} file, perhaps cut short: {error}") from None
    except UnicodeError as error:
        reason = error.reason if isinstance(error, UnicodeDecodeError) else error
        raise RequestError(f"{path}{_first_broken(path, how)}: this is not {how.encoding} text: {reason}; "
                           "import.encoding names the right one (utf-8, utf-16, cp1252, latin-1, ...)") from None
    except OSError as error:
        if packed == "bzip2" and error.errno is None:  # bz2 has no error of its own
            raise RequestError(f"{path}: damaged {packed} file, perhaps cut short: {error}") from None
        raise RequestError(f"{path}: cannot read this file: {error.strerror or error}") from None
    if not found:
        raise RequestError(f"{path}: this file is empty")


def _first_broken(path: Path, how: Asked) -> str:
    """The line and byte at which a file that was read in large pieces is no text."""
    if how.encoding.lower().startswith(("utf-16", "utf-32")):
        return ""
    with path.open("rb") as raw, _unpacked(raw, how.most) as (_, file):
        for number, line in enumerate(file, start=1):
            try:
                line.decode(how.encoding)
            except UnicodeDecodeError as error:
                return f":{number}: byte {error.start} of the line (0x{line[error.start]:02x})"
    return ""


class _AtMost(io.RawIOBase):
    """What a packed file holds, up to a bound."""

    def __init__(self, inner: Any, most: int, name: str) -> None:
        self._inner, self._most, self._left, self._name = inner, most, most, name

    def readable(self) -> bool:
        return True

    def readinto(self, place: Any) -> int:
        read = self._inner.readinto(place)
        self._left -= read
        if self._left < 0:
            raise RequestError(f"{self._name}: it unpacks to more than {self._most >> 20} MiB; split it")
        return read


@contextmanager
def _unpacked(raw: IO[bytes], most: int | None) -> Iterator[tuple[str, io.BufferedReader]]:
    """How a file is packed ("" if it is not), and its content."""
    head = raw.read(16)
    raw.seek(0)
    for magic, what in REFUSED.items():
        if head.startswith(magic):
            raise RequestError(f"{raw.name}: this is {what}")
    for magic, (name, unpack) in PACKED.items():
        if head.startswith(magic):
            inner = unpack(raw)
            plain = inner if most is None else _AtMost(inner, most, raw.name)
            yield name, io.BufferedReader(cast(io.RawIOBase, plain), 1 << 18)
            return
    yield "", cast(io.BufferedReader, raw)


def _kind(path: Path, file: io.BufferedReader, plain_text: bool) -> str:
    head = file.peek(1 << 16)[: 1 << 16]
    if head.startswith(b"PAR1"):
        return "parquet"
    suffixes = [SUFFIXES[suffix.lower()] for suffix in path.suffixes if suffix.lower() in SUFFIXES]
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if suffixes and suffixes[-1] in ("csv", "tsv"):
        return suffixes[-1]
    if plain_text and (not suffixes or suffixes[-1] == "text") and not text.startswith(b"{"):
        return "text"
    if text.startswith(b"[") and re.match(rb"\[\s*(\{|\]|$)", text):
        return "json"
    if text.startswith((b"{", b"[")) or not text or (suffixes and suffixes[-1] == "jsonl"):
        return "jsonl"
    line = text.partition(b"\n")[0]
    if b"\t" in line or b"," in line:
        return "tsv" if b"\t" in line else "csv"
    return "jsonl"


def _reader(kind: str, path: Path, file: io.BufferedReader, raw: IO[bytes], how: Asked) -> Rows:
    from prefloop.formats import tables

    if kind == "parquet":
        return tables.parquet(path, file, raw)
    if how.encoding.lower().replace("_", "-") in ("utf-8", "utf8") and file.peek(2)[:2] in UTF_16:
        raise RequestError(f"{path}: byte 1: this is UTF-16 text, not UTF-8; read it with import.encoding=utf-16")
    if kind in ("csv", "tsv"):
        return tables.csv_rows(path, file, "\t" if kind == "tsv" else ",", how.encoding)
    if kind == "json":
        return _array(path, _decoded(file, how.encoding))
    if kind == "text":
        return _conversations(path, file, how)
    return _json_lines(path, file, how.encoding)


def _decoded(file: io.BufferedReader, encoding: str) -> io.TextIOWrapper:
    # A BOM is no part of the first column's name.
    return io.TextIOWrapper(file, "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding, newline="")


def lines(path: Path, file: io.BufferedReader, encoding: str) -> Iterator[tuple[int, bytes]]:
    """The number, from 1 as an editor counts, and the UTF-8 bytes of each line. Lines end at \\n alone."""
    if encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
        text = io.TextIOWrapper(file, encoding, newline="\n")
        yield from ((number, line.encode("utf-8", "surrogatepass")) for number, line in enumerate(text, start=1))
        return
    number = 0
    while line := file.readline(LONGEST):
        number += 1
        if len(line) == LONGEST:
            raise RequestError(f"{path}:{number}: this line is longer than {LONGEST >> 20} MB: is this a file of JSON "
                               "lines? import.kind says what it is")
        yield number, line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _json_lines(path: Path, file: io.BufferedReader, encoding: str) -> Rows:
    for number, line in lines(path, file, encoding):
        if line.strip():
            try:
                yield number, parse(line)
            except BadRow as error:
                yield number, error


def parse(line: bytes) -> dict[str, Any]:
    """The object that a line holds."""
    try:
        row = json.loads(line.rstrip(b"\r\n").decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BadRow("not UTF-8", f"not UTF-8 text, at byte {error.start} of the line; if the file is Latin-1: "
                                  "import.encoding=latin-1") from None
    except json.JSONDecodeError as error:
        raise BadRow("malformed JSON", f"malformed JSON at character {error.pos + 1}: {error.msg}; "
                                       "a file holds one object a line") from None
    except (ValueError, RecursionError) as error:
        raise BadRow("malformed JSON", f"JSON that cannot be read: {error}") from None
    return _object(row)


def _object(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        kind = {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(row), "number")
        raise BadRow("not an object", f"expected an object with columns, got a JSON {kind}; "
                                      "a file holds one object a line")
    return row


def _array(path: Path, text: io.TextIOWrapper) -> Rows:
    """The objects of one JSON array, read piece by piece. A broken one leaves no way to tell where the next begins."""
    decoder, buffer, number, ended = json.JSONDecoder(), "", 0, False
    space = re.compile(r"[\s,]*")
    place = 0
    while True:
        gap = space.match(buffer, place)
        place = gap.end() if gap else place
        if not number and buffer[place: place + 1] == "[":
            number, place = 1, place + 1
            continue
        if number and buffer[place: place + 1] == "]":
            return
        try:
            value, after = decoder.raw_decode(buffer, place)
            # A number at the end of what was read may go on.
            whole = after < len(buffer) or ended
        except RecursionError as error:
            raise RequestError(f"{path}: item {number}: JSON that cannot be read: {error}") from None
        except ValueError as error:
            value, after, whole = error, place, False
            if ended:
                raise RequestError(f"{path}: item {number}: the array is malformed or cut short: {error}") from None
        if whole:
            try:
                yield number, _object(value)
            except BadRow as error:
                yield number, error
            number, place = number + 1, after
            continue
        if len(buffer) - place > LONGEST:
            raise RequestError(f"{path}: item {number}: malformed JSON, or an item longer than {LONGEST >> 20} MB")
        more = text.read(max(1 << 20, len(buffer) - place))
        buffer, place, ended = buffer[place:] + more, 0, not more


def _conversations(path: Path, file: io.BufferedReader, how: Asked) -> Rows:
    """Plain text as rows with one column, `text`, numbered by the line they begin on."""
    try:
        between = re.compile(how.between)
    except re.error as error:
        raise RequestError(f"import.between: not a regular expression: {error}") from None
    first, held, size = 0, [], 0
    for number, line in lines(path, file, how.encoding):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RequestError(f"{path}:{number}: not UTF-8 text, at byte {error.start} of the line "
                               f"({brief(line[error.start: error.start + 1])}); if the file is Latin-1: "
                               "import.encoding=latin-1") from None
        if between.fullmatch(text.strip()):
            if held:
                yield first, {"text": "".join(held)}
            first, held, size = 0, [], 0
        elif held or text.strip():
            first, size = first or number, size + len(text)
            held.append(text.replace("\r\n", "\n"))
            if size > LONGEST:
                raise RequestError(f"{path}:{first}: a conversation longer than {LONGEST >> 20} MB; import.between is "
                                   "the pattern of the lines between conversations")
    if held:
        yield first, {"text": "".join(held)}
