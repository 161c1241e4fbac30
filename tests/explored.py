"""For tests: comparisons of checkpoints, as `prefloop compare` writes them down."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from prefloop.compare import kept
from prefloop.compare.records import HELD_OUT, Answer, Contestant, Question, Rewards
from prefloop.records import Message, Prompt

RUNS = ("runs/sft-0001", "runs/dpo-0003", "runs/ppo-0002")
JUDGES = ("runs/reward-0001", "runs/reward-0002")
STRATA = ("billing", "delivery", "returns", "account")
SAMPLING = {"answers": 1, "max_new_tokens": 256, "temperature": 1.0, "seed": 1}
SAYING = ("we are happy to help the customer who would like to know when the parcel arrives and about the refund of "
          "that order please tell us the number on the invoice and your address")
WORDS = sorted(set(SAYING.split()))


def written(folder: Path, questions: Sequence[Question], contestants: Sequence[Contestant],
            rewards: Sequence[Rewards] = (), sampling: Mapping[str, float] | None = None) -> Path:
    """The folder with an answers.jsonl and a report.json in it."""
    folder.mkdir(parents=True, exist_ok=True)
    compared = kept.Compared(tuple(questions), tuple(contestants), tuple(rewards), {})
    kept.write(folder, kept.rows(compared))
    (folder / kept.REPORT).write_text(json.dumps({
        "runs": {one.name: {"checksum": one.key} for one in contestants}, "judges": {one.name: {} for one in rewards},
        "sampling": SAMPLING | dict(sampling or {}), "provenance": {}, "proxies": [one.name for one in rewards[:1]],
        "split": "test", "over_length": 0, "hold": {}}))
    return folder


def comparison(folder: Path, prompts: int, variants: int = 0) -> Path:
    """Three checkpoints under two judges. Of the last one every tenth answer is cut, every fortieth is empty, and
    every eighth is the first one's; the last `variants` prompts are of another set.
    """
    dice = Random(7)
    questions = [Question(Prompt((Message("user", f"Question {n}: {' '.join(dice.choices(WORDS, k=12))}?"),),
                                 stratum=STRATA[n % len(STRATA)]), HELD_OUT if n < prompts - variants else "typos")
                 for n in range(prompts)]
    texts = [_texts(n, dice) for n in range(prompts)]
    contestants = [Contestant(name, f"{place}" * 64, tuple(
        (Answer(own[place], len(own[place].split()), place < 2 or n % 10 != 5, dice.uniform(0, 9) if place else 0.0),)
        for n, own in enumerate(texts))) for place, name in enumerate(RUNS)]
    rewards = [Rewards(judge, judge, tuple(tuple((dice.gauss(0.3 * place, 1),) for _ in texts)
                                           for place, _ in enumerate(RUNS))) for judge in JUDGES]
    return written(folder, questions, contestants, rewards, SAMPLING)


def _texts(number: int, dice: Random) -> list[str]:
    found = [" ".join(dice.choices(WORDS, k=dice.randint(20, 160))) for _ in RUNS]
    if number % 8 == 3:
        found[2] = found[0]
    if number % 40 == 9:
        found[2] = ""
    return found
