"""The vocabulary: frozen records that know their own rules.

Every record has `to_json` and `from_json`; a snapshot and the store hold exactly these fields. A rule that is
broken raises RequestError naming the field; whoever reads a file adds the file and the row.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any

from prefloop.errors import RequestError

ROLES = ("system", "user", "assistant")
STRENGTHS = ("negligibly", "slightly", "better", "significantly")
KINDS = ("normal", "gold", "repeat")
SPLITS = ("train", "validation", "test")
JOIN = ", "  # between the names, and the checksums, of several that wrote the same text


def digest(*parts: str) -> str:
    """16 hex digits that name a text (or several) by its content."""
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _typed(record: object, expected: type | tuple[type, ...], *names: str) -> None:
    """Refuse fields that JSON filled with another type. A bool is no number."""
    for name in names:
        value = getattr(record, name)
        if type(value) is expected:
            continue
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            wanted = " or ".join(one.__name__ for one in (expected if isinstance(expected, tuple) else (expected,)))
            raise RequestError(f"{name}: expected {wanted}, got {type(value).__name__}")


@dataclass(frozen=True)
class Message:
    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise RequestError(f"role: {self.role!r} is not one of {', '.join(ROLES)}")
        _typed(self, str, "content")


def normalised(messages: tuple[Message, ...]) -> str:
    """The text that decides a prompt's identity and split: case, spacing and Unicode form do not count."""
    folded = ((m.role, unicodedata.normalize("NFKC", m.content).casefold()) for m in messages)
    return "\n".join(f"{role}:{' '.join(text.split())}" for role, text in folded)


def split_of(text: str) -> str:
    """80% train, 10% validation, 10% test, decided by the prompt's normalised text alone: for ever the same."""
    bucket = int(digest("split", text), 16) % 100
    return "test" if bucket < 10 else "validation" if bucket < 20 else "train"


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for an answer: its last message is never the assistant's."""

    messages: tuple[Message, ...]
    stratum: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        _typed(self, str, "stratum", "source")
        if not self.messages:
            raise RequestError("prompt: it has no messages")
        if self.messages[-1].role == "assistant":
            raise RequestError("prompt: its last message is the assistant's, so there is nothing to answer")
        if not any(m.content.strip() for m in self.messages):
            raise RequestError("prompt: it is empty")

    # Cached, for the text that decides both is long.
    @cached_property
    def id(self) -> str:
        return digest("prompt", self._normalised)

    @cached_property
    def split(self) -> str:
        return split_of(self._normalised)

    @cached_property
    def _normalised(self) -> str:
        return normalised(self.messages)

    def chat(self) -> list[dict[str, str]]:
        """The messages as a chat template takes them."""
        return [{"role": m.role, "content": m.content} for m in self.messages]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "messages": self.chat(), "stratum": self.stratum, "source": self.source,
                "split": self.split}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Prompt:
        messages = tuple(Message(m["role"], m["content"]) for m in row["messages"])
        return cls(messages, row.get("stratum", ""), row.get("source", ""))


@dataclass(frozen=True)
class Response:
    """One answer to one prompt. `policy` names who wrote it (a run folder, a file), `checksum` its weights.

    Where several wrote the same text, their names are joined by JOIN, and so are their checksums.
    """

    text: str
    policy: str = ""
    checksum: str = ""
    sampling: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        _typed(self, str, "text", "policy", "checksum")
        _typed(self, int, "seed")
        _typed(self, dict, "sampling")

    def writers(self) -> list[str]:
        """The checksums of those who wrote it; their names where no checksum is known."""
        return (self.checksum or self.policy).split(JOIN)

    @property
    def id(self) -> str:
        return digest("response", self.text, self.policy, self.checksum, str(self.seed))

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "text": self.text, "policy": self.policy, "checksum": self.checksum,
                "sampling": dict(self.sampling), "seed": self.seed}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Response:
        return cls(row["text"], row.get("policy", ""), row.get("checksum", ""), row.get("sampling", {}),
                   row.get("seed", 0))


