"""Rankings on their way out of a store: into a file, and into the store's own list of what left it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.errors import RequestError
from prefloop.formats import leaving
from prefloop.records import Ranking
from prefloop.store import Store, events
from prefloop.store.exports import exported, head
from prefloop.store.pseudonyms import REVIEW, pseudonyms
from prefloop.store.reviewing import Reviews

RATERS = ("pseudonyms", "names")


@dataclass(frozen=True)
class Which:
    """Of one campaign, or of all; raters by their names, or by pseudonyms. `surplus` answers count for no item;
    `decisions` of reviews are rankings by "review:NAME".
    """

    campaign: str | None = None
    raters: str = "pseudonyms"
    surplus: bool = False
    decisions: bool = True

    def rankings(self, store: Store) -> Iterator[Ranking]:
        yield from store.rankings(self.surplus, self.campaign)
        if self.decisions:
            yield from Reviews(store).decisions(self.campaign)


def export(store: Store, form: str, kind: str, out: str, which: dict[str, Any]) -> dict[str, Any]:
    """The work behind the command: the file is written by whoever holds the store."""
    made = sent(store, Path(out), form, kind, Which(**which))
    return {"told": "\n".join([f"{out}: {summary(made)}; checksum {made.checksum[:12]}", *lost(form, made)])}


def sent(store: Store, path: Path, form: str, kind: str, which: Which = Which(), by: str = events.COMMAND,
         place: str | None = None) -> leaving.Left:
    """Writes the file, and into the store that it was written: `place` says where it went, if not to `path`."""
    before = head(store)
    if next(which.rankings(store), None) is None:
        raise RequestError(f"{store.place}: nobody has ranked anything yet, so there is nothing to write")
    called = pseudonyms(store) if which.raters == "pseudonyms" else str
    made = leaving.write(path, form, kind, which.rankings(store), called)
    people: Counter[str] = Counter()
    for name, count in made.raters.items():
        people[name.removeprefix(REVIEW)] += count
    exported(store, f"export {form}", place or str(path), made.checksum, raters=people, head=before, by=by)
    return made


def summary(made: leaving.Left) -> str:
    return (f"{made.rankings} ranking{'s' * (made.rankings != 1)} by {len(made.raters)} "
            f"rater{'s' * (len(made.raters) != 1)} in {made.rows} row{'s' * (made.rows != 1)}")


def lost(form: str, made: leaving.Left) -> list[str]:
    told = made.told()
    return [f"  {form} cannot hold:", *(f"    {line}" for line in told)] if told else ["  nothing was left out"]
