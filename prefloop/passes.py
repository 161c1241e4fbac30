"""Passes over the base: which adapter acts, hidden states, and log-probabilities where answers are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from prefloop import memory
from prefloop.errors import RequestError

LOGITS_AT_ONCE = 2**24  # 64 MB in fp32


@contextmanager
def acting(model: nn.Module, role: str | None) -> Iterator[None]:
    """Inside, the base acts through adapter `role`, or bare when it is None.

    Moves only the pointer: who trains was decided once, and PEFT's own `set_adapter` would flip requires_grad and
    take 50 times longer. `_active_adapter` is private to PEFT; tests/test_models.py holds the contract.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer)]
    before = [layer._active_adapter for layer in layers]
    for layer in layers:
        layer._active_adapter = [role] if role else []
    try:
        yield
    finally:
        for layer, active in zip(layers, before, strict=True):
            layer._active_adapter = active


def plain(model: nn.Module) -> PreTrainedModel:
    """The transformers model under PEFT's wrapping, adapters still at work inside it."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]


def hidden_states(model: nn.Module, ids_BT: Tensor) -> Tensor:
    """Last hidden states, BTH, of right-padded rows. No logits are made.

    Nor a mask: no token sees what is on its right, and attention is fastest when it is causal and nothing else.
    """
    return plain(model).base_model(input_ids=ids_BT, use_cache=False).last_hidden_state


def token_logprobs(model: nn.Module, hidden_BTH: Tensor, ids_BT: Tensor, answer_BT: Tensor,
                   temperature: float = 1.0, entropy: bool = False) -> Tensor:
    """log p of every token where `answer_BT` is 1, N in row order; with `entropy`, N2: the entropy beside it."""
    wanted_BT = answer_BT.bool()
    before_BT = torch.roll(wanted_BT, -1, dims=1)  # a token is predicted one place before it
    return logprobs(model, hidden_BTH[before_BT], ids_BT[wanted_BT], temperature, entropy)


def logprobs(model: nn.Module, hidden_NH: Tensor, tokens_N: Tensor, temperature: float = 1.0,
             entropy: bool = False) -> Tensor:
    """log p of tokens that these hidden states predict, N; with `entropy`, N2: beside it the entropy, which has no
    gradient.

    Logits are made only for these, a chunk at a time, and once: what the backward pass needs of them is their
    gradient with respect to the hidden states, NH, which is made along with them. The output head must be frozen.
    """
    head: nn.Module = plain(model).get_output_embeddings()  # type: ignore[assignment]
    if torch.is_grad_enabled() and any(weight.requires_grad for weight in head.parameters()):
        raise RequestError("the adapter that is trained changes the model's output layer, which log-probabilities are "
                           "read from here; train the SFT run with model.lora_targets without it (all-linear is)")
    chunk = max(1, LOGITS_AT_ONCE // plain(model).config.get_text_config().vocab_size)
    found = [_Logprobs.apply(*piece, head, temperature, entropy)
             for piece in zip(hidden_NH.split(chunk), tokens_N.split(chunk), strict=True)]
    return torch.cat(found)  # type: ignore[arg-type]


class _Logprobs(torch.autograd.Function):
    """The log-probability of each of N tokens, and its gradient with respect to the hidden state before it."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, tokens_N: Tensor, head: nn.Module, temperature: float,
                entropy: bool) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        hidden_NH = hidden_NH.detach().requires_grad_(wanted)
        with torch.set_grad_enabled(wanted):
            logits_NV = head(hidden_NH).float()
            if temperature != 1:
                logits_NV = logits_NV / temperature
        weights_NV = logits_NV.detach()  # the same memory: from here on it holds what its names say
        highest_N1 = weights_NV.amax(1, keepdim=True)
        own_N1 = weights_NV.gather(1, tokens_N[:, None]) - highest_N1
        shifted_NV = weights_NV.sub_(highest_N1)
        weights_NV = shifted_NV.exp() if entropy else shifted_NV.exp_()
        total_N1 = weights_NV.sum(1, keepdim=True)
        found_N1 = own_N1 - total_N1.log()
        if wanted:
            # d log p(token) / d logits is 1 at the token, less the probabilities.
            slope_NV = weights_NV.div_(-total_N1).scatter_add_(1, tokens_N[:, None], torch.ones_like(total_N1))
            ctx.save_for_backward(*torch.autograd.grad(logits_NV, hidden_NH, slope_NV))
        if not entropy:
            return found_N1.squeeze(1)
        mean_N = torch.linalg.vecdot(weights_NV, shifted_NV) / total_N1.squeeze(1)
        return torch.stack([found_N1.squeeze(1), total_N1.squeeze(1).log() - mean_N], 1)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (per_token_NH,) = ctx.saved_tensors
        slope_N = slopes[0] if slopes[0].dim() == 1 else slopes[0][:, 0]
        return (slope_N[:, None] * per_token_NH).to(per_token_NH.dtype), None, None, None, None


def answers_of(starts: list[int], mask_BT: Tensor) -> Tensor:
    """answer_BT: 1 on the tokens of each row from its start on."""
    place_T = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return mask_BT * (place_T >= torch.tensor(starts, device=mask_BT.device)[:, None])


def answer_logprobs(model: nn.Module, rows: list[list[int]], starts: list[int], pad_id: int,
                    temperature: float = 1.0) -> list[Tensor]:
    """log p of each row's tokens from `starts[i]` on, given what precedes them."""
    ids_BT, mask_BT = pad_right(rows, pad_id, next(model.parameters()).device)
    found_N = token_logprobs(model, hidden_states(model, ids_BT), ids_BT, answers_of(starts, mask_BT),
                             temperature)
    return list(found_N.split([len(row) - start for row, start in zip(rows, starts, strict=True)]))


@torch.no_grad()
def total_logprobs(model: nn.Module, role: str | None, rows: list[list[int]], starts: list[int], pad_id: int,
                   temperature: float = 1.0, batch: int = 16) -> Tensor:
    """log p_B of each row's whole answer under `role`, in nats, batched by length, in the order given."""
    out = torch.empty(len(rows))

    def judge(chosen: list[int]) -> None:
        found = answer_logprobs(model, [rows[n] for n in chosen], [starts[n] for n in chosen], pad_id, temperature)
        out[chosen] = torch.stack([own_T.sum() for own_T in found]).cpu()

    with acting(model, role):
        memory.at_once(by_length(rows), batch, judge)
    return out


def by_length(rows: list[list[int]]) -> list[int]:
    """Places of rows, those of like length together: little of a batch is padding."""
    return sorted(range(len(rows)), key=lambda n: len(rows[n]))


def pad_right(rows: list[list[int]], pad_id: int, where: torch.device) -> tuple[Tensor, Tensor]:
    """ids_BT and mask_BT (1 on real tokens, from lengths and never from token ids)."""
    longest = max(len(row) for row in rows)
    ids_BT = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows], device=where)
    mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=where)
    return ids_BT, mask_BT
