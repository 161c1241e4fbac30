"""`make demo`: the whole loop in minutes on a CPU, with simulated raters, and then the page for a real one.

Every stage is the command that a user would type, in a process of its own. The world (its prompts, its raters, its
truth) is only here: no stage knows it, and the truth is asked by the raters and by the check at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from prefloop import stats
from prefloop.errors import RequestError, RunError
from prefloop.feedback_ui import assignment, campaigns, server
from prefloop.formats import snapshot
from prefloop.launch.world import baselines, grammar, raters
from prefloop.records import Answers, Pair, Prompt
from prefloop.store import Judgement, Store

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "demo"
BASE = Path(__file__).resolve().parent / "world" / "base"
DEMONSTRATIONS, RANKED, REWARD_TESTED, VERDICT = 1600, 800, 150, 300
RATERS_PER_ITEM = 3


@dataclass(frozen=True)
class Place:
    """Where the demo keeps what it makes."""

    root: Path

    @property
    def store(self) -> str:
        return f"sqlite:///{self.root / 'feedback.db'}"

    @property
    def demonstrations(self) -> Path:
        return self.root / "demonstrations"

    @property
    def asked(self) -> Path:
        return self.root / "asked"

    @property
    def held_out(self) -> Path:
        return self.root / "held-out"

    @property
    def rankings(self) -> Path:
        return self.root / "rankings"

    @property
    def answers(self) -> Path:
        return self.run("generate") / "answers.jsonl"

    def run(self, stage: str) -> Path:
        return self.root / stage


@dataclass(frozen=True)
class Better:
    """How one policy fares against SFT, by the world's truth, on held-out prompts."""

    truth_win_rate: float
    interval: tuple[float, float]
    same_length_win_rate: float | None
    same_length_interval: tuple[float, float] | None
    kl: float
    mean_length: float
    fluent: float
    mean_truth: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-serve", action="store_true", help="stop after the table")
    parser.add_argument("--root", type=Path, default=Path("runs/demo"))
    asked = parser.parse_args()
    try:
        place = fresh(asked.root)
        verdict = loop(place, asked.seed)
        show(verdict)
        if not asked.no_serve:
            serve(place)
    except (RequestError, RunError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 1
    return 0


def loop(place: Place, seed: int) -> dict[str, Any]:
    """Fine-tune, sample, rank, train the reward, improve twice, compare; returns what verdict.json holds."""
    began = time.monotonic()
    print(f"The demo's customers and raters are simulated (seed {seed}); everything else is the real thing.\n")
    write_world(place, seed)
    stage("fine-tune the tiny base on demonstrations", "sft", seed, place,
          f"model.path={BASE}", f"data.path={place.demonstrations}")
    stage("sample 4 answers to each prompt", "generate", seed, place,
          f"model.path={place.run('sft')}", f"data.path={place.asked}")
    collect(place, seed)
    stage("freeze the rankings", "snapshot", seed, place,
          f"snapshot.store={place.store}", f"snapshot.out={place.rankings}")
    stage("train a reward model on the rankings", "reward", seed, place,
          f"model.path={place.run('sft')}", f"data.path={place.rankings}")
    stage("improve the policy by DPO", "dpo", seed, place,
          f"model.path={place.run('sft')}", f"data.path={place.rankings}")
    stage("improve the policy by PPO", "ppo", seed, place,
          f"model.path={place.run('sft')}", f"reward.path={place.run('reward')}", f"data.path={place.rankings}")
    stage("compare the three on prompts nobody trained on", "compare", seed, place,
          f"compare.runs=[{place.run('sft')},{place.run('ppo')},{place.run('dpo')}]",
          f"compare.reward={place.run('reward')}",
          f"data.path={place.held_out}", ok=(0, 3, 4))
    stage("score held-out answers with the reward model", "score", seed, place, f"model.path={place.run('reward')}",
          f"score.answers={place.answers}", f"score.out={place.root / 'scores.jsonl'}")
    verdict = {"seed": seed, "seconds": 0.0, **reward_accuracies(place), **policies(place)}
    verdict["seconds"] = round(time.monotonic() - began, 1)
    (place.root / "verdict.json").write_text(json.dumps(verdict, indent=1) + "\n", encoding="utf-8")
    return verdict


def fresh(root: Path) -> Place:
    """An empty folder; an earlier demo, with what people ranked in it, moves aside."""
    if root.exists():
        aside = root.with_name(f"{root.name}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(root.stat().st_mtime))}")
        if aside.exists():
            raise RequestError(f"{root} and {aside} both exist; move one of them away")
        root.rename(aside)
        print(f"the earlier demo is now in {aside}")
    root.mkdir(parents=True)
    return Place(root)


def write_world(place: Place, seed: int) -> None:
    """Three snapshots: demonstrations, prompts to be answered and ranked, and prompts kept for the verdict."""
    pool = grammar.prompts(12 * (RANKED + VERDICT), seed * 1000 + 1)
    train = [p for p in pool if p.split == "train"][:RANKED]
    test = [p for p in pool if p.split == "test"]
    if len(test) < REWARD_TESTED + VERDICT:
        raise RunError(f"only {len(test)} held-out prompts in the pool")
    snapshot.write(place.demonstrations, demonstrations=grammar.demonstrations(DEMONSTRATIONS, seed * 1000 + 2),
                   source="simulated world")
    snapshot.write(place.asked, prompts=[*train, *test[:REWARD_TESTED]], source="simulated world")
    snapshot.write(place.held_out, prompts=test[REWARD_TESTED : REWARD_TESTED + VERDICT], source="simulated world")


def stage(title: str, command: str, seed: int, place: Place, *overrides: str, ok: tuple[int, ...] = (0,),
          config: str = "") -> None:
    """Run `prefloop COMMAND` as a user would, and show the line that was typed."""
    seeded = {"sft": "train.seed", "reward": "train.seed", "ppo": "train.seed", "dpo": "train.seed",
              "generate": "sampling.seed", "compare": "sampling.seed"}.get(command)
    own = [] if command in ("snapshot", "score") else [f"run.root={place.root}", f"run.name={command}"]
    words = [command, str(CONFIGS / f"{config or command}.yaml"), *own,
             *([f"{seeded}={seed}"] if seeded else []), *overrides]
    shown = [word.replace(f"{ROOT}/", "") for word in words]
    print(f"\n== {title}\n   prefloop {' '.join(shown)}", flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "prefloop.cli", *words])
    if done.returncode not in ok:
        raise RunError(f"`prefloop {command}` ended with exit code {done.returncode}")
    print(f"   {time.monotonic() - began:.0f} seconds", flush=True)


