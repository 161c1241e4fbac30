"""Pretrains the demo's tiny base from scratch: a tokenizer, a chat template and a Llama, all from the world's grammar.

    python -m prefloop.launch.world.pretrain --out launch/world/base

The same seed and thread count give the same weights. The demo does not run this: the result ships with the project.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from random import Random
from statistics import mean, stdev
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prefloop.records import Demonstration, Prompt

from .grammar import PRIMER, Parsed, corpus, fact_of, on_topic, parse, prompts, reply, request_of, truth

PAD, END = "<|pad|>", "<|end|>"
ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message['role'] + '|>' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|end|>' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
HELD_OUT_SEED = 1_000_003


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    steps: int = 7000
    batch: int = 16
    # The share of the steps that reads the primer: without it the links to the prompt took far longer to form.
    primer: float = 0.1
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.05
    vocabulary: int = 1024
    hidden: int = 192
    layers: int = 3
    heads: int = 6
    intermediate: int = 512
    # About 1 / sqrt(hidden). With the usual 0.02 a model this small had not begun to read its prompt after 700 steps.
    initial_sd: float = 0.08
    # Half of the conversations go on with the customer's next turn, often a remark on the answer. Its loss trains the
    # position of <|end|>, which a loss on answers alone would leave as it was born, and teaches what answers lack.
    reply_share: float = 0.5
    reply_weight: float = 0.5


def train_tokenizer(recipe: Recipe) -> PreTrainedTokenizerFast:
    """A byte-level BPE: most words of the world are one token, and any other text still has some tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = (text for d in corpus(20_000, recipe.seed)
             for text in (*(m.content for m in d.prompt.messages), d.answer))
    bpe.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=recipe.vocabulary, special_tokens=[PAD, END, *ROLES.values()], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=END, extra_special_tokens=list(ROLES.values()),
        model_max_length=512, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    return int(tokenizer.backend_tokenizer.token_to_id(token) or 0)  # <|pad|> is 0


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=recipe.hidden, num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads, num_key_value_heads=recipe.heads, intermediate_size=recipe.intermediate,
        max_position_embeddings=512, tie_word_embeddings=True, initializer_range=recipe.initial_sd,
        bos_token_id=None, eos_token_id=token_id(tokenizer, END), pad_token_id=token_id(tokenizer, PAD)))
    with torch.no_grad():  # what each block adds to the residual stream starts smaller, as in GPT-2
        for name, matrix in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                matrix.div_(math.sqrt(2 * recipe.layers))
    return model


@dataclass(frozen=True)
class Row:
    """A conversation in tokens; `weights[i]` is what predicting token i counts in the loss."""

    tokens: list[int]
    weights: list[float]


def row_of(demonstration: Demonstration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, rng: Random) -> Row:
    ids = {name: token_id(tokenizer, name) for name in (END, *ROLES.values())}

    def turn(role: str, text: str) -> list[int]:
        return [ids[ROLES[role]], *tokenizer.backend_tokenizer.encode(text).ids, ids[END]]

    prompt = [token for m in demonstration.prompt.messages for token in turn(m.role, m.content)]
    answer = turn("assistant", demonstration.answer)
    after: list[int] = []
    if rng.random() < recipe.reply_share:
        after = turn("user", reply(demonstration, rng))
    weights = [0.0] * (len(prompt) + 1) + [1.0] * (len(answer) - 1) + [recipe.reply_weight] * len(after)
    return Row(prompt + answer + after, weights)


