"""Online DPO: the policy answers, a reward model ranks its answers, the policy learns from the pairs, and again.

The trainer is DPO's own. One of its epochs is one round, made when the order of the epoch's rows is asked for. A
checkpoint in the midst of a round keeps its pairs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch.utils.data import Sampler
from trl import DPOConfig

from prefloop import checkpoints, config, models, ranks, runs, scoring, stats, training
from prefloop.chat import Chat
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Pair, Prompt

from . import dpo, judging, labels, pair_figures, served
from .pairs import POLICY, REFERENCE, DPOData, Row, equal, tokenised
from .rounds import OnlineConfig, Rounds, filled, judged
from .settings import RewardConfig

HELD_OUT = 100  # prompts of the test split that are answered before and after


def main(asked: config.Asked, resume: Path | None = None) -> None:
    model_config, data, args, online, where = config.build(asked, dpo.sections())
    dpo.refuse(model_config, data, args)
    refuse(asked, data, args, online)
    source = snapshot.read(Path(data.path))
    checkpoint = models.resolve_policy(model_config.path, model_config.revision)
    judge = found(online, checkpoint)
    args.num_train_epochs = float(online.rounds)
    with runs.start(asked, where, resume, policy=checkpoint.lineage(), reward=judge.lineage,
                    data=source.lineage()) as run:
        run.resolved(model=model_config, data=data, train=args, online=online)
        chat = models.load_chat(checkpoint)
        prompts = fitting(chat, source.prompts_of("train")[: data.limit], args.max_length, online)
        held_out = fitting(chat, source.prompts_of("test")[:HELD_OUT], args.max_length, online)
        report(run, source, prompts, held_out, data, args)
        pairs, _ = tokenised(chat, equal(source.pairs("test")[: dpo.HELD_OUT]), args.max_length)

        def learn(args: DPOConfig) -> None:
            model = dpo.start(checkpoint, model_config, args.seed)
            longest = max(len(chat.prompt_ids(prompt)) for prompt in prompts) + online.max_new_tokens
            models.require_context(model, longest, "a prompt and online.max_new_tokens")
            scorer = reader(model, judge, model_config)
            moved, reference = training.Moved(model), dpo.adapter_weights(model, POLICY)
            first = first_rows(chat, prompts)
            trainer = dpo.build(run, model, chat, first, pairs, args, OnlineTrainer)
            batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * ranks.world()
            trainer.rounds = rounds = Rounds(run, model, chat, scorer, prompts, online, batch, args.seed)
            training.fp32_adapters(run, model, moved)
            training.attach(trainer, run, lambda folder: finish(run, model, chat, checkpoint, folder, rounds))
            dpo.check_start(run, trainer, model, chat, first)
            training.train(trainer, run)
            moved.check(run, model)
            dpo.check_reference(run, model, reference)
            ranks.by_first("final", lambda: dpo.finish(run, model, chat, checkpoint, run.final))
            summarise(run, model, chat, scorer, held_out, pairs, online, args)
            for role, when in ((REFERENCE, "before"), (POLICY, "after")):
                training.samples(run, model, chat, held_out[:4], role, when, online.max_new_tokens)

        training.within_memory(run, args, learn)


def refuse(asked: config.Asked, data: DPOData, args: DPOConfig, online: OnlineConfig) -> None:
    given = asked.sections.get("train", {})
    for key, why in (("num_train_epochs", "online.rounds says how long"), ("max_steps", "online.rounds says how long"),
                     ("precompute_ref_log_probs", "each round has pairs of its own"),
                     ("dataloader_num_workers", "a round is made in the process that trains")):
        if given.get(key):
            raise RequestError(f"train.{key}: {why} in online DPO; drop this key")
    if data.labels or data.majority:
        raise RequestError(f"data.{'labels' if data.labels else 'majority'}: online DPO ranks answers of its own by "
                           f"online.reward; drop one of them")
    if online.pairs == "all":
        labels.refuse(args, "online.pairs=all")
    if ranks.sharded():
        raise RequestError("online DPO samples from whole weights, which FSDP shares out; configs/accelerate/ddp.yaml "
                           "gives each GPU the whole base")


def fitting(chat: Chat, prompts: list[Prompt], max_length: int | None, online: OnlineConfig) -> list[Prompt]:
    """The prompts that leave room for an answer of the longest kind."""
    return [prompt for prompt in prompts
            if max_length is None or len(chat.prompt_ids(prompt)) + online.max_new_tokens <= max_length]


def report(run: runs.Run, source: snapshot.Snapshot, prompts: list[Prompt], held_out: list[Prompt], data: DPOData,
           args: DPOConfig) -> None:
    found = len(source.prompts_of("train")[: data.limit])
    if not prompts:
        raise RequestError(f"{data.path}: no prompt to train on ({found} in split train; with online.max_new_tokens "
                           f"all are over train.max_length={args.max_length})")
    run.note(rows={"train": len(prompts), "held_out": len(held_out), "over_length": found - len(prompts)})
    print(f"{len(prompts)} prompts to train on, {len(held_out)} held out; {found - len(prompts)} too long left out")


def found(online: OnlineConfig, policy: models.Checkpoint) -> judging.Found:
    """The reward model that `online.reward` names: a run of any kind, or a server as `prefloop serve` is one."""
    if "://" not in online.reward:
        return judging.found_at(online.reward, policy, "online.reward")
    server = served.connect(RewardConfig(url=online.reward, token_file=online.token_file, timeout=online.timeout,
                                         patience=online.patience), "online.reward")
    return judging.Found(online.reward, {"path": online.reward, "checksum": server.model}, server=server)


def reader(model: PeftModel, judge: judging.Found, model_config: models.ModelConfig) -> judging.Reader:
    """The reward model at work: one more adapter where it stands on the policy's base, else a model beside it."""
    if judge.server:
        return judge.server
    assert judge.checkpoint is not None
    scorer = scoring.load(judge.checkpoint, model_config, model if judge.on_base else None)
    models.train_only(model, {POLICY})
    return scorer


