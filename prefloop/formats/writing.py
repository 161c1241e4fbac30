"""Rows as files: JSON lines, one JSON array, CSV, Parquet, or a folder as `datasets` saves it.

What is written has its name only once it is whole and on disk. Rows are taken one by one.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from prefloop import checkpoints
from prefloop.errors import RequestError, RunError
from prefloop.formats import snapshot
from prefloop.formats.guarding import guarded

# What a column holds: "text", "int", "float", "bool", "any" (which tables hold as JSON text), [of these] or {name: of
# these}.
Shape = Any
Columns = Mapping[str, Shape]
SUFFIXES = {".jsonl": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
KINDS = (*SUFFIXES.values(), "datasets")
BATCH = 512


def kind_of(path: Path) -> str | None:
    return SUFFIXES.get(path.suffix.lower())


def write(path: Path, kind: str, rows: Iterable[Mapping[str, Any]], columns: Columns) -> None:
    """A file, or of kind `datasets` a folder, that was not there before. `columns` decide the types of tables."""
    if path.exists() or path.is_symlink():
        raise RequestError(f"{path}: it exists already; choose another name")
    try:
        with snapshot.beside(path) as draft:
            made = draft / path.name
            WRITERS[kind](made, rows, columns)
            for part in made.rglob("*") if made.is_dir() else (made,):
                checkpoints.sync(part)
            checkpoints.sync(draft)
            made.rename(path)
            checkpoints.sync(path.parent)
    except OSError as error:
        raise RunError(f"{path}: cannot write this file: {error.strerror or error}") from error


def _lines(path: Path, rows: Iterable[Mapping[str, Any]], _: Columns) -> None:
    with path.open("wb") as file:
        file.writelines(_encoded(row) + b"\n" for row in rows)


def _array(path: Path, rows: Iterable[Mapping[str, Any]], _: Columns) -> None:
    with path.open("wb") as file:
        between = b"[\n"
        for row in rows:
            file.write(between + _encoded(row))
            between = b",\n"
        file.write(b"\n]\n" if between != b"[\n" else b"[]\n")


def _encoded(row: Any) -> bytes:
    return snapshot.ENCODER.encode(row).encode()


def _table(path: Path, rows: Iterable[Mapping[str, Any]], columns: Columns) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for row in rows:
            table.writerow([guarded(_cell(row.get(name))) for name in columns])


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return snapshot.ENCODER.encode(value)  # also true, false, and numbers to their last digit


def _parquet(path: Path, rows: Iterable[Mapping[str, Any]], columns: Columns) -> None:
    import pyarrow.parquet as pq

    schema = _schema(columns)
    with pq.ParquetWriter(path, schema) as table:
        for batch in _batches(path, rows, columns, schema):
            table.write_batch(batch)


def _dataset(path: Path, rows: Iterable[Mapping[str, Any]], columns: Columns) -> None:
    import datasets
    import pyarrow as pa

    plain, schema = path.with_name(f"{path.name}.arrow"), _schema(columns)
    with pa.OSFile(str(plain), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        for batch in _batches(path, rows, columns, schema):
            stream.write_batch(batch)
    datasets.Dataset.from_file(str(plain)).save_to_disk(str(path))  # mapped, and not held in memory
    plain.unlink()


WRITERS = {"jsonl": _lines, "json": _array, "csv": _table, "parquet": _parquet, "datasets": _dataset}


def _batches(path: Path, rows: Iterable[Mapping[str, Any]], columns: Columns, schema: Any) -> Iterator[Any]:
    import pyarrow as pa

    rest, first = iter(rows), 1
    while own := list(islice(rest, BATCH)):
        try:
            yield pa.RecordBatch.from_pylist([{name: _fitted(row.get(name), shape) for name, shape in columns.items()}
                                              for row in own], schema=schema)
        except (pa.ArrowException, OverflowError) as error:
            raise RequestError(f"{path.name}: rows {first} to {first + len(own) - 1} do not fit a table: {error}; "
                               "export.kind=jsonl holds them") from None
        first += len(own)


def _fitted(value: Any, shape: Shape) -> Any:
    """The value with whatever has no shape of its own as JSON text."""
    if value is None:
        return None
    if shape == "any":
        return json.dumps(value, ensure_ascii=False)
    if isinstance(shape, list):
        return [_fitted(one, shape[0]) for one in value]
    if isinstance(shape, dict):
        return {name: _fitted(value.get(name), own) for name, own in shape.items()}
    return value


def _schema(columns: Columns) -> Any:
    import pyarrow as pa

    plain = {"text": pa.string(), "any": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}

    def typed(shape: Shape) -> Any:
        if isinstance(shape, list):
            return pa.list_(typed(shape[0]))
        if isinstance(shape, dict):
            return pa.struct([(name, typed(own)) for name, own in shape.items()])
        return plain[shape]

    return pa.schema([(name, typed(shape)) for name, shape in columns.items()])
