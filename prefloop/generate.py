"""Batched sampling from a policy, and `prefloop generate`: K answers for each prompt, ready to be ranked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefloop import checkpoints, config, runs
from prefloop.errors import RequestError
from prefloop.records import Answers, Prompt, Response

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from prefloop.chat import Chat


BLOCK = 256  # tokens of a vocabulary that are summed up together


@dataclass(frozen=True)
class SamplingConfig:
    """`sampling:`. A temperature of 0 is greedy. `answers` is K, the answers of each prompt."""

    answers: int = 4
    max_new_tokens: int = 256
    max_prompt_tokens: int = 1024
    temperature: float = 1.0
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.answers < 1 or self.max_new_tokens < 1 or self.batch < 1:
            raise ValueError("sampling.answers, max_new_tokens and batch are at least 1")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError("sampling.temperature is a number of at least 0")
        if self.max_prompt_tokens < 1:
            raise ValueError("sampling.max_prompt_tokens is at least 1")


@dataclass(frozen=True)
class PromptsConfig:
    """`data:` of generate: a snapshot, which of its prompts (null: all), and where the answers go."""

    path: str
    out: str = ""
    split: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError("data.limit is at least 1")


def row_uniforms(seeds: list[int], steps: int) -> Tensor:
    """u_BT in [0, 1): each row's own stream, so that a sample depends on its seed and not on its batch."""
    import torch

    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def pick(logits_BV: Tensor, u_B: Tensor, temperature: float) -> Tensor:
    """Tokens by inverse-CDF sampling from softmax(logits / temperature); the largest logit at temperature 0.

    Sums run over blocks of S tokens, and then over the tokens of the one block that u falls in: a cumulative sum over
    the whole vocabulary, in the precision that it needs, would take longer than the logits took to make.
    """
    import torch

    if temperature == 0:
        return logits_BV.argmax(-1)
    size = logits_BV.shape[1]
    weights_BV = (logits_BV.float() - logits_BV.amax(1, keepdim=True).float()).div_(temperature).exp_()
    whole = size - size % BLOCK
    blocks_BN = torch.cat([weights_BV[:, :whole].unflatten(1, (-1, BLOCK)).sum(-1, dtype=torch.float64),
                           weights_BV[:, whole:].sum(1, keepdim=True, dtype=torch.float64)], 1).cumsum(1)
    threshold_B1 = u_B.to(blocks_BN)[:, None] * blocks_BN[:, -1:]
    block_B1 = torch.searchsorted(blocks_BN, threshold_B1, right=True).clamp_max((size - 1) // BLOCK)
    before_B1 = torch.where(block_B1 > 0, blocks_BN.gather(1, (block_B1 - 1).clamp_min(0)), 0.0)
    tokens_BS = block_B1 * BLOCK + torch.arange(BLOCK, device=block_B1.device)
    inside_BS = weights_BV.gather(1, tokens_BS.clamp_max(size - 1)).double().cumsum(1)
    place_B1 = torch.searchsorted(inside_BS, threshold_B1 - before_B1, right=True).clamp_max(BLOCK - 1)
    return (block_B1 * BLOCK + place_B1).squeeze(1).clamp_max(size - 1)


def sample(model: nn.Module, prompts: list[list[int]], seeds: list[int], max_new_tokens: int, temperature: float,
           end_id: int, pad_id: int) -> list[list[int]]:
    """Answer ids of one batch of prompts, each up to and with `end_id`, or cut at `max_new_tokens`."""
    answers: list[list[int]] = [[] for _ in prompts]
    for tokens in steps(model, prompts, seeds, max_new_tokens, temperature, end_id, pad_id):
        for row, token in tokens:
            answers[row].append(token)
    return answers


def steps(model: nn.Module, prompts: list[list[int]], seeds: list[int], max_new_tokens: int, temperature: float,
          end_id: int, pad_id: int) -> Iterator[list[tuple[int, int]]]:
    """The same sample as it grows: at each step (row, next token) of every row that has not ended.

    Prompts are padded on the left with explicit positions; rows that have ended leave the batch and the cache.
    Between two steps the caller may do anything, also with the model, and may stop.
    """
    import torch
    from transformers import DynamicCache

    from prefloop.passes import plain

    where: torch.device = next(model.parameters()).device
    longest, u_BT = max(map(len, prompts)), row_uniforms(seeds, max_new_tokens)
    ids_BT = torch.tensor([[pad_id] * (longest - len(p)) + p for p in prompts], device=where)
    mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=where)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)
    causal, cache = plain(model), DynamicCache(config=plain(model).config)
    alive = list(range(len(prompts)))
    for step in range(max_new_tokens):
        with torch.no_grad():
            logits_BV = causal(input_ids=ids_BT, attention_mask=mask_BT, position_ids=positions_BT,
                               past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
            tokens_B = pick(logits_BV, u_BT[alive, step].to(where), temperature)
        tokens = tokens_B.tolist()
        yield list(zip(alive, tokens, strict=True))
        going = [n for n, token in enumerate(tokens) if token != end_id]
        if not going:
            return
        if len(going) < len(alive):
            kept = torch.tensor(going, device=where)
            cache.batch_select_indices(kept)
            tokens_B, mask_BT, positions_BT = tokens_B[kept], mask_BT[kept], positions_BT[kept]
            alive = [alive[n] for n in going]
        ids_BT = tokens_B[:, None]
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(alive), 1)], 1)
        positions_BT = positions_BT[:, -1:] + 1


@dataclass(frozen=True)
class Job:
    """Answer `answer` of prompt `prompt`, by their numbers."""

    prompt: int
    answer: int
    ids: list[int]
    seed: int


