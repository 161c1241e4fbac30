"""Log-probabilities and picks, made in fewer steps than their definitions, against their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from prefloop import generate, passes
from prefloop.errors import RequestError

VOCABULARY, HIDDEN = 37, 8


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=1.0, tie_word_embeddings=False)).requires_grad_(False)


def defined(model: LlamaForCausalLM, hidden_NH: Tensor, tokens_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies by their definitions."""
    logprobs_NV = torch.log_softmax(model.lm_head(hidden_NH) / temperature, -1)
    return logprobs_NV.gather(1, tokens_N[:, None]).squeeze(1), -(logprobs_NV.exp() * logprobs_NV).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("at_once", [2**24, VOCABULARY * 3])
def test_log_probabilities_and_their_gradients(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch,
                                               temperature: float, at_once: int) -> None:
    monkeypatch.setattr(passes, "LOGITS_AT_ONCE", at_once)
    draw = torch.Generator().manual_seed(1)
    hidden_NH, tokens_N = torch.randn(11, HIDDEN, generator=draw), torch.randint(VOCABULARY, (11,), generator=draw)
    weights_N = torch.randn(11, generator=draw)
    found = []
    for ours in (False, True):
        own_NH = hidden_NH.clone().requires_grad_()
        logprobs_N = (passes.logprobs(model, own_NH, tokens_N, temperature) if ours else
                      defined(model, own_NH, tokens_N, temperature)[0])
        (logprobs_N.exp() * weights_N).sum().backward()
        found.append((logprobs_N.detach(), own_NH.grad))
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    both_N2 = passes.logprobs(model, hidden_NH, tokens_N, temperature, entropy=True)
    assert torch.equal(both_N2[:, 0], found[1][0])  # with gradients and without: PPO's ratio is exactly 1
    torch.testing.assert_close(both_N2[:, 1], defined(model, hidden_NH, tokens_N, temperature)[1])


def test_a_head_that_learns_is_not_for_these_gradients(model: LlamaForCausalLM) -> None:
    hidden_NH, tokens_N = torch.randn(2, HIDDEN), torch.tensor([1, 2])
    model.lm_head.requires_grad_(True)
    try:
        with pytest.raises(RequestError, match="lora_targets"):
            passes.logprobs(model, hidden_NH, tokens_N)
        with torch.no_grad():
            assert passes.logprobs(model, hidden_NH, tokens_N).shape == (2,)
    finally:
        model.lm_head.requires_grad_(False)


@pytest.mark.parametrize("size", [1, 22, generate.BLOCK, generate.BLOCK + 1, 3 * generate.BLOCK + 77])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_picks_are_the_inverse_of_the_cumulative_distribution(size: int, temperature: float) -> None:
    draw = torch.Generator().manual_seed(size)
    logits_BV, u_B = 4 * torch.randn(500, size, generator=draw), torch.rand(500, generator=draw)
    logits_BV[:, 1::3] = -torch.inf
    u_B[0], u_B[1] = 0.0, 1 - 2**-24
    picked_B = generate.pick(logits_BV, u_B, temperature)
    cumulative_BV = torch.softmax(logits_BV.double() / temperature, 1).cumsum(1)
    for cumulative_V, u, token in zip(cumulative_BV, u_B.tolist(), picked_B.tolist(), strict=True):
        before = float(cumulative_V[token - 1]) if token else 0.0
        assert before - 1e-6 <= u <= float(cumulative_V[token]) + 1e-6
    assert bool(logits_BV.gather(1, picked_B[:, None]).isfinite().all())
    assert torch.equal(generate.pick(logits_BV[7:9], u_B[7:9], temperature), picked_B[7:9])
    assert torch.equal(generate.pick(logits_BV, u_B, 0.0), logits_BV.argmax(1))
