"""How good raters' work is, for leads: agreement, each rater's figures, alarms, and quarantines."""

from __future__ import annotations

import math
import threading
import time
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, Request
from pydantic import Field
from sqlalchemy import select

from prefloop.quality import drift, figures, standing
from prefloop.quality.votes import Votes
from prefloop.store import Store, quarantining
from prefloop.store.quarantining import Quarantine, Why
from prefloop.store.schema import campaigns, guidelines
from prefloop.store.watching import Watch, reasons

from . import bodies
from .rating_web import Who

KEPT = 16  # answers to leads' questions that are kept
FIGURES = ("gold", "consistency", "agreement", "left", "ties", "seconds")
DAY = 86400
WORTH = 10  # times as long as they took to make

# What each alarm and each reason for a quarantine says.
ALARMS = {"accepted": "fewer answers are accepted", "gold": "less gold is right", "ties": "the share of ties changed",
          "left": "the first answer shown wins another share than before", "seconds": "answers come faster"}
LATE = {"drift": "of late many rankings look as if they were turned round (odds {drift})",
        "clicking": "of late agrees with gold no more than chance would (odds {clicking})"}
REASONS = {"random": "agrees with gold and with others no more than chance would ({answers} answers; odds {random})",
           "doubt": "{answers} answers, gold among them, do not show that they read what they rank",
           **LATE,
           "held": "quarantined by {by}: {note}", "lifted": "lifted by {by}: {note}",
           "dismissed": "dismissed by {by}: {note}"}


class Quality(bodies.Body):
    """Of a campaign, or of all; what went over time is of `rater` alone where one is named."""

    campaign: str | None = Field(None, max_length=bodies.NAME)
    rater: str | None = Field(None, max_length=bodies.NAME)


class Verdict(bodies.Body):
    rater: str = Field(max_length=bodies.NAME)
    action: Literal["hold", "lift", "dismiss"]
    note: str = Field("", max_length=quarantining.NOTE)


