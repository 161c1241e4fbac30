"""An 8B base of Llama-3.1's shape in NF4 within stated memory: PPO of 512 + 512 tokens in 24 GB, DPO and reward in 16,
SFT in 12. Each measurement is printed as a JSON line: peaks, tokens a second, share of time by phase, and what
`prefloop plan` foretold.

`make gpu` runs it. Random weights serve for memory and speed, so no network is needed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import random_base  # noqa: E402

from prefloop import runs  # noqa: E402
from prefloop.footprint import Shape  # noqa: E402

LLAMA = Shape(hidden=4096, layers=32, heads=32, kv_heads=8, head=128, inner=14336, vocab=128256, tied=False)
ASKED = ANSWERED = 480  # tokens; with the template's, no row is longer than 1024
SHORT = ("train.max_steps=4", "train.logging_steps=1", "train.warmup_steps=0", "train.max_length=1024",
         "train.gradient_accumulation_steps=1")

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"), pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if torch.cuda.get_device_properties(0).total_memory < 23e9:
        pytest.skip("an 8B base with four adapters wants a GPU of 24 GB")
    root = tmp_path_factory.mktemp("8b")
    random_base.write(root / "base", LLAMA)
    random_base.long_rows(root / "data", prompts=80, asked=ASKED, answered=ANSWERED)
    return root


def measured(home: Path, stage: str, limit: float, tokens: int, *overrides: str) -> None:
    """Run a stage in a process of its own. `tokens` go through one call of what updates."""
    path = ROOT / "configs/8b" / f"{stage}.yaml"
    words = [f"run.root={home}", f"run.name={stage}", f"data.path={home / 'data'}", *overrides]
    foretold = last_line("foretold.py", stage, path, str(home / "base"), *words)
    found = last_line("measured.py", stage, path, *words)
    if stage == "ppo":  # as many tokens as were sampled
        row = next(one for one in runs.read_lines(home / stage / "metrics.jsonl") if one.get("seconds_updating"))
        found["seconds_a_rollout"] = sum(row[f"seconds_{phase}"] for phase in ("sampling", "scoring", "updating"))
        tokens = int(foretold["episodes"] * (foretold["prompt"] + row["length"]))
    print(json.dumps({
        "stage": stage, "gpu": torch.cuda.get_device_name(0), "limit_gb": limit, **found,
        "tokens_per_second": round(tokens / found.get("seconds_a_rollout", found["updating_seconds"])),
        **{f"foretold_{name}": own for name, own in foretold.items()}}), flush=True)
    assert found["peak_reserved_gb"] <= limit


def last_line(script: str, stage: str, path: Path, *words: str) -> dict[str, Any]:
    """What a script beside this one prints last, in a process of its own, so that the card is free again."""
    done = subprocess.run([sys.executable, str(ROOT / "tests/gpu" / script), stage, str(path), *words],
                          capture_output=True, text=True,
                          env={**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_an_8b_llama_in_nf4_within_the_limits(home: Path) -> None:
    start, row = f"model.path={home / 'sft'}", ASKED + ANSWERED
    measured(home, "sft", 12, 2 * row, f"model.path={home / 'base'}", "train.per_device_train_batch_size=2", *SHORT)
    measured(home, "reward", 16, ASKED + 4 * ANSWERED, start, "train.per_device_train_batch_size=1", *SHORT)
    measured(home, "dpo", 16, 2 * 2 * row, start, "train.per_device_train_batch_size=2", *SHORT)
    measured(home, "ppo", 24, 0, start, f"reward.path={home / 'reward'}", "train.rollouts=2", "train.episodes=32",
             "train.minibatches=2", "train.micro_batch=4", "train.sample_batch=32", "train.max_prompt_tokens=512",
             "train.max_new_tokens=512", "train.save_every=2", "train.critic_warmup=0", "train.target_approx_kl=null",
             "watch.every=null")
