"""From the rows of all files to records: each row is read, told apart from those before it, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prefloop import checkpoints
from prefloop.errors import RequestError
from prefloop.formats import near
from prefloop.formats.digests import Digests, mark
from prefloop.formats.grouping import Groups
from prefloop.formats.readers import FORMATS, Format, looks_like
from prefloop.formats.report import DUPLICATE, NEAR, Tally, printable
from prefloop.formats.row import BadRow, Left, Part, Row, Rules, brief, found
from prefloop.formats.sources import Lookup, Source, progress
from prefloop.records import SPLITS, Answers, Demonstration, Ranking

Record = Ranking | Demonstration | Answers


@dataclass(frozen=True)
class Reading:
    """What is read, by which rules, and what is done about rows that are bad or repeat others."""

    form: Format
    rules: Rules
    sources: list[Source]
    lookup: Lookup | None
    only: dict[str, Any]
    refuses: bool
    drops_duplicates: bool
    looks_for_near: bool
    takes_answers: bool = False  # that nobody ranked

    def records(self, tally: Tally, scratch: Path, source: dict[str, Any],
                unwanted: np.ndarray | None = None) -> Iterator[Any]:
        """The records, one at a time. `tally` and `source` are complete once it ends.

        `unwanted` says of each record that repeats none exactly whether to leave it out.
        """
        sieve = Sieve(near.Signatures(scratch / "signatures") if self.looks_for_near else None, tally,
                      self.drops_duplicates, unwanted)
        with closing(Groups(scratch / "groups.db")) as groups:
            for file, number, said in self._rows(tally, "reading"):
                parts = [one for one in said if isinstance(one, Part)]
                for part in parts:
                    groups.add(part, file, number)
                if not parts:
                    yield from self._kept(said, [(file, number)], sieve, tally)
            for contents, places in groups if self.form.join else ():
                yield from self._joined(contents, places, sieve, tally)
        if not tally.used:
            reason, count = tally.dropped.most_common(1)[0]
            raise RequestError(f"{', '.join(one.name for one in self.sources[:3])}: no row can be used; {count} of "
                               f"{tally.rows}: {reason}, first {tally.first[reason]}")
        if sieve.signatures is not None:
            tally.near = self._near(sieve.signatures)
        source.update(tally.facts())
        source["sha256"] = {one.name: checkpoints.file_sha256(one.path) for one in self.sources if one.path}

    def near_repeats(self, scratch: Path) -> np.ndarray:
        """Of each record that repeats none exactly, whether it nearly repeats one: what a first reading finds."""
        sieve = Sieve(near.Signatures(scratch / "first"), Tally(), self.drops_duplicates, None)
        with closing(Groups(scratch / "first.db")) as groups:
            for file, number, said in self._rows(sieve.tally, "looking for near duplicates"):
                for one in said:
                    if isinstance(one, Part):
                        groups.add(one, file, number)
                    elif not isinstance(one, Left):
                        sieve.verdict(one, (file, number))
            for contents, places in groups if self.form.join else ():
                for one, own in self.form.join(contents) if self.form.join else ():
                    if not isinstance(one, BadRow):
                        sieve.verdict(one, places[own[0]] if own else places[0])
        assert sieve.signatures is not None
        sieve.signatures.finish()
        return near.repeats(sieve.signatures) >= 0

    def _rows(self, tally: Tally, doing: str) -> Iterator[tuple[int, int, list[Any]]]:
        """What each row says, with its file and number. Bad rows are refused, or dropped and counted."""
        with progress(self.sources, doing) as noted:
            for file, source in enumerate(self.sources):
                for number, values in source.rows(lambda read, own=source: noted(own, read)):
                    tally.rows += 1
                    try:
                        yield file, number, self._said(values, source)
                    except RequestError as error:
                        told = _told(source.where(number), error, self._hint(values, error))
                        if self.refuses and not isinstance(error, NotMeant):
                            raise RequestError(f"{told}; to leave such rows out: import.bad_rows=drop") from None
                        tally.drop(_reason(error), told)

    def _said(self, values: dict[str, Any] | BadRow, source: Source) -> list[Any]:
        if isinstance(values, BadRow):
            raise values
        if self.lookup:
            values = self.lookup.fill(values)
        for column, wanted in self.only.items():
            _require(values, column, wanted)
        said = list(self.form.read(Row(values, self.rules, source.label)))
        if not self.takes_answers and any(isinstance(one, Answers) for one in said):
            raise BadRow("nobody ranked it", "nobody has ranked these answers")
        return said

    def _hint(self, values: Any, error: RequestError) -> str:
        """The format that would have had its columns, if this one misses some."""
        if not isinstance(values, dict) or not isinstance(error, BadRow) or not error.reason.startswith("no "):
            return ""
        fits = looks_like(values)
        own = [name for name, form in FORMATS.items() if form is self.form]
        return f"; this looks like import.format={fits[0]}" if fits and own[0] not in fits else ""

    def _kept(self, said: list[Any], places: list[tuple[int, int]], sieve: Sieve, tally: Tally) -> Iterator[Record]:
        """Those records of some rows that say anything new; the rows are dropped if there are none."""
        reasons: list[str] = []
        for one in said:
            if isinstance(one, Left):
                continue
            reason = sieve.verdict(one, places[0])
            reasons.append(reason)
            if not reason:
                tally.note(one)
                tally.at = self._where(places[0])
                yield one
        if "" in reasons:
            tally.used += len(places)
            for one in said:
                if isinstance(one, Left):
                    tally.left[one.reason] += one.count
        elif reasons:
            told = "says the same" if reasons[0] == DUPLICATE else "says nearly the same"
            tally.drop(reasons[0], f"{self._where(places[0])}: an earlier row {told}", len(places))

    def _joined(self, contents: list[dict[str, Any]], places: list[tuple[int, int]], sieve: Sieve,
                tally: Tally) -> Iterator[Record]:
        assert self.form.join
        for made, own in self.form.join(contents):
            rows = [places[one] for one in own]
            if isinstance(made, BadRow):
                told = _told(self._where(rows[0]), made, "")
                if self.refuses and made.reason != DUPLICATE and not made.reason.startswith(ALONE):
                    raise RequestError(f"{told}; to leave such rows out: import.bad_rows=drop")
                tally.drop(made.reason, told, len(rows))
            else:
                yield from self._kept([made], rows or [places[0]], sieve, tally)

    def _near(self, signed: near.Signatures) -> dict[str, Any]:
        signed.finish()
        facts: dict[str, Any] = {}
        for name, like in (("repeat", near.repeats(signed)), ("leak", near.leaks(signed))):
            later = np.flatnonzero(like >= 0)
            facts[f"{name}s"] = len(later)
            if len(later):
                pair = signed.at(np.array([later[0], like[later[0]]]))
                facts[f"first_{name}"] = [self._where((int(one["file"]), int(one["row"]))) for one in pair]
        return facts

    def _where(self, place: tuple[int, int]) -> str:
        return self.sources[place[0]].where(place[1])


@dataclass
class Sieve:
    """Tells records that repeat an earlier one. Who ranked counts; the file that a prompt is from does not."""

    signatures: near.Signatures | None
    tally: Tally
    drops: bool
    unwanted: np.ndarray | None

    def __post_init__(self) -> None:
        self.seen = Digests()
        self.count = 0

    def verdict(self, record: Record, place: tuple[int, int]) -> str:
        """Why the record is left out; nothing if it is not."""
        asked = "\n".join(message.content for message in record.prompt.messages)
        answers = [record.answer] if isinstance(record, Demonstration) else [one.text for one in record.responses]
        item = mark(asked, *sorted(answers))
        if not self.seen.add(mark(str(item), *_rest(record, answers))):
            self.tally.repeated += 1
            if self.drops:
                return DUPLICATE
        self.count += 1
        if self.unwanted is not None and self.unwanted[self.count - 1]:
            return NEAR
        if self.signatures is not None:
            self.signatures.add(asked, answers, item, SPLITS.index(record.prompt.split), *place)
        return ""


ALONE = ("the only rated answer", "all answers of its prompt")  # no fault of the row's


class NotMeant(BadRow):
    """A row that import.where leaves out: it is dropped whatever is done about bad rows."""


def _rest(record: Record, answers: list[str]) -> list[str]:
    """What a record says beside its texts, and in which order they stand."""
    roles = ",".join(message.role for message in record.prompt.messages)
    if isinstance(record, Demonstration):
        return [roles, record.prompt.stratum]
    order = sorted(range(len(answers)), key=answers.__getitem__)
    if isinstance(record, Answers):
        return [roles, record.prompt.stratum, repr(order)]
    own = (record.ranks, order, record.rater, record.strength, record.none_acceptable, record.reason, record.edited,
           record.shown, record.seconds, record.guideline, record.kind)
    wrote = [(one.policy, one.checksum, one.seed, one.sampling) for one in record.responses]
    return [roles, record.prompt.stratum, repr(own), repr(wrote)]


def _require(values: dict[str, Any], column: str, wanted: Any) -> None:
    there, value = found(values, column)
    if not there:
        raise BadRow(f"no column {column!r}", f"column {column!r} is missing (import.where)")
    if str(value).lower() not in [str(one).lower() for one in (wanted if isinstance(wanted, list) else [wanted])]:
        raise NotMeant(f"not import.where {column}={brief(wanted, 40, quoted=False)}",
                       f"column {column!r} holds {brief(value)}")


def _told(where: str, error: RequestError, hint: str) -> str:
    """One line that a terminal can show, whatever the row held."""
    text = str(error)
    return printable(f"{where}: {text if len(text) <= 300 else text[:297] + '...'}{hint}")


def _reason(error: RequestError) -> str:
    """A reader's own reason; for a record's rule, the field that broke it."""
    return error.reason if isinstance(error, BadRow) else f"bad {str(error).partition(':')[0].partition('[')[0]}"
