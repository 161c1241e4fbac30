"""PPO beside TRL's last PPOTrainer (1.12.0): episodes a second, memory above the loaded models, reward curves.

    make bench NAME=ppo_vs_trl

The peer has a virtual environment of its own, with our versions of all else. Both sides hold fp32 on a CPU, LoRA of
the same rank on the policy, and take the same batch and four epochs over it; sides alternate in processes of their
own, on one thread. Ratios are of CPU seconds inside the training loop and of the peak of resident memory above what
was resident when all models were loaded; medians over repeats. TRL gets the fastest of a small sweep of its sizes.

Time and memory: a Llama of 23 million random weights with a vocabulary of 32,000, prompts of 64 tokens, answers
whose lengths are drawn from 8 to 64, the same on both sides: random weights would never stop.

Reward: the demo's small base, which ends its answers by itself, and a reward model trained on rankings by the world's
truth. Both sides learn from as many episodes of the same prompts, each at several learning rates; the policies that
come out answer held-out prompts, and the same reward model scores them. A side's figure is that of its best rate.
SMALL=1 tries everything quickly.
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
SHAPE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
                         "num_attention_heads": 4}  # 23M
ASKED, SHORTEST, LONGEST = 64, 8, 64  # tokens
EPISODES, EPOCHS, MICRO = (16 if SMALL else 64), 4, 8
RANK, ALPHA = 16, 32
SWEEP = [(8, 8), (16, 64)]  # TRL's micro-batches and how many it samples and judges together
REPEATS = 1 if SMALL else 3
WORLD = ROOT / "launch" / "world" / "base"
LEARNT, ROLLOUTS, HELD_OUT = 64, 2 if SMALL else 16, 200  # episodes of a rollout, rollouts, prompts judged on
ANSWER, RANKINGS = 96, 200 if SMALL else 800  # tokens at most; prompts that the reward is trained on
RATES = (1e-3,) if SMALL else (1e-3, 3e-3, 6e-3)


def main() -> None:
    peer()
    with tempfile.TemporaryDirectory() as made:
        found = speed(Path(made) / "speed") | curves(Path(made) / "curves")
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


def curves(root: Path) -> dict[str, Any]:
    job = child("ours", "learnable", {"root": str(root)})
    best: dict[str, dict[str, Any]] = {}
    for side in ("ours", "theirs"):
        for rate in RATES:
            made = child(side, "learn", {**job, "rate": rate, "out": str(root / f"{side}-{rate}")})
            one = {"rate": rate, **made, **child("ours", "judge", {**job, "policy": str(root / f"{side}-{rate}")})}
            print(f"{side} at {rate:g}: held-out reward {one['reward']:.3f}, KL {one['kl']:.1f}, ended "
                  f"{one['ended']:.0%}; by rollout {' '.join(f'{score:.2f}' for score in one['scores'])}", flush=True)
            best[side] = max(best.get(side, one), one, key=lambda one: one["reward"])
    return {f"{name}_{label}": round(best[side][name], 3) for side, label in (("ours", "ours"), ("theirs", "trl"))
            for name in ("reward", "kl", "rate")} | {"reward_before": round(job["before"], 3)}


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
    random_reward(root)
    draw = random.Random(0)
    prompts = [[draw.randrange(3, VOCABULARY) for _ in range(ASKED)] for _ in range(EPISODES)]
    return {"root": str(root), "prompts": prompts, "lengths": [draw.randint(SHORTEST, LONGEST) for _ in prompts]}


def random_reward(root: Path) -> None:
    """reward/: a reward run of random weights, as its stage would leave it; whole-reward/: the same for TRL."""
    import torch

    from prefloop import checkpoints, heads, models

    base = models.resolve(str(root / "base"))
    config = models.ModelConfig(path=str(root / "base"), lora_r=RANK, lora_alpha=ALPHA)
    model = models.add_adapter(models.load_base(base, config), "reward", None, config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    models.save_adapter(model, "reward", root / "reward" / "final")
    heads.Head(SHAPE["hidden_size"], "last").save(root / "reward" / "final")
    models.save_tokenizer(models.load_chat(base), root / "reward" / "final")
    models.seal(root / "reward" / "final", base, "reward")
    checkpoints.write_json(root / "reward" / "run.json", {"stage": "reward", "status": "done"})
    whole_reward(root)


def whole_reward(root: Path) -> None:
    """The reward run as one model with TRL's kind of head, which has no bias: its scores lack a constant."""
    from transformers import AutoModelForSequenceClassification

    from prefloop import heads, models

    base, config = models.resolve(str(root / "base")), models.ModelConfig(path=str(root / "base"))
    model: Any = models.add_adapter(models.load_base(base, config), "reward", root / "reward" / "final", config)
    found = AutoModelForSequenceClassification.from_pretrained(root / "base", num_labels=1)
    found.model.load_state_dict(model.merge_and_unload().model.state_dict())
    head = heads.Head.load(root / "reward" / "final", models.device()).folded()
    found.score.weight.data.copy_(head.linear.weight)
    found.save_pretrained(root / "whole-reward")


