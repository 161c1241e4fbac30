"""What an import did with the rows, for a person who reads a terminal and for the snapshot's manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefloop.records import SPLITS, Answers, Demonstration, Ranking

DUPLICATE, NEAR = "exact duplicate", "near duplicate"
NAMES = 100_000  # raters and strata that are told apart; the manifest names the first of them
SHOWN, LISTED = 10, 1000


@dataclass
class Tally:
    """What became of the rows, so far. Every row is used or dropped, whatever it was split into or joined with."""

    rows: int = 0
    used: int = 0
    records: int = 0
    pairs: int = 0
    repeated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)
    strata: Counter[tuple[str, str]] = field(default_factory=Counter)
    raters: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    decided: int = 0
    longer: int = 0
    near: dict[str, Any] = field(default_factory=dict)
    at: str = ""  # where the record stood that came last

    def drop(self, reason: str, detail: str, rows: int = 1) -> None:
        self.dropped[reason] += rows
        self.first.setdefault(reason, detail)

    def note(self, record: Ranking | Demonstration | Answers) -> None:
        self.records += 1
        stratum = (record.prompt.stratum, record.prompt.split)
        self.strata[stratum if stratum in self.strata or len(self.strata) < NAMES else ("(others)", stratum[1])] += 1
        if isinstance(record, Demonstration):
            self.lengths[_rounded(len(record.answer))] += 1
            return
        for response in record.responses:
            self.lengths[_rounded(len(response.text))] += 1
        if isinstance(record, Answers):
            return
        self.raters[record.rater if record.rater in self.raters or len(self.raters) < NAMES else "(others)"] += 1
        for better, worse in record.decided():
            self.pairs += 1
            excess = len(record.responses[better].text) - len(record.responses[worse].text)
            self.decided += excess != 0
            self.longer += excess > 0

    def facts(self) -> dict[str, Any]:
        """All of it, for the manifest."""
        return {"rows": self.rows, "used": self.used, "records": self.records, "pairs": self.pairs,
                "first": self.first, "left_out": dict(self.left), "duplicates": self.repeated, "near": self.near,
                "strata": dict(self.by_stratum()[:LISTED]), "raters": dict(self.raters.most_common(LISTED)),
                "rater_count": len(self.raters), "answer_characters": self.characters(),
                "longer_wins": {"pairs": self.decided, "wins": self.longer}}

    def by_stratum(self) -> list[tuple[str, dict[str, int]]]:
        """Records of each stratum by split, the largest stratum first."""
        sizes: Counter[str] = Counter()
        for (stratum, _), count in self.strata.items():
            sizes[stratum] += count
        return [(name, {split: self.strata[name, split] for split in SPLITS}) for name, _ in sizes.most_common()]

    def characters(self) -> dict[str, int]:
        return {"median": self._length(0.5), "p95": self._length(0.95), "longest": max(self.lengths, default=0)}

    def _length(self, share: float) -> int:
        waiting = share * self.lengths.total()
        for length in sorted(self.lengths):
            waiting -= self.lengths[length]
            if waiting <= 0:
                return length
        return 0


def _rounded(length: int) -> int:
    """Two digits are enough of a long answer, and keep the tally small."""
    return length if length < 1000 else round(length, 2 - len(str(length)))


def summary(tally: Tally, names: str, ranks: bool, kept: str, splits: Mapping[str, int]) -> str:
    """`kept` is what import.duplicates says."""
    lines = [f"{names}: {tally.rows} rows, {tally.used} used, {tally.dropped.total()} dropped"]
    for reason, count in tally.dropped.most_common():
        lines.append(f"  dropped {count}: {reason} (first {tally.first[reason]})")
    if kept == "keep" and tally.repeated:
        lines.append(f"  kept {tally.repeated}: {DUPLICATE}")
    lines += [f"  left out {count}: {reason}" for reason, count in tally.left.most_common()]
    what = f"{tally.records} rankings, {tally.pairs} pairs" if ranks else f"{tally.records} demonstrations"
    told = ", ".join(f"{splits[split]} {split}" for split in SPLITS)
    lines.append(f"{what}; {sum(splits.values())} prompts: {told}")
    lines += [*_answers(tally), *_near(tally), *_strata(tally)]
    return "\n".join(map(printable, lines))


def _answers(tally: Tally) -> list[str]:
    facts = tally.characters()
    text = f"answers: median {facts['median']} characters, 95% up to {facts['p95']}, longest {facts['longest']}"
    if tally.decided:
        text += f"; the longer one wins {tally.longer / tally.decided:.1%} of {tally.decided} pairs"
    lines = [text]
    if len(tally.raters) > 1:
        most, count = tally.raters.most_common(1)[0]
        lines.append(f"raters: {len(tally.raters)}, {tally.records / len(tally.raters):.1f} rankings each on average, "
                     f"the most {count} ({most})")
    return lines


def _near(tally: Tally) -> list[str]:
    lines = []
    if tally.near.get("repeats"):
        first = tally.near["first_repeat"]
        lines.append(f"near duplicates: {tally.near['repeats']} records nearly repeat an earlier one (first "
                     f"{first[0]}, like {first[1]}); import.near=drop leaves them out")
    if tally.near.get("leaks"):
        first = tally.near["first_leak"]
        lines.append(f"leakage: {tally.near['leaks']} records ask nearly what a record of another split asks (first "
                     f"{first[0]}, like {first[1]}): held-out figures may flatter")
    return lines


def _strata(tally: Tally) -> list[str]:
    strata = tally.by_stratum()
    if not strata or strata == [("", strata[0][1])]:
        return []
    width = min(max(len(printable(name) or "(none)") for name, _ in strata[:SHOWN]), 40)
    lines = [f"{'stratum':{width}}" + "".join(f"{split:>12}" for split in SPLITS)]
    for name, counts in strata[:SHOWN]:
        lines.append(f"{(printable(name) or '(none)')[:width]:{width}}"
                     + "".join(f"{counts[split]:>12}" for split in SPLITS))
    return [*lines, f"and {len(strata) - SHOWN} strata more"] if len(strata) > SHOWN else lines


def printable(text: str) -> str:
    """What a terminal can show: nothing in a row moves its cursor, sets its title or turns its text around."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
