"""The arithmetic of GPU memory against numbers worked by hand, and against a real model's own parameters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefloop import footprint
from prefloop.errors import RequestError

QWEN3 = footprint.KNOWN["Qwen/Qwen3-8B"]
SMALL = footprint.Shape(hidden=4, layers=2, heads=2, kv_heads=1, head=3, inner=8, vocab=10, tied=False)


def test_a_small_shape_by_hand() -> None:
    # q 4x6, k and v 4x3, o 6x4, gate and up 4x8, down 8x4
    assert SMALL.linears == [(4, 6), (4, 3), (4, 3), (6, 4), (4, 8), (4, 8), (8, 4)]
    linear = 2 * (24 + 12 + 12 + 24 + 32 + 32 + 32)
    assert footprint.base_bytes(SMALL, four_bit=False) == 2 * linear + 2 * 10 * 4 * 2
    assert footprint.adapter_width(SMALL) == 2 * (10 + 7 + 7 + 10 + 12 + 12 + 12)
    assert footprint.cache_bytes_per_token(SMALL) == 2 * 2 * 3 * 2  # layers x (key, value) x width x bf16
    inside = 4 * (4 * 5 + 6 + 8) + 10 * (6 + 3 + 3 + 4 + 8 + 8 + 4)
    assert footprint.activation_bytes(SMALL, 7, True) - footprint.LOGITS == 7 * (2 * 4 * 2 + inside)
    assert footprint.activation_bytes(SMALL, 7, False) - footprint.LOGITS == 7 * (2 * 4 * 2 + 2 * inside)
    assert footprint.activation_bytes(SMALL, 0, True) == 0


def test_nf4_with_double_quantisation_takes_4127_thousandths_of_a_bit() -> None:
    bits = footprint.NF4 * 8
    assert bits == pytest.approx(4.127, abs=1e-3)


def test_an_8b_base_is_8b_and_six_gigabytes() -> None:
    bf16 = footprint.base_bytes(QWEN3, four_bit=False)
    assert bf16 / 2 == pytest.approx(8.19e9, rel=5e-3)  # its makers say 8.2B
    assert footprint.base_bytes(QWEN3, four_bit=True) == pytest.approx(6.07e9, rel=5e-3)
    assert 16 * footprint.adapter_width(QWEN3) == pytest.approx(43.6e6, rel=5e-3)


def test_updating_and_sampling_take_turns() -> None:
    need = footprint.need(QWEN3, footprint.Load(2, 2, 1536, 24576), True, 16)
    assert need.sampling == 24576 * 147456
    assert need.total == need.base + need.adapters + need.sampling + footprint.REST
    assert need.adapters == 16 * footprint.adapter_width(QWEN3) * (2 * 16 + 2 * 4)


def test_shapes_are_read_from_folders_and_runs(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
    LlamaForCausalLM(config).save_pretrained(str(tmp_path / "base"))
    shape = footprint.shape_of(str(tmp_path / "base"))
    matrices = sum(p.numel() for p in LlamaForCausalLM(config).parameters() if p.dim() == 2)
    assert footprint.base_bytes(shape, four_bit=False) == 2 * matrices
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text(json.dumps({"parents": {"base": {"base": str(tmp_path / "base")}}}))
    assert footprint.shape_of(str(tmp_path / "run")) == shape
    with pytest.raises(RequestError, match=r"nowhere: neither .* doctor\.base"):
        footprint.shape_of("nowhere")
