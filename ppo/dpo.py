"""Direct preference optimisation: TRL's DPOTrainer on our own token rows, the SFT adapter as the frozen reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from prefloop import checkpoints, config, models, passes, ranks, runs, stats, training
from prefloop.chat import Chat
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.generate import SamplingConfig, sample_ids
from prefloop.records import Pair, Prompt

from . import labels

POLICY, REFERENCE = "default", "ref"  # TRL's names: it copies the first to the second and freezes the copy
HELD_OUT = 1000  # pairs of the test split that the figures are made on
KL_PROMPTS = 64
LABEL = ("probability", "weight")  # of a pair, where data.labels gives them
FIRST = 8  # pairs of the check before the first step


@dataclass(frozen=True)
class Row:
    """A pair as token ids; both answers end in the token that ends a turn."""

    prompt: Prompt
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    probability: float = 1.0
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


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


class Collator(DataCollatorForPreference):
    """TRL's, with the soft label of each pair where it has one."""

    def torch_call(self, examples: list[dict]) -> dict[str, Tensor]:
        own = {name: torch.tensor([row[name] for row in examples]) for name in LABEL if name in examples[0]}
        return super().torch_call(examples) | own


def sections() -> config.Sections:
    # TRL's 1e-6 is for training whole models. Adam moves every weight by about the learning rate a step, and LoRA's
    # small matrices, the second of them zero at first, must move further before the model that they add to does.
    return {"model": config.Section(models.ModelConfig), "data": config.Section(DPOData),
            "train": training.section(DPOConfig, learning_rate=1e-5), "run": config.Section(runs.RunConfig)}


def main(asked: config.Asked, resume: Path | None = None) -> None:
    model_config, data, args, where = config.build(asked, sections())
    refuse(model_config, data, args)
    source = snapshot.read(Path(data.path))
    checkpoint = models.resolve_policy(model_config.path, model_config.revision)
    parents = {"labels": labels.lineage(Path(data.labels))} if data.labels else {}
    with runs.start(asked, where, resume, policy=checkpoint.lineage(), data=source.lineage(),
                    **parents) as run:  # type: ignore
        run.resolved(model=model_config, data=data, train=args)
        chat = models.load_chat(checkpoint)
        train, over_length = tokenised(chat, pairs_of(source, "train", data)[: data.limit], args.max_length)
        held_out, held_over = tokenised(chat, equal(source.pairs("test")[:HELD_OUT]), args.max_length)
        report(run, train, held_out, over_length + held_over, data.path, args.max_length)

        def learn(args: DPOConfig) -> None:
            model = start(checkpoint, model_config, args.seed)
            models.require_context(model, max(map(len, train)), "train.max_length")
            moved, reference = training.Moved(model), adapter_weights(model, POLICY)
            trainer = build(run, model, chat, train, held_out, args)
            training.fp32_adapters(run, model, moved)
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


@dataclass(frozen=True)
class DPOData(training.DataConfig):
    """`data:` of DPO. With `majority`, several raters' pairs of the same two answers become one, as most had it.

    `labels` names a reward run: the same, with how probably the chosen answer is the better one, and a weight.
    """

    majority: bool = False
    labels: str = ""


def pairs_of(source: snapshot.Snapshot, split: str, data: DPOData) -> list[Pair]:
    pairs = source.pairs(split)
    if data.labels:
        return labels.labelled(pairs, labels.read(Path(data.labels)), data.labels)
    return majority(pairs) if data.majority else equal(pairs)


def equal(pairs: list[Pair]) -> list[Pair]:
    """Without labels each pair counts once: a ranking of four answers, with six pairs, counts six times as much as one
    of two, where our reward model gives every ranking the weight 1."""
    return [replace(pair, weight=1.0) for pair in pairs]