def collect(place: Place, seed: int) -> None:
    """Simulated raters take items and submit rankings one by one, through the page's own assignment and store."""
    print("\n== simulated raters rank the answers, through the page's own queue", flush=True)
    crew, rng = raters.crew(seed), Random(seed)
    with Store(place.store) as store:
        campaigns.apply(store, campaigns.CampaignConfig(answers=str(place.answers),
                                                        raters_per_item=RATERS_PER_ITEM), several=False)
        with tqdm(total=store.progress().wanted, desc="rankings", unit="ranking", mininterval=1) as bar:
            while crew:
                rater = rng.choice(crew)
                task = assignment.next_task(store, rater.name)
                if task is None:
                    crew.remove(rater)
                    continue
                ranks = raters.rank(rater, Prompt(task.conversation), list(task.answers), rng)
                assignment.submit(store, rater.name, task.token, Judgement(tuple(ranks)))
                bar.update()


def reward_accuracies(place: Place) -> dict[str, Any]:
    """How often each reward orders a held-out pair of answers as the world's truth does."""
    scores = {(row["prompt_id"], row["text"]): row["score"] for row in rows(place.root / "scores.jsonl")}
    asked = [Answers.from_json(row) for row in rows(place.answers)]
    held_out = [one for one in asked if one.prompt.split == "test"]
    per_prompt, pairs = [], []
    for one in held_out:
        own = list(true_pairs(one))
        gaps = [scores[one.prompt.id, p.chosen] - scores[one.prompt.id, p.rejected] for p in own]
        pairs += own
        if own:
            per_prompt.append(sum(0.5 if gap == 0 else float(gap > 0) for gap in gaps) / len(gaps))
    ranked = snapshot.read(place.rankings).pairs("train")
    low, high = stats.bootstrap_interval(per_prompt)
    return {"reward_accuracy": sum(per_prompt) / len(per_prompt), "reward_accuracy_interval": (low, high),
            "length_only_accuracy": baselines.length_accuracy(pairs),
            "bag_of_words_accuracy": baselines.bag_of_words_accuracy(ranked, pairs)}


def true_pairs(answers: Answers) -> Iterator[Pair]:
    """Pairs of answers whose truth differs, the better one as chosen."""
    worth = [(grammar.truth(answers.prompt, response.text), response.text) for response in answers.responses]
    for n, (mine, text) in enumerate(worth):
        for other, rival in worth[:n]:
            if mine != other:
                yield Pair(answers.prompt, *((text, rival) if mine > other else (rival, text)))


