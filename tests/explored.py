"""For tests: a comparison of three checkpoints on many prompts, as `prefloop compare` writes it down."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from prefloop.records import Message, Prompt

RUNS = ("runs/sft-0001", "runs/dpo-0003", "runs/ppo-0002")
JUDGES = ("runs/reward-0001", "runs/reward-0002")
STRATA = ("billing", "delivery", "returns", "account")
SAYING = ("we are happy to help the customer who would like to know when the parcel arrives and about the refund of "
          "that order please tell us the number on the invoice and your address")
WORDS = sorted(set(SAYING.split()))


def comparison(folder: Path, prompts: int, variants: int = 0) -> Path:
    """Its answers.jsonl and report.json. Of the last checkpoint every tenth answer is cut, every fortieth is empty,
    and every eighth is the first checkpoint's; the last `variants` prompts are of another set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dice = Random(7)
    rows = [_row(number, "held out" if number < prompts - variants else "typos", dice) for number in range(prompts)]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "report.json").write_text(json.dumps({
        "runs": {name: {"checksum": f"{number}" * 64} for number, name in enumerate(RUNS)}, "sampling": {"seed": 1}}))
    return folder


def _row(number: int, of: str, dice: Random) -> dict[str, Any]:
    texts = [" ".join(dice.choices(WORDS, k=dice.randint(20, 160))) for _ in RUNS]
    if number % 8 == 3:
        texts[2] = texts[0]
    if number % 40 == 9:
        texts[2] = ""
    prompt = Prompt((Message("user", f"Question {number}: {' '.join(dice.choices(WORDS, k=12))}?"),),
                    stratum=STRATA[number % len(STRATA)])
    return {"prompt": prompt.to_json(), "set": of, "reference": "", "of": None,
            "answers": dict(zip(RUNS, ([text] for text in texts), strict=True)),
            "tokens": dict(zip(RUNS, ([len(text.split())] for text in texts), strict=True)),
            "ended": {name: [place < 2 or number % 10 != 5] for place, name in enumerate(RUNS)},
            "kl": {name: [dice.uniform(0, 9) if place else 0.0] for place, name in enumerate(RUNS)},
            "rewards": {judge: {name: [dice.gauss(0.3 * place, 1)] for place, name in enumerate(RUNS)}
                        for judge in JUDGES}}