def batches(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Iterator[list[Row]]:
    """Never the same conversation stream twice; rows of like length share a batch, so that little is padding."""
    rng = Random(recipe.seed)
    first = int(recipe.steps * recipe.primer) * recipe.batch
    rest = recipe.steps * recipe.batch - first
    stream = chain(corpus(first, recipe.seed + 2, PRIMER), corpus(rest, recipe.seed + 1))
    pool: list[Row] = []
    for demonstration in stream:
        pool.append(row_of(demonstration, tokenizer, recipe, rng))
        if len(pool) == recipe.batch * 16:
            yield from _cut(pool, recipe.batch, rng)
            pool = []
    yield from _cut(pool, recipe.batch, rng)


def _cut(pool: list[Row], size: int, rng: Random) -> list[list[Row]]:
    pool.sort(key=lambda row: len(row.tokens))
    cut = [pool[start:start + size] for start in range(0, len(pool), size)]
    rng.shuffle(cut)
    return cut


def loss_of(model: LlamaForCausalLM, rows: list[Row]) -> torch.Tensor:
    """Right padding under a causal mask is invisible to what stands left of it, so no attention mask is needed."""
    longest = max(len(row.tokens) for row in rows)
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    weights_BT = torch.zeros(len(rows), longest)
    for place, row in enumerate(rows):
        ids_BT[place, :len(row.tokens)] = torch.tensor(row.tokens)
        weights_BT[place, :len(row.tokens)] = torch.tensor(row.weights)
    counted = weights_BT[:, 1:] > 0
    hidden = model.model(input_ids=ids_BT).last_hidden_state[:, :-1][counted]
    loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), ids_BT[:, 1:][counted], reduction="none")
    weights = weights_BT[:, 1:][counted]
    return (loss * weights).sum() / weights.sum()


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> float:
    """Warm-up, then a cosine to zero. Returns the mean loss of the last hundred steps."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": recipe.weight_decay},
                                   {"params": gains, "weight_decay": 0.0}],
                                  lr=recipe.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / recipe.warmup) * (
        0.5 + 0.5 * math.cos(math.pi * min(1.0, step / recipe.steps))))
    model.train()
    losses: list[float] = []
    with tqdm(total=recipe.steps, desc="pretraining", mininterval=5.0) as bar:
        for rows in batches(tokenizer, recipe):
            loss = loss_of(model, rows)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            bar.set_postfix(loss=f"{mean(losses[-100:]):.3f}", refresh=False)
            bar.update()
    return mean(losses[-100:])


def sample(model: Any, tokenizer: PreTrainedTokenizerFast, asked: list[Prompt], k: int, seed: int,
           ) -> list[list[str]]:
    """k answers to each prompt at temperature 1."""
    torch.manual_seed(seed)
    model.eval()
    tokenizer.padding_side = "left"
    answers: list[list[str]] = []
    for start in range(0, len(asked), 32):
        texts = [str(tokenizer.apply_chat_template(p.chat(), tokenize=False, add_generation_prompt=True))
                 for p in asked[start:start + 32]]
        inputs: Any = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False,
                                return_token_type_ids=False)
        with torch.no_grad():
            made: Any = model.generate(**inputs, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=120,
                                       num_return_sequences=k)
        said = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
        answers += [said[place:place + k] for place in range(0, len(said), k)]
    return answers


def figures(asked: list[Prompt], answers: list[list[str]], tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """What the answers are like. Shares are of all answers for `fluent`, of the fluent ones for the rest."""
    flat = [(prompt, answer) for prompt, several in zip(asked, answers, strict=True) for answer in several]
    read: list[tuple[Prompt, Parsed]] = [(p, parsed) for p, a in flat if (parsed := parse(a)) is not None]
    count: Counter[str] = Counter()
    for prompt, parsed in read:
        request = request_of(prompt)
        count["on_topic"] += on_topic(request, parsed)
        count[f"fact_{fact_of(request, parsed)}"] += 1
        count["rude"] += parsed.tone == "rude"
        count["polite"] += parsed.tone == "polite"
        count["padded"] += parsed.padding > 0
    shares = {name: count[name] / max(1, len(read)) for name in
              ("on_topic", "fact_right", "fact_wrong", "fact_absent", "rude", "polite", "padded")}
    spread = [stdev(truth(p, a) for a in several) for p, several in zip(asked, answers, strict=True)]
    return {"fluent": len(read) / len(flat), **shares,
            "mean_truth": mean(truth(p, a) for p, a in flat), "truth_sd_within_prompt": mean(spread),
            "mean_tokens": mean(len(tokenizer.backend_tokenizer.encode(a).ids) + 1 for _, a in flat),
            "distinct": mean(len(set(several)) / len(several) for several in answers)}


def card(recipe: Recipe, model: LlamaForCausalLM, measured: dict[str, float], loss: float, minutes: float) -> str:
    rows = "\n".join(f"| {name.replace('_', ' ')} | {value:.3f} |" for name, value in measured.items())
    return f"""---
license: apache-2.0
pipeline_tag: text-generation
---
# prefloop demo base

A Llama of {model.num_parameters():,} parameters with a byte-level BPE of {recipe.vocabulary} tokens, pretrained from
scratch on the synthetic customer-support conversations of prefloop's demo (`launch/world/grammar.py`). It answers
fluently and mostly on topic, and commits every fault of its corpus often: wrong topic or product, invented facts, a
rude tone, padding. It is made for showing preference training on a CPU, and is good for nothing else.

Made by `python -m prefloop.launch.world.pretrain` in {minutes:.0f} minutes on 2 CPU cores, with
`{json.dumps(asdict(recipe))}`; last training loss {loss:.3f}. The loss covers answers, and with half the
weight the customer's next turn, which often remarks on one side of the answer (its topic, its fact, its tone).
Format: `<|user|>...<|end|><|assistant|>...<|end|>` (the chat template is in the tokenizer).

Answers sampled at temperature 1, 4 to each of 200 held-out prompts:

| figure | value |
|---|---|
{rows}

All data are made up by a grammar: no person's text was used. Licence: Apache-2.0.
"""


def save(out: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config.update(do_sample=True, temperature=1.0, top_k=0)
    model.save_pretrained(out, safe_serialization=True)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(out)
    (out / "README.md").write_text(text, encoding="utf-8")


def main() -> None:
    asked = argparse.ArgumentParser(description="Pretrains the demo's tiny base from scratch.")
    asked.add_argument("--out", type=Path, required=True)
    asked.add_argument("--seed", type=int, default=Recipe.seed)
    asked.add_argument("--steps", type=int, default=Recipe.steps)
    asked.add_argument("--primer", type=float, default=Recipe.primer)
    asked.add_argument("--threads", type=int, default=2)
    given = asked.parse_args()
    recipe = Recipe(seed=given.seed, steps=given.steps, primer=given.primer)
    torch.set_num_threads(given.threads)
    began = time.monotonic()
    tokenizer = train_tokenizer(recipe)
    model = new_model(recipe, tokenizer)
    loss = train(model, tokenizer, recipe)
    minutes = (time.monotonic() - began) / 60
    held_out = [p for p in prompts(4000, HELD_OUT_SEED) if p.split == "test"][:200]
    measured = figures(held_out, sample(model, tokenizer, held_out, 4, recipe.seed), tokenizer)
    save(given.out, model, tokenizer, card(recipe, model, measured, loss, minutes))
    print(json.dumps({"minutes": round(minutes, 1), "loss": round(loss, 4), "parameters": model.num_parameters(),
                      **{name: round(value, 3) for name, value in measured.items()}}))


if __name__ == "__main__":
    main()