def first_rows(chat: Chat, prompts: list[Prompt]) -> list[Row]:
    """Something to hold the loss against before there is a round."""
    return tokenised(chat, [Pair(prompt, "Yes.", "No.") for prompt in prompts[: dpo.FIRST]], None)[0]


class OnlineTrainer(dpo.TokenDPOTrainer):
    """Its rows, and their order, are those of a round."""

    rounds: Rounds

    def get_train_dataloader(self) -> Any:
        self.train_dataset = self.rounds  # type: ignore[assignment]
        return super().get_train_dataloader()

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return Order(self)

    def save_now(self) -> None:
        """A checkpoint between two rounds, where there is none of this step yet."""
        step = self.state.global_step
        if step and not (self.rounds.run.path / f"checkpoint-{step}" / checkpoints.MANIFEST).is_file():
            self._save_checkpoint(self.model, None)  # type: ignore[arg-type]
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)


class Order(Sampler):
    """Of the rows of a round. To ask for it, as every epoch does, is to begin the next round."""

    def __init__(self, trainer: OnlineTrainer) -> None:
        self.trainer = trainer

    def __len__(self) -> int:
        return len(self.trainer.rounds)

    def __iter__(self) -> Iterator[int]:
        try:
            self.trainer.rounds.begin(self.trainer.state.global_step)
        except KeyboardInterrupt:  # no weight has changed since the last step
            self.trainer.save_now()
            raise
        return iter(range(len(self)))


def finish(run: runs.Run, model: PeftModel, chat: Chat, checkpoint: models.Checkpoint, folder: Path,
           rounds: Rounds) -> None:
    """A checkpoint keeps the round at hand; the reward model's adapter is its own run's to keep."""
    rounds.save(folder)
    shutil.rmtree(folder / scoring.ROLE, ignore_errors=True)
    dpo.finish(run, model, chat, checkpoint, folder)


def summarise(run: runs.Run, model: PeftModel, chat: Chat, scorer: judging.Reader, prompts: list[Prompt],
              pairs: list[Row], online: OnlineConfig, args: DPOConfig) -> None:
    """Reference and policy on held-out prompts, with the same random numbers, by the reward and by people's pairs."""
    if not prompts:
        print("no held-out prompt (split test): nothing to compare before and after on")
        return
    model.eval()
    roles = (REFERENCE, POLICY)
    before, after = (pair_figures.answered(model, chat, role, prompts, online.max_new_tokens, f"answers {when}")
                     for role, when in zip(roles, ("before", "after"), strict=True))
    both = [list(pair) for pair in zip(before.answer_ids, after.answer_ids, strict=True)]
    scores_before, scores_after = map(list, zip(*filled(judged(chat, scorer, prompts, both)), strict=True))
    figures = {"score_before": scores_before, "score_after": scores_after,
               **pair_figures.of_answers(model, roles, before, after, chat.pad_id)}
    if pairs:
        figures |= pair_figures.on_pairs(model, roles, pairs, chat.pad_id, args.beta)
    gain, low, high = stats.paired_difference(scores_after, scores_before)
    said = (f"Online DPO: {online.rounds} rounds of {online.prompts} prompts with {online.answers} answers each, "
            f"ranked by `{online.reward}`. Its score on held-out prompts changed by {gain:.3f} in [{low:.3f}, "
            f"{high:.3f}] (95%). Nobody but that reward model judged: `prefloop compare` shows answers to people.")
    run.note(metrics=pair_figures.noted(run, figures, len(pairs), said)
             | {"score_gain": gain, "score_gain_low": low, "score_gain_high": high})
    print(said)
