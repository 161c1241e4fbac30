"""DPO and online DPO on the demo's world, by its truth: `make bench NAME=dpo_truth`.

For each seed the demo's own stages up to the reward run, then DPO on the raters' pairs and online DPO on the policy's
own answers, ranked by the reward run; both against SFT on prompts that nobody trained on. Stages that are done are not
done again, so folders of `make demo` serve too. Last, what precomputed reference log-probabilities save: the same three
passes over the same pairs with and without, in CPU seconds of whole processes.

    python tests/benchmarks/dpo_truth.py [ROOT of seed 0] [ROOT of seed 1] ...      (default: runs/dpo_truth-0 to -2)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from prefloop.launch import demo

ONLINE = demo.CONFIGS / "online_dpo.yaml"
REPEATED = ("train.max_steps=-1", "train.num_train_epochs=3", "data.limit=320", "train.logging_steps=60")


def main() -> None:
    roots = [Path(word) for word in sys.argv[1:]] or [Path(f"runs/dpo_truth-{seed}") for seed in range(3)]
    found = {}
    for seed, root in enumerate(roots):
        place = demo.Place(root)
        learnt(place, seed)
        found[seed] = verdict(place, seed)
        print(json.dumps({seed: found[seed]}), flush=True)
    print(json.dumps({"seeds": found, "references": references(demo.Place(roots[0]))}))


def learnt(place: demo.Place, seed: int) -> None:
    """The demo's stages and online DPO, each unless it is done."""
    sft, data = f"model.path={place.run('sft')}", f"data.path={place.rankings}"
    if not place.asked.exists():
        place.root.mkdir(parents=True, exist_ok=True)
        demo.write_world(place, seed)
    if not done(place, "sft"):
        demo.stage("SFT", "sft", seed, place, f"model.path={demo.BASE}", f"data.path={place.demonstrations}")
    if not done(place, "generate"):
        demo.stage("answers", "generate", seed, place, sft, f"data.path={place.asked}")
    if not place.rankings.exists():
        demo.collect(place, seed)
        demo.stage("rankings", "snapshot", seed, place, f"snapshot.store={place.store}",
                   f"snapshot.out={place.rankings}")
    for stage in ("reward", "dpo"):
        if not done(place, stage):
            demo.stage(stage, stage, seed, place, sft, data)
    if not done(place, "online"):
        prefloop("dpo", str(ONLINE), sft, data, f"online.reward={place.run('reward')}", f"run.root={place.root}",
                 "run.name=online", f"train.seed={seed}")


def done(place: demo.Place, stage: str) -> bool:
    record = place.run(stage) / "run.json"
    return record.is_file() and json.loads(record.read_text(encoding="utf-8"))["status"] == "done"


def prefloop(*words: str, ok: tuple[int, ...] = (0,)) -> float:
    """Its CPU seconds."""
    process = subprocess.Popen([sys.executable, "-m", "prefloop.cli", *words])
    _, status, used = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in ok:
        raise SystemExit(f"prefloop {words[0]} ended with exit code {code}")
    return used.ru_utime + used.ru_stime


def verdict(place: demo.Place, seed: int) -> dict[str, object]:
    """Each against SFT by the truth, with the KL and the length that it took."""
    sft, others = str(place.run("sft")), [str(place.run(name)) for name in ("dpo", "online")]
    out = place.run("compare-dpo")
    if not (out / "report.json").is_file():
        prefloop("compare", str(demo.CONFIGS / "compare.yaml"), f"compare.runs=[{','.join([sft, *others])}]",
                 f"compare.reward={place.run('reward')}", f"data.path={place.held_out}", f"run.root={place.root}",
                 f"run.name={out.name}", f"sampling.seed={seed}", ok=(0, 3, 4))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    answered = demo.rows(out / "answers.jsonl")
    figures = {Path(name).name: asdict(demo.better(answered, sft, name, report["runs"][name])) for name in others}
    return {"sft_mean_truth": demo.mean_truth(answered, sft), "sft_fluent": demo.fluent(answered, sft), **figures}


def references(place: demo.Place) -> dict[str, float]:
    seconds = {}
    for name, said in (("in_every_step", "false"), ("once", "true")):
        run = f"references-{name}"
        seconds[name] = prefloop(
            "dpo", str(demo.CONFIGS / "dpo.yaml"), f"model.path={place.run('sft')}", f"data.path={place.rankings}",
            f"run.root={place.root}", f"run.name={run}-{os.getpid()}", *REPEATED,
            f"train.precompute_ref_log_probs={said}")
    return {**seconds, "saved": 1 - seconds["once"] / seconds["in_every_step"]}


if __name__ == "__main__":
    main()
