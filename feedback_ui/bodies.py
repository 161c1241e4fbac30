"""What the page may send. Anything else in a request is refused by name, before a route sees it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from prefloop.store import Judgement

TOKEN = 64  # characters at most
NAME = 200


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Nothing(Body):
    pass


class Next(Body):
    campaign: str | None = Field(None, max_length=NAME)
    holding: list[str] = Field(default_factory=list, max_length=32)
    skipped: bool = False


class Token(Body):
    token: str = Field(max_length=TOKEN)


class Said(Body):
    """A judgement as the page gives it: `ranks` in the order the answers were shown."""

    key: str = Field("", max_length=TOKEN)
    ranks: list[int | None] = Field(max_length=64)
    strength: str | None = Field(None, max_length=TOKEN)
    none_acceptable: bool = False
    reason: str = Field("", max_length=10_000)
    edited: str = Field("", max_length=100_000)
    seconds: float | None = None

    def judgement(self) -> Judgement:
        return Judgement(tuple(self.ranks), self.strength, self.none_acceptable, self.reason, self.edited,
                         self.seconds)


class Submission(Said):
    token: str = Field(max_length=TOKEN)


class Revision(Said):
    answer: int = Field(ge=1, lt=2**63)


class Answer(Body):
    answer: int = Field(ge=1, lt=2**63)


class History(Body):
    campaign: str | None = Field(None, max_length=NAME)
    before: int | None = Field(None, ge=1, lt=2**63)


class Flag(Body):
    token: str = Field(max_length=TOKEN)
    kind: Literal["unsafe", "personal", "broken", "other"]
    note: str = Field("", max_length=2_000)


class Acknowledgement(Body):
    campaign: str = Field(max_length=NAME)
    version: str = Field(max_length=TOKEN)


class Warned(Body):
    campaign: str = Field(max_length=NAME)
    accept: bool


class SignIn(Body):
    name: str = Field(max_length=NAME)
    password: str = Field(max_length=1000)


class Join(SignIn):
    invitation: str = Field(max_length=NAME)


class Reset(Body):
    invitation: str = Field(max_length=NAME)
    password: str = Field(max_length=1000)


class Change(Body):
    old: str = Field(max_length=1000)
    new: str = Field(max_length=1000)
