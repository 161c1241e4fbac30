"""The whole loop on your own data, and further rounds: new answers from the new policy, ranked again.

Each step is a command that a person could type, in a process of its own, and is shown before it runs. What is done is
skipped and what was interrupted is resumed, so the loop is continued by starting it again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prefloop import checkpoints, runs
from prefloop.errors import RequestError, RunError
from prefloop.records import Answers
from prefloop.store import Store, item_name

LAUNCH = Path(__file__).resolve().parent
POLL = 5.0  # seconds between looks at how many rankings there are


@dataclass(frozen=True)
class Loop:
    """What was asked for. `extra` are overrides of one command, for all rounds."""

    base: str
    data: Path
    out: Path
    size: str
    rounds: int
    rankings: int | None
    rank_command: str
    port: int
    go_on: bool
    extra: dict[str, list[str]]

    @property
    def store(self) -> str:
        return f"sqlite:///{self.out / 'feedback.db'}"

    def of_round(self, number: int, what: str) -> Path:
        return self.out / f"round{number}-{what}"


def main(words: list[str] | None = None) -> int:
    try:
        return loop(asked(words))
    except (RequestError, RunError) as error:
        print(f"loop: {error}", file=sys.stderr)
        return 2 if isinstance(error, RequestError) else 1
    except KeyboardInterrupt:
        print("\nloop: stopped; start it again to go on", file=sys.stderr)
        return 1


def asked(words: list[str] | None) -> Loop:
    parser = argparse.ArgumentParser(prog="launch/loop.sh", description=__doc__)
    parser.add_argument("base", help="a hub model or a model folder")
    parser.add_argument("data", type=Path, help="a snapshot, or a file that `prefloop import` reads")
    parser.add_argument("--out", type=Path, default=Path("runs/loop"), help="everything goes there (runs/loop)")
    parser.add_argument("--size", default="small", choices=["tiny", "small", "8b"], help="whose configs (small)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rankings", type=int, help="go on after so many rankings in each round (all that are asked)")
    parser.add_argument("--port", type=int, default=7860, help="of the rating page")
    parser.add_argument("--go-on", action="store_true", help="where a comparison is undecided, take the best so far "
                        "into the next round rather than stop")
    parser.add_argument("--rank-command", default="", help="ranks in place of people: it is given the store's URL and "
                        "the file of answers. For tests, with simulated raters")
    parser.add_argument("--set", action="append", default=[], metavar="COMMAND:KEY=VALUE", dest="extra",
                        help="an override of one command, such as ppo:train.rollouts=50")
    found = parser.parse_args(words)
    extra: dict[str, list[str]] = {}
    for one in found.extra:
        command, colon, override = one.partition(":")
        if not colon or "=" not in override:
            raise RequestError(f"--set {one}: expected COMMAND:section.key=value")
        extra.setdefault(command, []).append(override)
    return Loop(found.base, found.data, found.out, found.size, found.rounds, found.rankings, found.rank_command,
                found.port, found.go_on, extra)


def loop(told: Loop) -> int:
    told.out.mkdir(parents=True, exist_ok=True)
    data = told.data if told.data.is_dir() else imported(told)
    policy = told.out / "sft"
    run(told, policy, "sft", f"model.path={told.base}", f"data.path={data}")
    for number in range(1, told.rounds + 1):
        print(f"\n=== round {number} of {told.rounds}, from {policy}", flush=True)
        better = round_of(told, number, policy, data)
        if better is None:
            print(f"\nRound {number} did not show that anything is better than {policy}: see "
                  f"{told.of_round(number, 'compare') / 'report.html'}. More rankings may: start the loop again with "
                  f"--go-on for another round from the best so far, or with another --out and more prompts.")
            return 4
        policy = better
    print(f"\nThe loop is done. The policy to use is {policy}; {policy / 'README.md'} says how.")
    return 0


def imported(told: Loop) -> Path:
    if not told.data.is_file():
        raise RequestError(f"{told.data}: neither a snapshot nor a file")
    out = told.out / "data"
    if not (out / checkpoints.MANIFEST).is_file():
        command(told, "import", f"import.path={told.data}", f"import.out={out}")
    return out


def round_of(told: Loop, number: int, policy: Path, data: Path) -> Path | None:
    """One round from `policy`: the better policy that the comparison found, if it did.

    The comparison asks all of the data's held-out prompts, ranked or not.
    """
    answers, reward, ppo, dpo, compare = (told.of_round(number, what)
                                          for what in ("generate", "reward", "ppo", "dpo", "compare"))
    rankings = told.of_round(number, "rankings")
    run(told, answers, "generate", f"model.path={policy}", f"data.path={data}", f"sampling.seed={number}")
    if not (rankings / checkpoints.MANIFEST).is_file():
        rank(told, answers / "answers.jsonl")
        command(told, "snapshot", f"snapshot.store={told.store}", f"snapshot.out={rankings}")
    from_policy = (f"model.path={policy}", f"data.path={rankings}")
    run(told, reward, "reward", *from_policy)
    run(told, dpo, "dpo", *from_policy)
    run(told, ppo, "ppo", *from_policy, f"reward.path={reward}")
    run(told, compare, "compare", f"compare.runs=[{policy},{ppo},{dpo}]", f"compare.reward={reward}",
        f"data.path={data}")
    report = checkpoints.read_json(compare / "report.json")
    print(report["line"], flush=True)
    if report["verdict"] == "reject" or (report["verdict"] == "undecided" and not told.go_on):
        return None
    return Path(report["best"])


def run(told: Loop, folder: Path, stage: str, *overrides: str) -> None:
    """The run in `folder`: skipped if it is done, resumed if it was interrupted, else begun."""
    found = runs.load(folder) if (folder / "run.json").is_file() else None
    status = runs.status_of(found) if found else ""
    if status == "done":
        print(f"== {stage}: {folder} is done", flush=True)
    elif status == "running":
        raise RequestError(f"{folder}: it is running now; `prefloop runs run.root={folder.parent} "
                           f"run.name={folder.name}` follows it")
    elif found and found.record.get("resumable", True):
        count = found.record.get("processes", 1)
        start = ["prefloop.launch.several", str(count)] if count > 1 else ["prefloop.cli"]
        shell(f"go on with {stage}", [sys.executable, "-m", *start, "resume", str(folder)])
    else:
        if folder.exists():  # it was cut off, and cannot be resumed
            folder.rename(folder.with_name(f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"))
        command(told, stage, *overrides, f"run.root={folder.parent}", f"run.name={folder.name}")


def command(told: Loop, name: str, *overrides: str) -> None:
    several = name in ("sft", "reward", "dpo")
    shell(name, [str(LAUNCH / "stage.sh"), name, *overrides, *told.extra.get(name, [])],
          {"SIZE": told.size, "PYTHON": sys.executable, **({} if several else {"NPROC": "1"})},
          ok=(0, 3, 4) if name == "compare" else (0,))


def shell(title: str, words: list[str], settings: dict[str, str] | None = None, ok: tuple[int, ...] = (0,)) -> None:
    print(f"\n== {title}", flush=True)
    began = time.monotonic()
    code = subprocess.run(words, env={**os.environ, **(settings or {})}).returncode
    if code not in ok:
        raise RunError(f"{title} ended with exit code {code}; when that is mended, start the loop again to go on")
    print(f"   {time.monotonic() - began:.0f} seconds", flush=True)


def rank(told: Loop, file: Path) -> None:
    """People rank on the page until there are enough; or a command does in their place."""
    if told.rank_command:
        shell(f"ranked, not by people, but by: {told.rank_command}",
              [*shlex.split(told.rank_command), told.store, str(file)])
        return
    with page(told, file) as server:
        print("Rank answers on the page. The loop goes on by itself once there are enough; Ctrl-C stops it, and what "
              "was ranked is kept.", flush=True)
        while not enough(told, file):
            if server.poll() is not None:
                raise RunError(f"the page ended with exit code {server.returncode}; when that is mended, start the "
                               f"loop again to go on")
            time.sleep(POLL)


@contextmanager
def page(told: Loop, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    server = subprocess.Popen(
        [str(LAUNCH / "stage.sh"), "feedback", f"feedback.store={told.store}", f"campaign.answers={file}",
         f"feedback.port={told.port}", *told.extra.get("feedback", [])],
        env={**os.environ, "SIZE": told.size, "NPROC": "1", "PYTHON": sys.executable})
    try:
        yield server
    finally:
        server.terminate()
        server.wait()


def enough(told: Loop, file: Path) -> bool:
    """Whether this round's answers have all the rankings that they need, or as many as were asked for."""
    if not (told.out / "feedback.db").is_file():
        return False
    names = {item_name(Answers.from_json(row)) for row in runs.read_lines(file)}
    with Store(told.store, read_only=True) as store:
        found = store.progress(among=names)
    return 0 < found.wanted <= found.done or (told.rankings is not None and found.done >= told.rankings)


if __name__ == "__main__":
    sys.exit(main())
