"""A reward model from rankings: an adapter and a head on the shared base, trained on all pairs of each prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import Trainer
from trl import RewardConfig

from prefloop import checkpoints, config, heads, models, passes, ranks, runs, stats, training
from prefloop.chat import Chat
from prefloop.errors import RequestError
from prefloop.formats import snapshot

from . import loss
from .groups import Batch, Group, Grouped, collate, grouped

ADAPTER = "reward"
SCALED_ON = 1000  # answers that set the reward's zero and unit


@dataclass(frozen=True)
class HeadConfig:
    """`head:`. A `mean` over the answer's tokens learns more from few rankings than the `last` token alone.

    `likelihood` also reads how likely the answer is to the model itself: for small bases, whose hidden states do not
    say by themselves whether an answer fits its prompt.
    """

    pooling: Literal["mean", "last"] = "mean"
    likelihood: bool = False


class RewardModel(nn.Module):
    """The base acting through the reward adapter, and the head that reads it."""

    def __init__(self, backbone: nn.Module, head: heads.Head, pad_id: int) -> None:
        super().__init__()
        self.backbone, self.head, self.pad_id = backbone, head, pad_id

    def forward(self, rows: list[list[int]], starts: list[int]) -> Tensor:
        """Raw scores_B."""
        with passes.acting(self.backbone, ADAPTER):
            return heads.score_rows(self.backbone, self.head, rows, starts, self.pad_id).squeeze(1)

    def gradient_checkpointing_enable(self, **settings: object) -> None:
        # Non-reentrant, and the frozen base's inputs need no gradient of their own then. The recomputation runs in
        # `backward`, where no other adapter is active than the one that the base was given last.
        passes.plain(self.backbone).gradient_checkpointing_enable({"use_reentrant": False})


class RankingTrainer(Trainer):
    """transformers.Trainer over groups; it saves an adapter and a head rather than a whole model."""

    run: runs.Run
    chat: Chat

    def compute_loss(self, model: nn.Module, inputs: dict[str, Batch], return_outputs: bool = False,
                     num_items_in_batch: Tensor | int | None = None) -> Tensor:
        batch = inputs["batch"]
        scores_B = model(batch.rows, batch.starts)
        pairs = pair_tensors(batch, scores_B.device)
        total = loss.bradley_terry(scores_B, *pairs)
        coefficient = self.args.center_rewards_coefficient  # type: ignore[attr-defined]
        if coefficient:
            total = total + coefficient * loss.centring(scores_B, *pairs)
        return total / sum(batch.weights)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            save(self.model, self.chat, Path(output_dir or str(self.args.output_dir)))  # type: ignore[arg-type]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        own: RewardModel = model or self.model  # type: ignore[assignment]
        folder = Path(resume_from_checkpoint)
        models.load_adapter(own.backbone, ADAPTER, folder)  # type: ignore[arg-type]
        own.head.load_state_dict(heads.Head.load(folder, own.head.linear.weight.device).state_dict())


def sections() -> config.Sections:
    return {"model": config.Section(models.ModelConfig), "head": config.Section(HeadConfig),
            "data": config.Section(training.DataConfig),
            "train": training.section(RewardConfig, learning_rate=1e-4, remove_unused_columns=False),
            "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked, resume: Path | None = None) -> None:
    model_config, head_config, data, args, where = config.build(asked, sections())
    if model_config.whole:
        raise RequestError("model.whole: a reward model is an adapter and a head; leave it out")
    source = snapshot.read(Path(data.path))
    checkpoint = models.resolve_policy(model_config.path, model_config.revision)
    with runs.start(asked, where, resume, policy=checkpoint.lineage(), data=source.lineage()) as run:
        run.resolved(model=model_config, head=head_config, data=data, train=args)
        chat = models.load_chat(checkpoint)
        train = grouped(chat, source.rankings_of("train")[: data.limit], args.max_length)
        held_out = grouped(chat, source.rankings_of("test"), args.max_length)
        report(run, train, held_out, data.path, args.max_length)

        def learn(args: RewardConfig) -> None:
            model = start(chat, checkpoint, model_config, head_config, args.seed)
            longest = max(len(row) for group in train.groups for row in group.rows)
            models.require_context(model.backbone, longest, "train.max_length")
            if "before" not in run.record:
                run.note(before=accuracy(model, held_out.groups)[0])
            fit(run, model, chat, checkpoint, train.groups, args)
            scale(run, model, train.groups)
            ranks.by_first("final", lambda: finish(run, model, chat, checkpoint, run.final))
            check_scores(run, model, chat)
            summarise(run, model, held_out.groups)

        training.within_memory(run, args, learn)


def report(run: runs.Run, train: Grouped, held_out: Grouped, path: str, max_length: int | None) -> None:
    if not train.groups:
        raise RequestError(f"{path}: no ranking to train on: {train.over_length} are over train.max_length="
                           f"{max_length} tokens, {train.undecided} say only ties")
    over, undecided = train.over_length + held_out.over_length, train.undecided + held_out.undecided
    run.note(rows={"rankings": train.rankings, "prompts": len(train.groups), "held_out_rankings": held_out.rankings,
                   "held_out_prompts": len(held_out.groups), "over_length": over, "only_ties": undecided})
    print(f"{train.rankings} rankings of {len(train.groups)} prompts to train on, {held_out.rankings} of "
          f"{len(held_out.groups)} held out; left out: {over} over {max_length} tokens, {undecided} of only ties")


def start(chat: Chat, checkpoint: models.Checkpoint, model_config: models.ModelConfig, head_config: HeadConfig,
          seed: int) -> RewardModel:
    """The reward adapter begins as a copy of the SFT adapter; the head is new."""
    torch.manual_seed(seed)
    base = models.load_base(checkpoint, model_config)
    backbone = models.add_adapter(base, ADAPTER, checkpoint.adapter, model_config)
    models.train_only(backbone, {ADAPTER})
    width = passes.plain(backbone).config.get_text_config().hidden_size
    head = heads.Head(width, head_config.pooling, head_config.likelihood)
    return RewardModel(backbone, head.to(models.device()), chat.pad_id)


def fit(run: runs.Run, model: RewardModel, chat: Chat, checkpoint: models.Checkpoint, groups: list[Group],
        args: RewardConfig) -> None:
    args.output_dir = str(run.path)
    with training.settling():
        trainer = RankingTrainer(model, args, train_dataset=groups,  # type: ignore[arg-type]
                                 data_collator=lambda rows: {"batch": collate(rows)})
    trainer.run, trainer.chat = run, chat
    training.fp32_adapters(run, model)
    training.attach(trainer, run, lambda folder: finish(run, model, chat, checkpoint, folder))
    moved = training.Moved(model)
    training.train(trainer, run)
    moved.check(run, model)


def save(model: RewardModel, chat: Chat, folder: Path) -> None:
    models.save_adapter(model.backbone, ADAPTER, folder)  # type: ignore[arg-type]
    model.head.save(folder)
    models.save_tokenizer(chat, folder)


def finish(run: runs.Run, model: RewardModel, chat: Chat, checkpoint: models.Checkpoint, folder: Path) -> None:
    """Weights saved, loaded back and compared; sealed by its manifest."""
    if folder == run.final:
        checkpoints.discard(folder)  # what an earlier try left
        save(model, chat, folder)
    models.check_reload(run, model.backbone, chat, folder, ADAPTER, model.head)
    models.seal(folder, checkpoint, "reward")


def pair_tensors(batch: Batch, where: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return (torch.tensor(batch.chosen, device=where), torch.tensor(batch.rejected, device=where),
            torch.tensor(batch.weights, device=where))


def raw_scores(model: RewardModel, groups: list[Group]) -> list[Tensor]:
    """Raw scores_K of each group, in evaluation mode."""
    rows = [list(row) for group in groups for row in group.rows]
    starts = [group.start for group in groups for _ in group.rows]
    model.eval()
    flat = heads.outputs(model.backbone, model.head, ADAPTER, rows, starts, model.pad_id).squeeze(1)
    return list(flat.split([len(group.rows) for group in groups]))


def scale(run: runs.Run, model: RewardModel, groups: list[Group]) -> None:
    """Set the head's zero and unit on the answers that were ranked, which the SFT model wrote."""
    scores_N = torch.cat(raw_scores(model, groups))[:SCALED_ON]
    spread = model.head.settle(scores_N[:, None])
    run.check("spread", spread > 1e-6, f"scores of {len(scores_N)} training answers have a spread of {spread:.3g}")


