"""Whether PPO, RLOO, DPO and online DPO make the demo's policy better by the world's truth, seed after seed.

`make bench NAME=win_rates` runs the demo's stages for each seed (the seeds are WIN_RATES="1 2 3" unless told), and
RLOO and online DPO on the same SFT and reward runs. The last line is a JSON object; intervals are 95%, over prompts.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefloop.launch import demo

SEEDS = [int(seed) for seed in os.environ.get("WIN_RATES", "1 2 3").split()]
LEAST, KL_BUDGET = 0.65, 20.0


def seed_of(root: Path, seed: int) -> dict[str, Any]:
    """One world: the demo as it is, and RLOO and online DPO beside its PPO and DPO."""
    place = demo.fresh(root)
    verdict = demo.loop(place, seed)
    start = (f"model.path={place.run('sft')}", f"data.path={place.rankings}")
    demo.stage("improve the policy by RLOO", "ppo", seed, place, "run.name=rloo", *start,
               f"reward.path={place.run('reward')}", "train.advantage=rloo")
    demo.stage("improve the policy by online DPO", "dpo", seed, place, "run.name=online", *start,
               f"online.reward={place.run('reward')}", config="online_dpo")
    return {"reward_accuracy": verdict["reward_accuracy"], "seconds": verdict["seconds"], "sft": verdict["sft"],
            "ppo": verdict["ppo"], "dpo": verdict["dpo"], **against_sft(place, seed, "rloo", "online")}


def against_sft(place: demo.Place, seed: int, *names: str) -> dict[str, Any]:
    sft, runs = str(place.run("sft")), {name: str(place.run(name)) for name in names}
    demo.stage("compare them with SFT", "compare", seed, place, "run.name=compare-more",
               f"compare.runs=[{','.join([sft, *runs.values()])}]", f"compare.reward={place.run('reward')}",
               f"data.path={place.held_out}", ok=(0, 3, 4))
    compared = place.run("compare-more")
    report = json.loads((compared / "report.json").read_text(encoding="utf-8"))
    answered = demo.rows(compared / "answers.jsonl")
    return {name: asdict(demo.better(answered, sft, run, report["runs"][run])) for name, run in runs.items()}


def main() -> int:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            found[seed] = seed_of(Path(folder) / str(seed), seed)
            print(json.dumps({seed: found[seed]}), flush=True)
    told = [one[name] for one in found.values() for name in ("ppo", "rloo", "dpo", "online")]
    print(json.dumps({"least_win_rate": min(one["truth_win_rate"] for one in told), "asked": LEAST,
                      "most_kl": max(one["kl"] for one in told), "kl_budget": KL_BUDGET, "seeds": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
