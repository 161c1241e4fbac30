"""Rankings on their way out of a store: into a file, and into the store's own list of what left it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefloop.errors import RequestError
from prefloop.formats import leaving
from prefloop.store import Store, events
from prefloop.store.exports import exported, head
from prefloop.store.pseudonyms import pseudonyms

RATERS = ("pseudonyms", "names")


def export(store: Store, form: str, kind: str, out: str, campaign: str | None, raters: str,
           surplus: bool) -> dict[str, Any]:
    """The work behind the command: the file is written by whoever holds the store."""
    path = Path(out)
    made = sent(store, path, form, kind, campaign, raters, surplus)
    return {"told": "\n".join([f"{out}: {summary(made)}; checksum {made.checksum[:12]}", *lost(form, made)])}


def sent(store: Store, path: Path, form: str, kind: str, campaign: str | None = None, raters: str = "pseudonyms",
         surplus: bool = False, by: str = events.COMMAND, place: str | None = None) -> leaving.Left:
    """Writes the file, and into the store that it was written: `place` says where it went, if not to `path`."""
    before = head(store)
    if next(iter(store.rankings(surplus, campaign)), None) is None:
        raise RequestError(f"{store.place}: nobody has ranked anything yet, so there is nothing to write")
    called = pseudonyms(store) if raters == "pseudonyms" else str
    made = leaving.write(path, form, kind, store.rankings(surplus, campaign), called)
    exported(store, f"export {form}", place or str(path), made.checksum, raters=made.raters, head=before, by=by)
    return made


def summary(made: leaving.Left) -> str:
    return (f"{made.rankings} ranking{'s' * (made.rankings != 1)} by {len(made.raters)} "
            f"rater{'s' * (len(made.raters) != 1)} in {made.rows} row{'s' * (made.rows != 1)}")


def lost(form: str, made: leaving.Left) -> list[str]:
    told = made.told()
    return [f"  {form} cannot hold:", *(f"    {line}" for line in told)] if told else ["  nothing was left out"]