def accuracy(model: RewardModel, groups: list[Group]) -> tuple[list[float], list[float]]:
    """Per prompt, the weighted share of pairs ordered right (ties half), and the mean negative log-likelihood."""
    right, nll = [], []
    for group, scores_K in zip(groups, raw_scores(model, groups), strict=True):
        chosen_P, rejected_P, weights_P = pair_tensors(collate([group]), scores_K.device)
        right.append(float((loss.accuracy(scores_K, chosen_P, rejected_P) * weights_P).sum() / weights_P.sum()))
        nll.append(float(loss.bradley_terry(scores_K, chosen_P, rejected_P, weights_P) / weights_P.sum()))
    return right, nll


def check_scores(run: runs.Run, model: RewardModel, chat: Chat) -> None:
    """The end of the answer counts; what stands beside a row in its batch does not."""
    rows, starts = models.probe_rows(chat)
    together = heads.score(model.backbone, model.head, ADAPTER, rows, starts, chat.pad_id)
    alone = heads.score(model.backbone, model.head, ADAPTER, rows, starts, chat.pad_id, batch=1)
    gap = float((together - alone).abs().max())
    run.check("padding", gap < 1e-2, f"scores alone and in a batch differ by at most {gap:.1e}")
    endless = heads.score(model.backbone, model.head, ADAPTER, [row[:-1] for row in rows], starts, chat.pad_id)
    least = float((together - endless).abs().min())
    run.check("end of answer", least > 0, f"leaving out the end token changes every score, by {least:.1e} or more")


def summarise(run: runs.Run, model: RewardModel, groups: list[Group]) -> None:
    before = run.record.pop("before", None)
    if not groups:
        run.note(metrics={"held_out_prompts": 0})
        print("no held-out rankings: accuracy not measured")
        return
    after, nll = accuracy(model, groups)
    low, high = stats.bootstrap_interval(after)
    metrics = {"accuracy": sum(after) / len(after), "accuracy_low": low, "accuracy_high": high,
               "log_loss": sum(nll) / len(nll), "held_out_prompts": len(groups)}
    if before:
        metrics["accuracy_before"] = sum(before) / len(before)
    run.note(metrics=metrics)
    print(f"held-out accuracy {metrics.get('accuracy_before', float('nan')):.3f} -> {metrics['accuracy']:.3f} "
          f"[{low:.3f}, {high:.3f}] over {len(groups)} prompts")
