"""Learning by gradient, of either kind: all answers of a prompt at once; then scaled, saved, loaded back, checked."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from trl import RewardConfig

from prefloop import checkpoints, heads, models, ranks, runs, scoring, training
from prefloop.chat import PROBES
from prefloop.errors import RequestError
from prefloop.records import Message, Prompt

from .adapter import Adapter
from .criterion import Criterion, says
from .encoder import Encoder
from .groups import Batch, Encoded, Row, Tokens, collated, encoded, levels_of
from .judgements import Group
from .kinds import Kind
from .loss import NOBODY
from .settings import Settings
from .trainer import RankingTrainer, RewardModel, save


def learn(run: runs.Run, settings: Settings, checkpoint: models.Checkpoint, groups: list[Group]) -> scoring.Scorer:
    """Train, save, check and scale; the reward model as it is in memory then."""
    kind = begun(settings, checkpoint)
    objectives = list(settings.head.objectives)
    train = encoded(kind.rows, groups, lambda one: says(settings.loss, objectives, one))
    report(run, train, settings)
    found: list[RewardModel] = []

    def once(args: RewardConfig) -> None:
        criterion = Criterion(settings.loss, objectives, train.groups)
        longest = max(len(ids) for group in train.groups for ids, _ in group.rows)
        reader = kind.begin(settings.head, args.seed, longest)
        model = RewardModel(reader, criterion.to(models.device()))
        fit(run, kind, model, checkpoint, train.groups, args)
        scale(run, kind, model, train.groups)
        ranks.by_first("final", lambda: finish(run, kind, model, checkpoint, run.final))
        check_scores(run, kind, model)
        found.append(model)

    training.within_memory(run, settings.train, once)
    return kind.scorer(found[-1].reader.eval())


def begun(settings: Settings, checkpoint: models.Checkpoint) -> Kind:
    """What the run trains, before any weights are loaded."""
    longest, dropout = settings.train.max_length, not settings.train.disable_dropout
    if settings.model.kind == "encoder":
        return Encoder.of(checkpoint, settings.head, longest, dropout)
    return Adapter.of(checkpoint, settings.model, longest, dropout)


def report(run: runs.Run, train: Encoded, settings: Settings) -> None:
    most = settings.train.max_length
    if not train.groups:
        raise RequestError(f"{settings.data.path}: no ranking to train on: {train.over_length} are over "
                           f"train.max_length={most} tokens, {train.undecided} say nothing to this loss (only ties, "
                           f"or none of head.objectives)")
    for name in settings.head.objectives:  # a head that learns nothing would still be part of the reward
        if not any(level != NOBODY for group in train.groups for one in group.judgements
                   for level in levels_of(one, name)):
            known = sorted({own for group in train.groups for one in group.judgements for own in one.dimensions})
            raise RequestError(f"head.objectives: no ranking of {settings.data.path} says anything of {name!r}; "
                               f"known: {', '.join([heads.OVERALL, *known])}")
    run.note(rows={"rankings": train.rankings, "prompts": len(train.groups), "over_length": train.over_length,
                   "say_nothing": train.undecided})
    print(f"{train.rankings} rankings of {len(train.groups)} prompts to train on; left out: {train.over_length} over "
          f"{most} tokens, {train.undecided} that say nothing to this loss")


def fit(run: runs.Run, kind: Kind, model: RewardModel, checkpoint: models.Checkpoint, groups: list[Tokens],
        args: RewardConfig) -> None:
    args.output_dir = str(run.path)
    objectives, members = list(model.head.objectives), model.head.members

    def collate(rows: list[Tokens]) -> dict[str, Batch]:
        return {"batch": collated(rows, objectives, members, args.seed)}

    with training.settling():
        trainer = RankingTrainer(model, args, train_dataset=groups,  # type: ignore[arg-type]
                                 data_collator=collate)
    trainer.run, trainer.kind = run, kind
    training.fp32_adapters(run, model)
    training.attach(trainer, run, lambda folder: finish(run, kind, model, checkpoint, folder))
    moved = training.Moved(model)
    training.train(trainer, run)
    moved.check(run, model)
    run.note(learned=model.criterion.learned())


def finish(run: runs.Run, kind: Kind, model: RewardModel, checkpoint: models.Checkpoint, folder: Path) -> None:
    """Weights saved, loaded back and compared; sealed by its manifest."""
    if folder == run.final:
        checkpoints.discard(folder)  # what an earlier try left
        save(kind, model, folder)
    kind.check_reload(run, model.reader, folder)
    models.seal(folder, checkpoint, "reward")


def scale(run: runs.Run, kind: Kind, model: RewardModel, groups: list[Tokens]) -> None:
    """Set the head's zero and unit on the answers that were ranked, which the SFT model wrote."""
    rows = [row for group in groups for row in group.rows][: heads.SCALED_ON]
    spread = model.head.settle(kind.outputs(model.reader, rows))
    run.check("spread", spread > 1e-6, f"scores of {len(rows)} training answers have a spread of {spread:.3g}")


def check_scores(run: runs.Run, kind: Kind, model: RewardModel) -> None:
    """The end of the answer counts; what stands beside a row in its batch does not."""
    def scores(rows: list[Row], batch: int = 32) -> Tensor:
        return model.head.by_member(kind.outputs(model.reader, rows, batch)).mean(1)

    probes = [Group(Prompt((Message("user", ask),)), (answer,), ()) for ask, answer in PROBES]
    rows = [row for group in probes for row in kind.rows(group) if row]
    if not rows:
        return  # of a limit that only tests set
    together = scores(rows)
    gap = float((together - scores(rows, 1)).abs().max())
    run.check("padding", gap < 1e-2, f"scores alone and in a batch differ by at most {gap:.1e}")
    least = float((together - scores([(ids[:-1], start) for ids, start in rows])).abs().min())
    run.check("end of answer", least > 0, f"leaving out the end token changes every score, by {least:.1e} or more")
