"""A reward model from rankings: an adapter and a head on the shared base, trained on all pairs of each prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from trl import RewardConfig

from prefloop import checkpoints, config, heads, models, passes, ranks, runs, stats, training
from prefloop.chat import Chat
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import decided

from .criterion import Criterion, LossConfig, says
from .groups import Batch, Encoded, Tokens, collated, encoded
from .judgements import gathered
from .trainer import ADAPTER, RankingTrainer, RewardModel, save

SCALED_ON = 1000  # answers that set the reward's zero and unit


@dataclass(frozen=True)
class HeadConfig:
    """`head:`. A `mean` over the answer's tokens learns more from few rankings than the `last` token alone.

    `likelihood` also reads how likely the answer is to the model itself: for small bases, whose hidden states do not
    say by themselves whether an answer fits its prompt. `members` is the size of an ensemble, each member trained on
    a bootstrap of prompts. `objectives` are weighted: `overall` is the ranking, others are dimensions of rankings.
    """

    pooling: Literal["mean", "last"] = "mean"
    likelihood: bool = False
    members: int = 1
    objectives: dict[str, float] = field(default_factory=lambda: {heads.OVERALL: 1.0})

    def __post_init__(self) -> None:
        if self.members < 1:
            raise ValueError("head.members is at least 1")
        weights = list(self.objectives.values())
        if not all(isinstance(one, int | float) and math.isfinite(one) for one in weights) or not any(weights):
            raise ValueError("head.objectives gives each objective a weight, such as {overall: 1, helpful: 0.5}")


def sections() -> config.Sections:
    return {"model": config.Section(models.ModelConfig), "head": config.Section(HeadConfig),
            "loss": config.Section(LossConfig), "data": config.Section(training.DataConfig),
            "train": training.section(RewardConfig, learning_rate=1e-4, remove_unused_columns=False),
            "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked, resume: Path | None = None) -> None:
    model_config, head_config, loss_config, data, args, where = config.build(asked, sections())
    if model_config.whole:
        raise RequestError("model.whole: a reward model is an adapter and a head; leave it out")
    source = snapshot.read(Path(data.path))
    checkpoint = models.resolve_policy(model_config.path, model_config.revision)
    with runs.start(asked, where, resume, policy=checkpoint.lineage(), data=source.lineage()) as run:
        run.resolved(model=model_config, head=head_config, loss=loss_config, data=data, train=args)
        chat = models.load_chat(checkpoint)

        def read(split: str, limit: int | None = None) -> Encoded:
            return encoded(chat, gathered(source.rankings_of(split)[:limit]), args.max_length,
                           lambda one: says(loss_config, list(head_config.objectives), one))

        train, held_out = read("train", data.limit), read("test")
        report(run, train, held_out, data.path, args.max_length)

        def learn(args: RewardConfig) -> None:
            criterion = Criterion(loss_config, list(head_config.objectives), train.groups)
            model = start(chat, checkpoint, model_config, head_config, criterion, args.seed)
            longest = max(len(row) for group in train.groups for row in group.rows)
            models.require_context(model.backbone, longest, "train.max_length")
            share(model)
            if "before" not in run.record:
                run.note(before=accuracy(model, held_out.groups)[0])
            fit(run, model, chat, checkpoint, train.groups, args)
            scale(run, model, train.groups)
            ranks.by_first("final", lambda: finish(run, model, chat, checkpoint, run.final))
            check_scores(run, model, chat)
            summarise(run, model, held_out.groups)

        training.within_memory(run, args, learn)


def report(run: runs.Run, train: Encoded, held_out: Encoded, path: str, max_length: int | None) -> None:
    if not train.groups:
        raise RequestError(f"{path}: no ranking to train on: {train.over_length} are over train.max_length="
                           f"{max_length} tokens, {train.undecided} say nothing to this loss (only ties, or none of "
                           f"head.objectives)")
    over, undecided = train.over_length + held_out.over_length, train.undecided + held_out.undecided
    run.note(rows={"rankings": train.rankings, "prompts": len(train.groups), "held_out_rankings": held_out.rankings,
                   "held_out_prompts": len(held_out.groups), "over_length": over, "say_nothing": undecided})
    print(f"{train.rankings} rankings of {len(train.groups)} prompts to train on, {held_out.rankings} of "
          f"{len(held_out.groups)} held out; left out: {over} over {max_length} tokens, {undecided} that say nothing "
          f"to this loss")


def start(chat: Chat, checkpoint: models.Checkpoint, model_config: models.ModelConfig, head_config: HeadConfig,
          criterion: Criterion, seed: int) -> RewardModel:
    """The reward adapter begins as a copy of the SFT adapter; the head is new."""
    torch.manual_seed(seed)
    base = models.load_base(checkpoint, model_config)
    backbone = models.add_adapter(base, ADAPTER, checkpoint.adapter, model_config)
    models.train_only(backbone, {ADAPTER})
    width = passes.plain(backbone).config.get_text_config().hidden_size
    head = heads.Head(width, head_config.pooling, head_config.likelihood, head_config.objectives, head_config.members)
    where = models.device()
    return RewardModel(backbone, head.to(where), criterion.to(where), chat.pad_id)


def share(model: RewardModel) -> None:
    """Find out whether a prompt can be read once for all of its answers, and say so."""
    with passes.acting(model.backbone, ADAPTER):
        shares = heads.sharing(model.backbone, model.head, model.pad_id)
    print("a prompt is read once for all of its answers" if shares else
          "this base reads every answer with its prompt by itself: in a line that they share it scores otherwise")


def fit(run: runs.Run, model: RewardModel, chat: Chat, checkpoint: models.Checkpoint, groups: list[Tokens],
        args: RewardConfig) -> None:
    args.output_dir = str(run.path)
    objectives, members = list(model.head.objectives), model.head.members

    def collate(rows: list[Tokens]) -> dict[str, Batch]:
        return {"batch": collated(rows, objectives, members, args.seed)}

    with training.settling():
        trainer = RankingTrainer(model, args, train_dataset=groups,  # type: ignore[arg-type]
                                 data_collator=collate)
    trainer.run, trainer.chat = run, chat
    training.fp32_adapters(run, model)
    training.attach(trainer, run, lambda folder: finish(run, model, chat, checkpoint, folder))
    moved = training.Moved(model)
    training.train(trainer, run)
    moved.check(run, model)
    run.note(learned=model.criterion.learned())


def finish(run: runs.Run, model: RewardModel, chat: Chat, checkpoint: models.Checkpoint, folder: Path) -> None:
    """Weights saved, loaded back and compared; sealed by its manifest."""
    if folder == run.final:
        checkpoints.discard(folder)  # what an earlier try left
        save(model, chat, folder)
    models.check_reload(run, model.backbone, chat, folder, ADAPTER, model.head)
    models.seal(folder, checkpoint, "reward")


def raw_scores(model: RewardModel, groups: list[Tokens]) -> list[Tensor]:
    """Raw scores_KO of each group's answers, in evaluation mode."""
    rows = [row for group in groups for row in group.rows]
    starts = [len(group.prompt) for group in groups for _ in group.answers]
    model.eval()
    flat = heads.outputs(model.backbone, model.head, ADAPTER, rows, starts, model.pad_id)
    return list(flat.split([len(group.answers) for group in groups]))


