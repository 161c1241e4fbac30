"""`prefloop snapshot CONFIG`: everything that raters answered so far, as an immutable folder that training reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prefloop import checkpoints, config
from prefloop.errors import RequestError, RunError
from prefloop.formats import snapshot
from prefloop.formats.snapshot import Snapshot
from prefloop.records import Answers, Demonstration, Ranking
from prefloop.store import Store, item_name
from prefloop.store.exports import head
from prefloop.store.pseudonyms import REVIEW
from prefloop.store.reviewing import Reviews

from . import control
from .auditing import HEAD

DECISIONS = ("beside", "instead", "none")


@dataclass(frozen=True)
class SnapshotConfig:
    """`snapshot:`. `surplus` also takes answers that came after an item had all the raters it needed.

    What reviews decided is a ranking `beside` those of raters, `instead` of those of the same item, or `none`.
    """

    store: str = "sqlite:///feedback.db"
    out: str = "snapshots/rankings"
    surplus: bool = False
    decisions: str = "beside"

    def __post_init__(self) -> None:
        if self.decisions not in DECISIONS:
            raise ValueError(f"snapshot.decisions: {self.decisions!r} is not one of {', '.join(DECISIONS)}")


def sections() -> config.Sections:
    return {"snapshot": config.Section(SnapshotConfig)}


def main(asked: config.Asked) -> None:
    settings: SnapshotConfig
    (settings,) = config.build(asked, sections())
    with Store(settings.store, read_only=True) as store:
        before = head(store)
        folder = export(store, Path(settings.out), settings.surplus, settings.decisions)
    made = snapshot.read(folder)
    checkpoints.write_json(folder / HEAD, {"head": before})
    record(settings.store, folder, made, before)
    kinds = Counter(ranking.kind for ranking in made.rankings)
    between = f" (of which {kinds['gold']} of gold items, {kinds['repeat']} repeats)" if len(kinds) > 1 else ""
    raters = _raters(made.rankings)
    decided = len(made.rankings) - raters.total()
    print(f"{folder}: {len(made.rankings)} rankings{between} by {len(raters)} raters, "
          f"{f'{decided} of them decided in reviews, ' if decided else ''}"
          f"{len(made.pairs())} pairs, {len(made.demonstrations)} demonstrations, {len(made.prompts)} prompts; "
          f"checksum {made.checksum[:12]}")


def record(url: str, folder: Path, made: Snapshot, before: str) -> None:
    """The store keeps whose answers and decisions are in it; the folder, where the log stood."""
    raters = Counter(one.rater.removeprefix(REVIEW) for one in made.rankings)
    try:
        control.perform(url, "exported", kind="snapshot", place=str(folder.resolve()), checksum=made.checksum,
                        raters=raters, head=before)
    except (RequestError, RunError) as error:
        raise RunError(f"{folder}: it is written and whole, but the store does not know of it and will not name it "
                       f"when a rater is deleted: {error}") from None


def _raters(rankings: Iterable[Ranking]) -> Counter[str]:
    """Who answered how often; decisions are no answers."""
    return Counter(one.rater for one in rankings if not one.rater.startswith(REVIEW))


def export(store: Store, folder: Path, surplus: bool = False, decisions: str = "beside") -> Path:
    """Writes the store's rankings as a snapshot; a better answer that a rater wrote is a demonstration too."""
    given = list(store.rankings(surplus))
    decided = [] if decisions == "none" else list(Reviews(store).decisions())
    known = {_item(one) for one in decided} if decisions == "instead" else set()
    rankings = [*(one for one in given if _item(one) not in known), *decided]
    if not rankings:
        raise RequestError(f"{store.place}: nobody has ranked anything yet, so there is nothing to write")
    dropped = {} if surplus else {"surplus": store.progress().surplus}
    dropped |= {"overruled": len(given) + len(decided) - len(rankings)} if known else {}
    return snapshot.write(folder, rankings, demonstrations(given), source=store.place.name, dropped=dropped)


def _item(one: Ranking) -> str:
    return item_name(Answers(one.prompt, one.responses))


def demonstrations(rankings: Iterable[Ranking]) -> list[Demonstration]:
    """What raters wrote; a better answer that only repeats one of the answers shown teaches nothing new."""
    return [Demonstration(r.prompt, r.edited) for r in rankings
            if r.edited.strip() and r.edited.strip() not in {one.text.strip() for one in r.responses}]
