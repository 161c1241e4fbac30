"""Every stage on one CUDA GPU: NF4 and bf16 on the tiny model, then a 0.5B and an 8B shape within their memory.

`make gpu` runs these. The bases are made on the spot with random weights, so no network is needed. Each measurement is
printed as a JSON line, beside what prefloop/footprint.py had reckoned.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import random_base  # noqa: E402
import tiny  # noqa: E402

from prefloop import doctor, footprint, runs  # noqa: E402
from prefloop.doctor import DoctorConfig  # noqa: E402

pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here"), pytest.mark.timeout(3600)]

SHORT = ("train.max_steps=3", "train.logging_steps=1", "train.warmup_steps=0", "train.learning_rate=1e-3")
SIZES = {"0.5B": ("configs", "Qwen/Qwen2.5-0.5B-Instruct", 12), "8B": ("configs/8b", "Qwen/Qwen3-8B", 24)}


@pytest.mark.parametrize("four_bit", ["true", "false"])
def test_the_whole_chain_on_the_tiny_model(four_bit: str, tmp_path: Path) -> None:
    base, data = tiny.tiny_model(tmp_path / "base"), tiny.tiny_snapshot(tmp_path / "data")
    here = (f"model.four_bit={four_bit}", f"data.path={data}", f"run.root={tmp_path}")
    trained = (*here, "train.max_steps=20", "train.max_length=96", "train.logging_steps=5", "train.save_steps=10")
    sft, reward = tmp_path / "sft", tmp_path / "reward"
    assert tiny.launch("sft", f"model.path={base}", "run.name=sft", "train.learning_rate=1e-2", *trained) == 0
    assert tiny.launch("reward", f"model.path={sft}", "run.name=reward", "train.learning_rate=1e-2", *trained) == 0
    assert tiny.launch("dpo", f"model.path={sft}", "run.name=dpo", "train.learning_rate=1e-3", *trained) == 0
    assert tiny.launch("ppo", f"model.path={sft}", f"reward.path={reward}", "run.name=ppo", *here,
                       "train.rollouts=4", "train.episodes=32", "train.micro_batch=8", "train.max_new_tokens=16",
                       "train.learning_rate=1e-3", "train.critic_warmup=1", "train.save_every=2") == 0
    assert tiny.launch("generate", f"model.path={sft}", "run.name=answers", *here, "sampling.max_new_tokens=16") == 0
    assert tiny.launch("compare", f"compare.runs=[{sft},{tmp_path / 'ppo'}]", f"compare.reward={reward}",
                       "run.name=compare", *here, "sampling.max_new_tokens=16") in (0, 3, 4)


@pytest.fixture(scope="module", params=list(SIZES))
def home(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A base of this size, and rows near the lengths that its configs allow."""
    _, hub, gigabytes = SIZES[request.param]
    if torch.cuda.get_device_properties(0).total_memory < 0.9 * gigabytes * 1e9:
        pytest.skip(f"{request.param} wants a GPU of {gigabytes} GB")
    root = tmp_path_factory.mktemp(request.param.replace(".", "_"))
    random_base.write(root / "base", footprint.KNOWN[hub])
    random_base.long_rows(root / "data", prompts=80, asked=480, answered=480)
    return root, request.param


def measured(home: tuple[Path, str], stage: str, *overrides: str) -> dict[str, float]:
    """Run a stage by the config of its size in a process of its own; its figures, printed as a JSON line too."""
    root, size = home
    folder, hub, _ = SIZES[size]
    config = ROOT / folder / f"{stage}.yaml"
    words = [stage, str(config), f"run.root={root}", f"run.name={stage}", f"data.path={root / 'data'}", *overrides]
    done = subprocess.run([sys.executable, str(ROOT / "tests/gpu/measured.py"), *words], capture_output=True,
                          text=True, env={**os.environ, "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"})
    assert done.returncode in ((0, 3, 4) if stage == "compare" else (0,)), done.stderr[-3000:] + done.stdout[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    need, _ = doctor.fits(DoctorConfig(config=str(config), base=hub))
    # The last rollout's; a row of the watch may come after it.
    rows = [row for row in runs.read_lines(root / stage / "metrics.jsonl") if "seconds_sampling" in row]
    steps = {name: round(own, 2) for name, own in (rows[-1] if rows else {}).items() if name.startswith("seconds_")}
    print(json.dumps({"size": size, "gpu": torch.cuda.get_device_name(0), **figures,
                      "reckoned_gb": round(need.total / 1e9, 2), **steps}), flush=True)
    return figures


def test_a_base_of_this_size_within_its_memory(home: tuple[Path, str]) -> None:
    """SFT, reward, DPO, PPO, generate and compare as the shipped configs have them, but for a few steps."""
    root, size = home
    start, most = f"model.path={root / 'sft'}", SIZES[size][2] - 1.5  # what the driver and a desktop hold
    found = [measured(home, "sft", f"model.path={root / 'base'}", *SHORT),
             measured(home, "reward", start, *SHORT),
             measured(home, "dpo", start, *SHORT),
             measured(home, "ppo", start, f"reward.path={root / 'reward'}", "train.rollouts=3", "train.save_every=3",
                      "train.critic_warmup=1", "train.target_approx_kl=null"),
             measured(home, "generate", start, "data.limit=16"),
             measured(home, "compare", f"compare.runs=[{root / 'sft'},{root / 'ppo'}]",
                      f"compare.reward={root / 'reward'}", "compare.limit=16")]
    assert max(one["peak_reserved_gb"] for one in found) < most