def policies(place: Place) -> dict[str, Any]:
    """PPO and DPO against SFT by the truth, on the answers that `compare` sampled from the saved checkpoints."""
    report = json.loads((place.run("compare") / "report.json").read_text(encoding="utf-8"))
    answered = rows(place.run("compare") / "answers.jsonl")
    sft = str(place.run("sft"))
    out: dict[str, Any] = {"sft": {"mean_length": report["runs"][sft]["mean_length"],
                                   "fluent": fluent(answered, sft), "mean_truth": mean_truth(answered, sft)}}
    for name in ("ppo", "dpo"):
        out[name] = asdict(better(answered, sft, str(place.root / name), report["runs"][str(place.root / name)]))
    return out


def better(answered: list[dict[str, Any]], sft: str, other: str, report: dict[str, Any]) -> Better:
    wins, same = [], []
    for row in answered:
        prompt, mine, its = Prompt.from_json(row["prompt"]), row["answers"][other][0], row["answers"][sft][0]
        gap = grammar.truth(prompt, mine) - grammar.truth(prompt, its)
        wins.append(0.5 if gap == 0 else float(gap > 0))
        lengths = sorted((len(mine.split()), len(its.split())))
        if lengths[1] - lengths[0] < 0.1 * lengths[1]:
            same.append(wins[-1])
    return Better(sum(wins) / len(wins), stats.bootstrap_interval(wins),
                  sum(same) / len(same) if same else None, stats.bootstrap_interval(same) if same else None,
                  report["kl"]["value"], report["mean_length"], fluent(answered, other), mean_truth(answered, other))


def fluent(answered: list[dict[str, Any]], run: str) -> float:
    """The share of answers that parse in the grammar."""
    return sum(grammar.parse(row["answers"][run][0]) is not None for row in answered) / len(answered)


def mean_truth(answered: list[dict[str, Any]], run: str) -> float:
    worth = [grammar.truth(Prompt.from_json(row["prompt"]), row["answers"][run][0]) for row in answered]
    return sum(worth) / len(worth)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]


def show(verdict: dict[str, Any]) -> None:
    """The table: what was learned, and whether it is better."""
    low, high = verdict["reward_accuracy_interval"]
    print("\n" + "=" * shutil.get_terminal_size((100, 20)).columns)
    print("Held-out pairs of answers ordered as the truth orders them (the truth is the simulated world's)")
    print(f"  trained reward {verdict['reward_accuracy']:.3f} [{low:.3f}, {high:.3f}]   "
          f"bag of words {verdict['bag_of_words_accuracy']:.3f}   length alone "
          f"{verdict['length_only_accuracy']:.3f}\n")
    print(f"{'':6}{'truth win rate over SFT':>28}{'at equal length':>28}{'KL (nats)':>11}{'tokens':>8}{'fluent':>8}")
    sft = verdict["sft"]
    print(f"{'SFT':6}{'':28}{'':28}{'':11}{sft['mean_length']:8.1f}{sft['fluent']:8.1%}")
    for name in ("ppo", "dpo"):
        own = verdict[name]
        print(f"{name.upper():6}{share(own['truth_win_rate'], own['interval']):>28}"
              f"{share(own['same_length_win_rate'], own['same_length_interval']):>28}"
              f"{own['kl']:11.2f}{own['mean_length']:8.1f}{own['fluent']:8.1%}")
    print(f"\n{verdict['seconds']:.0f} seconds; all figures are in runs/demo/verdict.json, and `prefloop runs "
          "run.root=runs/demo` lists the runs.")


def share(rate: float | None, interval: tuple[float, float] | None) -> str:
    return "too few" if rate is None or interval is None else f"{rate:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"


def serve(place: Place) -> None:
    """The page, with the verdict's own answers, blind: what the newcomer says of them can be a verdict too."""
    url = f"sqlite:///{place.root / 'yours.db'}"
    print("\nNow it is your turn: rank a few answers yourself, blind (Ctrl-C ends the demo). Then see what your own "
          f"votes say:\n  prefloop compare compare.answers=[{place.run('compare')}] compare.votes=[{url}]\n"
          "How good the simulated raters' work is, as a lead sees it, in another shell, at http://127.0.0.1:7861/lead:\n"
          f"  prefloop feedback feedback.store={place.store} feedback.port=7861", flush=True)
    with Store(url) as store:
        campaigns.apply(store, campaigns.CampaignConfig(answers=str(place.run("compare"))), several=False)
        server.serve(store, server.FeedbackConfig(store=url))


if __name__ == "__main__":
    sys.exit(main())
