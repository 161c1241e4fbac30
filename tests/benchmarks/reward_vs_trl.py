"""An epoch over the same rankings: our reward trainer beside TRL's RewardTrainer on the expanded pairs.

    make bench NAME=reward_vs_trl

Both train a LoRA adapter and a head on the same Llama shape with the same lengths, in fp32, without gradient
checkpointing, on one thread. TRL gets its rows as token ids, and the fastest of a small sweep of batch sizes and of
sampling by length (it has no padding-free option). Sides alternate in processes of their own; a ratio is of the CPU
seconds inside `trainer.train()`, the median over repeats, and of the peak of resident memory above the loaded model's.

K=4: the real rankings of ../shared/data/finegrained_qa with the passages they were asked about; K=9: rankings made
by a planted reward (what words are worth, with Gumbel noise). Held-out accuracy is of a smaller shape, which an epoch
of either can be paid for: on planted rankings and on the real ones without the passages, in five splits (whose prompts
overlap, so that the interval is a little too narrow), each side at the best of the same learning rates. Without
../shared everything is planted. SMALL=1 tries everything quickly.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import combinations
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "finegrained_qa"
SMALL = "SMALL" in os.environ
BIG = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 12, "num_attention_heads": 6}  # 22M
LITTLE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
VOCABULARY, CONTEXT = 4096, int(os.environ.get("CONTEXT", 1024))
SWEEP = [(2, "random"), (8, "random")]  # TRL's batches of pairs, and how it draws them
SWEPT = {4: 8, 9: 16}  # pairs
REPEATS = 1 if SMALL else 3
TIMED = {4: 1, 9: 1} if SMALL else {4: 2, 9: 1}  # prompts of a timed epoch
SPLITS = 1 if SMALL else 5
RATES = (1e-3,) if SMALL else (5e-4, 1e-3, 2e-3)
WORDS = [a + b for a in ("ba", "ko", "ri", "su", "te", "lo", "mi", "du") for b in ("la", "mo", "ni", "pu", "re", "s")]

# A question: its prompt, its answers, and their ranks (1 is best).
Question = tuple[str, list[str], list[int]]


def planted(answers: int, count: int, asked: int, answered: int, seed: int) -> list[Question]:
    """Prompts of about `asked` words and answers of about `answered`; every word is worth something of its own, and a
    ranking is by the worth of the words and Gumbel noise (which makes it Plackett-Luce)."""
    draw, made = random.Random(seed), []
    worth = {word: draw.gauss(0, 1) for word in WORDS}
    for _ in range(count):
        prompt = " ".join(draw.choices(WORDS, k=draw.randint(asked // 2, 3 * asked // 2)))
        drawn = [draw.choices(WORDS, k=draw.randint(answered // 2, 3 * answered // 2)) for _ in range(answers)]
        felt = [3 * sum(worth[word] for word in words) / len(words) ** 0.5 - math.log(-math.log(draw.random()))
                for words in drawn]
        made.append((prompt, [" ".join(words) for words in drawn],
                     [1 + sum(other > own for other in felt) for own in felt]))
    return made


def real(passages: bool) -> list[Question]:
    """finegrained_qa: those of its votes that agree with one order, ties included."""
    sys.path.insert(0, str(ROOT))
    from prefloop.formats.ratings import order_of

    made: list[Question] = []
    for path in sorted(REAL.glob("*.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            row = json.loads(line)
            ranks = order_of({(i, j): {1: "a", 2: "b", 0: "tie"}[won] for i, j, won in row["pairs"]}, 4)
            if ranks and len(set(row["responses"])) == 4:
                passage = "\n".join(row["context"]) + "\n\n" if passages else ""
                made.append((passage + row["prompt"], row["responses"], list(ranks)))
    return made


def tokenizer_of(folder: Path, texts: Iterator[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|pad|>", "<|end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    made = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")
    made.save_pretrained(str(folder))
    return made


def base(folder: Path, shape: dict[str, Any], questions: list[Question]) -> Path:
    """A Llama of this shape with random weights, and a vocabulary of these texts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer_of(folder, (text for prompt, answers, _ in questions for text in (prompt, *answers)))
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
                                 pad_token_id=0, eos_token_id=1, bos_token_id=None, initializer_range=0.05,
                                 **shape)).save_pretrained(str(folder))
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        root, found = Path(made), {}
        for answers in (4, 9):
            found |= speed(root / f"k{answers}", answers)
        found |= accuracy(root, "planted", planted(4, 340, 16, 24, 2))
        if REAL.is_dir():
            found |= accuracy(root, "finegrained_qa", real(passages=False))
    print(json.dumps(found))


