"""The arithmetic of memory against numbers worked by hand, and against what a real model holds and keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop import footprint, models, passes
from prefloop.errors import RequestError
from prefloop.footprint import ON_CPU, ON_GPU, Held, Judge, Lengths, Load, Shape

QWEN3 = footprint.KNOWN["Qwen/Qwen3-8B"]
SMALL = Shape(hidden=4, layers=2, heads=2, kv_heads=1, head=3, inner=8, vocab=10, tied=False)
BF16_CPU = replace(ON_CPU, wide=footprint.BF16)


def test_a_small_shape_by_hand() -> None:
    # q 4x6, k and v 4x3, o 6x4, gate and up 4x8, down 8x4
    assert SMALL.linears == [(4, 6), (4, 3), (4, 3), (6, 4), (4, 8), (4, 8), (8, 4)]
    linear = 2 * (24 + 12 + 12 + 24 + 32 + 32 + 32)
    assert footprint.base_bytes(SMALL, replace(ON_GPU, four_bit=False)) == 2 * linear + 2 * 10 * 4 * 2
    assert footprint.base_bytes(SMALL, ON_CPU) == 4 * (linear + 2 * 10 * 4)
    assert footprint.adapter_width(SMALL) == 2 * (10 + 7 + 7 + 10 + 12 + 12 + 12)
    assert footprint.cache_bytes(SMALL, ON_GPU) == 2 * 2 * 3 * 2  # layers x (key, value) x width x bf16
    inside = footprint.layer_bytes(SMALL, ON_GPU)
    assert inside == 38 * 4 + 4 * 3 + 10 * 8
    assert footprint.kept_bytes(SMALL, ON_GPU, 7, True) == 7 * (4 * 4 + 2 * 4 * 2 + inside)
    assert footprint.kept_bytes(SMALL, ON_GPU, 7, False) == 7 * (4 * 4 + 2 * inside)
    assert footprint.logit_bytes(SMALL, ON_CPU, 7, "ours") == 4 * 4 * 7 * 10
    assert footprint.logit_bytes(SMALL, ON_GPU, 10**9, "ours") == 4 * 4 * 2**24
    assert footprint.logit_bytes(QWEN3, ON_GPU, 10**9, "trl") == 4096 * 32768 * 2


@pytest.mark.parametrize("held", [ON_CPU, BF16_CPU], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", [
    Shape(64, 3, 2, 2, 32, 256, 50, False), Shape(128, 3, 4, 2, 32, 256, 50, False),
    Shape(256, 3, 4, 4, 64, 1024, 50, False)], ids=lambda shape: str(shape.hidden))
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_a_real_model_keeps_for_its_backward_pass(shape: Shape, held: Held, checkpointing: bool) -> None:
    rows, row = 4, 64
    model, outside = trainable(shape, held), set()
    if checkpointing:
        plain = passes.plain(model)
        plain.gradient_checkpointing_enable({"use_reentrant": False})
        plain.enable_input_require_grads()
        model.train()
    outside = {one.untyped_storage().data_ptr() for one in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in outside:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        passes.hidden_states(model, torch.ones(rows, row, dtype=torch.long))
    found = sum(storage.nbytes() for storage in kept.values())
    # With checkpointing the rest of a layer is only kept while that layer learns.
    inside = rows * row * footprint.layer_bytes(shape, held) if checkpointing else 0.0
    assert footprint.kept_bytes(shape, held, rows * row, checkpointing) - inside == pytest.approx(found, rel=0.1)


def trainable(shape: Shape, held: Held, targets: str | list[str] = "all-linear") -> models.PeftModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    base = LlamaForCausalLM(LlamaConfig(
        vocab_size=shape.vocab, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied)).requires_grad_(False)
    if held.wide == footprint.BF16:
        base.bfloat16()
    model = models.add_adapter(base, "policy", None, models.ModelConfig("any", lora_r=4, lora_targets=targets))
    adapters = sum(weight.numel() for name, weight in model.named_parameters() if "lora" in name)
    assert targets != "all-linear" or adapters == 4 * footprint.adapter_width(shape)
    models.train_only(model, {"policy"})
    return model


def test_nf4_with_double_quantisation_takes_4127_thousandths_of_a_bit() -> None:
    bits = footprint.NF4 * 8
    assert bits == pytest.approx(4.127, abs=1e-3)


def test_an_8b_base_is_8b_and_six_gigabytes() -> None:
    bf16 = footprint.base_bytes(QWEN3, replace(ON_GPU, four_bit=False))
    assert bf16 / 2 == pytest.approx(8.19e9, rel=5e-3)  # its makers say 8.2B
    assert footprint.base_bytes(QWEN3, ON_GPU) == pytest.approx(6.07e9, rel=5e-3)
    assert 16 * footprint.adapter_width(QWEN3) == pytest.approx(43.6e6, rel=5e-3)


def test_phases_take_turns() -> None:
    load = Load(2, 2, rows=2, row=768, said=256, sampled=32, prompt=512, answer=256)
    each = 16 * footprint.adapter_width(QWEN3)
    need = footprint.need(QWEN3, load, ON_GPU, each)
    assert need.adapters == 16 * footprint.adapter_width(QWEN3) * (2 * 16 + 2 * 4)
    assert need.sampling > 32 * 768 * 147456  # the cache, beside what tokens are drawn with
    assert need.phases["sampling"] == need.base + need.adapters + need.rest + need.sampling
    assert need.total == max(need.phases.values()) == need.phases["sampling"]
    assert need.phases["loading"] == need.base + need.rest
    quiet = footprint.need(QWEN3, replace(load, learns=False, sampled=0), ON_GPU, each)
    assert (quiet.updating, quiet.sampling) == (0, 0)
    assert "updating" not in quiet.phases


def test_every_weight_trained_by_hand() -> None:
    weights = footprint.base_bytes(SMALL, ON_CPU) / 4
    load = Load(whole=True, rows=1, row=2, said=2)
    here, there = (footprint.need(SMALL, load, held, 0) for held in (ON_CPU, replace(ON_GPU, four_bit=False)))
    # Weight, gradient and two moments in fp32; on a CPU what it began as too, and two copies to save.
    assert (here.base, here.adapters, here.saving) == (4 * weights, 16 * weights, 8 * weights)
    assert (there.base, there.adapters, there.saving) == (4 * weights, 12 * weights, 0)


def test_an_adapter_on_some_maps_is_smaller() -> None:
    assert footprint.adapter_width(SMALL, ("q_proj", "down_proj")) == 2 * (10 + 12)
    model = trainable(Shape(64, 3, 4, 2, 16, 256, 50, False), ON_CPU, ["k_proj", "up_proj"])
    adapters = sum(weight.numel() for name, weight in model.named_parameters() if "lora" in name)
    shape = Shape(64, 3, 4, 2, 16, 256, 50, False)
    assert adapters == 4 * footprint.adapter_width(shape, ("k_proj", "up_proj"))


@dataclass
class Asked:
    """Settings of several stages in one."""

    per_device_train_batch_size: int = 3
    gradient_checkpointing: bool = True
    max_length: int = 100
    micro_batch: int = 5
    sample_batch: int = 6
    max_new_tokens: int = 7
    critic: bool = False
    whole: bool = False
    url: str | None = None
    reward: str = ""
    batch: int = 9


def test_a_stage_brings_what_its_settings_say() -> None:
    lengths, asked = Lengths(10, 20, 30, 40, rows=100, answers=4), Asked()
    told: dict[str, Any] = {"train": asked, "model": asked, "online": asked, "score": asked}
    assert (footprint.load_of("sft", told, lengths).rows, footprint.load_of("dpo", told, lengths).rows) == (3, 6)
    assert footprint.load_of("reward", told, lengths).row == 30 + 4 * 40  # a prompt and all of its answers
    score = footprint.load_of("score", told, lengths)
    assert (score.rows, score.row, score.learns) == (9, 70, False)
    assert footprint.need(SMALL, score, ON_CPU, 1).scoring > 0
    whole = footprint.load_of("sft", {**told, "model": Asked(whole=True)}, lengths)
    assert (whole.whole, whole.trained) == (True, 0)


@pytest.mark.parametrize(("critic", "url", "judges", "expected"), [
    (True, None, (Judge(1),), (2, 2, 0.0, 6)),
    (False, None, (Judge(1),), (1, 2, 0.0, 6)),
    (False, None, (Judge(1), Judge(1)), (1, 3, 0.0, 6)),
    (True, None, (Judge(beside=5.0), Judge(1)), (2, 2, 5.0, 6)),
    (True, "http://127.0.0.1:1", (Judge(),), (2, 1, 0.0, 0))])
def test_ppo_brings_the_models_that_it_is_told_of(critic: bool, url: str | None, judges: tuple[Judge, ...],
                                                  expected: tuple[int, int, float, int]) -> None:
    told = {"train": Asked(critic=critic), "sampler": Asked(url=url)}
    ppo = footprint.load_of("ppo", told, Lengths(10, 20, 30, 40), judges)
    assert (ppo.trained, ppo.frozen, ppo.beside, ppo.sampled) == expected
    assert (ppo.rows, ppo.row, ppo.said) == (5, 70, 40)
    need = footprint.need(SMALL, ppo, ON_CPU, 1)
    assert need.base == footprint.base_bytes(SMALL, ON_CPU) + expected[2]
    assert ("sampling" in need.phases) == (url is None)


def test_online_dpo_samples_too() -> None:
    told = {"train": Asked(), "online": Asked(reward="runs/reward")}
    lengths = footprint.limits("dpo", told)
    assert (lengths.longest_prompt, lengths.longest_answer) == (93, 7)
    load = footprint.load_of("dpo", told, lengths, (Judge(1),))
    assert (load.frozen, load.rows, load.row, load.sampled, load.prompt, load.answer) == (2, 6, 100, 6, 93, 7)
    offline = footprint.load_of("dpo", {**told, "online": Asked()}, lengths)
    assert (offline.frozen, offline.sampled) == (1, 0)


def test_shapes_are_read_from_folders_and_runs(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(str(tmp_path / "base"))
    shape = footprint.shape_of(str(tmp_path / "base"))
    matrices = sum(p.numel() for p in LlamaForCausalLM(config).parameters() if p.dim() == 2)
    assert footprint.base_bytes(shape, ON_CPU) == 4 * matrices
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"parents": {"base": {"base": str(tmp_path / "base")}}}))
    assert footprint.shape_of(str(tmp_path / "run")) == shape
    checkpoint = tmp_path / "run" / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text(json.dumps({"base": str(tmp_path / "base")}))
    assert footprint.shape_of(str(checkpoint)) == shape
    told = json.loads((tmp_path / "base" / "config.json").read_text())
    (checkpoint / "manifest.json").unlink()
    (checkpoint / "config.json").write_text(json.dumps({"model_type": "sees", "text_config": told}))
    assert footprint.shape_of(str(checkpoint)) == shape  # of a model that sees too, the part that reads
    for asker in ("plan", "doctor"):
        with pytest.raises(RequestError, match=rf"nowhere: neither .* {asker}\.base"):
            footprint.shape_of("nowhere", asker)


@pytest.mark.parametrize(("file", "text", "line"), [
    ("config.json", '{"model_type": "llama"}', "config.json: hidden_size is missing"),
    ("config.json", "not json", "config.json: cannot be read"),
    ("config.json", "[1]", "config.json: not a JSON object"),
    ("config.json", "[" * 10**5, "config.json: cannot be read"),
    ("config.json", '{"hidden_size": "big"}', "config.json: hidden_size is 'big', where a whole number"),
    ("config.json", '{"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 0}', "attention_heads is 0"),
    ("config.json", '{"hidden_size": 8, "num_hidden_layers": true}', "num_hidden_layers is True"),
    ("run.json", '{"parents": {"policy": {"base": "HERE"}}}', "neither a model folder"),
    ("run.json", '{"parents": [3]}', "neither a model folder"),
    ("run.json", "null", "run.json: not a JSON object"),
    ("manifest.json", '{"base": 7}', "neither a model folder")])
def test_a_folder_that_says_nonsense_is_told(file: str, text: str, line: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text.replace("HERE", str(tmp_path)))
    with pytest.raises(RequestError, match=line):
        footprint.shape_of(str(tmp_path))