def batches(chat: Chat, prompts: list[Prompt], settings: SamplingConfig,
            numbers: Sequence[int] | None = None) -> list[list[Job]]:
    """What is sampled together: prompts of like length. The same request always makes the same batches.

    Seeds go by `numbers`, the prompts' places where these are only some of those asked.
    """
    jobs = [Job(n, k, ids, row_seed(settings.seed, numbers[n] if numbers else n, k))
            for n, ids in enumerate(map(chat.prompt_ids, prompts)) for k in range(settings.answers)]
    jobs.sort(key=lambda job: len(job.ids))
    return [jobs[first : first + settings.batch] for first in range(0, len(jobs), settings.batch)]


def sample_ids(model: nn.Module, chat: Chat, prompts: list[Prompt], settings: SamplingConfig, role: str | None,
               what: str = "sampling", numbers: Sequence[int] | None = None) -> list[list[list[int]]]:
    """`settings.answers` answers for each prompt as token ids, in the order given, with a progress bar.

    An answer that ended has `chat.end_id` last; one cut at `max_new_tokens` has not.
    """
    answers: list[list[list[int]]] = [[[]] * settings.answers for _ in prompts]

    def keep(batch: list[Job], found: list[list[int]]) -> None:
        for job, ids in zip(batch, found, strict=True):
            answers[job.prompt][job.answer] = ids

    sample_batches(model, chat, batches(chat, prompts, settings, numbers), settings, role, what, keep)
    return answers


def sample_batches(model: nn.Module, chat: Chat, together: list[list[Job]], settings: SamplingConfig, role: str | None,
                   what: str, keep: Callable[[list[Job], list[list[int]]], None]) -> None:
    """What `keep` is told as it comes: jobs that were sampled together, and their answers. With a progress bar."""
    from tqdm import tqdm

    from prefloop import memory
    from prefloop.passes import acting

    model.eval()
    with acting(model, role), tqdm(total=sum(map(len, together)), desc=what, unit="answer", mininterval=1) as bar:
        def answer(batch: list[Job]) -> None:
            keep(batch, sample(model, [job.ids for job in batch], [job.seed for job in batch],
                               settings.max_new_tokens, settings.temperature, chat.end_id, chat.pad_id))
            bar.update(len(batch))

        size = settings.batch
        for batch in together:
            size = memory.at_once(batch, size, answer, "answers")


def sample_texts(model: nn.Module, chat: Chat, prompts: list[Prompt], settings: SamplingConfig, role: str | None,
                 what: str = "sampling") -> list[list[str]]:
    """The same answers as texts."""
    return [[chat.text(ids) for ids in own] for own in sample_ids(model, chat, prompts, settings, role, what)]


def row_seed(*parts: int) -> int:
    """A seed of its own for every row, from the numbers that name it."""
    from prefloop.records import digest

    return int(digest("row", *map(str, parts)), 16) % 2**63


def sections() -> config.Sections:
    from prefloop.models import ModelConfig

    return {"model": config.Section(ModelConfig), "data": config.Section(PromptsConfig),
            "sampling": config.Section(SamplingConfig), "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked) -> None:
    from prefloop.formats import snapshot
    from prefloop.models import add_adapter, load_base, load_chat, require_context, resolve_policy

    model_config, data, settings, where = config.build(asked, sections())
    source = snapshot.read(Path(data.path))
    prompts = source.prompts_of(data.split)[: data.limit]
    if not prompts:
        raise RequestError(f"{data.path}: it has no prompts in split {data.split!r}")
    if data.out:
        checkpoints.require_place(Path(data.out), "data.out")
    checkpoint = resolve_policy(model_config.path, model_config.revision)
    with runs.start(asked, where, resumable=False, policy=checkpoint.lineage(), data=source.lineage()) as run:
        chat = load_chat(checkpoint)
        fitting = [p for p in prompts if len(chat.prompt_ids(p)) <= settings.max_prompt_tokens]
        if not fitting:
            raise RequestError(f"{data.path}: every prompt is over "
                               f"sampling.max_prompt_tokens={settings.max_prompt_tokens}")
        model = load_base(checkpoint, model_config)
        longest = max(len(chat.prompt_ids(p)) for p in fitting) + settings.max_new_tokens
        require_context(model, longest, "a prompt and sampling.max_new_tokens")
        role = "policy" if checkpoint.adapter else None
        policy = add_adapter(model, "policy", checkpoint.adapter, model_config) if role else model
        texts = sample_texts(policy, chat, fitting, settings, role)
        made = [_answers(prompt, own, checkpoint.path, checkpoint.checksum, settings)
                for prompt, own in zip(fitting, texts, strict=True)]
        out = Path(data.out) if data.out else run.path / "answers.jsonl"
        write_answers(out, made)
        distinct = sum(len(a.responses) for a in made)
        run.note(metrics={"prompts": len(made), "answers": distinct, "over_length": len(prompts) - len(fitting),
                          "repeated": len(made) * settings.answers - distinct})
        print(f"{out}: {distinct} distinct answers to {len(made)} prompts; "
              f"{len(prompts) - len(fitting)} prompts over {settings.max_prompt_tokens} tokens left out")


def _answers(prompt: Prompt, texts: list[str], policy: str, checksum: str, settings: SamplingConfig) -> Answers:
    """The distinct, non-empty answers: two that are equal cannot be ranked."""
    sampling = {"temperature": settings.temperature, "max_new_tokens": float(settings.max_new_tokens)}
    distinct = [text for text in dict.fromkeys(texts) if text.strip()]
    return Answers(prompt, tuple(Response(text, policy, checksum, sampling, settings.seed) for text in distinct))


def write_answers(path: Path, answers: list[Answers]) -> None:
    """All of them or none."""
    with checkpoints.replacing(path) as file:
        file.writelines(runs.line(one.to_json()) for one in answers)
