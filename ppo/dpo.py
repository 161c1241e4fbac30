"""Direct preference optimisation: TRL's DPOTrainer on our own token rows, the SFT adapter as the frozen reference."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from datasets import Dataset
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer

from prefloop import checkpoints, config, models, ranks, runs, training
from prefloop.chat import Chat
from prefloop.errors import RequestError
from prefloop.formats import snapshot

from . import labels, pair_figures, preference_losses, reference_logprobs
from .pairs import LABEL, POLICY, REFERENCE, Collator, DPOData, Row, dataset, equal, normalised, pairs_of, tokenised
from .reference_logprobs import pair_logprobs
from .rounds import OnlineConfig

HELD_OUT = 1000  # pairs of the test split that the figures are made on
FIRST = 8  # pairs of the check before the first step
T = TypeVar("T", bound=DPOTrainer)


class TokenDPOTrainer(DPOTrainer):
    """TRL renders and cuts conversations itself; our rows come as token ids, whole, from prefloop.chat."""

    def _prepare_dataset(self, dataset: Dataset, *_: object) -> Dataset:  # type: ignore[override]
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = [*(self._signature_columns or []), *LABEL]

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Tensor],
                      return_outputs: bool) -> object:  # type: ignore[override]
        if LABEL[0] not in inputs:
            return super()._compute_loss(model, inputs, return_outputs)
        with labels.SoftLabels(*(inputs[name] for name in LABEL)):
            own = {name: value for name, value in inputs.items() if name not in LABEL}
            return super()._compute_loss(model, own, return_outputs)


def sections() -> config.Sections:
    # TRL's 1e-6 is for training whole models. Adam moves every weight by about the learning rate a step, and LoRA's
    # small matrices, the second of them zero at first, must move further before the model that they add to does.
    return {"model": config.Section(models.ModelConfig), "data": config.Section(DPOData),
            "train": training.section(DPOConfig, learning_rate=1e-5), "online": config.Section(OnlineConfig),
            "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked, resume: Path | None = None) -> None:
    model_config, data, args, online_settings, where = config.build(asked, sections())
    if online_settings.reward:
        from . import online

        return online.main(asked, resume)
    unread = sorted(asked.sections.get("online", {}).keys() - {"reward"})
    if unread:
        raise RequestError(f"online.{unread[0]}: nothing reads it without online.reward; name a reward run there, or "
                           f"drop online")
    refuse(model_config, data, args)
    source = snapshot.read(Path(data.path))
    checkpoint = models.resolve_policy(model_config.path, model_config.revision)
    parents = {"labels": labels.lineage(Path(data.labels))} if data.labels else {}
    with runs.start(asked, where, resume, policy=checkpoint.lineage(), data=source.lineage(),
                    **parents) as run:  # type: ignore
        run.resolved(model=model_config, data=data, train=args)
        chat = models.load_chat(checkpoint)
        train, over_length = tokenised(chat, pairs_of(source, "train", data)[: data.limit], args.max_length)
        train = normalised(train)
        held_out, held_over = tokenised(chat, equal(source.pairs("test")[:HELD_OUT]), args.max_length)
        report(run, train, held_out, over_length + held_over, data.path, args.max_length)
        precomputed = reference_logprobs.wanted(asked, args, len(train))
        run.note(reference="precomputed" if precomputed else "in every step")

        def learn(args: DPOConfig) -> None:
            model = start(checkpoint, model_config, args.seed)
            models.require_context(model, max(map(len, train)), "train.max_length")
            moved, reference = training.Moved(model), adapter_weights(model, POLICY)
            trainer = build(run, model, chat, train, held_out, args, TokenDPOTrainer)
            training.fp32_adapters(run, model, moved)
            if precomputed:
                evaluated = args.eval_strategy != "no" or args.eval_on_start
                splits = {"train": train, "eval": held_out if evaluated else []}
                reference_logprobs.into(run, trainer, model, REFERENCE, splits, chat.pad_id)
            training.attach(trainer, run, lambda folder: finish(run, model, chat, checkpoint, folder))
            check_start(run, trainer, model, chat, train[:FIRST])
            training.train(trainer, run)
            moved.check(run, model)
            check_reference(run, model, reference)
            ranks.by_first("final", lambda: finish(run, model, chat, checkpoint, run.final))
            if ranks.sharded():  # every process looks at what was saved, whole
                base = models.load_base(checkpoint, model_config)
                model = models.add_adapter(base, REFERENCE, checkpoint.adapter, model_config)
                models.add_adapter(model, POLICY, run.final, model_config)
            summarise(run, model, chat, held_out, args)
            for role, when in ((REFERENCE, "before"), (POLICY, "after")):
                training.samples(run, model, chat, source.prompts_of("test")[:4], role, when, answer_length(args))

        training.within_memory(run, args, learn)
    return None


def refuse(model_config: models.ModelConfig, data: DPOData, args: DPOConfig) -> None:
    preference_losses.refuse(args)
    if data.labels and data.majority:
        raise RequestError("data.majority: data.labels says already what all raters together make of a pair; drop one")
    if data.labels:
        labels.refuse(args)
    if model_config.whole:
        raise RequestError("model.whole: DPO trains an adapter, whose start is the reference; drop this key")
    if args.sync_ref_model:
        raise RequestError("train.sync_ref_model: the reference is the frozen SFT adapter; drop this key")


def report(run: runs.Run, train: list[Row], held_out: list[Row], over_length: int, path: str,
           max_length: int | None) -> None:
    if not train:
        raise RequestError(f"{path}: no pair to train on ({over_length} are over train.max_length={max_length} "
                           f"tokens)")
    prompts = len({row.prompt.id for row in train})
    run.note(rows={"train": len(train), "train_prompts": prompts, "held_out": len(held_out),
                   "over_length": over_length})
    print(f"{len(train)} pairs of {prompts} prompts to train on, {len(held_out)} held out; "
          f"{over_length} over {max_length} tokens left out")


def start(checkpoint: models.Checkpoint, model_config: models.ModelConfig, seed: int) -> PeftModel:
    """The SFT adapter, to be trained. On a whole fine-tuned model a new one, which changes nothing yet: its copy,
    the reference, then acts as that model bare."""
    torch.manual_seed(seed)
    model = models.add_adapter(models.load_base(checkpoint, model_config), POLICY, checkpoint.adapter, model_config)
    models.train_only(model, {POLICY})
    return model


def build(run: runs.Run, model: PeftModel, chat: Chat, train: list[Row], held_out: list[Row],
          args: DPOConfig, kind: type[T]) -> T:
    args.output_dir = str(run.path)
    longest, args.max_length = args.max_length, None  # what was too long is already left out, and counted
    args.precompute_ref_log_probs = False  # we make them ourselves, when the adapters are in fp32 again
    with training.settling():
        trainer = kind(model, args=args, train_dataset=dataset(train),  # type: ignore[arg-type]
                       eval_dataset=dataset(held_out) if held_out else None,
                       data_collator=Collator(chat.pad_id, pad_to_multiple_of=args.pad_to_multiple_of),  # type: ignore
                       processing_class=chat.tokenizer)
    args.max_length = longest
    return trainer


def adapter_weights(model: PeftModel, name: str) -> dict[str, Tensor]:
    weights = get_peft_model_state_dict(model, adapter_name=name)
    return {key: ranks.gathered(weight.detach()).cpu().clone() for key, weight in weights.items()}


def check_start(run: runs.Run, trainer: TokenDPOTrainer, model: PeftModel, chat: Chat, rows: list[Row]) -> None:
    """Policy and reference are one at first, so the loss of real rows is known, by our arithmetic and by TRL's."""
    model.eval()
    policy, reference = (torch.stack(pair_logprobs(model, role, rows, chat.pad_id)) for role in (POLICY, REFERENCE))
    ratios_2N = policy - reference
    gap, loss = float(ratios_2N.abs().max()), dpo_loss(*ratios_2N, beta=trainer.beta)
    run.check("KL at step 0", gap < 1e-6, f"policy and reference differ by at most {gap:.1e} nats per answer")
    run.check("DPO loss at step 0", abs(loss - preference_losses.LN2) < 1e-3,
              f"{loss:.6f}, and ln 2 is {preference_losses.LN2:.6f}")
    if trainer.use_weighting or trainer.aux_loss_enabled:  # each adds what only TRL computes
        return
    chosen_nll = -float(policy[0].sum()) / sum(len(row.chosen_ids) for row in rows)
    weight = sum(row.weight for row in rows) / len(rows)  # whatever their labels' probabilities
    due = preference_losses.before_first_step(trainer.args, chosen_nll, weight)  # type: ignore[arg-type]
    batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(rows))])  # type: ignore[index]
    with torch.no_grad():
        theirs = float(trainer.compute_loss(model, trainer._prepare_inputs(batch)))
    trainer._metrics["eval"].clear()  # this was no evaluation
    rounding = 0.01 * chosen_nll * preference_losses.weights(trainer.args).get("sft", 0.0)  # type: ignore[arg-type]
    run.check("TRL's loss at step 0", abs(theirs - due) < 1e-3 * max(1.0, due) + rounding,
              f"{theirs:.6f} of {due:.6f}")


