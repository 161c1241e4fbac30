"""How rows of prompt and answer stand in a batch: each by itself, or all answers of a prompt behind the one prompt.

R rows, B lines of T tokens that hold them, A tokens of the longest answer, H hidden size. In a shared line stand the
prompt, the first answer, the second, and so on. An answer sees the prompt and itself, and its positions go on from
the prompt's, so that what the base computes is what it computes for separate rows, and the prompt is read once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from prefloop import memory
from prefloop.passes import plain

TOKENS = 4096  # of a shared line: its mask is a square
PROMPT, NOTHING = 0, -1  # whose token it is, where answers count from 1


@dataclass(frozen=True)
class Layout:
    """A batch. `places_RA` are the answers' tokens, as places in the B*T, and `before_RA` those they are predicted
    from; both are 0 where `real_RA` is 0. `mask` is BT, 1 on real tokens, or B1TT, true where a token (third) sees
    another (fourth)."""

    ids_BT: Tensor
    mask: Tensor
    positions_BT: Tensor | None
    places_RA: Tensor
    before_RA: Tensor
    real_RA: Tensor


@dataclass(frozen=True)
class _Line:
    """One line, and per answer its first place in it."""

    ids: list[int]
    owner: list[int]
    positions: list[int]
    firsts: list[int]
    prompt: int


def apart(rows: list[list[int]], starts: list[int], pad_id: int, where: torch.device) -> Layout:
    """Every row by itself. A row is prompt ids + answer ids, and its answer begins at its start."""
    lines = [_Line(row, [], [], [start], start) for row, start in zip(rows, starts, strict=True)]
    longest = max(map(len, rows))
    ids_BT = _padded([line.ids for line in lines], longest, pad_id, where)
    mask_BT = _padded([[1] * len(row) for row in rows], longest, 0, where)
    lengths = [len(row) - start for row, start in zip(rows, starts, strict=True)]
    return Layout(ids_BT, mask_BT, None, *_answers(lines, lengths, longest, where))


def shared(rows: list[list[int]], starts: list[int], pad_id: int, where: torch.device, width: int) -> Layout:
    """Neighbours with the same prompt in one line, where that is less work on a base of this hidden size."""
    lines = list(_lines(rows, starts, width))
    longest = max(len(line.ids) for line in lines)
    owner_BT = _padded([line.owner for line in lines], longest, NOTHING, where)
    place_T = torch.arange(longest, device=where)
    own_BTT = (owner_BT[:, :, None] == owner_BT[:, None, :]) | (owner_BT[:, None, :] == PROMPT)
    seen_BTT = own_BTT & (place_T[:, None] >= place_T)  # padding sees padding: nothing to see would be NaN
    lengths = [len(row) - start for row, start in zip(rows, starts, strict=True)]
    return Layout(_padded([line.ids for line in lines], longest, pad_id, where), seen_BTT[:, None],
                  _padded([line.positions for line in lines], longest, 0, where),
                  *_answers(lines, lengths, longest, where))


def _lines(rows: list[list[int]], starts: list[int], width: int) -> Iterator[_Line]:
    def pays(line: int, prompt: int, answer: int) -> bool:
        """A prompt less to read, for attention over a longer line, most of it masked: per layer about 24 H^2
        operations a token, 4 H a pair of tokens."""
        return (line + answer) ** 2 <= line**2 + (prompt + answer) ** 2 + 6 * width * prompt

    def prompt_of(n: int) -> list[int]:
        return rows[n][: starts[n]]

    for prompt, members in groupby(range(len(rows)), key=prompt_of):
        line = _Line([], [], [], [], 0)
        for n in members:
            answer, start = rows[n][starts[n] :], starts[n]
            length = len(line.ids)
            if not line.firsts or length + len(answer) > TOKENS or not pays(length, start, len(answer)):
                if line.firsts:
                    yield line
                line = _Line(list(prompt), [PROMPT] * start, list(range(start)), [], start)
            line.firsts.append(len(line.ids))
            line.ids.extend(answer)
            line.owner.extend([len(line.firsts)] * len(answer))
            line.positions.extend(range(start, start + len(answer)))
        yield line


def _padded(rows: list[list[int]], length: int, filling: int, where: torch.device) -> Tensor:
    return torch.tensor([row + [filling] * (length - len(row)) for row in rows], device=where)


def _answers(lines: list[_Line], lengths: list[int], width: int,
             where: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """places_RA, before_RA and real_RA. An answer's first token is predicted by the prompt's last."""
    starts = [(n * width + first, n * width + line.prompt - 1)
              for n, line in enumerate(lines) for first in line.firsts]
    step_A = torch.arange(max(lengths), device=where)
    first_R, before_R = torch.tensor(starts, device=where).unbind(1)
    real_RA = step_A < torch.tensor(lengths, device=where)[:, None]
    places_RA = first_R[:, None] + step_A
    before_RA = torch.where(step_A == 0, before_R[:, None], places_RA - 1)
    return places_RA * real_RA, before_RA * real_RA, real_RA.int()


def hidden_states(model: nn.Module, layout: Layout) -> Tensor:
    """Last hidden states, BTH. No logits are made."""
    backbone = plain(model).base_model
    places = {} if layout.positions_BT is None else {"position_ids": layout.positions_BT}
    return backbone(input_ids=layout.ids_BT, attention_mask=layout.mask, use_cache=False, **places).last_hidden_state


@torch.no_grad()
def sound(model: nn.Module, pad_id: int) -> bool:
    """Whether this base reads shared lines as it reads separate rows, tried on random tokens with whoever acts.

    A base whose attention is not scaled dot products over everything before (a sliding window, a recurrence, biases
    by distance in the line) does not; short rows would not show a window, so the config is asked as well.
    """
    base = plain(model)
    config = base.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if config._attn_implementation != "sdpa" or kinds != {"full_attention"} or windowed:
        return False
    where, chance = next(model.parameters()).device, torch.Generator().manual_seed(0)
    spans = [(19, 7), (19, 12), (19, 3), (5, 8), (5, 21), (11, 4)]
    prompts = {length: torch.randint(config.vocab_size, (length,), generator=chance).tolist() for length, _ in spans}
    rows = [prompts[start] + torch.randint(config.vocab_size, (length,), generator=chance).tolist()
            for start, length in spans]
    was = model.training
    model.eval()

    def answers_of(layout: Layout) -> Tensor:
        return hidden_states(model, layout).flatten(0, 1).float()[layout.places_RA[layout.real_RA.bool()]]

    starts = [start for start, _ in spans]
    try:
        apart_NH, shared_NH = (answers_of(layout) for layout in (
            apart(rows, starts, pad_id, where), shared(rows, starts, pad_id, where, width=10**6)))
    except (ValueError, TypeError, RuntimeError) as error:  # it takes no such mask, or no positions
        if memory.ran_out(error):
            raise
        return False
    finally:
        model.train(was)
    gap = float((apart_NH - shared_NH).norm() / apart_NH.norm())
    return gap < (1e-4 if base.dtype == torch.float32 else 0.05)