def speed(root: Path, answers: int) -> dict[str, Any]:
    genuine = answers == 4 and REAL.is_dir()
    questions = real(passages=True) if genuine else planted(answers, 40, 200, 100, 1)
    folder = base(root, BIG, questions)
    random.Random(0).shuffle(questions)
    job = {"base": str(folder), "train": fitting(folder, questions)[: TIMED[answers]], "test": [], "rate": 1e-4}
    told = lengths(folder, job["train"])
    print(f"K={answers}, {'finegrained_qa' if genuine else 'planted'}: {TIMED[answers]} prompts an epoch, {told}",
          flush=True)
    tried = {f"{size}, {order}": child("theirs", {**job, "size": size, "order": order, "pairs": SWEPT[answers]})
             for size, order in SWEEP}
    for name, one in tried.items():
        print(f"  TRL with batches of {name}: {one['seconds'] / one['rows'] * 1e3:.0f} CPU ms a pair", flush=True)
    best = min(tried, key=lambda name: tried[name]["seconds"] / tried[name]["rows"])
    size, order = SWEEP[list(tried).index(best)]
    times, memory = [], []
    for turn in range(REPEATS):
        sides = [("ours", {**job, "size": 2, "order": "random"}), ("theirs", {**job, "size": size, "order": order})]
        got = {side: child(side, asked) for side, asked in (sides if turn % 2 else sides[::-1])}
        times.append(got["theirs"]["seconds"] / got["ours"]["seconds"])
        memory.append(got["ours"]["peak"] / got["theirs"]["peak"])
        for side, one in got.items():
            print(f"  {side}: {one['seconds']:.1f} CPU s, {one['peak'] / 2**20:.0f} MiB above the model", flush=True)
    return {f"speed_ratio_k{answers}": round(statistics.median(times), 2),
            f"memory_ratio_k{answers}": round(statistics.median(memory), 3),
            f"speed_ratios_k{answers}": [round(one, 2) for one in times], f"trl_best_k{answers}": best,
            f"lengths_k{answers}": told}


def accuracy(root: Path, name: str, questions: list[Question]) -> dict[str, Any]:
    """Of the small shape, on other prompts than it learned from; two trainings at a time, for they are not timed."""
    folder = base(root / name, LITTLE, questions)
    questions = fitting(folder, questions)[: 60 if SMALL else None]
    jobs: dict[tuple[str, float, int], dict[str, Any]] = {}
    for split in range(SPLITS):
        shuffled = random.Random(split).sample(questions, len(questions))
        cut = 3 * len(shuffled) // 4
        # About as many pairs a step, and both heads read the last token.
        for side, size in (("ours", 1), ("theirs", 8)):
            jobs |= {(side, rate, split): {
                "base": str(folder), "train": shuffled[:cut], "test": shuffled[cut:], "seed": split, "size": size,
                "order": "random", "rate": rate, "head": {"pooling": "last"}} for rate in RATES}
    with ThreadPool(2) as pool:
        got = dict(zip(jobs, pool.map(lambda key: child(key[0], jobs[key])["accuracy"], jobs), strict=True))
    means = {(side, rate): statistics.mean(got[side, rate, split] for split in range(SPLITS))
             for side in ("ours", "theirs") for rate in RATES}
    best = {side: max(RATES, key=lambda rate, side=side: means[side, rate]) for side in ("ours", "theirs")}
    gains = [got["ours", best["ours"], split] - got["theirs", best["theirs"], split] for split in range(SPLITS)]
    for (side, rate), mean in means.items():
        print(f"{name}: {side} at a rate of {rate:g}, held-out accuracy {mean:.4f}", flush=True)
    half = 1.96 * statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else math.nan
    mean = statistics.mean(gains)
    label = "" if name == "finegrained_qa" else f"_{name}"
    return {f"accuracy{label}": round(means["ours", best["ours"]], 4),
            f"accuracy_trl{label}": round(means["theirs", best["theirs"]], 4),
            f"accuracy_gain{label}": round(mean, 4), f"accuracy_gains{label}": [round(one, 4) for one in gains],
            f"accuracy_interval{label}": [round(mean - half, 4), round(mean + half, 4)]}


def fitting(folder: Path, questions: list[Question]) -> list[Question]:
    """Those whose answers the base can read."""
    chat = chat_of(folder)
    return [one for one in questions
            if max(len(chat.answer_ids(text)) for text in one[1]) + len(prompt_ids(chat, one[0])) <= CONTEXT]


def lengths(folder: Path, questions: list[Question]) -> str:
    chat = chat_of(folder)
    prompts = [len(prompt_ids(chat, prompt)) for prompt, _, _ in questions]
    answers = [len(chat.answer_ids(text)) for _, texts, _ in questions for text in texts]
    return f"prompts of {statistics.mean(prompts):.0f} tokens on average, answers of {statistics.mean(answers):.0f}"


def chat_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    from prefloop.chat import Chat

    return Chat(AutoTokenizer.from_pretrained(str(folder)))


def prompt_ids(chat: Any, text: str) -> list[int]:
    from prefloop.records import Message, Prompt

    return chat.prompt_ids(Prompt((Message("user", text),)))