def learnable(job: dict[str, Any]) -> dict[str, Any]:
    """The demo's base, a reward run on it, and prompts; beside them the reward of the base itself."""
    import shutil
    from random import Random

    from prefloop import cli, models
    from prefloop.formats import snapshot
    from prefloop.launch.world import grammar
    from prefloop.records import Ranking, Response

    root, rng = Path(job["root"]), Random(0)
    shutil.copytree(WORLD, root / "base")
    rankings = []
    for prompt in grammar.prompts(RANKINGS, 1):
        answers = sorted({grammar.sample_answer(grammar.request_of(prompt), grammar.CORPUS, rng) for _ in range(4)})
        worth = [grammar.truth(prompt, answer) for answer in answers]
        if len(set(worth)) > 1:
            ranks = tuple(1 + sum(other > own for other in worth) for own in worth)
            rankings.append(Ranking(prompt, tuple(map(Response, answers)), ranks, "truth"))
    snapshot.write(root / "rankings", rankings, source="simulated world")
    assert cli.main([
        "reward", str(ROOT / "configs" / "demo" / "reward.yaml"), f"model.path={root / 'base'}",
        f"data.path={root / 'rankings'}", f"run.root={root}", "run.name=reward", "head.pooling=last",
        "head.likelihood=false", f"model.lora_r={RANK}", f"model.lora_alpha={ALPHA}"]) == 0
    whole_reward(root)
    chat = models.load_chat(models.resolve(str(root / "base")))
    asked = [chat.prompt_ids(prompt) for prompt in grammar.prompts(1000 + HELD_OUT, 2)]
    asked = [ids for ids in asked if len(ids) <= 128]
    told = {"root": str(root), "prompts": asked[HELD_OUT:], "held_out": asked[:HELD_OUT]}
    return {**told, "before": judge({**told, "policy": ""})["reward"]}


def judge(job: dict[str, Any]) -> dict[str, float]:
    """Held-out reward, KL from the base and share of answers that ended, of one saved policy (none: the base)."""
    from prefloop import generate, heads, models, passes

    root = Path(job["root"])
    base, config = models.resolve(str(root / "base")), models.ModelConfig(path=str(root / "base"))
    chat, prompts = models.load_chat(base), job["held_out"]
    model = models.add_adapter(models.load_base(base, config), "reward", root / "reward" / "final", config)
    if job["policy"]:
        models.add_adapter(model, "policy", Path(job["policy"]), config)
    role, model = "policy" if job["policy"] else None, model.eval()
    with passes.acting(model, role):
        answers = generate.sample(model, prompts, list(range(len(prompts))), ANSWER, 1.0, chat.end_id, chat.pad_id)
    rows, starts = [a + b for a, b in zip(prompts, answers, strict=True)], list(map(len, prompts))
    own, before = (passes.total_logprobs(model, who, rows, starts, chat.pad_id) for who in (role, None))
    head = heads.Head.load(root / "reward" / "final", models.device())
    return {"reward": float(heads.score(model, head, "reward", rows, starts, chat.pad_id).mean()),
            "kl": float((own - before).mean()), "ended": statistics.mean(row[-1] == chat.end_id for row in rows)}


