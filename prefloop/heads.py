"""Reward and value heads: what they read, how they are saved, and the scores they give.

R rows, O outputs of a head: D objectives times E members; B lines of T tokens, A tokens of an answer, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefloop import checkpoints, finite, memory, prefix
from prefloop.errors import RequestError
from prefloop.passes import acting, logprobs

HEAD = "head.safetensors"
SCALED_ON = 1000  # answers that set a reward's zero and unit
LIKELIHOOD = 5.0  # a head's first weight: mean log-probabilities of one prompt's answers differ by about 0.2
OVERALL = "overall"  # the objective that the ranking itself is about


class Head(nn.Module):
    """Numbers per token from its hidden state, in fp32 outside autocast: rewards and values.

    As a reward, `pooling` says which tokens of the answer (EOS included) count: `mean` of all, or the `last`, EOS.
    With `likelihood`, the mean log-probability of the answer's tokens, under the very adapter that the head reads,
    is added with a learned weight: a language model knows what fits a prompt long before its hidden states say so.

    Outputs are `members` (an ensemble) of each of the `objectives`, which have weights; output d * E + e is member e
    of objective d. An objective's raw score has its zero by member and its unit (`zeros_DE`, `units_D`); their
    weighted sum has `shift` and `scale`: (sum - shift) / scale has mean 0 and spread 1 on the SFT model's answers.
    """

    def __init__(self, hidden_size: int, pooling: str = "mean", likelihood: bool = False,
                 objectives: Mapping[str, float] | None = None, members: int = 1) -> None:
        super().__init__()
        self.objectives = dict(objectives or {OVERALL: 1.0})
        self.members = members
        outputs = len(self.objectives) * members
        self.linear = nn.Linear(hidden_size, outputs)
        # Beside a likelihood, which already says much, the hidden states begin silent.
        nn.init.normal_(self.linear.weight, std=0.0 if likelihood else 1 / (hidden_size + 1) ** 0.5)
        nn.init.zeros_(self.linear.bias)
        self.likelihood = nn.Parameter(torch.full((outputs,), LIKELIHOOD)) if likelihood else None
        self.pooling = pooling
        self.zeros_DE = torch.zeros(len(self.objectives), members)
        self.units_D = torch.ones(len(self.objectives))
        self.shift = 0.0
        self.scale = 1.0
        self.shares: bool | None = None  # whether its base reads shared lines (prefix.sound); None: not tried yet

    def forward(self, hidden_BTH: Tensor) -> Tensor:
        """BTO."""
        with torch.autocast(hidden_BTH.device.type, enabled=False):
            return self.linear(hidden_BTH.float())

    def pooled(self, values_RAO: Tensor, real_RA: Tensor) -> Tensor:
        """RO, of what was read from the answers' tokens; `real_RA` is 1 on them."""
        if self.pooling == "last":
            return values_RAO[torch.arange(len(values_RAO)), real_RA.sum(1) - 1]
        return (values_RAO * real_RA[..., None]).sum(1) / real_RA.sum(1, keepdim=True)

    def by_objective(self, raw_RO: Tensor) -> Tensor:
        """RDE: every objective's score in its own unit, by member."""
        raw_RDE = raw_RO.unflatten(-1, (len(self.objectives), self.members))
        return (raw_RDE - self.zeros_DE.to(raw_RO)) / self.units_D.to(raw_RO)[:, None]

    def by_member(self, raw_RO: Tensor) -> Tensor:
        """RE: the scaled reward as each member of the ensemble sees it."""
        weights_D = torch.tensor(list(self.objectives.values())).to(raw_RO)
        return ((self.by_objective(raw_RO) * weights_D[:, None]).sum(-2) - self.shift) / self.scale

    def settle(self, raw_RO: Tensor) -> float:
        """Set zeros, units, shift and scale on the raw scores of R answers; returns the least spread that was found.

        By median and quartiles: a few answers that are no language at all have scores so low that, with mean and
        standard deviation, they alone would set the unit, and PPO would see little difference among the others.
        Comparisons leave every member's zero to chance, so each has its own.
        """
        self.zeros_DE, self.units_D = torch.zeros(len(self.objectives), self.members), torch.ones(len(self.objectives))
        self.shift, self.scale = 0.0, 1.0
        raw_RDE = self.by_objective(raw_RO)
        middle_DE = raw_RDE.quantile(0.5, 0)
        units = [unit(raw_RD.flatten())[1] for raw_RD in (raw_RDE - middle_DE).unbind(1)]
        if min(units) > 0:
            self.zeros_DE, self.units_D = middle_DE, torch.tensor(units)
            self.shift, self.scale = unit(self.by_member(raw_RO).mean(1))
        return min(*units, self.scale)

    def folded(self) -> Head:
        """One output, whose raw score is this head's scaled reward, without the likelihood."""
        with torch.no_grad():
            eye_OO = torch.eye(self.linear.out_features)
            zero = self.by_member(torch.zeros(self.linear.out_features)).mean()
            share_O = (self.by_member(eye_OO).mean(-1) - zero).to(self.linear.weight)
            one = Head(self.linear.in_features, self.pooling).to(self.linear.weight.device)
            one.linear.weight.copy_(share_O @ self.linear.weight)
            one.linear.bias.copy_(share_O @ self.linear.bias + zero.to(share_O))
        return one

    def save(self, folder: Path) -> None:
        weights = {key: value.detach().cpu() for key, value in self.state_dict().items()}
        save_file(weights, folder / HEAD, metadata={"format": "pt"})
        checkpoints.write_json(folder / "head.json",
                               {"pooling": self.pooling, "members": self.members, "objectives": self.objectives,
                                "zeros": self.zeros_DE.tolist(), "units": self.units_D.tolist(),
                                "shift": self.shift, "scale": self.scale})

    @classmethod
    def load(cls, folder: Path, where: torch.device) -> Head:
        if not (folder / HEAD).is_file():
            raise RequestError(f"{folder}: it has no {HEAD}, so it is no reward model; name a reward run")
        settings = checkpoints.read_json(folder / "head.json")
        try:
            weights = load_file(folder / HEAD)
            objectives = {str(name): float(weight) for name, weight in settings["objectives"].items()}
            head = cls(weights["linear.weight"].shape[1], settings["pooling"], "likelihood" in weights, objectives,
                       int(settings["members"]))
            head.load_state_dict(weights)
            head.shift, head.scale = float(settings["shift"]), float(settings["scale"])
            head.zeros_DE = torch.tensor(settings["zeros"]).view(len(objectives), head.members)
            head.units_D = torch.tensor(settings["units"]).view(len(objectives))
        except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise RequestError(f"{folder}: {HEAD} and head.json are no reward head: "
                               f"{' '.join(str(error).split())[:200]}") from None
        finite.require(weights | {"shift and scale": torch.tensor([head.shift, head.scale]), "zeros": head.zeros_DE,
                                  "units": head.units_D}, folder / HEAD)
        return head.requires_grad_(False).to(where)


