"""Rows of CSV, of Parquet, and of a `datasets` name."""

from __future__ import annotations

import csv
import io
import logging
import shutil
import tempfile
from pathlib import Path
from typing import IO, Any

from prefloop.errors import RequestError
from prefloop.formats.files import LONGEST, Rows
from prefloop.formats.guarding import unguarded
from prefloop.formats.row import BadRow

BATCH = 256


def csv_rows(path: Path, file: io.BufferedReader, delimiter: str, encoding: str) -> Rows:
    """A header, then a row each. Cells may hold line breaks in quotes; an empty cell counts as missing.

    The apostrophe before what a spreadsheet would take for a formula (guarding.py) is no part of a cell.
    """
    text = io.TextIOWrapper(file, "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding, newline="")
    csv.field_size_limit(LONGEST)
    table = csv.reader(text, delimiter=delimiter)
    first = 1
    try:
        header = next(table, None)
        if header is None:
            return
        twice = sorted({name for name in header if header.count(name) > 1 and name})
        if twice:
            raise RequestError(f"{path}:1: the header names column {twice[0]!r} twice")
        while True:
            first = table.line_num + 1
            cells = next(table, None)
            if cells is None:
                return
            if len(cells) == len(header):
                yield first, {name: unguarded(cell) or None for name, cell in zip(header, cells, strict=True)}
            elif cells:
                yield first, BadRow("cells do not fit the header",
                                    f"{len(cells)} cells under a header of {len(header)}; is a quote or a separator "
                                    "missing?")
    except csv.Error as error:
        raise RequestError(f"{path}:{first}: not a table that can be read: {error}; is a quote never closed?"
                           ) from None


def parquet(path: Path, file: io.BufferedReader, raw: IO[bytes]) -> Rows:
    """The rows of a Parquet file, read page by page."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryFile() as plain:
        if file is not raw:  # packed: Parquet is read from its end
            shutil.copyfileobj(file, plain)
            plain.seek(0)
        try:
            table = pq.ParquetFile(plain if file is not raw else raw, buffer_size=1 << 20, pre_buffer=False)
            names = table.schema_arrow.names
            number = 0
            for batch in table.iter_batches(BATCH):
                columns = [column.to_pylist() for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    number += 1
                    yield number, dict(zip(names, cells, strict=True))
        except pa.ArrowException as error:
            raise RequestError(f"{path}: damaged Parquet file, perhaps cut short: {_line(error)}") from None
        except OSError as error:
            if error.errno is not None:
                raise
            # Arrow's own, in several lines
            raise RequestError(f"{path}: damaged Parquet file, perhaps cut short: {_line(error)}") from None


def dataset(name: str, subset: str | None, split: str | None, revision: str | None) -> Rows:
    """The rows of a dataset of the hub, or of a folder, streamed. No code of the dataset's ever runs."""
    number = 0
    try:
        import datasets

        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)  # one line is enough, and it is ours
        found = _opened(datasets, name, subset, split, revision)
        if isinstance(found, dict):
            if len(found) != 1:
                raise RequestError(f"{name}: it has the splits {', '.join(map(str, found))}; choose one: "
                                   f"import.dataset_split={next(iter(found))}")
            found = next(iter(found.values()))
        for row in found:
            number += 1
            yield number, row
    except (RequestError, GeneratorExit):
        raise
    except Exception as error:  # the library, its file systems and the network each raise their own
        where = f"{name}: row {number + 1}" if number else name
        raise RequestError(f"{where}: `datasets` cannot read it: {type(error).__name__}: {_line(error)}") from None
    if not number:
        raise RequestError(f"{name}: this dataset is empty")


def _opened(datasets: Any, name: str, subset: str | None, split: str | None, revision: str | None) -> Any:
    saved = Path(name)
    if (saved / "dataset_dict.json").is_file() or (saved / "state.json").is_file():
        whole = datasets.load_from_disk(name)
        if isinstance(whole, dict) and split is not None:
            if split not in whole:
                raise RequestError(f"{name}: it has no split {split!r}; it has {', '.join(whole)}")
            return whole[split]
        return whole
    return datasets.load_dataset(name, subset, split=split, revision=revision, streaming=True)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
