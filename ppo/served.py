"""A reward model behind HTTP, as `prefloop serve` is one; a server of one's own needs these two replies.

    GET  /health  ->  {"model": a name that changes with its weights}; with "kind", its scores are scaled already
    POST /score   {"prompts": [[{role, content}, ...], ...], "answers": [text, ...]}  ->  {"scores": [number, ...]}

What a server says is checked, and never believed: as many finite numbers as were asked for, from the same model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prefloop import remote, scoring
from prefloop.errors import RequestError, RunError
from prefloop.records import Prompt
from prefloop.remote import Remote, shortened

from .settings import RewardConfig

LARGEST = 1e30  # a score; float32, in which scores are reckoned with, ends at 3e38


@dataclass(frozen=True)
class Server:
    """Asked for `rows` scores at a time; `model` is what it called itself when the run began."""

    remote: Remote
    model: str
    scaled: bool
    rows: int

    def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]:
        return [True] * len(asked)

    def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> scoring.Scores:
        """`batch` is of this process; how many rows the server takes at a time is its own affair."""
        scores: list[float] = []
        for first in range(0, len(asked), self.rows):
            scores += self._scores(asked[first : first + self.rows])
        return scoring.of_one(scores)

    def _scores(self, asked: Sequence[tuple[Prompt, str]]) -> list[float]:
        url = self.remote.url
        told = self.remote.patiently("/score", {"prompts": [prompt.chat() for prompt, _ in asked],
                                                "answers": [answer for _, answer in asked]})
        scores = told.get("scores") if isinstance(told, dict) else None
        if not isinstance(scores, list) or len(scores) != len(asked):
            got = f"{len(scores)} scores" if isinstance(scores, list) else "no scores"
            raise RunError(f'{url}: {got} for {len(asked)} answers; its reply must be {{"scores": [...]}} with one '
                           "number for each")
        bad = [one for one in scores if not number(one)]
        if bad:
            raise RunError(f"{url}: it gave {shortened(bad[0])} as a score, where a finite number was due, below "
                           f"{LARGEST:g} in size")
        if told.get("model", self.model) != self.model:
            raise RunError(f"{url}: another model answers there now ({shortened(told['model'])}) than when this run "
                           f"began ({shortened(self.model)}); serve that one again, and resume")
        return [float(one) for one in scores]


def connect(config: RewardConfig, key: str = "reward.url") -> Server:
    """The server that `key` names, which must answer now; RequestError if it does not."""
    assert config.url is not None
    url = config.url.rstrip("/").removesuffix("/score")
    section = key.partition(".")[0]
    there = Remote(url, section, remote.token_of(config.token_file, f"{section}.token_file"), config.timeout,
                   config.patience)
    try:
        told = there.once("/health")
    except (remote.Away, RunError) as error:
        raise RequestError(f"{key}: {config.url}: {str(error).removeprefix(f'{url}: ')}; start it with "
                           "`prefloop serve`") from None
    if not isinstance(told, dict) or not isinstance(told.get("model"), str) or not told["model"]:
        raise RequestError(f'{key}: {config.url}: its /health does not say {{"model": ...}}; it is no server of '
                           "a reward model as `prefloop serve` is one")
    return Server(there, told["model"], "kind" in told, config.rows)


def number(value: object) -> bool:
    """Whether it is a finite number that can be reckoned with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