def majority(pairs: list[Pair]) -> list[Pair]:
    """One pair for each two answers of a prompt, the way that more rankings had it; a draw makes none."""
    votes: dict[tuple[str, str, str], float] = {}
    prompts = {pair.prompt.id: pair.prompt for pair in pairs}
    for pair in pairs:
        first, second = sorted((pair.chosen, pair.rejected))
        key = (pair.prompt.id, first, second)
        votes[key] = votes.get(key, 0.0) + (1.0 if pair.chosen == first else -1.0)
    return [Pair(prompts[prompt], *((first, second) if net > 0 else (second, first)))
            for (prompt, first, second), net in votes.items() if net]


def refuse(model_config: models.ModelConfig, data: DPOData, args: DPOConfig) -> None:
    if data.labels and data.majority:
        raise RequestError("data.majority: data.labels says already what all raters together make of a pair; drop one")
    if data.labels:
        labels.refuse(args)
    if model_config.whole:
        raise RequestError("model.whole: DPO trains an adapter, whose start is the reference; drop this key")
    if args.sync_ref_model:
        raise RequestError("train.sync_ref_model: the reference is the frozen SFT adapter; drop this key")


def tokenised(chat: Chat, pairs: list[Pair], max_length: int | None) -> tuple[list[Row], int]:
    """The pairs whose longer side fits, and how many do not: a row is never cut."""
    rows = [Row(pair.prompt, chat.prompt_ids(pair.prompt), chat.answer_ids(pair.chosen),
                chat.answer_ids(pair.rejected), pair.probability, pair.weight) for pair in pairs]
    fitting = [row for row in rows if max_length is None or len(row) <= max_length]
    return fitting, len(rows) - len(fitting)


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
          args: DPOConfig) -> TokenDPOTrainer:
    args.output_dir = str(run.path)
    longest, args.max_length = args.max_length, None  # what was too long is already left out, and counted
    with training.settling():
        trainer = TokenDPOTrainer(model, args=args, train_dataset=dataset(train),  # type: ignore[arg-type]
                                  eval_dataset=dataset(held_out) if held_out else None,
                                  data_collator=Collator(
                                      chat.pad_id, pad_to_multiple_of=args.pad_to_multiple_of),  # type: ignore
                                  processing_class=chat.tokenizer)
    args.max_length = longest
    return trainer


def dataset(rows: list[Row]) -> Dataset:
    label = LABEL if any((row.probability, row.weight) != (1.0, 1.0) for row in rows) else ()
    return Dataset.from_dict({name: [getattr(row, name) for row in rows]
                              for name in ("prompt_ids", "chosen_ids", "rejected_ids", *label)})


def adapter_weights(model: PeftModel, name: str) -> dict[str, Tensor]:
    weights = get_peft_model_state_dict(model, adapter_name=name)
    return {key: ranks.gathered(weight.detach()).cpu().clone() for key, weight in weights.items()}


def check_start(run: runs.Run, trainer: TokenDPOTrainer, model: PeftModel, chat: Chat, rows: list[Row]) -> None:
    """Policy and reference are one at first, so the loss of real rows is ln 2, by our arithmetic and by TRL's."""
    model.eval()
    policy, reference = (torch.stack(pair_logprobs(model, role, rows, chat.pad_id)) for role in (POLICY, REFERENCE))
    ratios_2N = policy - reference
    gap, loss = float(ratios_2N.abs().max()), dpo_loss(*ratios_2N, beta=trainer.beta)
    run.check("KL at step 0", gap < 1e-6, f"policy and reference differ by at most {gap:.1e} nats per answer")
    run.check("DPO loss at step 0", abs(loss - log(2)) < 1e-3, f"{loss:.6f}, and ln 2 is {log(2):.6f}")
    if trainer.loss_types == ["sigmoid"] and trainer.loss_weights == [1.0] and not trainer.use_weighting:
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(rows))])  # type: ignore[index]
        with torch.no_grad():
            theirs = float(trainer.compute_loss(model, trainer._prepare_inputs(batch)))
        trainer._metrics["eval"].clear()  # this was no evaluation
        due = log(2) * sum(row.weight for row in rows) / len(rows)  # whatever their labels' probabilities
        run.check("TRL's loss at step 0", abs(theirs - due) < 1e-3 * max(1.0, due), f"{theirs:.6f} of {due:.6f}")


