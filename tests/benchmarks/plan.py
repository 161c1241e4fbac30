"""What `prefloop plan` foretells against what happens: peak memory by phase, and seconds.

    make bench NAME=plan

Bases of three shapes with random weights; each stage by a small config in a fresh process, on one thread. Memory is
the peak of resident memory above what was resident once everything was imported, phase by phase (the kernel's own
mark, set back at each change of phase). Seconds are CPU seconds, foretold and measured, of a step or a rollout. The
last line has foretold / measured, of the highest peak and of the seconds of a turn, for each stage and shape. SMALL=1
tries the smallest shape alone.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SMALL = "SMALL" in os.environ
SHAPES: dict[str, dict[str, Any]] = {  # of 4, 20 and 98 million weights
    "4M": {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
           "num_key_value_heads": 2, "vocab_size": 4096},
    "20M, 32k vocabulary": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
                            "num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 32000},
    "98M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12,
            "num_key_value_heads": 12, "vocab_size": 8192},
}
PROMPTS, ASKED, ANSWERED = 48, 60, 60  # rows, and words of a prompt and of an answer; a word is a token
TRAINED = ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2", "train.max_steps=3",
           "train.logging_steps=1", "train.save_steps=3", "train.max_length=256")
STAGES = {
    "sft": TRAINED,
    "reward": TRAINED,
    "dpo": TRAINED,
    "ppo": ("train.rollouts=2", "train.episodes=16", "train.ppo_epochs=2", "train.minibatches=2",
            "train.micro_batch=4", "train.sample_batch=16", "train.max_prompt_tokens=128", "train.max_new_tokens=64",
            "train.critic_warmup=0", "train.target_approx_kl=null", "train.save_every=2"),
    "generate": ("sampling.answers=1", "sampling.max_new_tokens=64", "sampling.batch=16", "data.limit=32"),
}


def main() -> None:
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        for name, shape in list(SHAPES.items())[: 1 if SMALL else None]:
            root = Path(made) / str(len(found))
            write_base(root / "base", shape)
            write_data(root / "data", shape["vocab_size"])
            for stage in STAGES:
                one = compared(root, stage)
                print(json.dumps({"shape": name, "stage": stage, **one}), flush=True)
                found[f"{stage} {name}"] = {"memory_ratio": one["memory_ratio"], "seconds_ratio": one["seconds_ratio"]}
    within = {what: sum(1 / far <= one[what] <= far for one in found.values()) for what, far in
              (("memory_ratio", 1.25), ("seconds_ratio", 2.0))}
    print(json.dumps({"foretold_to_measured": found, "of": len(found),
                      "memory_within_a_quarter": within["memory_ratio"],
                      "seconds_within_twice": within["seconds_ratio"]}))


def compared(root: Path, stage: str) -> dict[str, Any]:
    """The plan of a stage beside its run."""
    base = root / ("base" if stage == "sft" else "sft")
    words = [f"model.path={base}", f"data.path={root / 'data'}", f"run.root={root}", f"run.name={stage}",
             *STAGES[stage], *([f"reward.path={root / 'reward'}"] if stage == "ppo" else [])]
    foretold, found = in_process("foretell", stage, *words), in_process("run", stage, *words)
    peaks, turn = found["peaks_mb"], sum(found["seconds"].values())
    return {"foretold": foretold, "measured": found,
            "memory_ratio": round(max(foretold["peaks_mb"].values()) / max(peaks.values()), 2),
            "seconds_ratio": round(sum(foretold["seconds"].values()) / turn, 2)}


def in_process(*words: str) -> dict[str, Any]:
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run([sys.executable, __file__, *words], env=alone, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def write_base(folder: Path, shape: dict[str, Any]) -> None:
    """A Llama of this shape, in fp32, and a tokenizer that has a token for each word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {"<pad>": 0, "<end>": 1, "<unk>": 2, **{f"w{n}": n for n in range(3, shape["vocab_size"])}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<pad>", unk_token="<unk>"
                            ).save_pretrained(str(folder))
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(max_position_embeddings=512, tie_word_embeddings=False, pad_token_id=0,
                                 bos_token_id=None, eos_token_id=1, **shape)).save_pretrained(str(folder))


