"""What must hold before PPO starts and after it ends; a check that fails ends the run. See DESIGN, section 4."""

from __future__ import annotations

import torch
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file

from prefloop import models, passes, runs
from prefloop.models import Checkpoint

from . import judging
from .actors import Actors


@torch.no_grad()
def before(run: runs.Run, actors: Actors) -> None:
    """At step 0 the policy is the reference, and the reward sees what it should and nothing else."""
    rows, starts = models.probe_rows(actors.chat)
    logprobs = {}
    for role in (actors.policy, actors.reference):
        with passes.acting(actors.model, role):
            logprobs[role] = torch.cat(passes.answer_logprobs(actors.model, rows, starts, actors.chat.pad_id))
    kl = float((logprobs[actors.policy] - logprobs[actors.reference]).abs().max())
    run.check("KL at step 0", kl < 1e-4, f"log-probabilities of policy and reference differ by at most {kl:.1e}")
    with passes.acting(actors.model, actors.policy):
        ids_BT, _ = passes.pad_right(rows[:1], actors.chat.pad_id, models.device())
        logits_TV = passes.plain(actors.model)(input_ids=ids_BT).logits[0, starts[0] - 1 : -1].float()
        own_N = torch.log_softmax(logits_TV, -1).gather(1, ids_BT[0, starts[0] :, None]).squeeze(1)
    gap = float((own_N - logprobs[actors.policy][: len(own_N)]).abs().max())
    run.check("log-probabilities", gap < tolerance(actors, 1e-3, 0.1),
              f"ours and the model's own, from which it samples, differ by at most {gap:.1e}")
    _scores(run, actors, rows, starts)


def _scores(run: runs.Run, actors: Actors, rows: list[list[int]], starts: list[int]) -> None:
    kept = [n for n, row in enumerate(rows) if len(row) - starts[n] > 1]
    rows, starts, judge = [rows[n] for n in kept], [starts[n] for n in kept], actors.judge
    whole = judge.scores(rows, starts, len(rows))
    on_base = isinstance(judge, judging.OnBase)
    if on_base:  # of a text nobody sees how it ended
        without = judge.scores([row[:-1] for row in rows], starts, len(rows))
        differ = int(((whole - without).abs() > 1e-6).sum())
        run.check("EOS is scored", 2 * differ > len(rows),
                  f"it changes the score of {differ} of {len(rows)} probe texts")
    gap = float((whole - torch.cat([judge.scores([row], [start], 1) for row, start in zip(
        rows, starts, strict=True)])).abs().max())
    run.check("scores and padding", gap < (tolerance(actors, 1e-3, 0.1) if on_base else 0.1),
              f"alone and in a batch, scores of probe texts differ by at most {gap:.1e}")


def after(run: runs.Run, actors: Actors, beside: dict[str, Checkpoint]) -> None:
    """Nobody trained the adapters beside policy and value: their weights are the ones on disk still, bit for bit."""
    for name, source in beside.items():
        if source.adapter:
            saved = load_file(source.adapter / models.ADAPTER)
            held = get_peft_model_state_dict(actors.model, adapter_name=name)
            same = all(torch.equal(held[key].cpu(), weight.float()) for key, weight in saved.items())
            run.check(f"{name} is frozen", same, f"its {len(saved)} tensors are those of {source.path}")


def tolerance(actors: Actors, fp32: float, bf16: float) -> float:
    """How far two ways to the same number may lie apart, by the precision that the base computes in."""
    return fp32 if passes.plain(actors.model).dtype == torch.float32 else bf16