def scale(run: runs.Run, model: RewardModel, groups: list[Tokens]) -> None:
    """Set the head's zero and unit on the answers that were ranked, which the SFT model wrote."""
    raw_NO = torch.cat(raw_scores(model, groups))[:SCALED_ON]
    spread = model.head.settle(raw_NO)
    run.check("spread", spread > 1e-6, f"scores of {len(raw_NO)} training answers have a spread of {spread:.3g}")


def accuracy(model: RewardModel, groups: list[Tokens]) -> tuple[list[float], list[float]]:
    """Per prompt that decides anything, the share of pairs ordered right (ties half), and the mean negative
    log-likelihood, by scaled scores."""
    right, nll = [], []
    for group, raw_KO in zip(groups, raw_scores(model, groups) if groups else [], strict=True):
        scores = model.head.by_member(raw_KO).mean(1).tolist()
        gaps = [scores[one.places[i]] - scores[one.places[j]] for one in group.judgements for i, j in
                decided(one.ranks)]
        if gaps:
            right.append(sum((gap > 0) + 0.5 * (gap == 0) for gap in gaps) / len(gaps))
            nll.append(sum(math.log1p(math.exp(-abs(gap))) + max(-gap, 0.0) for gap in gaps) / len(gaps))
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


def summarise(run: runs.Run, model: RewardModel, groups: list[Tokens]) -> None:
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
