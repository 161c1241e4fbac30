"""Looks at raters' work as it comes in: doubt brings more gold, and a failed test the proposal of a quarantine.

Cheap enough to be done every few seconds: only raters who answered or were cleared since the last look are looked at
again.
"""

from __future__ import annotations

import threading

from prefloop.quality.standing import Standing, standings
from prefloop.store import quarantining
from prefloop.store.quality import Reader
from prefloop.store.store import Store


class Watch:
    def __init__(self, store: Store, reader: Reader | None = None) -> None:
        self._store, self.reader = store, reader or Reader(store)
        self._last, self._reading = 0, 0
        self._turn = threading.Lock()
        self._known: dict[str, Standing] = {}
        self._cleared: dict[str, int] = {}

    def look(self) -> list[str]:
        """The raters who are proposed for quarantine by what came in since the last look."""
        with self._turn:
            reading = self.reader.readings
            votes = self.reader.votes()
            if self.reader.readings != self._reading:  # somebody was deleted: numbers may be others' by now
                self._last, self._known, self._cleared, self._reading = 0, {}, {}, reading
                self._store.doubted = frozenset()
            new = votes.where(votes.id_A > self._last)
            cleared = self.reader.cleared()
            changed = {name for name, at in cleared.items() if self._cleared.get(name) != at} & set(votes.raters)
            raters = sorted({votes.raters[number] for number in new.rater_A} | changed)
            if not raters:
                return []
            found = {one.rater: one for one in standings(votes, cleared, raters)}
            self._known = {name: one for name, one in self._known.items() if name not in raters} | found
            self._store.doubted = frozenset(one.rater for one in self._known.values() if one.doubted)
            proposed = quarantining.propose(self._store, {name: reasons(one) for name, one in found.items()
                                                          if one.why})
            # Now, and not before: a look that fails is made again.
            self._last, self._cleared = int(votes.id_A.max(initial=self._last)), dict(cleared)
            return proposed

    def standings(self) -> dict[str, Standing]:
        self.look()
        return dict(self._known)


def reasons(standing: Standing) -> list[quarantining.Why]:
    """What a quarantine keeps of what the tests found."""
    return [{"kind": why, "answers": standing.answers, "random": round(standing.random, 2),
             "drift": round(standing.drift.worst, 2), "clicking": round(standing.clicking.worst, 2)}
            for why in standing.why]
