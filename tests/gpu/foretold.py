"""What `prefloop plan` says of a stage on this GPU, as a JSON object; what the probe holds goes with this process.

usage: python tests/gpu/foretold.py STAGE CONFIG BASE [section.key=value ...]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from prefloop import config, pace, plan


def foretold(stage: str, path: Path, base: str, words: list[str], where: torch.device) -> dict[str, Any]:
    """Memory and time; and how many answers a rollout has, to prompts of how many tokens."""
    case = plan.case_of(path, config.read(stage, path, words).sections, stage, base, gpu=where.type == "cuda")
    timed = plan.paced(case, pace.probe(case.shape, case.held, case.load.sampled, where))
    return {"gb": round(case.need.total / 1e9, 2),
            "gb_by_phase": {name: round(held / 1e9, 2) for name, held in case.need.phases.items()},
            "seconds_a_turn": round(timed.turn, 2), "prompt": case.lengths.prompt,
            "episodes": getattr(case.told["train"], "episodes", 0)}


if __name__ == "__main__":
    print(json.dumps(foretold(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4:], torch.device("cuda"))))
