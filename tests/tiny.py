"""Makers for tests: a two-layer Llama with its own tokenizer, a snapshot of toy preferences, and runs made of them."""

from __future__ import annotations

import random
from pathlib import Path

from prefloop import cli
from prefloop.formats import snapshot
from prefloop.records import Demonstration, Message, Prompt, Ranking, Response

WORDS = "red blue cat dog sun moon tree ball jump run big small happy sad play box day night fish bird".split()
TEMPLATE = ("{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
            "{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """A Llama of 2 layers and 32 dimensions with a byte-level BPE of 320 tokens and a chat template, in `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    specials = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    inner.train_from_iterator([f"Say something about {word}" for word in WORDS], trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>",
                                        additional_special_tokens=specials[2:])
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=None, eos_token_id=tokenizer.eos_token_id))
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def tiny_prompt(number: int) -> Prompt:
    choose = random.Random(number)
    return Prompt((Message("user", f"Say something about {choose.choice(WORDS)} {number}"),))


def tiny_snapshot(folder: Path, prompts: int = 60, long_rows: int = 0) -> Path:
    """Demonstrations, and rankings of three answers each in which nice words beat nasty ones.

    The last `long_rows` prompts have answers of 200 words.
    """
    choose = random.Random(0)
    demonstrations, rankings = [], []
    for number in range(prompts + long_rows):
        prompt, length = tiny_prompt(number), 4 if number < prompts else 200
        good = " ".join(choose.choices(WORDS, k=length)) + " nice"
        bad = " ".join(choose.choices(WORDS, k=length)) + " nasty"
        demonstrations.append(Demonstration(prompt, good))
        answers = tuple(Response(text) for text in (bad, good, bad + " nasty"))
        rankings.append(Ranking(prompt, answers, (2, 1, 3), f"rater{number % 3}"))
    return snapshot.write(folder, rankings, demonstrations)


def launch(*words: object) -> int:
    """`prefloop WORDS` in this process; its exit code."""
    return cli.main([str(word) for word in words])


def sft_run(root: Path, base: Path, data: Path, *overrides: str, name: str = "sft") -> Path:
    """A short SFT run that is done."""
    code = launch("sft", f"model.path={base}", f"data.path={data}", f"run.root={root}", f"run.name={name}",
                  "train.max_steps=4", "train.per_device_train_batch_size=4", "train.learning_rate=0.01",
                  "train.max_length=64", "train.gradient_checkpointing=false", "model.lora_r=4", *overrides)
    assert code == 0
    return root / name