@dataclass(frozen=True)
class Answers:
    """K answers of one prompt, as sampled: what raters rank."""

    prompt: Prompt
    responses: tuple[Response, ...]

    def to_json(self) -> dict[str, Any]:
        return {"prompt": self.prompt.to_json(), "responses": [r.to_json() for r in self.responses]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Answers:
        return cls(Prompt.from_json(row["prompt"]), tuple(Response.from_json(r) for r in row["responses"]))


@dataclass(frozen=True)
class Demonstration:
    """A prompt with an answer worth imitating: what SFT learns from."""

    prompt: Prompt
    answer: str

    def __post_init__(self) -> None:
        if not isinstance(self.answer, str) or not self.answer.strip():
            raise RequestError("answer: it is empty")

    def to_json(self) -> dict[str, Any]:
        return {"prompt": self.prompt.to_json(), "answer": self.answer}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Demonstration:
        return cls(Prompt.from_json(row["prompt"]), row["answer"])


@dataclass(frozen=True)
class Pair:
    """Derived from a ranking, never stored: `chosen` was put above `rejected`."""

    prompt: Prompt
    chosen: str
    rejected: str
    weight: float = 1.0
    margin: float = 0.0
    probability: float = 1.0


def decided(ranks: Sequence[int | None]) -> list[tuple[int, int]]:
    """The places of the better and the worse answer of each pair. What was left unranked is below all that was not."""
    last = len(ranks) + max([rank for rank in ranks if rank is not None], default=0)
    place = [last if rank is None else rank for rank in ranks]
    return [(i, j) if place[i] < place[j] else (j, i)
            for i, j in combinations(range(len(place)), 2) if place[i] != place[j]]


@dataclass(frozen=True)
class Ranking:
    """One rater's ordering of K answers of one prompt.

    `ranks[i]` is the rank of `responses[i]`: 1 is best, equal ranks are a tie, None was left unranked.
    `shown` lists indices into `responses` in the order the rater saw them. `dimensions` holds ranks of the same
    answers by one thing each, such as {"helpful": (1, 2)}, where the rater ranked or rated these too. `propensity` is
    the chance with which the item was chosen for this rater, where chance had a part in it.
    """

    prompt: Prompt
    responses: tuple[Response, ...]
    ranks: tuple[int | None, ...]
    rater: str
    strength: str | None = None
    none_acceptable: bool = False
    reason: str = ""
    edited: str = ""
    shown: tuple[int, ...] = ()
    seconds: float | None = None
    guideline: str = ""
    kind: str = "normal"
    dimensions: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    propensity: float | None = None

    def __post_init__(self) -> None:
        _typed(self, str, "rater", "reason", "edited", "guideline")
        _typed(self, bool, "none_acceptable")
        self._check_answers()
        self._check_ranks()
        if self.strength is not None and self.strength not in STRENGTHS:
            raise RequestError(f"strength: {self.strength!r} is not one of {', '.join(STRENGTHS)}")
        if self.kind not in KINDS:
            raise RequestError(f"kind: {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.seconds is not None:
            _typed(self, (int, float), "seconds")
            if not 0 <= self.seconds < math.inf:
                raise RequestError(f"seconds: {self.seconds!r} is not a finite number from 0")
        if self.propensity is not None:
            _typed(self, (int, float), "propensity")
            if not 0 < self.propensity <= 1:
                raise RequestError(f"propensity: {self.propensity!r} is not a chance above 0, up to 1")
        if not self.rater.strip():
            raise RequestError("rater: it is empty")

    def _check_answers(self) -> None:
        texts = [r.text for r in self.responses]
        if len(texts) < 2:
            raise RequestError(f"responses: a ranking needs at least two answers, got {len(texts)}")
        for place, text in enumerate(texts):
            if not text.strip():
                raise RequestError(f"responses[{place}]: the answer is empty")
            if text in texts[:place]:
                raise RequestError(f"responses[{place}]: the answer equals its rival responses[{texts.index(text)}]")

    def _check_ranks(self) -> None:
        for name, ranks in {"ranks": self.ranks, **self._named_dimensions()}.items():
            if len(ranks) != len(self.responses):
                raise RequestError(f"{name}: {len(ranks)} ranks for {len(self.responses)} answers")
            for rank in ranks:
                if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or rank < 1):
                    raise RequestError(f"{name}: {rank!r} is not a whole number from 1, or null for unranked")
        if not self.none_acceptable and all(rank is None for rank in self.ranks):
            raise RequestError("ranks: no answer was ranked")
        if self.shown:
            _typed(self, tuple, "shown")
            # By their text, for what is not a number does not sort beside one.
            if sorted(self.shown, key=repr) != sorted(range(len(self.ranks)), key=repr):
                raise RequestError(f"shown: {self.shown!r} does not list each of the {len(self.ranks)} answers once")

    def _named_dimensions(self) -> dict[str, tuple[int | None, ...]]:
        _typed(self, dict, "dimensions")
        for name, ranks in self.dimensions.items():
            if not isinstance(name, str) or not name.strip() or name == "overall":
                raise RequestError(f"dimensions: {name!r} is no name for a dimension; overall is the ranking itself")
            if not isinstance(ranks, tuple):
                raise RequestError(f"dimensions.{name}: expected a list of ranks, got {type(ranks).__name__}")
        return {f"dimensions.{name}": ranks for name, ranks in self.dimensions.items()}

    def pairs(self) -> Iterator[Pair]:
        """Every pair that one answer won; the weights of one ranking sum to 1.

        A tie makes no pair. An unranked answer lost to every ranked one and ties with the other unranked:
        that is what ranking the best m of K says.
        """
        decided = self.decided()
        for better, worse in decided:
            yield Pair(self.prompt, self.responses[better].text, self.responses[worse].text, 1.0 / len(decided))

    def decided(self) -> list[tuple[int, int]]:
        return decided(self.ranks)

    def to_json(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("rater", "strength", "none_acceptable", "reason", "edited",
                                                      "seconds", "guideline", "kind")}
        return {"prompt": self.prompt.to_json(), "responses": [r.to_json() for r in self.responses],
                "ranks": list(self.ranks), "shown": list(self.shown), **own,
                **({"dimensions": {name: list(ranks) for name, ranks in self.dimensions.items()}}
                   if self.dimensions else {}),
                **({"propensity": self.propensity} if self.propensity is not None else {})}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Ranking:
        own = {name: row[name] for name in ("strength", "none_acceptable", "reason", "edited", "seconds",
                                            "guideline", "kind", "propensity") if name in row}
        dimensions = {name: tuple(ranks) for name, ranks in row.get("dimensions", {}).items()}
        return cls(Prompt.from_json(row["prompt"]), tuple(Response.from_json(r) for r in row["responses"]),
                   tuple(row["ranks"]), row["rater"], shown=tuple(row.get("shown", ())), dimensions=dimensions, **own)