def unit(values_N: Tensor) -> tuple[float, float]:
    """The median, and the standard deviation of a normal distribution with these quartiles."""
    low, middle, high = values_N.float().quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    return middle, (high - low) / 1.349


def score_rows(model: nn.Module, head: Head, rows: list[list[int]], starts: list[int], pad_id: int,
               share: bool = False) -> Tensor:
    """Raw scores_RO of rows whose answers begin at `starts`; gradients flow.

    With `share`, neighbours that have a prompt in common share it: the base must be one that reads such lines.
    """
    where = head.linear.weight.device
    layout = (prefix.shared(rows, starts, pad_id, where, head.linear.in_features) if share else
              prefix.apart(rows, starts, pad_id, where))
    hidden_BTH = prefix.hidden_states(model, layout)
    scores_RO = head.pooled(head(hidden_BTH).flatten(0, 1)[layout.places_RA], layout.real_RA)
    if head.likelihood is None:
        return scores_RO
    real_RA = layout.real_RA.bool()
    per_token_RA = torch.zeros(real_RA.shape, device=scores_RO.device)
    per_token_RA[real_RA] = logprobs(model, hidden_BTH.flatten(0, 1)[layout.before_RA[real_RA]],
                                     layout.ids_BT.flatten()[layout.places_RA[real_RA]])
    return scores_RO + head.likelihood * (per_token_RA.sum(1) / real_RA.sum(1))[:, None]


@torch.no_grad()
def outputs(model: nn.Module, head: Head, role: str | None, rows: list[list[int]], starts: list[int], pad_id: int,
            batch: int = 32) -> Tensor:
    """Raw scores_RO, batched by prompt and length, in the order given. A row is prompt + answer ids, EOS included."""
    out = torch.empty(len(rows), head.linear.out_features)
    order = by_prompt(rows, starts)
    with acting(model, role):
        share = len(order) < len(rows) and sharing(model, head, pad_id)

        def judge(chosen: list[int]) -> None:
            out[chosen] = score_rows(model, head, [rows[n] for n in chosen], [starts[n] for n in chosen], pad_id,
                                     share).cpu()

        memory.at_once([n for own in order for n in own], batch, judge)
    return out


def score(model: nn.Module, head: Head, role: str | None, rows: list[list[int]], starts: list[int], pad_id: int,
          batch: int = 32) -> Tensor:
    """Scaled rewards_R: the mean of the head's members."""
    return head.by_member(outputs(model, head, role, rows, starts, pad_id, batch)).mean(1)


def sharing(model: nn.Module, head: Head, pad_id: int) -> bool:
    """Whether rows may share their prompt on this base, tried once."""
    if head.shares is None:
        head.shares = prefix.sound(model, pad_id)
    return head.shares


def by_prompt(rows: list[list[int]], starts: list[int]) -> list[list[int]]:
    """Places of rows, those of one prompt together, and groups of like length beside each other."""
    def prompt_of(n: int) -> list[int]:
        return rows[n][: starts[n]]

    groups = [list(own) for _, own in groupby(sorted(range(len(rows)), key=prompt_of), key=prompt_of)]
    return sorted(groups, key=lambda own: (sum(len(rows[n]) - starts[n] for n in own) + starts[own[0]]))