class Facts:
    """What leads are told. Of many answers it takes a second or two to make, and so it is kept for a while; but not
    who is in quarantine, and not once somebody was deleted.
    """

    def __init__(self, store: Store, watch: Watch) -> None:
        self._store, self._watch, self._turn = store, watch, threading.Lock()
        self._reading = 0
        self._made: dict[tuple[str | None, str | None], tuple[float, float, dict[str, Any]]] = {}

    def of(self, campaign: str | None = None, rater: str | None = None) -> dict[str, Any]:
        with self._turn:
            began = time.monotonic()
            reading = self._watch.reader.readings
            if reading != self._reading:
                self._made, self._reading = {}, reading
            at, took, made = self._made.get((campaign, rater), (0.0, -math.inf, {}))
            if began - at > WORTH * took:
                made = facts(self._store, self._watch, campaign, rater)
                now = time.monotonic()
                self._made[campaign, rater] = now, now - began, made
                for old in list(self._made)[:-KEPT]:
                    del self._made[old]
        known = quarantining.newest(self._store)
        return made | {"raters": [one | _quarantine(known.get(one["rater"])) for one in made["raters"]]}

    def days(self, campaign: str | None) -> list[tuple[int, int]]:
        """Each day's first second, and how many answers of it count."""
        votes = self._watch.reader.votes(campaign)
        own = votes.created_A[votes.counts_A & ~votes.of_kind("qualification")]
        days, counts = np.unique(own // DAY, return_counts=True)
        return [(int(day) * DAY, int(count)) for day, count in zip(days, counts, strict=True)]

    def forget(self) -> None:
        with self._turn:
            self._made.clear()


def routes(app: FastAPI, store: Store, lead_of: Who, known: Facts) -> None:
    @app.post("/api/lead/quality")
    def quality(request: Request, body: Quality) -> dict[str, Any]:
        lead_of(request)
        return known.of(body.campaign, body.rater)

    @app.post("/api/lead/quarantine")
    def quarantine(request: Request, body: Verdict) -> dict[str, Any]:
        work = {"hold": quarantining.hold, "lift": quarantining.lift, "dismiss": quarantining.dismiss}[body.action]
        work(store, body.rater, lead_of(request), body.note)
        known.forget()
        return {"state": _state(quarantining.newest(store).get(body.rater))}


def facts(store: Store, watch: Watch, campaign: str | None = None, rater: str | None = None) -> dict[str, Any]:
    standings = watch.standings()
    votes = watch.reader.votes(campaign)
    raters = [_rater(one) | {"flagged": _flagged(standings.get(one.rater))} for one in figures.of_raters(votes)]
    return {"agreement": {"overall": _agreement(figures.agreement(votes)),
                          "by_stratum": [{"stratum": name, **_agreement(figures.agreement(votes.where(
                              votes.stratum_A == n)))} for n, name in enumerate(votes.strata)
                              if (votes.stratum_A == n).any()],
                          "by_guideline": _by_guideline(store, votes, campaign)},
            "raters": raters, "alarms": alarms(store, votes),
            "over_time": [_period(one) for one in figures.over_time(votes, rater)]}


def alarms(store: Store, votes: Votes) -> list[dict[str, Any]]:
    """Of each campaign by itself: they differ."""
    with store.reading() as db:
        names = {row.id: row.name for row in db.execute(select(campaigns.c.id, campaigns.c.name))}
    return [{"what": one.what, "words": f"{ALARMS[one.what]}: {_words(one.now)} now, {_words(one.before)} before",
             "now": one.now._asdict(), "before": one.before._asdict(), "since": one.since, "until": one.until,
             "campaign": name} for number, name in names.items()
            for one in drift.alarms(votes.where(votes.campaign_A == number))]


def _words(share: figures.Figure) -> str:
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


def _by_guideline(store: Store, votes: Votes, campaign: str | None) -> list[dict[str, Any]]:
    """Between raters of one campaign who worked by the same version: others may number the same text otherwise."""
    numbers: dict[tuple[int, str], list[str]] = {}
    with store.reading() as db:
        names = {row.id: row.name for row in db.execute(select(campaigns.c.id, campaigns.c.name))}
        for row in db.execute(select(guidelines).order_by(guidelines.c.number)):
            numbers.setdefault((row.campaign, row.version), []).append(str(row.number))
    made = []
    for own, n in np.unique(np.stack([votes.campaign_A, votes.guideline_A]), axis=1).T.tolist():
        if n < 0:
            continue
        version = votes.guidelines[n]
        number = " and ".join(numbers.get((own, version), ()))  # a text that was put back has several
        name = f"version {number}" if number else "none"
        found = figures.agreement(votes.where((votes.campaign_A == own) & (votes.guideline_A == n)))
        made.append({"version": version, "name": name if campaign is not None else f"{names.get(own, '')}: {name}",
                     **_agreement(found)})
    return made


def _agreement(of: figures.Agreement) -> dict[str, Any]:
    return {name: _told(getattr(of, name)) for name in ("alpha", "percent", "tau_b")} | {"items": of.items}


def _told(figure: figures.Figure | None) -> dict[str, Any] | None:
    return None if figure is None else figure._asdict()


def _rater(of: figures.RaterFigures) -> dict[str, Any]:
    return {"rater": of.rater, "answers": of.answers, **{name: _told(getattr(of, name)) for name in FIGURES}}


def _flagged(of: standing.Standing | None) -> list[str]:
    """What makes a lead look at this rater's work, in words, before any quarantine is proposed."""
    if of is None or not of.flagged:
        return []
    sums = {"drift": of.drift.recent, "clicking": of.clicking.recent}
    return [_reason(one) for one in reasons(of)] or [
        LATE[name].format(**{name: _odds(high)}) for name, high in sums.items() if high >= standing.FLAG]


def _quarantine(quarantine: Quarantine | None) -> dict[str, Any]:
    return {"state": _state(quarantine),
            "why": [_reason(one) for one in quarantine.why] if quarantine else [],
            "since": quarantine.at if quarantine else None, "by": quarantine.by if quarantine else ""}


def _state(quarantine: Quarantine | None) -> str | None:
    return quarantine.state if quarantine is not None and quarantine.closed is None else None


def _reason(why: Why) -> str:
    told = REASONS.get(why["kind"])
    odds = {name: _odds(why[name]) for name in ("random", "drift", "clicking") if name in why}
    return told.format(**{**why, **odds}).removesuffix(": ") if told else str(why["kind"])


def _odds(log: float) -> str:
    """Odds as people say them, from their logarithm: nobody tells one million to 1 from ten."""
    if log >= math.log(1e6):
        return "over a million to 1"
    return f"about {float(f'{math.exp(log):.2g}'):,.0f} to 1"


def _period(of: figures.Period) -> dict[str, Any]:
    return {"at": of.at, "seconds_each": of.seconds, "answers": of.answers, "alpha": _told(of.agreement.alpha),
            "percent": _told(of.agreement.percent), **{name: _told(one) for name, one in of.shares.items()}}
