"""`prefloop arena CONFIG`: checkpoints side by side, for engineers: look at their answers, try prompts, vote blind."""

from __future__ import annotations

import shutil
import socket
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop import config, wire
from prefloop.compare.settings import HoldConfig
from prefloop.doors import address, listening
from prefloop.errors import RequestError
from prefloop.generate import SamplingConfig
from prefloop.records import Prompt
from prefloop.store import Store

from . import control
from .child import Child
from .held_out import Contestant, HeldOut, read
from .queueing import MOST_ANSWERS
from .server import require_local, until_stopped
from .trying import Tries
from .votes_seen import with_votes
from .voting import Voting

if TYPE_CHECKING:
    from fastapi import FastAPI


@dataclass(frozen=True)
class ArenaConfig:
    """`arena:`. With `runs`, prompts can be typed; with `answers`, what `prefloop compare` sampled is shown."""

    runs: list[str] = field(default_factory=list)
    answers: str = ""
    people: list[str] = field(default_factory=list)
    split: str = "test"
    limit: int | None = 100
    folder: str = "arena"
    store: str = ""
    rater: str = "me"
    reveal_after: int = 10
    host: str = "127.0.0.1"
    port: int = 7861

    def __post_init__(self) -> None:
        require_local("arena", self.host, self.port)
        if not self.runs and not self.answers:
            raise ValueError("arena.runs names two or more runs: arena.runs=[runs/a,runs/b]; or arena.answers names "
                             "an answers.jsonl that `prefloop compare` wrote")
        if self.runs and not 2 <= len(self.runs) <= MOST_ANSWERS:
            raise ValueError(f"arena.runs names {len(self.runs)} runs; 2 to {MOST_ANSWERS} stand side by side")
        if self.people and not self.answers:
            raise ValueError("arena.people needs arena.answers: people voted on the answers of a `prefloop compare`")
        if not all(isinstance(one, str) and one for one in self.people):
            raise ValueError("arena.people is a list of stores and snapshots: arena.people=[sqlite:///feedback.db]")
        if not all(isinstance(one, str) and one for one in self.runs):
            raise ValueError("arena.runs is a list of runs: arena.runs=[runs/a,runs/b]")
        places = [str(Path(one).resolve()) for one in self.runs]
        twice = next((one for n, one in enumerate(self.runs) if places[n] in places[:n]), None)
        if twice:
            raise ValueError(f"arena.runs names {twice} twice")
        if self.reveal_after < 1:
            raise ValueError("arena.reveal_after is at least 1")
        if not self.rater.strip():
            raise ValueError("arena.rater: it is empty")

    @property
    def votes(self) -> str:
        return self.store or f"sqlite:///{Path(self.folder) / 'votes.db'}"


@dataclass(frozen=True)
class HeldOutPrompts:
    """`data:` names the snapshot whose prompts are answered; without one, prompts are only typed."""

    path: str = ""


@dataclass(frozen=True)
class Arena:
    """What the page shows. `child` answers typed prompts, and the held-out ones unless they were sampled before."""

    settings: ArenaConfig
    sampling: SamplingConfig
    held_out: HeldOut
    tries: Tries
    voting: Voting
    child: Child | None


def sections() -> config.Sections:
    return {"arena": config.Section(ArenaConfig), "data": config.Section(HeldOutPrompts),
            "sampling": config.Section(SamplingConfig, {"answers": 1}), "model": config.Section(HoldConfig)}


def main(asked: config.Asked) -> None:
    settings, data, sampling, hold = config.build(asked, sections())
    if sampling.answers != 1:
        raise RequestError(f"sampling.answers: {sampling.answers}; side by side each run gives one answer")
    new = not Path(settings.folder).exists()
    with ExitStack() as stack:
        try:
            arena, store, door = ready(stack, settings, data, sampling, hold)
        except RequestError:
            stack.close()
            if new:  # of a wrong request that began nothing, no folder stays
                shutil.rmtree(settings.folder, ignore_errors=True)
            raise
        print(f"Side by side at {address(door)} - {words(arena)}; votes are kept in {store.place}. Ctrl-C stops.",
              flush=True)

        def app() -> FastAPI:
            from .arena_web import build

            return build(arena)

        until_stopped(app, door)
        print(f"Stopped. {store.progress().done} votes are kept in {store.place}.")


def ready(stack: ExitStack, settings: ArenaConfig, data: HeldOutPrompts, sampling: SamplingConfig,
          hold: HoldConfig) -> tuple[Arena, Store, socket.socket]:
    """All that the page needs, and the port it will be served at."""
    folder = Path(settings.folder)
    kept = read(Path(settings.answers)) if settings.answers else None
    if kept and settings.people:
        print(with_votes(kept, settings.people))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"arena.folder: {folder}: {error.strerror}") from None
    store = stack.enter_context(Store(settings.votes))
    stack.enter_context(control.answering(store))  # for `prefloop snapshot`, which tells the store what it took
    door = stack.enter_context(listening("arena", settings.host, settings.port))
    child, held_out, contestants = None, kept, ()
    if settings.runs:
        child, held_out, contestants = started(stack, settings, data, sampling, hold, kept)
    assert held_out is not None
    tries = Tries(contestants, store.seed)
    voting = Voting(store, settings.rater, held_out, tries, folder / "looked.jsonl", settings.reveal_after)
    return Arena(settings, sampling, held_out, tries, voting, child), store, door


def started(stack: ExitStack, settings: ArenaConfig, data: HeldOutPrompts, sampling: SamplingConfig,
            hold: HoldConfig, kept: HeldOut | None) -> tuple[Child, HeldOut, tuple[Contestant, ...]]:
    """The process that answers, once it has verified the runs, and the held-out prompts that it has or will have."""
    print(f"checking {len(settings.runs)} runs", flush=True)
    folder, known = Path(settings.folder), asdict(sampling)
    source = "" if kept else data.path
    setup = wire.Setup(tuple(settings.runs), source, settings.split, settings.limit, known, hold.four_bit, hold.dtype)
    child = stack.enter_context(Child(setup, folder / "serving.log"))
    found = child.wait_until_found()
    contestants = tuple(Contestant(name, checksum)
                        for name, checksum in zip(settings.runs, found.checksums, strict=True))
    prompts = tuple(map(Prompt.from_json, found.prompts))
    held_out = kept or HeldOut(contestants, prompts, {**known, **asdict(hold)}, folder)
    held_out.over_length = found.over_length
    child.sample(held_out.add, held_out.owed)
    return child, held_out, contestants


def words(arena: Arena) -> str:
    held_out = arena.held_out
    parts = [f"{len(held_out.contestants)} checkpoints on {len(held_out.prompts)} held-out prompts"]
    if held_out.over_length:
        parts.append(f"{held_out.over_length} over length left out")
    if held_out.done < held_out.wanted:
        parts.append(f"{held_out.done} of {held_out.wanted} answers sampled, the rest follow")
    return ", ".join(parts)
