"""The reference's log-probabilities of all pairs, made once before training instead of in every step.

The reference never changes, so a run that sees its pairs several times would make the same numbers several times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from trl import DPOConfig

from prefloop import checkpoints, config, passes, ranks, runs
from prefloop.errors import RequestError

from .pairs import Row

FILE = "reference.json"
KEY = "precompute_ref_log_probs"
COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")  # TRL's names
AT_ONCE = 16


def wanted(asked: config.Asked, args: DPOConfig, pairs: int) -> bool:
    """What the user says; else whether it is cheaper: its steps would pass over more pairs than there are.

    The first process makes them for all, while the others wait.
    """
    if KEY in asked.sections.get("train", {}):
        if args.precompute_ref_log_probs and ranks.sharded():
            raise RequestError(f"train.{KEY}: weights are shared out (FSDP) only when training begins; drop this key")
        return args.precompute_ref_log_probs
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps  # of one process
    own = args.max_steps * batch if args.max_steps > 0 else args.num_train_epochs * pairs / ranks.world()
    return own > pairs and not ranks.sharded()


def into(run: runs.Run, trainer: Any, model: PeftModel, role: str, splits: dict[str, list[Row]], pad_id: int) -> None:
    """Give the trainer's rows the reference's log-probabilities. `splits` are its `train` and, to be evaluated, `eval`
    rows.

    They are kept in the run's folder, so that a resumed run learns from the very same numbers.
    """
    path = run.path / FILE
    if ranks.first() and not _intact(run, path):
        with trainer.accelerator.autocast():  # as the policy's will be made
            found = {split: [of.tolist() for of in pair_logprobs(model, role, rows, pad_id, trainer.args)]
                     for split, rows in splits.items() if rows}
        checkpoints.write_json(path, found)
        run.note(files={**run.record.get("files", {}), FILE: checkpoints.file_sha256(path)})
    ranks.meet("the reference's log-probabilities")
    kept = checkpoints.read_json(path)
    trainer.train_dataset = with_columns(trainer.train_dataset, kept["train"])
    if "eval" in kept:
        trainer.eval_dataset = with_columns(trainer.eval_dataset, kept["eval"])
    trainer.precompute_ref_logps = True


def _intact(run: runs.Run, path: Path) -> bool:
    known = run.record.get("files")
    return isinstance(known, dict) and path.is_file() and known.get(FILE) == checkpoints.file_sha256(path)


def with_columns(rows: Dataset, values: list[list[float]]) -> Dataset:
    for name, own in zip(COLUMNS, values, strict=True):
        rows = rows.add_column(name, own)  # type: ignore[call-arg]
    return rows


def pair_logprobs(model: PeftModel, role: str, rows: list[Row], pad_id: int,
                  args: DPOConfig | None = None) -> tuple[Tensor, Tensor]:
    """log p_N of the chosen and of the rejected answers.

    With train.ld_alpha, tokens past the shorter answer's length count by it (LD-DPO, Liu et al. 2024, section 4).
    """
    starts = [len(row.prompt_ids) for row in rows] * 2
    texts = [row.prompt_ids + row.chosen_ids for row in rows] + [row.prompt_ids + row.rejected_ids for row in rows]
    batch = (args.precompute_ref_batch_size if args else None) or AT_ONCE
    both_2N = passes.total_logprobs(model, role, texts, starts, pad_id, batch=batch)
    if args and args.ld_alpha is not None:
        shared = [len(row.prompt_ids) + min(len(row.chosen_ids), len(row.rejected_ids)) for row in rows] * 2
        cut = [text[:end] for text, end in zip(texts, shared, strict=True)]
        shared_2N = passes.total_logprobs(model, role, cut, starts, pad_id, batch=batch)
        both_2N = shared_2N + args.ld_alpha * (both_2N - shared_2N)
    return both_2N[: len(rows)], both_2N[len(rows):]
