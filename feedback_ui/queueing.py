"""From files of sampled answers to items that wait for raters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prefloop.errors import RequestError
from prefloop.records import Answers
from prefloop.store import Store

MOST_ANSWERS = 8  # what the page has letters, keys and room for


@dataclass(frozen=True)
class Queued:
    """`new` items were added, `known` were there before, `alone` had fewer than two answers to compare."""

    new: int
    known: int
    alone: int


def queue(store: Store, path: Path, raters_per_item: int = 1) -> Queued:
    """Queues every row of an answers.jsonl, or none if one is malformed; what is queued already stays as it is."""
    number = alone = known = 0

    def rankable(lines: Iterator[bytes]) -> Iterator[Answers]:
        nonlocal number, alone, known
        for number, line in enumerate(lines, start=1):  # noqa: B007 - an error below names it
            if not line.strip():
                continue
            row = _parse(line)
            if len(row.responses) < 2:
                alone += 1
                continue
            known += 1
            yield row

    try:
        with path.open("rb") as lines:
            new = store.add_items(rankable(lines), need=raters_per_item)
    except OSError as error:
        raise RequestError(f"{path}: cannot read these answers: {error.strerror}") from None
    except RequestError as error:
        raise RequestError(f"{path}:{number}: {error}; nothing was queued") from None
    return Queued(new, known - new, alone)


def _parse(line: bytes) -> Answers:
    try:
        row = Answers.from_json(json.loads(line))
    except KeyError as error:
        raise RequestError(f"column {error} is missing") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"not a row of answers: {error}") from None
    if len(row.responses) > MOST_ANSWERS:
        raise RequestError(f"responses: {len(row.responses)} answers; a rater can rank {MOST_ANSWERS} at most")
    return row