def dpo_loss(chosen_ratios_N: Tensor, rejected_ratios_N: Tensor, beta: float) -> float:
    """-log sigmoid(beta * (chosen - rejected)), of log-ratios policy to reference (Rafailov et al. 2023, eq. 7)."""
    return float(-logsigmoid(beta * (chosen_ratios_N - rejected_ratios_N)).mean())


def pair_logprobs(model: PeftModel, role: str, rows: list[Row], pad_id: int) -> tuple[Tensor, Tensor]:
    """log p_N of the chosen and of the rejected answers."""
    starts = [len(row.prompt_ids) for row in rows]
    chosen = [row.prompt_ids + row.chosen_ids for row in rows]
    rejected = [row.prompt_ids + row.rejected_ids for row in rows]
    both_2N = passes.total_logprobs(model, role, chosen + rejected, starts + starts, pad_id)
    return both_2N[: len(rows)], both_2N[len(rows):]


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
    before_c, before_r = pair_logprobs(model, REFERENCE, rows, chat.pad_id)
    after_c, after_r = pair_logprobs(model, POLICY, rows, chat.pad_id)
    implicit = (after_c - before_c) - (after_r - before_r)
    figures = {
        "implicit_accuracy": by_prompt(rows, ordered(implicit)),  # 0.5 before: all margins are 0
        "implicit_margin": by_prompt(rows, args.beta * implicit),
        "kl": kl_from_reference(model, chat, rows, answer_length(args)),
        "likelier_before": by_prompt(rows, ordered(before_c - before_r)),
        "likelier_after": by_prompt(rows, ordered(after_c - after_r)),
        "chosen_logprob_change": by_prompt(rows, after_c - before_c),
        "rejected_logprob_change": by_prompt(rows, after_r - before_r),
    }
    metrics: dict[str, float] = {name: sum(values) / len(values) for name, values in figures.items()}
    for name, values in figures.items():
        low, high = stats.bootstrap_interval(values)
        metrics |= {f"{name}_low": low, f"{name}_high": high}
        print(f"held out: {name} {metrics[name]:.3f} in [{low:.3f}, {high:.3f}] (95%)")
    metrics["held_out_prompts"] = len(figures["implicit_margin"])
    run.note(metrics=metrics)


def ordered(margins_N: Tensor) -> Tensor:
    """1 where the chosen answer is ahead, 0 where it is behind, a half for a tie."""
    return (margins_N.sign() + 1) / 2


def by_prompt(rows: list[Row], values_N: Tensor) -> list[float]:
    """The mean of each prompt's pairs: pairs of one prompt share texts, so they are not independent."""
    own: dict[str, list[float]] = {}
    for row, value in zip(rows, values_N.tolist(), strict=True):
        own.setdefault(row.prompt.id, []).append(value)
    return [sum(values) / len(values) for values in own.values()]


def kl_from_reference(model: PeftModel, chat: Chat, rows: list[Row], max_new_tokens: int) -> list[float]:
    """log policy - log reference of one sampled answer to each prompt, in nats: its mean estimates KL(policy, ref)."""
    prompts = list({row.prompt.id: row.prompt for row in rows}.values())[:KL_PROMPTS]
    settings = SamplingConfig(answers=1, max_new_tokens=max_new_tokens)
    answers = [one for (one,) in sample_ids(model, chat, prompts, settings, POLICY, "sampling for the KL")]
    asked = [chat.prompt_ids(prompt) for prompt in prompts]
    texts, starts = [ids + own for ids, own in zip(asked, answers, strict=True)], [len(ids) for ids in asked]
    policy, reference = (passes.total_logprobs(model, role, texts, starts, chat.pad_id)
                         for role in (POLICY, REFERENCE))
    return (policy - reference).tolist()
