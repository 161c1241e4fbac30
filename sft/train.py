"""Supervised fine-tuning: TRL's SFTTrainer, the loss on the assistant's turns only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefloop import checkpoints, config, ranks, runs
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Demonstration

if TYPE_CHECKING:
    from torch import nn
    from trl import SFTConfig

    from prefloop.chat import Chat
    from prefloop.models import Checkpoint, ModelConfig

ADAPTER = "default"  # the name that TRL's trainers and the Trainer's own saving expect
HELD_OUT = 200


@dataclass(frozen=True)
class Rows:
    """Token rows: ids, masks (1 where the loss is), and how many demonstrations were too long to use."""

    ids: list[list[int]]
    masks: list[list[int]]
    over_length: int


def sections() -> config.Sections:
    from trl import SFTConfig

    from prefloop import models, training

    return {"model": config.Section(models.ModelConfig), "data": config.Section(SFTData),
            "train": training.section(SFTConfig, learning_rate=2e-4, max_length=1024),
            "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked, resume: Path | None = None) -> None:
    from prefloop import models, training

    model_config, data, args, where = config.build(asked, sections())
    source = snapshot.read(Path(data.path))
    checkpoint = models.resolve_policy(model_config.path, model_config.revision)
    with runs.start(asked, where, resume, base=checkpoint.lineage(), data=source.lineage()) as run:
        run.resolved(model=model_config, data=data, train=args)
        chat = models.load_chat(checkpoint)
        train = tokenised(chat, demonstrations(source, "train", data)[: data.limit], args.max_length)
        held_out = tokenised(chat, demonstrations(source, "test", data)[:HELD_OUT], args.max_length)
        report(run, train, held_out, data, args.max_length)
        prompts, length = source.prompts_of("test")[:4], (args.max_length or 1024) // 4

        def learn(args: SFTConfig) -> None:
            model = start(checkpoint, model_config, args.seed)
            models.require_context(model, max(map(len, train.ids)), "train.max_length")
            if "before" not in run.record:
                before = nll(model, chat, held_out, args.per_device_eval_batch_size)
                training.samples(run, model, chat, prompts, role(model), "before", length)
                run.note(before=before)
            fit(run, model, chat, checkpoint, train, args)
            ranks.by_first("final", lambda: finish(run, model, chat, checkpoint, run.final))
            if ranks.sharded():  # every process looks at what was saved, whole
                base = models.load_base(checkpoint, model_config)
                model = models.add_adapter(base, ADAPTER, run.final, model_config)
            training.samples(run, model, chat, prompts, role(model), "after", length)
            summarise(run, nll(model, chat, held_out, args.per_device_eval_batch_size))

        training.within_memory(run, args, learn)


@dataclass(frozen=True)
class SFTData:
    """`data:` of SFT. `from_rankings` also learns from the best answer of each ranking."""

    path: str = ""
    limit: int | None = None
    from_rankings: bool = False

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("data.path is missing: name a snapshot, as `prefloop import` makes them")
        if self.limit is not None and self.limit < 1:
            raise ValueError("data.limit is at least 1")


def demonstrations(source: snapshot.Snapshot, split: str, data: SFTData) -> list[Demonstration]:
    """The split's demonstrations, and on request the answers that won their rankings."""
    found = source.demonstrations_of(split)
    if data.from_rankings:
        found += [Demonstration(ranking.prompt, response.text) for ranking in source.rankings_of(split)
                  for response, rank in zip(ranking.responses, ranking.ranks, strict=True) if rank == 1]
    return found


def tokenised(chat: Chat, rows: list[Demonstration], max_length: int | None) -> Rows:
    made = [chat.demonstration_ids(row.prompt, row.answer) for row in rows]
    fitting = [(ids, mask) for ids, mask in made if max_length is None or len(ids) <= max_length]
    return Rows([ids for ids, _ in fitting], [mask for _, mask in fitting], len(made) - len(fitting))


