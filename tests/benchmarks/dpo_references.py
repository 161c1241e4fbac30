"""What reference log-probabilities that are made once save DPO: `make bench NAME=dpo_references`.

The demo's base, pairs of its own demonstrations, three passes over them; once with the reference in every step, once
with it before training. In CPU seconds of training, start and end of the process left out: those of a run with a tenth
of the pairs are taken off, and what is left is of nine tenths.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from prefloop.formats import snapshot
from prefloop.launch import demo
from prefloop.launch.world import grammar
from prefloop.records import Ranking, Response

PAIRS, EPOCHS = 320, 3


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = write_pairs(Path(folder) / "data")
        seconds = {name: trained(Path(folder), data, said, PAIRS) - trained(Path(folder), data, said, PAIRS // 10)
                   for name, said in (("in_every_step", "false"), ("once", "true"))}
    print(json.dumps({"pairs": PAIRS, "epochs": EPOCHS, "cpu_seconds": seconds,
                      "saved": 1 - seconds["once"] / seconds["in_every_step"]}))


def write_pairs(folder: Path) -> Path:
    """Each demonstration's answer above that of the next, which is to another prompt."""
    own = [one for one in grammar.demonstrations(2 * PAIRS, 1) if one.prompt.split == "train"]
    rankings = [Ranking(one.prompt, (Response(one.answer), Response(other.answer)), (1, 2), "nobody")
                for one, other in pairwise(own) if one.answer != other.answer]
    return snapshot.write(folder, rankings)


def trained(root: Path, data: Path, said: str, pairs: int) -> float:
    """CPU seconds of one run."""
    words = ["dpo", str(demo.CONFIGS / "dpo.yaml"), f"model.path={demo.BASE}", f"data.path={data}", f"run.root={root}",
             f"data.limit={pairs}", "data.majority=false", "train.max_steps=-1", f"train.num_train_epochs={EPOCHS}",
             f"train.precompute_ref_log_probs={said}"]
    process = subprocess.Popen([sys.executable, "-m", "prefloop.cli", *words], stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"prefloop dpo ended with exit code {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
