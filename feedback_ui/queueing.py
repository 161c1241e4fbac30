"""From files of sampled answers to items that wait for raters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prefloop.errors import RequestError
from prefloop.records import Answers
from prefloop.store import Store

MOST_ANSWERS = 8  # what the page has letters, keys and room for
KEPT = 4  # one item of so many comes in the file's own order, whatever a reward model says of it


@dataclass(frozen=True)
class Queued:
    """`new` items were added, `known` were there before, `alone` had fewer than two answers to compare."""

    new: int
    known: int
    alone: int


def queue(store: Store, path: Path, raters_per_item: int = 1, scores: Path | None = None) -> Queued:
    """Queues every row of an answers.jsonl, or none if one is malformed; what is queued already stays as it is.

    With `scores`, as `prefloop score` writes them, the items on whose answers an ensemble disagrees most come first.
    """
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

    disagreement = spreads(scores) if scores else None
    try:
        with path.open("rb") as lines:
            rows: Iterable[Answers] = rankable(lines)
            if disagreement is not None:
                rows = disputed_first(list(rows), disagreement)
            new = store.add_items(rows, need=raters_per_item)
    except OSError as error:
        raise RequestError(f"{path}: cannot read these answers: {error.strerror}") from None
    except RequestError as error:
        raise RequestError(f"{path}:{number}: {error}; nothing was queued") from None
    return Queued(new, known - new, alone)


def disputed_first(rows: list[Answers], spread: dict[tuple[str, str], float]) -> list[Answers]:
    """The most disputed item first, by its answers' mean disagreement; each fourth is the file's next instead.

    Disagreement, and not closeness to 50/50: two answers of like worth teach little, whoever ranks them. The fourth
    keeps a part of the data free of the model's choice.
    """

    def disputed(row: Answers) -> float:
        return sum(spread.get((row.prompt.id, one.id), 0.0) for one in row.responses) / len(row.responses)

    # From the end, so that what comes next is popped; an item that the other order had already is passed over.
    waiting = sorted(range(len(rows)), key=lambda n: disputed(rows[n]))
    in_file = list(range(len(rows) - 1, -1, -1))
    taken: dict[int, None] = {}
    while len(taken) < len(rows):
        source = in_file if len(taken) % KEPT == KEPT - 1 else waiting
        taken.setdefault(source.pop())
    return [rows[n] for n in taken]


def spreads(path: Path) -> dict[tuple[str, str], float]:
    """By prompt and answer, how far the members of a reward model disagree."""
    found: dict[tuple[str, str], float] = {}
    try:
        for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):  # noqa: B007 - an error below names it
            if line.strip():
                row = json.loads(line)
                found[row["prompt_id"], row["response_id"]] = float(row.get("spread") or 0.0)
    except OSError as error:
        raise RequestError(f"feedback.scores: {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RequestError(f"{path}:{number}: not a row of scores as `prefloop score` writes it") from None
    if not any(found.values()):
        raise RequestError(f"{path}: its scores have no spread, so there is no disagreement to go by; score with a "
                           f"reward model of several members (head.members=4)")
    return found


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