def report(run: runs.Run, train: Rows, held_out: Rows, data: SFTData, max_length: int | None) -> None:
    if not train.ids:
        hint = "" if data.from_rankings else "; data.from_rankings=true takes the best answers of its rankings"
        raise RequestError(f"{data.path}: no demonstration to train on ({train.over_length} are over "
                           f"train.max_length={max_length} tokens){hint}")
    run.note(rows={"train": len(train.ids), "held_out": len(held_out.ids),
                   "over_length": train.over_length + held_out.over_length})
    print(f"{len(train.ids)} demonstrations to train on, {len(held_out.ids)} held out; "
          f"{train.over_length + held_out.over_length} over {max_length} tokens left out")


def start(checkpoint: Checkpoint, model_config: ModelConfig, seed: int) -> nn.Module:
    """The base with a trainable adapter, or with `model.whole` the base itself, every weight trainable."""
    import torch

    from prefloop import models

    torch.manual_seed(seed)
    base = models.load_base(checkpoint, model_config)
    if model_config.whole:
        if ranks.sharded():
            raise RequestError("model.whole: what FSDP shares out is saved as an adapter; drop this key")
        if checkpoint.adapter:
            raise RequestError(f"{checkpoint.path}: model.whole needs a base without an adapter")
        return base.requires_grad_(True)
    model = models.add_adapter(base, ADAPTER, checkpoint.adapter, model_config)
    models.train_only(model, {ADAPTER})
    return model


def role(model: nn.Module) -> str | None:
    from peft import PeftModel

    return ADAPTER if isinstance(model, PeftModel) else None


def fit(run: runs.Run, model: Any, chat: Chat, checkpoint: Checkpoint, train: Rows, args: Any) -> None:
    from datasets import Dataset
    from trl import SFTTrainer

    from prefloop import training

    rows = Dataset.from_dict({"input_ids": train.ids, "assistant_masks": train.masks})
    args.output_dir = str(run.path)
    args.max_length = None  # what was too long is already left out, and counted
    moved = training.Moved(model)
    with training.settling():
        trainer = SFTTrainer(model, args, train_dataset=rows, processing_class=chat.tokenizer)
    training.fp32_adapters(run, model, moved)
    training.attach(trainer, run, lambda folder: finish(run, model, chat, checkpoint, folder))
    training.train(trainer, run)
    moved.check(run, model)


def finish(run: runs.Run, model: Any, chat: Chat, checkpoint: Checkpoint, folder: Path) -> None:
    """Make `folder` a checkpoint: weights saved, loaded back and compared, then sealed by its manifest."""
    from prefloop import models

    if folder == run.final:
        if ranks.first():
            checkpoints.discard(folder)  # what an earlier try left
        if role(model):
            models.save_adapter(model, ADAPTER, folder)
        else:
            model.save_pretrained(str(folder))
        models.save_tokenizer(chat, folder)
    models.check_reload(run, model, chat, folder, ADAPTER)
    models.seal(folder, checkpoint, "sft")


def nll(model: nn.Module, chat: Chat, rows: Rows, batch: int) -> list[float]:
    """Mean negative log-likelihood per assistant token, in nats, of each held-out demonstration."""
    import torch

    from prefloop import memory, passes

    out = torch.zeros(len(rows.ids))

    def judge(chosen: list[int]) -> None:
        ids = [rows.ids[n] for n in chosen]
        logprobs = passes.answer_logprobs(model, ids, [1] * len(ids), chat.pad_id)
        for n, own_T in zip(chosen, logprobs, strict=True):
            mask_T = torch.tensor(rows.masks[n][1:], device=own_T.device)
            out[n] = -(own_T * mask_T).sum() / mask_T.sum()

    model.eval()
    with torch.no_grad():
        memory.at_once(list(range(len(rows.ids))), batch, judge)
    return out.tolist()


def summarise(run: runs.Run, after: list[float]) -> None:
    from prefloop import stats

    before = run.record.get("before", [])
    if not before:
        return
    low, high = stats.bootstrap_interval([b - a for a, b in zip(after, before, strict=True)])
    mean_before, mean_after = sum(before) / len(before), sum(after) / len(after)
    run.record.pop("before")
    run.note(metrics={"nll_after": mean_after, "nll_before": mean_before, "nll_gain_low": low, "nll_gain_high": high,
                      "held_out": len(after)})
    print(f"held-out loss per token {mean_before:.3f} -> {mean_after:.3f}; gain in [{low:.3f}, {high:.3f}] (95%)")