def learn(side: str, job: dict[str, Any]) -> dict[str, Any]:
    """Train one policy and save it; the mean score of each rollout (TRL's less its constant and its penalty)."""
    if side == "theirs":
        trainer = their_trainer(job, LEARNT, ROLLOUTS, ANSWER, job["rate"])
        trainer.train()
        trainer.model.policy.save_pretrained(job["out"])
        return {"scores": [float(row["objective/scores"]) for row in trainer.state.log_history
                           if "objective/scores" in row]}
    from prefloop import models
    from prefloop.ppo import settings

    trainer = our_trainer(Path(job["root"]), job["prompts"], settings.PPOConfig(
        rollouts=ROLLOUTS, episodes=LEARNT, ppo_epochs=EPOCHS, minibatches=1, micro_batch=16, sample_batch=LEARNT,
        max_prompt_tokens=128, max_new_tokens=ANSWER, critic_warmup=0, warmup=0.0, learning_rate=job["rate"],
        critic_learning_rate=job["rate"], reward_clip=100.0, target_approx_kl=None))
    scores = [trainer.learn(trainer.collect())["score"] for _ in range(ROLLOUTS)]
    models.save_adapter(trainer.actors.model, trainer.actors.policy, Path(job["out"]))
    return {"scores": scores}


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
    from prefloop import generate
    from prefloop.ppo import settings

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
    own = our_trainer(Path(job["root"]), job["prompts"], asked)

    def train() -> None:
        assert own.learn(own.collect())["length"] == statistics.mean(job["lengths"])

    return train


def our_trainer(root: Path, prompts: list[list[int]], asked: Any) -> Any:
    from prefloop import models, runs
    from prefloop.ppo import actors, judging, trainer
    from prefloop.ppo.watch import Watch, WatchConfig

    base = models.resolve(str(root / "base"))
    made = actors.assemble(base, judging.found_at(str(root / "reward"), base, "reward.path"), None,
                           models.ModelConfig(path=str(root / "base"), lora_r=RANK, lora_alpha=ALPHA), asked, {})
    run = runs.Run(Path(tempfile.mkdtemp()), {"stage": "ppo", "status": "running"})
    return trainer.Trainer(run, made, prompts, asked, base, Watch(WatchConfig(every=None), []))


def theirs(job: dict[str, Any]) -> Any:
    from transformers import LogitsProcessor, LogitsProcessorList

    trainer = their_trainer(job, EPISODES, 1, LONGEST, 1e-4)

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

    lengths, generate = list(job["lengths"]), trainer.model.policy.generate

    def stopped(*given: Any, **options: Any) -> Any:
        rows = len(options["input_ids"])
        own, lengths[:] = lengths[:rows], lengths[rows:]
        return generate(*given, logits_processor=LogitsProcessorList([Stops(own)]), **options)

    trainer.model.policy.generate = stopped
    return trainer.train


def their_trainer(job: dict[str, Any], episodes: int, rollouts: int, longest: int, rate: float) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # pyright: ignore[reportMissingImports]

    root, micro = Path(job["root"]), job.get("micro", 16)
    policy, value, judge = (kind.from_pretrained(root / name) for kind, name in (
        (AutoModelForCausalLM, "base"), (AutoModelForSequenceClassification, "whole-reward"),
        (AutoModelForSequenceClassification, "whole-reward")))
    asked = PPOConfig(
        output_dir=tempfile.mkdtemp(), total_episodes=rollouts * episodes, per_device_train_batch_size=micro,
        gradient_accumulation_steps=episodes // micro, num_mini_batches=1, num_ppo_epochs=EPOCHS,
        local_rollout_forward_batch_size=job.get("rollout", episodes), response_length=longest, stop_token="eos",
        temperature=1.0, missing_eos_penalty=1.0, kl_coef=0.05, learning_rate=rate, bf16=False,
        gradient_checkpointing=False, use_cpu=True, num_sample_generations=0, save_strategy="no", report_to="none",
        disable_tqdm=True, logging_steps=1, seed=0)
    return PPOTrainer(
        asked, AutoTokenizer.from_pretrained(root / "base", padding_side="left"), policy, None, judge,
        Dataset.from_dict({"input_ids": job["prompts"]}), value, peft_config=LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
        eval_dataset=Dataset.from_dict({"input_ids": job["prompts"][:1]}))


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        side, what, job = sys.argv[1], sys.argv[2], json.loads(sys.stdin.read())
        works = {"worlds": worlds, "learnable": learnable, "judge": judge, "timed": lambda job: timed(side, job),
                 "learn": lambda job: learn(side, job)}
        print(json.dumps(works[what](job)))
