"""Files on their way into a store: rankings given elsewhere as answers of a campaign, or answers to be ranked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, TypeVar

from prefloop.errors import RequestError
from prefloop.formats import arriving, files, losses
from prefloop.formats.importing import one_of, require_encoding, require_rules
from prefloop.formats.report import Tally, printable
from prefloop.formats.row import Rules
from prefloop.formats.sources import Source
from prefloop.records import Answers, Ranking
from prefloop.store import Store, events, taking

from .campaigns import MOST_RATERS
from .queueing import MOST_ANSWERS

TAKE = ("rankings", "items")
# Of one import, for it is one transaction: raters wait for it, and it is held in memory.
MOST_ROWS = 20_000
MOST_BYTES = 128 << 20  # unpacked
TOO_MUCH = f"an import takes {MOST_ROWS} rows, and {MOST_BYTES >> 20} MiB, at once; split the file"

R = TypeVar("R", bound=Answers | Ranking)


@dataclass(frozen=True, kw_only=True)
class ImportConfig(Rules):
    """`import:` of `prefloop feedback import`, with the rules of `prefloop import` for columns of other names."""

    path: str | list[str]
    format: str = arriving.AUTO
    take: str = "rankings"
    raters_per_item: int | None = None
    kind: str = "auto"
    encoding: str = "utf-8"
    dataset_split: str | None = None

    def __post_init__(self) -> None:
        one_of("format", self.format, arriving.NAMES)
        one_of("take", self.take, TAKE)
        one_of("kind", self.kind, files.KINDS)
        require_rules(self)
        if not self.paths or not all(isinstance(one, str) and one for one in self.paths):
            raise RequestError(f"import.path: expected a file or a list of files, got {self.path!r}")
        if self.raters_per_item is not None and not 1 <= self.raters_per_item <= MOST_RATERS:
            raise RequestError(f"import.raters_per_item: {self.raters_per_item} is not a number of raters, 1 to "
                               f"{MOST_RATERS}, or null for the campaign's own")
        require_encoding(self.encoding)

    @property
    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else self.path


def work(store: Store, campaign: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What the command asks for, done by whoever holds the store."""
    known = {one.name for one in fields(ImportConfig)}
    wanted = ImportConfig(**{name: value for name, value in settings.items() if name in known})
    return {"told": received(store, campaign, wanted)}


def received(store: Store, campaign: str, wanted: ImportConfig, by: str = events.COMMAND) -> str:
    """Takes in all that the files hold, or nothing of it; tells what came of it."""
    into = next((one for one in store.campaigns() if one.name == campaign), None)
    if into is None:
        raise RequestError(f"campaign: there is none named {campaign!r}; `prefloop feedback campaign`, or the page "
                           "for leads, makes one")
    found = arriving.opened(wanted.paths, files.Asked(wanted.kind, wanted.encoding, most=MOST_BYTES),
                            wanted.dataset_split)
    name, form, rules = arriving.formed(wanted.format, wanted, found)
    tally = Tally()
    rows = _bounded(arriving.records(form, rules, _few(found), tally))
    if wanted.take == "items":
        need = wanted.raters_per_item or into.raters_per_item
        count, new = taking.queue(store, campaign, rows, MOST_ANSWERS, need, by)
        told = [f"{_many(new, 'item')} queued", f"{count - new} queued before"]
    else:
        made = taking.take(store, campaign, _ranked(rows), MOST_ANSWERS, by)
        told = [f"{_many(made.answers, 'answer')} by {_many(made.raters, 'rater')} to {_many(made.items, 'new item')}",
                f"{made.known} there before"]
        told += [f"{_many(made.repeats, 'repeat')} left out, for a rater's first answer counts"] * bool(made.repeats)
        told += [f"{_many(made.gold, 'answer')} to gold items taken as to any other"] * bool(made.gold)
        told += [f"{_many(made.decisions, 'decision')} of reviews left out, for no rater's"] * bool(made.decisions)
        told += [f"a store cannot hold: {', '.join(losses.told(made.lost))}"] * bool(made.lost)
    left = [f"{count} left out: {why}" for why, count in (tally.dropped + tally.left).most_common()]
    return printable(f"campaign {campaign}: {_many(tally.rows, 'row')} of {name}; {'; '.join([*told, *left])}")


def _few(found: list[Source]) -> list[Source]:
    """The same files, refused at the row at which all of them have more than one import takes."""
    read: Counter[str] = Counter()

    def rows(own: Source, noted: Callable[[int], None]) -> files.Rows:
        for number, values in own.rows(noted):
            read["rows"] += 1
            read["bytes"] += len(repr(values))
            if read["rows"] > MOST_ROWS or read["bytes"] > MOST_BYTES:
                raise RequestError(f"{own.where(number)}: {TOO_MUCH}")
            yield number, values

    return [replace(one, rows=partial(rows, one)) for one in found]


def _bounded(rows: Iterator[tuple[str, R]]) -> Iterator[tuple[str, R]]:
    """One row may hold many rankings."""
    for count, (where, one) in enumerate(rows):
        if count == MOST_ROWS:
            raise RequestError(f"{where}: {TOO_MUCH}; nothing was imported")
        yield where, one


def _ranked(rows: Iterator[tuple[str, Ranking | Answers]]) -> Iterator[tuple[str, Ranking]]:
    for where, one in rows:
        if isinstance(one, Answers):
            raise RequestError(f"{where}: nobody has ranked these answers; import.take=items queues them for raters; "
                               "nothing was imported")
        yield where, one


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
