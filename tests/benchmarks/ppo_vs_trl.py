"""PPO beside TRL's last PPOTrainer (1.12.0): episodes a second, memory above the loaded models, reward curves.

    make bench NAME=ppo_vs_trl

The peer has a virtual environment of its own, with our versions of all else. Both sides hold fp32 on a CPU, LoRA of
the same rank on the policy, and take the same batch and four epochs over it; sides alternate in processes of their
own, on one thread. Ratios are of CPU seconds inside the training loop and of the peak of resident memory above what
was resident when all models were loaded; medians over repeats. TRL gets the fastest of a small sweep of its sizes.

Time and memory: a Llama of 23 million random weights with a vocabulary of 32,000, prompts of 64 tokens, answers
whose lengths are drawn from 8 to 64, the same on both sides: random weights would never stop. SMALL=1 tries everything
quickly.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".venv" / "trl-1.12.0"
SMALL = "SMALL" in os.environ
VOCABULARY, PAD, END = 32_000, 0, 1
SHAPE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}  # 23M
ASKED, SHORTEST, LONGEST = 64, 8, 64  # tokens
EPISODES, EPOCHS, MICRO = (16 if SMALL else 64), 4, 8
RANK, ALPHA = 16, 32
SWEEP = [(8, 8), (8, 64), (16, 16)]  # TRL's micro-batches and how many it samples and judges together
REPEATS = 1 if SMALL else 3


def main() -> None:
    peer()
    with tempfile.TemporaryDirectory() as made:
        found = speed(Path(made))
    print(json.dumps(found))


def peer() -> None:
    """TRL 1.12.0, in an environment of its own, with the versions of everything else that we have."""
    if (PEER / "ready").exists():
        return
    print(f"installing trl 1.12.0 into {PEER.relative_to(ROOT)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("trl==")]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins))
        file.flush()
        subprocess.run([PEER / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint",
                        file.name, "trl==1.12.0", "peft", "torch", "transformers"], check=True)
    (PEER / "ready").touch()


def speed(root: Path) -> dict[str, Any]:
    job = child("ours", "worlds", {"root": str(root)})
    tried = {size: child("theirs", "timed", {**job, "micro": size[0], "rollout": size[1]}) for size in SWEEP}
    for size, one in tried.items():
        print(f"TRL with {size}: {told(one)}", flush=True)
    micro, rollout = min(tried, key=lambda size: tried[size]["seconds"])
    times, memory = [], []
    for turn in range(REPEATS):
        sides = [("ours", {**job, "micro": MICRO}), ("theirs", {**job, "micro": micro, "rollout": rollout})]
        got = {side: child(side, "timed", asked) for side, asked in (sides if turn % 2 else sides[::-1])}
        for side, one in got.items():
            print(f"{side}: {told(one)}", flush=True)
        times.append(got["theirs"]["seconds"] / got["ours"]["seconds"])
        memory.append(got["ours"]["peak"] / got["theirs"]["peak"])
    return {"speed_ratio": round(statistics.median(times), 2), "memory_ratio": round(statistics.median(memory), 3),
            "speed_ratios": [round(one, 2) for one in times], "memory_ratios": [round(one, 3) for one in memory]}


def told(one: dict[str, float]) -> str:
    return (f"{one['seconds']:.1f} CPU s, {EPISODES / one['wall']:.2f} episodes a second, "
            f"{one['peak'] / 2**20:.0f} MiB above the models' {one['loaded'] / 2**20:.0f}")


def child(side: str, what: str, job: dict[str, Any]) -> dict[str, Any]:
    """One side's work in a process of its own."""
    python = sys.executable if side == "ours" else PEER / "bin" / "python"
    done = subprocess.run([python, __file__, side, what], input=json.dumps(job), text=True, capture_output=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    return json.loads(done.stdout.splitlines()[-1])


def worlds(job: dict[str, Any]) -> dict[str, Any]:
    """The base, a reward on it as an adapter and as a whole model, and the prompts."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    root = Path(job["root"])
    words = ["<pad>", "<end>", "<unk>", *(f"w{n}" for n in range(3, VOCABULARY))]
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<end>",
                                        unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}<end>{% endfor %}"
    tokenizer.save_pretrained(root / "base")
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=256, tie_word_embeddings=False,
                                 pad_token_id=PAD, eos_token_id=END, bos_token_id=None,
                                 **SHAPE)).save_pretrained(root / "base")
    reward(root)
    draw = random.Random(0)
    prompts = [[draw.randrange(3, VOCABULARY) for _ in range(ASKED)] for _ in range(EPISODES)]
    return {"root": str(root), "prompts": prompts, "lengths": [draw.randint(SHORTEST, LONGEST) for _ in prompts]}


def reward(root: Path) -> None:
    """reward/: an adapter of random weights and a head; whole-reward/: the same merged, as transformers loads it."""
    import torch

    from prefloop import heads, models

    base = models.resolve(str(root / "base"))
    config = models.ModelConfig(path=str(root / "base"), lora_r=RANK, lora_alpha=ALPHA)
    model = models.add_adapter(models.load_base(base, config), "reward", None, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    models.save_adapter(model, "reward", root / "reward")
    head = heads.Head(SHAPE["hidden_size"], "last")
    head.save(root / "reward")
    whole(model, head, root)


def whole(model: Any, head: Any, root: Path) -> None:
    """The reward as one model with TRL's kind of head, which has no bias."""
    from transformers import AutoModelForSequenceClassification

    found = AutoModelForSequenceClassification.from_pretrained(root / "base", num_labels=1)
    merged = model.merge_and_unload()
    found.model.load_state_dict(merged.model.state_dict())
    found.score.weight.data.copy_(head.linear.weight / head.scale)
    found.save_pretrained(root / "whole-reward")


def timed(side: str, job: dict[str, Any]) -> dict[str, float]:
    import torch

    torch.manual_seed(0)
    train = (ours if side == "ours" else theirs)(job)
    loaded = memory(reset=True)
    began, clock = time.process_time(), time.monotonic()
    train()
    return {"seconds": time.process_time() - began, "wall": time.monotonic() - clock, "peak": memory() - loaded,
            "loaded": loaded}


def memory(reset: bool = False) -> int:
    """Bytes resident now (with `reset`, from where the peak is counted anew), or at the peak."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmRSS" if reset else "VmHWM"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def ours(job: dict[str, Any]) -> Any:
    """As the PPO stage makes its trainer; answers stop where they are told to."""
    from prefloop import generate, models, runs
    from prefloop.ppo import actors, settings, trainer

    asked = settings.PPOConfig(
        rollouts=1, episodes=EPISODES, ppo_epochs=EPOCHS, minibatches=1, micro_batch=job["micro"],
        sample_batch=EPISODES, max_prompt_tokens=ASKED, max_new_tokens=LONGEST, critic_warmup=0, warmup=0.0,
        learning_rate=1e-4, target_approx_kl=None)
    stops = {generate.row_seed(asked.seed, 0, n, 1): length for n, length in enumerate(job["lengths"])}
    uniforms, pick = generate.row_uniforms, generate.pick

    def marked(seeds: list[int], steps: int) -> Any:
        u_BT = uniforms(seeds, steps)
        for row, seed in enumerate(seeds):
            u_BT[row, stops[seed] - 1] = 2.0
        return u_BT

    def stopped(logits_BV: Any, u_B: Any, temperature: float) -> Any:
        return pick(logits_BV, u_B % 1, temperature).masked_fill(u_B == 2.0, END)

    generate.row_uniforms, generate.pick = marked, stopped
    root, run = Path(job["root"]), Path(tempfile.mkdtemp())
    base = models.resolve(str(root / "base"))
    made = actors.assemble(base, root / "reward",
                           models.ModelConfig(path=str(root / "base"), lora_r=RANK, lora_alpha=ALPHA), asked)
    own = trainer.Trainer(runs.Run(run, {"stage": "ppo", "status": "running"}), made, job["prompts"], asked, base)

    def train() -> None:
        figures = own.learn(own.collect())
        print(figures, file=sys.stderr)
        print((run / "metrics.jsonl").read_text(), file=sys.stderr)

    return train


def theirs(job: dict[str, Any]) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        LogitsProcessor,
        LogitsProcessorList,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # pyright: ignore[reportMissingImports]

    root = Path(job["root"])
    policy, value, judge = (kind.from_pretrained(root / name) for kind, name in (
        (AutoModelForCausalLM, "base"), (AutoModelForSequenceClassification, "whole-reward"),
        (AutoModelForSequenceClassification, "whole-reward")))
    asked = PPOConfig(
        output_dir=tempfile.mkdtemp(), total_episodes=EPISODES, per_device_train_batch_size=job["micro"],
        gradient_accumulation_steps=EPISODES // job["micro"], num_mini_batches=1, num_ppo_epochs=EPOCHS,
        local_rollout_forward_batch_size=job["rollout"], response_length=LONGEST, stop_token="eos", temperature=1.0,
        missing_eos_penalty=1.0, kl_coef=0.05, learning_rate=1e-4, bf16=False, gradient_checkpointing=False,
        use_cpu=True, num_sample_generations=0, save_strategy="no", report_to="none", disable_tqdm=True, seed=0)
    trainer = PPOTrainer(
        asked, AutoTokenizer.from_pretrained(root / "base"), policy, None, judge,
        Dataset.from_dict({"input_ids": job["prompts"]}), value, peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
        eval_dataset=Dataset.from_dict({"input_ids": job["prompts"][:1]}))

    class Stops(LogitsProcessor):
        """Only the end token, at the step where the row's answer is to end."""

        def __init__(self, lengths: list[int]) -> None:
            self.lengths = lengths

        def __call__(self, ids_BT: Any, logits_BV: Any) -> Any:
            for row, length in enumerate(self.lengths):
                if ids_BT.shape[1] - ASKED == length - 1:
                    logits_BV[row] = float("-inf")
                    logits_BV[row, END] = 0.0
            return logits_BV

    lengths, generate = list(job["lengths"]), policy.generate

    def stopped(*given: Any, **options: Any) -> Any:
        rows = len(options["input_ids"])
        own, lengths[:] = lengths[:rows], lengths[rows:]
        return generate(*given, logits_processor=LogitsProcessorList([Stops(own)]), **options)

    trainer.model.policy.generate = stopped
    return trainer.train


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        job = json.loads(sys.stdin.read())
        print(json.dumps(worlds(job) if sys.argv[2] == "worlds" else timed(sys.argv[1], job)))
