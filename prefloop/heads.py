"""Reward and value heads: what they read, how they are saved, and the scores they give."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefloop import checkpoints, finite, memory
from prefloop.errors import RequestError
from prefloop.passes import acting, answers_of, by_length, hidden_states, pad_right, token_logprobs

HEAD = "head.safetensors"
LIKELIHOOD = 5.0  # a head's first weight: mean log-probabilities of one prompt's answers differ by about 0.2


class Head(nn.Module):
    """One number per token from its hidden state, in fp32 outside autocast: rewards and values.

    As a reward, `pooling` says which tokens of the answer (EOS included) count: `mean` of all, or the `last`, EOS.
    With `likelihood`, the mean log-probability of the answer's tokens, under the very adapter that the head reads,
    is added with a learned weight: a language model knows what fits a prompt long before its hidden states say so.
    `shift` and `scale` turn a raw score into (raw - shift) / scale: mean 0 and spread 1 on the SFT model's answers.
    """

    def __init__(self, hidden_size: int, pooling: str = "mean", likelihood: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)
        # Beside a likelihood, which already says much, the hidden states begin silent.
        nn.init.normal_(self.linear.weight, std=0.0 if likelihood else 1 / (hidden_size + 1) ** 0.5)
        nn.init.zeros_(self.linear.bias)
        self.likelihood = nn.Parameter(torch.tensor(LIKELIHOOD)) if likelihood else None
        self.pooling = pooling
        self.shift = 0.0
        self.scale = 1.0

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        with torch.autocast(hidden_BTH.device.type, enabled=False):
            return self.linear(hidden_BTH.float()).squeeze(-1)

    def pooled(self, hidden_BTH: Tensor, answer_BT: Tensor) -> Tensor:
        """Raw scores_B of the hidden states alone; `answer_BT` is 1 on the answer's tokens."""
        per_token_BT = self(hidden_BTH)
        if self.pooling == "last":
            last_B = answer_BT.shape[1] - 1 - answer_BT.flip(1).argmax(1)
            return per_token_BT.gather(1, last_B[:, None]).squeeze(1)
        return (per_token_BT * answer_BT).sum(1) / answer_BT.sum(1)

    def save(self, folder: Path) -> None:
        weights = {key: value.detach().cpu() for key, value in self.state_dict().items()}
        save_file(weights, folder / HEAD, metadata={"format": "pt"})
        checkpoints.write_json(folder / "head.json",
                               {"pooling": self.pooling, "shift": self.shift, "scale": self.scale})

    @classmethod
    def load(cls, folder: Path, where: torch.device) -> Head:
        if not (folder / HEAD).is_file():
            raise RequestError(f"{folder}: it has no {HEAD}, so it is no reward model; name a reward run")
        settings = checkpoints.read_json(folder / "head.json")
        try:
            weights = load_file(folder / HEAD)
            head = cls(weights["linear.weight"].shape[1], settings["pooling"], "likelihood" in weights)
            head.load_state_dict(weights)
            head.shift, head.scale = float(settings["shift"]), float(settings["scale"])
        except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise RequestError(f"{folder}: {HEAD} and head.json are no reward head: "
                               f"{' '.join(str(error).split())[:200]}") from None
        finite.require(weights | {"shift and scale": torch.tensor([head.shift, head.scale])}, folder / HEAD)
        return head.requires_grad_(False).to(where)


def score_rows(model: nn.Module, head: Head, rows: list[list[int]], starts: list[int], pad_id: int) -> Tensor:
    """Raw scores_B of rows whose answers begin at `starts`; gradients flow."""
    where = head.linear.weight.device
    ids_BT, mask_BT = pad_right(rows, pad_id, where)
    answer_BT = answers_of(starts, mask_BT)
    hidden_BTH = hidden_states(model, ids_BT, mask_BT)
    scores_B = head.pooled(hidden_BTH, answer_BT)
    if head.likelihood is None:
        return scores_B
    per_token_BT = torch.zeros_like(answer_BT, dtype=torch.float32)
    per_token_BT[answer_BT.bool()] = token_logprobs(model, hidden_BTH, ids_BT, answer_BT)
    return scores_B + head.likelihood * per_token_BT.sum(1) / answer_BT.sum(1)


@torch.no_grad()
def score(model: nn.Module, head: Head, role: str | None, rows: list[list[int]], starts: list[int], pad_id: int,
          batch: int = 32) -> Tensor:
    """Scaled scores_B, batched by length, in the order given. A row is prompt ids + answer ids, EOS included."""
    out = torch.empty(len(rows))

    def judge(chosen: list[int]) -> None:
        out[chosen] = score_rows(model, head, [rows[n] for n in chosen], [starts[n] for n in chosen], pad_id).cpu()

    with acting(model, role):
        memory.at_once(by_length(rows), batch, judge)
    return (out - head.shift) / head.scale