def write_data(folder: Path, vocabulary: int) -> None:
    from prefloop.formats import snapshot
    from prefloop.records import Demonstration, Message, Prompt, Ranking, Response

    draw = random.Random(0)

    def text(about: int) -> str:
        return " ".join(f"w{draw.randrange(3, vocabulary)}" for _ in range(draw.randint(about // 2, 3 * about // 2)))

    prompts = [Prompt((Message("user", text(ASKED)),)) for _ in range(PROMPTS)]
    rankings = [Ranking(prompt, tuple(Response(text(ANSWERED)) for _ in range(4)), (1, 2, 3, 4), "rater")
                for prompt in prompts]
    snapshot.write(folder, rankings, [Demonstration(prompt, text(ANSWERED)) for prompt in prompts])


class Watch:
    """Peaks of resident memory and CPU seconds, by phase. Phases nest: what the inner one takes is not the outer's."""

    def __init__(self) -> None:
        self.phases = ["other"]
        self.peaks: dict[str, float] = {}
        self.seconds: dict[str, list[float]] = {}
        self.inner = [0.0]
        self.imported = self.mark("VmRSS")
        self.forget()

    @staticmethod
    def mark(name: str) -> float:
        with open("/proc/self/status") as file:
            return next(1024.0 * int(line.split()[1]) for line in file if line.startswith(f"{name}:"))

    @staticmethod
    def forget() -> None:
        Path("/proc/self/clear_refs").write_text("5")

    def note(self) -> None:
        here = self.phases[-1]
        self.peaks[here] = max(self.peaks.get(here, 0.0), self.mark("VmHWM") - self.imported)
        self.forget()

    def watch(self, owner: Any, name: str, phase: str) -> None:
        work: Callable[..., Any] = getattr(owner, name)

        def watched(*args: Any, **named: Any) -> Any:
            self.note()
            self.phases.append(phase)
            self.inner.append(0.0)
            began = time.process_time()
            try:
                return work(*args, **named)
            finally:
                whole = time.process_time() - began
                self.seconds.setdefault(" ".join(self.phases[1:]), []).append(whole - self.inner.pop())
                self.inner[-1] += whole
                self.note()
                self.phases.pop()

        setattr(owner, name, watched)


def run(stage: str, *words: str) -> None:
    """One stage under watch; its last line has what it took."""
    import datasets  # noqa: F401
    import torch._dynamo
    import torch.utils.checkpoint  # noqa: F401
    import trl  # noqa: F401
    from transformers import LlamaForCausalLM, Trainer  # noqa: F401
    from trl import DPOTrainer, SFTTrainer  # noqa: F401

    import prefloop.ppo.trainer as ppo
    from prefloop import cli, generate, models
    from prefloop.ppo.update import Learner

    cli.import_module(cli.COMMANDS[stage][0])
    watch = Watch()
    watch.watch(models, "load_base", "loading")
    watch.watch(generate, "sample", "sampling")
    watch.watch(Trainer, "training_step", "updating")
    watch.watch(Learner, "update", "updating")
    watch.watch(ppo, "collect", "scoring")
    watch.watch(models, "check_reload", "saving")
    code = cli.main([stage, *words])
    watch.note()
    print(json.dumps({"peaks_mb": {name: round(peak / 1e6) for name, peak in watch.peaks.items()},
                      "seconds": turn_of(stage, watch.seconds)}))
    sys.exit(code)


def turn_of(stage: str, seconds: dict[str, list[float]]) -> dict[str, float]:
    """CPU seconds by phase of an optimizer step, a rollout, or all answers."""
    if stage == "generate":
        return {"sampling": sum(seconds["sampling"])}
    if stage == "ppo":
        rollouts = len(seconds["scoring"])
        return {name: sum(seconds[key]) / rollouts for name, key in
                (("sampling", "scoring sampling"), ("scoring", "scoring"), ("updating", "updating"))}
    return {"updating": 2 * statistics.median(seconds["updating"])}  # two micro-batches to a step


def foretell(stage: str, *words: str) -> None:
    import torch

    from prefloop import config, pace, plan

    case = plan.case_of(Path(f"{stage}.yaml"), config.read(stage, None, list(words)).sections, stage, "", gpu=False)
    machine = pace.probe(case.shape, case.held, case.load.sampled, torch.device("cpu"), clock=time.process_time)
    timed = plan.paced(case, machine)
    phases = ("sampling", "scoring", "updating")
    print(json.dumps({"peaks_mb": {name: round(held / 1e6) for name, held in case.need.phases.items()},
                      "seconds": {name: getattr(timed, name) for name in phases if getattr(timed, name)},
                      "machine": {"dense": machine.dense / 1e9, "narrow": machine.narrow / 1e9,
                                  "numbers": machine.numbers / 1e9, "call": machine.call * 1e6}}))


if __name__ == "__main__":
    {"run": run, "foretell": foretell}[sys.argv[1]](*sys.argv[2:]) if sys.argv[1:] else main()
