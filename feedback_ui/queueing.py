"""From files of sampled answers to what raters can rank: rows are checked, put together by prompt."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from prefloop.errors import RequestError
from prefloop.records import Answers, Prompt, Ranking, Response, digest
from prefloop.store.items import Picture
from prefloop.store.predicting import Scores

from . import rendering
from .held_out import HELD_OUT, HeldOut

MOST_ANSWERS = 8  # what the page has letters, keys and room for

R = TypeVar("R", Answers, Ranking)
Places = dict[str, tuple[Path, int]]  # by a prompt's id, the file and the row in which it stood first


@dataclass(frozen=True)
class Waiting:
    """What files of answers come to: `rows` can be ranked, `alone` had fewer than two answers to compare.

    `contestants` are the names and checksums of the checkpoints that wrote them, where they are a comparison's.
    """

    rows: tuple[Answers, ...]
    alone: int
    places: Places
    contestants: tuple[tuple[str, str], ...] = ()


def compared(path: Path, found: HeldOut, most: int | None = None) -> Waiting:
    """The first answers of a comparison to its held-out prompts."""
    asked = [n for n, of in enumerate(found.sets) if of == HELD_OUT]
    rows = [(n, row) for n in asked if (row := found.item(n))]
    for n, row in rows:
        try:
            _rankable(row)
        except RequestError as error:
            raise RequestError(f"{path}: question {n + 1}: {error}; nothing was queued") from None
    return Waiting(tuple(drawn(row, most or MOST_ANSWERS) for _, row in rows), len(asked) - len(rows),
                   {found.prompts[n].id: (path, n + 1) for n, _ in rows},
                   tuple((one.name, one.checksum) for one in found.contestants))


def waiting(paths: Iterable[Path], most: int | None = None) -> Waiting:
    """The answers of each prompt put together, from however many files, and at most `most` of them drawn."""
    prompts: dict[str, Prompt] = {}
    places: Places = {}
    texts: dict[str, dict[str, Response]] = {}
    for path in paths:
        for number, row in lines(path, Answers):
            prompts.setdefault(row.prompt.id, row.prompt)
            places.setdefault(row.prompt.id, (path, number))
            own = texts.setdefault(row.prompt.id, {})
            for response in row.responses:
                own.setdefault(response.text, response)
    rows = tuple(drawn(Answers(prompt, tuple(texts[name].values())), most or MOST_ANSWERS)
                 for name, prompt in prompts.items() if len(texts[name]) > 1)
    return Waiting(rows, len(prompts) - len(rows), places)


def drawn(row: Answers, most: int) -> Answers:
    """So many of the answers, in their order; the same ones each time."""
    if len(row.responses) <= most:
        return row
    dice = Random(digest("draw", row.prompt.id, *(response.id for response in row.responses)))
    places = sorted(dice.sample(range(len(row.responses)), most))
    return Answers(row.prompt, tuple(row.responses[place] for place in places))


def keys(path: Path) -> Iterator[tuple[int, Ranking]]:
    """Rankings that are right, of gold items or a qualification round: each must decide something."""
    return lines(path, Ranking, _decides)


def _decides(row: Ranking) -> None:
    if len(row.responses) > MOST_ANSWERS:
        raise RequestError(f"responses: {len(row.responses)} answers; a rater can rank {MOST_ANSWERS} at most")
    beyond = [rank for rank in row.ranks if rank is not None and rank > len(row.ranks)]
    if beyond:
        raise RequestError(f"ranks: {beyond[0]} is beyond the {len(row.ranks)} answers; 1 is best")
    if not row.decided() and not row.none_acceptable:
        raise RequestError("ranks: they put no answer above another, so they cannot tell who ranks well")


def lines(path: Path, of: type[R], check: Callable[[R], object] = bool) -> Iterator[tuple[int, R]]:
    """A file's rows with their numbers, each checked; an error names the file and the row."""
    empty = True
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    empty = False
                    try:
                        row = _parsed(line, of)
                        check(row)
                    except RequestError as error:
                        raise RequestError(f"{path}:{number}: {error}; nothing was queued") from None
                    yield number, row
    except OSError as error:
        raise RequestError(f"{path}: it cannot be read: {error.strerror}") from None
    if empty:
        raise RequestError(f"{path}: this file is empty; nothing was queued")