def child(side: str, job: dict[str, Any]) -> dict[str, float]:
    """One training in a process of its own."""
    done = subprocess.run([sys.executable, __file__, side], input=json.dumps(job), text=True, capture_output=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def train(side: str) -> None:
    """Inside a child: its training, and CPU seconds, bytes above the loaded model, and held-out accuracy of it."""
    job = json.loads(sys.stdin.read())
    import torch

    torch.manual_seed(job.get("seed", 0))
    trainer, rows, score = (ours if side == "ours" else theirs)(job)
    before = memory(reset=True)
    began = time.process_time()
    trainer.train()
    told = {"seconds": time.process_time() - began, "peak": memory() - before, "rows": rows}
    if job["test"]:
        told["accuracy"] = held_out(job["test"], score)
    print(json.dumps(told))


def memory(reset: bool = False) -> int:
    """Bytes resident now (with `reset`, from where the peak is counted anew), or at the peak."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    name = "VmRSS" if reset else "VmHWM"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def held_out(questions: list[Question], score: Any) -> float:
    """The share of decided pairs ordered right (ties half), averaged over prompts."""
    found = []
    for prompt, answers, ranks in questions:
        scores = score(prompt, answers)
        pairs = [(i, j) if ranks[i] < ranks[j] else (j, i)
                 for i, j in combinations(range(len(ranks)), 2) if ranks[i] != ranks[j]]
        right = [(scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]) for i, j in pairs]
        found += [sum(right) / len(right)] if right else []
    return statistics.mean(found)


def arguments(job: dict[str, Any]) -> Any:
    from trl import RewardConfig

    return RewardConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=job["size"], num_train_epochs=1, max_length=CONTEXT,
        learning_rate=job["rate"], train_sampling_strategy=job["order"], length_column_name="length", use_cpu=True,
        bf16=False, gradient_checkpointing=False, save_strategy="no", report_to="none", disable_tqdm=True,
        logging_strategy="no", dataloader_pin_memory=False, seed=job.get("seed", 0))


def ours(job: dict[str, Any]) -> tuple[Any, int, Any]:
    """As the reward stage makes its trainer, without a run folder."""
    from prefloop import config, models
    from prefloop.records import Message, Prompt, Ranking, Response
    from prefloop.reward import gradient, settings
    from prefloop.reward.criterion import Criterion, says
    from prefloop.reward.groups import collated, encoded
    from prefloop.reward.judgements import gathered
    from prefloop.reward.trainer import RankingTrainer, RewardModel

    asked = settings.built(config.Asked("reward", {
        "model": {"path": job["base"]}, "data": {"path": "-"}, "loss": job.get("loss", {}),
        "head": job.get("head", {}), "train": {"max_length": CONTEXT}}))
    kind = gradient.begun(asked, models.resolve(job["base"]))
    rankings = [Ranking(Prompt((Message("user", prompt),)), tuple(map(Response, answers)), tuple(ranks), "all")
                for prompt, answers, ranks in job["train"]]
    groups = encoded(kind.rows, gathered(rankings), lambda one: says(asked.loss, ["overall"], one)).groups
    reader = kind.begin(asked.head, job.get("seed", 0), CONTEXT)
    model = RewardModel(reader, Criterion(asked.loss, ["overall"], groups))
    trainer = RankingTrainer(model, arguments(job), train_dataset=groups,
                             data_collator=lambda rows: {"batch": collated(rows, ["overall"])})

    def score(prompt: str, answers: list[str]) -> list[float]:
        scorer = kind.scorer(reader.eval())
        return scorer.score([(Prompt((Message("user", prompt),)), text) for text in answers]).mean_N.tolist()

    return trainer, len(groups), score


def theirs(job: dict[str, Any]) -> tuple[Any, int, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardTrainer

    chat = chat_of(Path(job["base"]))
    rows = []
    for prompt, answers, ranks in job["train"]:
        asked, ids = prompt_ids(chat, prompt), [chat.answer_ids(text) for text in answers]
        rows += [{"chosen_ids": asked + ids[i], "rejected_ids": asked + ids[j],
                  "length": len(asked) + max(len(ids[i]), len(ids[j]))}
                 for i in range(len(ids)) for j in range(len(ids)) if ranks[i] < ranks[j]]
    model = AutoModelForSequenceClassification.from_pretrained(job["base"], num_labels=1, dtype=torch.float32)
    random.Random(0).shuffle(rows)
    rows = rows[: job.get("pairs")]
    trainer: Any = RewardTrainer(model, arguments(job), train_dataset=Dataset.from_list(rows),
                            processing_class=AutoTokenizer.from_pretrained(job["base"]), peft_config=LoraConfig(
                                r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear",
                                modules_to_save=["score"], task_type="SEQ_CLS"))

    @torch.no_grad()
    def score(prompt: str, answers: list[str]) -> list[float]:
        trainer.model.eval()
        asked = prompt_ids(chat, prompt)
        return [float(trainer.model(input_ids=torch.tensor([asked + chat.answer_ids(text)])).logits[0, 0])
                for text in answers]

    return trainer, len(rows), score


if __name__ == "__main__":
    train(sys.argv[1]) if len(sys.argv) > 1 else main()