def dpo_loss(chosen_ratios_N: Tensor, rejected_ratios_N: Tensor, beta: float) -> float:
    """-log sigmoid(beta * (chosen - rejected)), of log-ratios policy to reference (Rafailov et al. 2023, eq. 7)."""
    return float(-logsigmoid(beta * (chosen_ratios_N - rejected_ratios_N)).mean())


def check_reference(run: runs.Run, model: PeftModel, before: dict[str, Tensor]) -> None:
    now = adapter_weights(model, REFERENCE)
    same = now.keys() == before.keys() and all(torch.equal(now[key], before[key]) for key in before)
    run.check("reference", same, f"its {len(before)} tensors {'are' if same else 'are NOT'} those it began with")


def finish(run: runs.Run, model: PeftModel, chat: Chat, checkpoint: models.Checkpoint, folder: Path) -> None:
    """Make `folder` a checkpoint: weights saved, loaded back and compared, then sealed by its manifest."""
    if folder == run.final:
        if ranks.first():
            checkpoints.discard(folder)  # what an earlier try left
        models.save_adapter(model, POLICY, folder)
        models.save_tokenizer(chat, folder)
    models.check_reload(run, model, chat, folder, POLICY)
    models.seal(folder, checkpoint, "dpo")


def answer_length(args: DPOConfig) -> int:
    return (args.max_length or 1024) // 4


def summarise(run: runs.Run, model: PeftModel, chat: Chat, rows: list[Row], args: DPOConfig) -> None:
    """Held-out figures, before (the reference, which is where the policy began) and after, each with its interval."""
    if not rows:
        print("no held-out pairs, so no figures: the snapshot has no rankings in its test split")
        return
    model.eval()
    prompts = list({row.prompt.id: row.prompt for row in rows}.values())[:pair_figures.PROMPTS]
    roles = (REFERENCE, POLICY)
    figures = pair_figures.on_pairs(model, roles, rows, chat.pad_id, args.beta)
    figures |= pair_figures.on_prompts(model, chat, roles, prompts, answer_length(args))
    pair_figures.noted(run, figures, len(rows))
