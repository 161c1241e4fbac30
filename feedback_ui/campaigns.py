"""`campaign:` of a config: what is rated, by whom and how often, and what comes in between to see how well.

Applied again with other settings it changes the campaign of that name: items stay, a changed guideline is a new one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from prefloop.compare import kept
from prefloop.errors import RequestError
from prefloop.records import Answers, Ranking, digest
from prefloop.store import Applied, Campaign, Store, events, filling, item_name
from prefloop.store.accounts import without_account
from prefloop.store.filling import Obstacle
from prefloop.store.opening import Place
from prefloop.store.predicting import Scores

from . import held_out, queueing

NAMES = ("answers", "raters", "hide")  # lists of texts
SHARES = ("overlap", "gold_share", "probation", "repeats", "reason_share", "qualification_pass",
          "random_share")
STATES = ("draft", "open", "paused")
RULES = ("queued", "random", "stratified", "uncertainty")
LEAST_BY_CHANCE = 0.05  # of the items that a rater gets, whatever models say of them
MOST_QUOTAS = 50
MOST_RATERS = 1000
FILES = ("gold", "qualification", "scores")
NAMED = 5  # raters without an account that are told by name
NOTHING = "nothing to rate; name a file of answers, such as campaign.answers=runs/generate/answers.jsonl"


@dataclass(frozen=True)
class CampaignConfig:
    """`campaign:`. `answers` are files or run folders that `prefloop generate` wrote, or one of `prefloop compare`."""

    name: str = "default"
    title: str = ""
    state: str | None = None
    answers: tuple[str, ...] | str = ()
    scores: str | None = None
    ask: str = "queued"
    quotas: Mapping[str, float] = field(default_factory=dict)
    random_share: float = 0.25
    show_model: bool = False
    answers_per_item: int | None = None
    raters_per_item: int = 1
    overlap: float = 0.1
    overlap_raters: int = 3
    gold: str | None = None
    gold_share: float = 0.1
    probation: float = 0.5
    repeats: float = 0.05
    reason_share: float = 0.0
    strength: bool = True
    guideline: str = ""
    qualification: str | None = None
    qualification_pass: float = 0.8
    warning: str = ""
    raters: tuple[str, ...] | str = ()
    hide: tuple[str, ...] | str = ()
    break_minutes: float = 50
    reveal: bool = True

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > 64 or not self.name.isprintable():
            raise ValueError("campaign.name has 1 to 64 characters that can be seen")
        for name in NAMES:
            own = listed(getattr(self, name))
            if not all(isinstance(one, str) and one.strip() for one in own):
                raise ValueError(f"campaign.{name}: {list(own)} are not names{' of files' * (name == 'answers')}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"campaign.{name} is a share, from 0 to 1")
        if self.gold_share + self.repeats > 0.5:
            raise ValueError("campaign.gold_share and campaign.repeats leave too few real items: together 0.5 at most")
        if self.answers_per_item is not None and not 2 <= self.answers_per_item <= queueing.MOST_ANSWERS:
            raise ValueError(f"campaign.answers_per_item is 2 to {queueing.MOST_ANSWERS}, or null for all of them")
        if not (1 <= self.raters_per_item <= MOST_RATERS and 1 <= self.overlap_raters <= MOST_RATERS):
            raise ValueError(f"campaign.raters_per_item and campaign.overlap_raters are 1 to {MOST_RATERS}")
        if not 0 <= self.break_minutes <= 24 * 60:
            raise ValueError("campaign.break_minutes is at least 0, which is never, and a day at most")
        if self.state not in (None, *STATES):
            raise ValueError(f"campaign.state is {', '.join(STATES)}, or null, which leaves it as it is")
        self._require_rule()

    def _require_rule(self) -> None:
        if self.ask not in RULES:
            raise ValueError(f"campaign.ask is one of {', '.join(RULES)}, not {self.ask!r}")
        if self.ask == "uncertainty" and self.random_share < LEAST_BY_CHANCE:
            raise ValueError(f"campaign.random_share is at least {LEAST_BY_CHANCE} with ask=uncertainty: what comes "
                             "by chance tells how the rest would have been answered")
        if not isinstance(self.quotas, Mapping) or not all(
                isinstance(name, str) and isinstance(share, int | float) and not isinstance(share, bool) and share > 0
                for name, share in self.quotas.items()):
            raise ValueError("campaign.quotas has a share above 0 for each stratum, such as {maths: 0.6, code: 0.4}")
        if bool(self.quotas) != (self.ask == "stratified"):
            raise ValueError("campaign.quotas belongs to ask=stratified, which needs it")
        if self.quotas and abs(sum(self.quotas.values()) - 1) > 0.001:
            raise ValueError(f"campaign.quotas: the shares sum to {sum(self.quotas.values()):.3g}, not to 1")
        if len(self.quotas) > MOST_QUOTAS:
            raise ValueError(f"campaign.quotas: {len(self.quotas)} strata; {MOST_QUOTAS} at most")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of answers; a run folder stands for the answers.jsonl in it."""
        return tuple(kept.answers_in(Path(one)) for one in listed(self.answers))

    def resolved(self) -> CampaignConfig:
        """The same with whole paths, for a server that was started in another folder."""
        whole = {name: str(Path(own).resolve()) for name in FILES if (own := getattr(self, name))}
        guideline = str(Path(self.guideline).resolve()) if self._guideline_is_file else self.guideline
        return replace(self, answers=tuple(str(path.resolve()) for path in self.files), guideline=guideline, **whole)

    @property
    def _guideline_is_file(self) -> bool:
        return self.guideline.endswith(".md") and "\n" not in self.guideline

    def guideline_text(self) -> str:
        if not self._guideline_is_file:
            return self.guideline
        try:
            return Path(self.guideline).read_text(encoding="utf-8-sig")
        except OSError as error:
            raise RequestError(f"campaign.guideline: {self.guideline} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise RequestError(f"campaign.guideline: {self.guideline}: byte {error.start} is not UTF-8") from None


def listed(names: Sequence[str]) -> tuple[str, ...]:
    """A text is one name."""
    return (names,) if isinstance(names, str) else tuple(names)


def refuse(settings: CampaignConfig) -> None:
    """What cannot go well, said before a store is made."""
    for path in settings.files:
        if not path.is_file():
            raise RequestError(f"campaign.answers: there is no file {path}; `prefloop generate` makes one")
    for name in FILES:
        own = getattr(settings, name)
        if own and not Path(own).is_file():
            raise RequestError(f"campaign.{name}: there is no file {own}")


def require_items(settings: CampaignConfig, store: Place) -> None:
    """What a new store would be made for, read before one is made."""
    if not settings.files:
        raise RequestError(f"{store}: {NOTHING}")
    found = read(settings)
    if not found.rows:
        raise RequestError(f"{settings.files[0]}: nothing to rate; {', '.join(_left_out(found))}; nothing was queued")


@dataclass(frozen=True)
class Files:
    """What a campaign's files hold. `twice` were left out, for they are gold or qualification items."""

    rows: list[Answers]
    alone: int
    twice: int
    keys: dict[str, list[Ranking]]
    guideline: str | None
    scores: Scores | None
    places: queueing.Places
    contestants: tuple[tuple[str, str], ...]


def read(settings: CampaignConfig) -> Files:
    found = _waiting(settings.files, settings.answers_per_item)
    places = dict(found.places)
    keys = {name: _keys(getattr(settings, name), places) for name in ("gold", "qualification")}
    known = {_said(row) for own in keys.values() for row in own}
    rows = [row for row in found.rows if _said(row) not in known]
    twice = len(found.rows) - len(rows)
    scores = queueing.scores(Path(settings.scores)) if settings.scores else None
    return Files(rows, found.alone, twice, keys, settings.guideline_text(), scores, places, found.contestants)


def _waiting(paths: Sequence[Path], most: int | None) -> queueing.Waiting:
    compared = [path for path in paths if held_out.is_comparison(path)]
    if not compared:
        return queueing.waiting(paths, most)
    if len(paths) > 1:
        raise RequestError(f"campaign.answers: {compared[0]} is a comparison, and stands alone in its campaign; give "
                           "it a campaign.name of its own")
    return queueing.compared(compared[0], held_out.read(compared[0]), most)


def apply(store: Store, settings: CampaignConfig, several: bool, by: str = events.COMMAND) -> str:
    """Makes the campaign, or changes it, and queues what is new, or does nothing of it; tells what came of it.

    `several`: there is more than one rater, and so some items can be had by several. One that is or becomes open is
    refused if it can never be filled.
    """
    refuse(settings)
    found = read(settings)
    return _applied(store, settings, found, found.keys, several, by)


def save(store: Store, settings: CampaignConfig, guideline: str | None, several: bool, by: str) -> str:
    """As `apply`, from a page: what was not given stays as it is, and a new campaign is a draft."""
    new = settings.name not in [one.name for one in store.campaigns()]
    settings = replace(settings, guideline="", state="draft" if new else None)
    refuse(settings)
    found = replace(read(settings), guideline=guideline)
    given = {name: own for name, own in found.keys.items() if getattr(settings, name)}
    return _applied(store, settings, found, given, several, by)


def _applied(store: Store, settings: CampaignConfig, found: Files, keys: dict[str, list[Ranking]], several: bool,
             by: str) -> str:
    missing: list[str] = []
    obstacles: list[Obstacle] = []

    def need(row: Answers) -> int:
        """Which items more raters get is drawn by what they say: the same ones each time."""
        shared = several and int(digest("overlap", item_name(row)), 16) / 16**16 < settings.overlap
        return max(settings.raters_per_item, settings.overlap_raters) if shared else settings.raters_per_item

    def fit(db: Connection, campaign: int) -> None:
        look = filling.require_fillable if filling.state_of(db, campaign) == "open" else filling.obstacles
        obstacles.extend(look(db, campaign, several))

    before = next((one.contestants for one in store.campaigns() if one.name == settings.name), ())
    came = store.apply(_campaign(settings, found.contestants or before), found.guideline, keys.get("gold"),
                       keys.get("qualification"), found.rows, need, partial(queueing.pictured, found.places, missing),
                       by, settings.state, found.scores, fit)
    names = [name for name, _ in found.contestants or before]
    return _told(store, settings, replace(found, keys=keys), came, names, missing, [one.words for one in obstacles])


def _told(store: Store, settings: CampaignConfig, found: Files, came: Applied, contestants: Sequence[str],
          missing: Sequence[str], obstacles: Sequence[str]) -> str:
    told = [f"{_many(came.new, 'item')} queued, {len(found.rows) - came.new} queued before, {_left_out(found)[0]}"]
    if settings.files and not found.rows:
        told.append("nothing to rate")
    if came.reshaped:
        have = "has a prompt that was" if came.reshaped == 1 else "have prompts that were"
        told.append(f"{came.reshaped} of the new {have} queued before with other answers")
    told += _left_out(found)[1:]
    if missing:
        told.append(f"{_many(len(missing), 'picture')} not found or not fit to show, such as {missing[0]}; "
                    f"{'it is' if len(missing) == 1 else 'they are'} shown as text")
    telling = sorted(_telling(f"{settings.name} {settings.title}", contestants))
    if telling:
        told.append(f"raters read {', '.join(telling)} in campaign.name or campaign.title, as in the name of a "
                    "checkpoint; choose plainer words")
    absent = without_account(store, listed(settings.raters))
    if absent:
        told.append(f"campaign.raters without an account: {', '.join(absent[:NAMED])}{' ...' * (len(absent) > NAMED)}")
    return f"campaign {settings.name}: {'; '.join([*told, *_in_force(settings, found.keys, came), *obstacles])}"


def _telling(title: str, contestants: Sequence[str]) -> set[str]:
    """The words of a title that are of a contestant's name; what all of them are called tells nothing."""
    words = [_words(name) for name in contestants]
    return _words(title) & set().union(*words) - set.intersection(*words) if words else set()


def _words(name: str) -> set[str]:
    return set(re.findall(r"[^\W\d_]{3,}|\d{3,}", name.casefold()))


def _left_out(found: Files) -> list[str]:
    what = "all wrote the same, or but one wrote anything" if found.contestants else "fewer than two distinct answers"
    alone = f"{found.alone} left out ({what})"
    return [alone, f"{found.twice} left out, for they are gold or qualification items"] if found.twice else [alone]


def _in_force(settings: CampaignConfig, keys: dict[str, list[Ranking]], came: Applied) -> list[str]:
    """What holds now beside the items, also what an earlier config had and this one has not."""
    names = len(listed(settings.raters))
    told = [_many(len(own), f"{name} item") for name, own in keys.items() if own]
    if came.retired:
        told.append(f"{_many(came.retired, 'earlier gold or qualification item')} "
                    f"{'is' if came.retired == 1 else 'are'} given out no more")
    told += [f"a {name}" for name in ("guideline", "warning") if getattr(settings, name)]
    return [*told, f"open to {_many(names, 'named rater')}" if names else "open to all raters"]


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _said(row: Answers | Ranking) -> tuple[str, frozenset[str]]:
    return row.prompt.id, frozenset(response.text for response in row.responses)


def _keys(path: str | None, places: queueing.Places) -> list[Ranking]:
    """Rankings that are right, and, by their prompts, where they stand."""
    found = list(queueing.keys(Path(path))) if path else []
    for number, row in found:
        places.setdefault(row.prompt.id, (Path(path or ""), number))
    return [row for _, row in found]


def _campaign(settings: CampaignConfig, contestants: tuple[tuple[str, str], ...] = ()) -> Campaign:
    known: dict[str, Any] = {one.name: getattr(settings, one.name) for one in fields(Campaign)
                             if one.name != "contestants"}
    for name in ("raters", "hide"):
        known[name] = listed(known[name])
    return Campaign(**known, contestants=contestants)
