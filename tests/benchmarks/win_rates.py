"""Whether PPO, RLOO and DPO make the demo's policy better by the world's truth, seed after seed.

`make bench NAME=win_rates` runs the demo's stages for each seed (the seeds are WIN_RATES="1 2 3" unless told), and
RLOO on the same SFT and reward runs. The last line is a JSON object; an interval is of 95%, over prompts.
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
    """One world: the demo as it is, and RLOO beside its PPO."""
    place = demo.fresh(root)
    verdict = demo.loop(place, seed)
    demo.stage("improve the policy by RLOO", "ppo", seed, place, "run.name=rloo", f"model.path={place.run('sft')}",
               f"reward.path={place.run('reward')}", f"data.path={place.rankings}", "train.advantage=rloo")
    demo.stage("compare it with SFT", "compare", seed, place, "run.name=compare-rloo",
               f"compare.runs=[{place.run('sft')},{place.run('rloo')}]", f"compare.reward={place.run('reward')}",
               f"data.path={place.held_out}", ok=(0, 3, 4))
    compared = place.root / "compare-rloo"
    report = json.loads((compared / "report.json").read_text(encoding="utf-8"))
    rloo = demo.better(demo.rows(compared / "answers.jsonl"), str(place.run("sft")), str(place.run("rloo")),
                       report["runs"][str(place.run("rloo"))])
    return {"reward_accuracy": verdict["reward_accuracy"], "seconds": verdict["seconds"], "sft": verdict["sft"],
            "ppo": verdict["ppo"], "dpo": verdict["dpo"], "rloo": asdict(rloo)}


def main() -> int:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            found[seed] = seed_of(Path(folder) / str(seed), seed)
            print(json.dumps({seed: found[seed]}), flush=True)
    told = [one[name] for one in found.values() for name in ("ppo", "rloo", "dpo")]
    print(json.dumps({"least_win_rate": min(one["truth_win_rate"] for one in told), "asked": LEAST,
                      "most_kl": max(one["kl"] for one in told), "kl_budget": KL_BUDGET, "seeds": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
