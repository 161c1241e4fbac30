"""Bases of a real model's shape with random weights, written a layer at a time: no hub, and little memory."""

from __future__ import annotations

import json
import random
from pathlib import Path

import tiny
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from prefloop.footprint import Shape
from prefloop.formats import snapshot
from prefloop.records import Demonstration, Message, Prompt, Ranking, Response

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write(folder: Path, shape: Shape) -> Path:
    """A Llama of this shape, in bf16 shards of a layer each, with the tests' tokenizer."""
    tiny.tiny_model(folder)  # for its tokenizer
    (folder / "model.safetensors").unlink()
    config = LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        head_dim=shape.head, max_position_embeddings=4096, tie_word_embeddings=shape.tied, dtype="bfloat16",
        pad_token_id=0, bos_token_id=None, eos_token_id=1)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(str(folder))
    with torch.device("meta"):
        outline = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    shards: dict[str, dict[str, torch.Size]] = {}
    for name, weight in outline.named_parameters():
        layer = next((part for part in name.split(".") if part.isdigit()), "rest")
        shards.setdefault(f"model-{layer}.safetensors", {})[name] = weight.shape
    for file, own in shards.items():
        save_file({name: made(size) for name, size in own.items()}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def made(size: torch.Size) -> torch.Tensor:
    """Norms are 1, matrices small and random."""
    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    where = "cuda" if torch.cuda.is_available() else "cpu"
    return (0.02 * torch.randn(size, dtype=torch.bfloat16, device=where)).cpu()


def long_rows(folder: Path, prompts: int, asked: int, answered: int) -> Path:
    """Rankings and demonstrations whose prompts and answers have about so many tokens: a random letter is one each."""
    choose = random.Random(0)
    demonstrations, rankings = [], []
    for number in range(prompts):
        prompt = Prompt((Message("user", f"{number} " + "".join(choose.choices(LETTERS, k=asked))),))
        texts = ["".join(choose.choices(LETTERS, k=answered)) for _ in range(4)]
        demonstrations.append(Demonstration(prompt, texts[0]))
        rankings.append(Ranking(prompt, tuple(Response(text) for text in texts), (1, 2, 3, 4), "rater"))
    return snapshot.write(folder, rankings, demonstrations)
