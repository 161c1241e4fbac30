"""Makers for tests: a two-layer Llama with its own tokenizer, a snapshot of toy preferences, and runs made of them."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prefloop import cli
from prefloop.formats import snapshot
from prefloop.records import Demonstration, Message, Prompt, Ranking, Response

WORDS = ("red", "blue", "cat", "dog", "sun", "moon", "tree", "ball", "jump", "big", "small", "happy", "sad", "play",
         "box", "day", "night", "fish", "bird")
TEMPLATE = ("{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
            "{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """A Llama of 2 layers with a byte-level BPE of 320 tokens and a chat template, in `folder`.

    Its 64 dimensions are the fewest that fill a block of NF4.
    """
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
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.1,
        pad_token_id=0, bos_token_id=None, eos_token_id=1))
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def tiny_encoder(folder: Path, kind: str = "bert", seed: int = 0) -> Path:
    """An encoder of 2 layers with a WordPiece tokenizer that joins two texts, in `folder`: bert, distilbert, albert
    or roberta."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    inner.train_from_iterator([*(f"Say something about {word}" for word in WORDS), "nice nasty 0 1 2 3 4 5 6 7 8 9"],
                              trainers.WordPieceTrainer(vocab_size=160, special_tokens=specials, show_progress=False))
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    inner.enable_truncation(16)  # as some are saved: what a text has beyond would be lost in silence
    inner.enable_padding(length=16)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]",
                                        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    torch.manual_seed(seed)
    sizes = ({"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2} if kind == "distilbert" else
             {"hidden_size": 32, "embedding_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 2})
    config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), max_position_embeddings=128, pad_token_id=0,
                                  initializer_range=0.1, **sizes)
    AutoModelForMaskedLM.from_config(config).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def tiny_adapter(folder: Path, base: Path, seed: int) -> Path:
    """A checkpoint as training leaves it, without the training: an adapter of random weights that changes the base."""
    import torch

    from prefloop import models

    found, settings = models.resolve(str(base)), models.ModelConfig(path=str(base), lora_r=4)
    torch.manual_seed(seed)
    model = models.add_adapter(models.load_base(found, settings), "policy", None, settings)
    for key, weight in model.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(weight, std=0.1)
    models.save_adapter(model, "policy", folder)
    models.save_tokenizer(models.load_chat(found), folder)
    models.seal(folder, found, "sft")
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


@dataclass
class Seen:
    """What a trainer's model was at two moments: built, and after its last step."""

    models: list[Any] = field(default_factory=list)
    linear4bit: list[int] = field(default_factory=list)
    dtypes: list[set[Any]] = field(default_factory=list)
    weights: list[dict[str, Any]] = field(default_factory=list)

    def note(self, model: Any) -> None:
        import bitsandbytes

        trained = {key: p for key, p in model.named_parameters() if p.requires_grad}
        self.models.append(model)
        self.linear4bit.append(sum(isinstance(m, bitsandbytes.nn.Linear4bit) for m in model.modules()))
        self.dtypes.append({p.dtype for p in trained.values()})
        self.weights.append({key: p.detach().clone() for key, p in trained.items()})


def watch(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Look at the next stage's model when its trainer is built (as `attach` is called) and when it has trained."""
    from prefloop import training

    seen, attach, check = Seen(), training.attach, training.Moved.check

    def attached(trainer: Any, *rest: Any) -> None:
        seen.note(trainer.model)
        attach(trainer, *rest)

    def checked(self: training.Moved, run: Any, model: Any) -> None:
        seen.note(model)
        check(self, run, model)

    monkeypatch.setattr(training, "attach", attached)
    monkeypatch.setattr(training.Moved, "check", checked)
    return seen


def killed_in_save(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The next stage stops while it saves this checkpoint: files are there, the manifest is not."""
    from prefloop import models

    seal = models.seal

    def cut(folder: Path, *rest: Any) -> None:
        if folder.name == f"checkpoint-{step}":
            raise KeyboardInterrupt
        seal(folder, *rest)

    monkeypatch.setattr(models, "seal", cut)


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def record(run: Path) -> dict[str, Any]:
    """What run.json says."""
    return json.loads((run / "run.json").read_text())


def check_round_trip(run: Path, trained: Any, settings: Any) -> None:
    """The saved run, on a base loaded anew, is the model that was trained."""
    import torch

    from prefloop import models, passes

    found = models.resolve(str(run))
    chat = models.load_chat(found)
    again = models.add_adapter(models.load_base(found, settings), "policy", found.adapter, settings)
    texts = models.probe_rows(chat)
    ours, theirs = (passes.total_logprobs(model.eval(), role, *texts, chat.pad_id)
                    for model, role in ((again, "policy"), (trained, "default")))
    bare = passes.total_logprobs(again, None, *texts, chat.pad_id)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, bare, atol=1e-2)
