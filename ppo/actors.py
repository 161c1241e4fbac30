"""Who acts in PPO: one base in memory, four adapters on it by name, the reward's head and the critic's.

N runs over the answer tokens of a batch, one row after another; B rows, T tokens of a row, H hidden size,
V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn

from prefloop import heads, models, passes
from prefloop.chat import Chat
from prefloop.models import Checkpoint, ModelConfig

from . import judging
from .settings import PPOConfig


@dataclass(frozen=True)
class Actors:
    """`reference` is None when the base itself is the reference, fine-tuned whole; `critic` where there is none;
    `second` only watches."""

    model: PeftModel
    chat: Chat
    reference: str | None
    judge: judging.Judge
    critic: Critic | None
    second: judging.Judge | None = None

    policy: str = "policy"
    value: str = "value"


class Critic(nn.Module):
    """What the final score will be, judged before each answer token; it begins as the reward of what is there so far.

    A reward that reads the last token is read at every token. A reward that is the mean over an answer's L tokens is
    (sum so far + sum to come) / L, where scaled scores to come average 0, and L is `span` until t exceeds it. Reading
    a mean reward token by token instead began with an explained variance of -9.7, against 0.5 for this.
    """

    def __init__(self, reward_head: heads.Head) -> None:
        super().__init__()
        self.head = reward_head.folded()  # in units of scaled scores; a likelihood is of the reward's own adapter
        self.span: float | None = None

    def forward(self, hidden_BTH: Tensor, before_BT: Tensor) -> Tensor:
        """Values_N at the places where `before_BT` is true: those one before each answer token."""
        values_BT = self.head(hidden_BTH).squeeze(-1)
        if self.head.pooling == "mean":
            assert self.span is not None
            values_BT = (values_BT * before_BT).cumsum(1) / before_BT.cumsum(1).clamp_min(self.span)
        return values_BT[before_BT]


def assemble(checkpoint: Checkpoint, reward: judging.Found, second: judging.Found | None, config: ModelConfig,
             settings: PPOConfig, texts: judging.Texts) -> Actors:
    """Load the base once; policy from the SFT adapter, which stays as the reference; value from the reward.

    A reward model that does not stand on this base leaves the value to begin as the SFT adapter, and silent.
    """
    torch.manual_seed(settings.seed)
    base, chat = models.load_base(checkpoint, config), models.load_chat(checkpoint)
    model = models.add_adapter(base, "policy", checkpoint.adapter, config)
    reference = "sft" if checkpoint.adapter else None
    if reference:
        models.add_adapter(model, reference, checkpoint.adapter, config)
    judge = judging.hold(reward, "reward", model, chat, texts, config)
    watching = judging.hold(second, "second", model, chat, texts, config) if second else None
    critic = None
    if settings.critic:
        models.add_adapter(model, "value", reward.folder if reward.on_base else checkpoint.adapter, config)
        critic = Critic(judge.head if isinstance(judge, judging.OnBase) else silent(model))
    models.train_only(model, {"policy", "value"})
    # Dropout is off for good: the ratio must compare one policy with itself.
    return Actors(model.eval(), chat, reference, judge, critic, watching)


def silent(model: PeftModel) -> heads.Head:
    """A head that says 0 of everything: what scaled scores are on average."""
    head = heads.Head(passes.plain(model).config.get_text_config().hidden_size, "last")
    nn.init.zeros_(head.linear.weight)
    return head.to(models.device())


def answer_logprobs(actors: Actors, rows: list[list[int]], starts: list[int], temperature: float,
                    entropy: bool = False) -> Tensor:
    """log p of every answer token, N, under the adapter now acting; with `entropy`, N2: the entropy beside it."""
    ids_BT, mask_BT = passes.pad_right(rows, actors.chat.pad_id, models.device())
    hidden_BTH = passes.hidden_states(actors.model, ids_BT)
    return passes.token_logprobs(actors.model, hidden_BTH, ids_BT, passes.answers_of(starts, mask_BT), temperature,
                                 entropy)


def answer_values(actors: Actors, rows: list[list[int]], starts: list[int]) -> Tensor:
    """The critic's expectation before every answer token, N. Its adapter must be acting."""
    assert actors.critic is not None
    return actors.critic(*hidden_before(actors, rows, starts))


def hidden_before(actors: Actors, rows: list[list[int]], starts: list[int]) -> tuple[Tensor, Tensor]:
    """Hidden states, BTH, and where among them each answer token is predicted from: one place before it."""
    ids_BT, mask_BT = passes.pad_right(rows, actors.chat.pad_id, models.device())
    before_BT = passes.answers_of(starts, mask_BT).bool().roll(-1, dims=1)
    return passes.hidden_states(actors.model, ids_BT), before_BT
