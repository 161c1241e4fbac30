"""The adapter kind: a LoRA adapter and a head on the policy's base, trained on all answers of each prompt at once."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from trl import RewardConfig

from prefloop import checkpoints, heads, models, passes, ranks, runs, training
from prefloop.chat import Chat
from prefloop.errors import RequestError
from prefloop.scoring import AdapterScorer

from .criterion import Criterion, says
from .groups import Batch, Encoded, Tokens, collated, encoded
from .judgements import Group
from .settings import Settings
from .trainer import ADAPTER, RankingTrainer, RewardModel, save

SCALED_ON = 1000  # answers that set the reward's zero and unit


def learn(run: runs.Run, settings: Settings, checkpoint: models.Checkpoint, groups: list[Group]) -> AdapterScorer:
    """Train, save, check and scale; the reward model as it is in memory then."""
    chat = models.load_chat(checkpoint)
    objectives = list(settings.head.objectives)
    train = encoded(chat, groups, settings.train.max_length, lambda one: says(settings.loss, objectives, one))
    report(run, train, settings)
    found: list[RewardModel] = []

    def once(args: RewardConfig) -> None:
        criterion = Criterion(settings.loss, objectives, train.groups)
        model = start(chat, checkpoint, settings, criterion, args.seed)
        longest = max(len(row) for group in train.groups for row in group.rows)
        models.require_context(model.backbone, longest, "train.max_length")
        share(model)
        fit(run, model, chat, checkpoint, train.groups, args)
        scale(run, model, train.groups)
        ranks.by_first("final", lambda: finish(run, model, chat, checkpoint, run.final))
        check_scores(run, model, chat)
        found.append(model)

    training.within_memory(run, settings.train, once)
    return AdapterScorer(found[-1].backbone.eval(), found[-1].head, chat)  # type: ignore[arg-type]


def report(run: runs.Run, train: Encoded, settings: Settings) -> None:
    most = settings.train.max_length
    if not train.groups:
        raise RequestError(f"{settings.data.path}: no ranking to train on: {train.over_length} are over "
                           f"train.max_length={most} tokens, {train.undecided} say nothing to this loss (only ties, "
                           f"or none of head.objectives)")
    run.note(rows={"rankings": train.rankings, "prompts": len(train.groups), "over_length": train.over_length,
                   "say_nothing": train.undecided})
    print(f"{train.rankings} rankings of {len(train.groups)} prompts to train on; left out: {train.over_length} over "
          f"{most} tokens, {train.undecided} that say nothing to this loss")


def start(chat: Chat, checkpoint: models.Checkpoint, settings: Settings, criterion: Criterion,
          seed: int) -> RewardModel:
    """The reward adapter begins as a copy of the SFT adapter; the head is new."""
    torch.manual_seed(seed)
    base = models.load_base(checkpoint, settings.model)
    backbone = models.add_adapter(base, ADAPTER, checkpoint.adapter, settings.model)
    models.train_only(backbone, {ADAPTER})
    width = passes.plain(backbone).config.get_text_config().hidden_size
    asked = settings.head
    head = heads.Head(width, asked.pooling, asked.likelihood, asked.objectives, asked.members)
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