def _parsed(line: bytes, of: type[R]) -> R:
    wanted = f"not a row of {'answers' if of is Answers else 'rankings'}"
    try:
        said = json.loads(line.decode("utf-8-sig").rstrip())
        if not isinstance(said, dict):
            raise RequestError(f"{wanted}: it must be an object with 'prompt' and 'responses'")
        _require_shapes(said)
        if of is Ranking:
            _require_known(said)
        row = of.from_json(said)
        _rankable(row)
    except KeyError as error:
        raise RequestError(f"column {error} is missing") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"byte {error.start + 1} of this row is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:  # its own text counts lines within the row, which has one
        what = error.msg.removesuffix(" starting at")
        raise RequestError(f"{wanted}: not JSON at column {error.colno}: {what}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(f"{wanted}: {error}") from None
    return row


def _rankable(row: Answers | Ranking) -> None:
    """Can it be stored, and ranked?"""
    line_again = json.dumps(row.to_json(), ensure_ascii=False, allow_nan=False)
    if len(row.responses) > 1:
        Ranking(row.prompt, row.responses, (1,) * len(row.responses), rater="any")
    try:
        line_again.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError("text: it holds half of a surrogate pair (such as \\ud800), which is not text") from None


def _require_shapes(said: dict[str, Any]) -> None:
    """Whoever writes such a file by hand is told which column is of another shape."""
    prompt, responses = said["prompt"], said["responses"]
    if not isinstance(prompt, dict) or not isinstance(prompt.get("messages"), list):
        raise RequestError("column 'prompt' must be an object with 'messages', a list")
    if not isinstance(responses, list):
        raise RequestError("column 'responses' must be a list of objects with 'text'")
    for name, rows, inside in (("prompt.messages", prompt["messages"], ("role", "content")),
                               ("responses", responses, ("text",))):
        for place, one in enumerate(rows):
            if not isinstance(one, dict) or any(column not in one for column in inside):
                raise RequestError(f"{name}[{place}] must be an object with {' and '.join(map(repr, inside))}")
    for name in ("ranks", "shown"):
        if not isinstance(said.get(name, []), list):
            raise RequestError(f"column {name!r} must be a list of whole numbers")


def _require_known(said: dict[str, Any]) -> None:
    """A key's misspelt `reason` would be missed by the raters whom it should teach."""
    known = [one.name for one in fields(Ranking)]
    for name in said:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise RequestError(f"unknown column {name!r}; {hint}")


def pictured(places: Places, missing: list[str], prompt: Prompt) -> dict[str, Picture]:
    """The pictures that a prompt's Markdown names, from files beside the one it stood in; `missing` takes the rest."""
    sources = dict.fromkeys(source for message in prompt.messages if "![" in message.content
                            for source in rendering.pictures(message.content))
    path, row = places[prompt.id]
    found = {source: picture(path.resolve().parent, source) for source in sources}
    missing += [f"{path}:{row} {source if source.isprintable() else ascii(source):.100}"
                for source, one in found.items() if one is None]
    return {source: one for source, one in found.items() if one is not None}


def picture(folder: Path, source: str) -> Picture | None:
    """A picture file in this folder or below; None if it is none, is too large, or lies elsewhere."""
    try:
        path = (folder / source).resolve()
        if not path.is_relative_to(folder) or path.stat().st_size > rendering.LARGEST_PICTURE or not path.is_file():
            return None
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    kind = rendering.picture_kind(data)
    return None if kind is None else (kind, data)


# -- what a reward model says -----------------------------------------------------------------------------------------


def scores(path: Path) -> Scores:
    """The rows that `prefloop score` wrote. The model is known by a digest of all that it says."""
    found: dict[tuple[str, str], tuple[float | None, float | None]] = {}
    number = 0
    try:
        whole = path.read_bytes()
        for number, line in enumerate(whole.split(b"\n"), start=1):  # noqa: B007 - an error below names it
            if line.strip():
                row = json.loads(line)
                found[row["prompt_id"], row["response_id"]] = _number(row.get("score")), _number(row.get("spread"))
    except OSError as error:
        raise RequestError(f"campaign.scores: {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RequestError(f"{path}:{number}: not a row of scores as `prefloop score` writes it") from None
    return Scores(hashlib.sha256(whole).hexdigest()[:16], found)


def _number(said: object) -> float | None:
    """None of what was too long for the model; only what is finite has an order."""
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int | float) or not math.isfinite(said):
        raise ValueError
    return float(said)
