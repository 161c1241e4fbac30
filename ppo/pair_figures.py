"""What DPO did on held-out pairs and prompts: figures with intervals, and in words what they mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from torch import Tensor

from prefloop import passes, runs, stats
from prefloop.chat import Chat
from prefloop.generate import SamplingConfig, sample_ids
from prefloop.records import Prompt

from .pairs import Row
from .reference_logprobs import pair_logprobs

PROMPTS = 64  # that are answered before and after
FALL = 0.1  # of the chosen answers' log-probability: more than this is no longer what DPO does everywhere
LONGER = 0.3  # of the answers' length


def on_pairs(model: PeftModel, roles: tuple[str, str], rows: list[Row], pad_id: int,
             beta: float) -> dict[str, list[float]]:
    """Per prompt, before (the reference, which is where the policy began) and after."""
    (before_c, before_r), (after_c, after_r) = (pair_logprobs(model, role, rows, pad_id) for role in roles)
    implicit = (after_c - before_c) - (after_r - before_r)
    return {
        "implicit_accuracy": by_prompt(rows, ordered(implicit)),  # 0.5 before: all margins are 0
        "implicit_margin": by_prompt(rows, beta * implicit),
        "likelier_before": by_prompt(rows, ordered(before_c - before_r)),
        "likelier_after": by_prompt(rows, ordered(after_c - after_r)),
        "chosen_logprob_before": by_prompt(rows, before_c),
        "chosen_logprob_change": by_prompt(rows, after_c - before_c),
        "rejected_logprob_change": by_prompt(rows, after_r - before_r),
    }


def ordered(margins_N: Tensor) -> Tensor:
    """1 where the chosen answer is ahead, 0 where it is behind, a half for a tie."""
    return (margins_N.sign() + 1) / 2


def by_prompt(rows: list[Row], values_N: Tensor) -> list[float]:
    """The mean of each prompt's pairs: pairs of one prompt share texts, so they are not independent."""
    own: dict[str, list[float]] = {}
    for row, value in zip(rows, values_N.tolist(), strict=True):
        own.setdefault(row.prompt.id, []).append(value)
    return [sum(values) / len(values) for values in own.values()]


@dataclass(frozen=True)
class Answered:
    """One sampled answer to each prompt, as ids, and whether it ended by itself."""

    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    answer_ids: list[list[int]]
    ended: list[bool]

    @property
    def lengths(self) -> list[float]:
        return [float(len(ids)) for ids in self.answer_ids]


def answered(model: PeftModel, chat: Chat, role: str, prompts: list[Prompt], max_new_tokens: int,
             what: str) -> Answered:
    """The same random numbers for every role."""
    answers = [own for (own,) in sample_ids(model, chat, prompts, SamplingConfig(1, max_new_tokens), role, what)]
    return Answered(prompts, [chat.prompt_ids(prompt) for prompt in prompts], answers,
                    [ids[-1] == chat.end_id for ids in answers])


def kl_of(model: PeftModel, roles: tuple[str, str], own: Answered, pad_id: int) -> list[float]:
    """log policy - log reference of the policy's answers, in nats: its mean estimates KL(policy, reference)."""
    texts = [asked + ids for asked, ids in zip(own.prompt_ids, own.answer_ids, strict=True)]
    reference, policy = (passes.total_logprobs(model, role, texts, list(map(len, own.prompt_ids)), pad_id)
                         for role in roles)
    return (policy - reference).tolist()


def on_prompts(model: PeftModel, chat: Chat, roles: tuple[str, str], prompts: list[Prompt],
               max_new_tokens: int) -> dict[str, list[float]]:
    """KL, lengths and endings of sampled answers, by the names that PPO has for them."""
    before, after = (answered(model, chat, role, prompts, max_new_tokens, f"answers {when}")
                     for role, when in zip(roles, ("before", "after"), strict=True))
    return of_answers(model, roles, before, after, chat.pad_id)


def of_answers(model: PeftModel, roles: tuple[str, str], before: Answered, after: Answered,
               pad_id: int) -> dict[str, list[float]]:
    return {"kl": kl_of(model, roles, after, pad_id),
            "length_before": before.lengths, "length_after": after.lengths,
            "eos_rate_before": list(map(float, before.ended)), "eos_rate_after": list(map(float, after.ended))}


def noted(run: runs.Run, figures: dict[str, list[float]], pairs: int, more: str = "") -> dict[str, float]:
    """Into the run's record, each with its interval, and into the words of its card."""
    metrics: dict[str, float] = {}
    for name, values in figures.items():
        low, high = stats.bootstrap_interval(values)
        metrics |= {name: sum(values) / len(values), f"{name}_low": low, f"{name}_high": high}
        print(f"held out: {name} {metrics[name]:.3f} in [{low:.3f}, {high:.3f}] (95%)")
    metrics["held_out_prompts"] = len(next(iter(figures.values()), []))
    said = [words for words in (more, moved(run.record), story(metrics) if pairs else "") if words]
    run.note(metrics=metrics, summary="\n\n".join(said))
    if pairs and metrics["chosen_logprob_change"] < FALL * metrics["chosen_logprob_before"]:
        print(f"note: {story(metrics)}")
    return metrics


def moved(record: dict[str, Any]) -> str:
    """What was trained, in one sentence."""
    weights = record.get("checks", {}).get("weights", {}).get("detail", "")
    return f"Of {record.get('trained_parameters', 0):,} trained weights (LoRA, fp32): {weights}." if weights else ""


def story(metrics: dict[str, float]) -> str:
    """Why the chosen answers' log-probability did what it did, by the held-out pairs, and what to do about it."""
    chosen, rejected = metrics["chosen_logprob_change"], metrics["rejected_logprob_change"]
    share = chosen / metrics["chosen_logprob_before"]  # of a negative number: above 0 it fell
    there = (f"Against the model that it began from, the log-probability of a held-out chosen answer changed by "
             f"{chosen:+.2f} nats and a rejected one's by {rejected:+.2f}, so the margin by {chosen - rejected:+.2f}. "
             f"KL from the reference is {metrics['kl']:.2f} nats an answer; answers are {metrics['length_after']:.1f} "
             f"tokens long ({metrics['length_before']:.1f} before).")
    if rejected >= chosen:
        return (f"{there} DPO's loss asks for the margin, and the margin did not grow: the pairs were not learnt. "
                f"Look at the labels (data.majority, data.labels), raise train.learning_rate or train for longer.")
    if chosen >= 0:
        return f"{there} Chosen answers became likelier, which DPO does not promise: nothing to do."
    fell = (f"{there} Both fell, the rejected faster. DPO's loss asks only for the margin, which grows as well when "
            f"both fall; what they lose goes to answers that nobody ranked.")
    if share < FALL and metrics["length_after"] < (1 + LONGER) * metrics["length_before"]:
        return (f"{fell} The chosen lost {share:.1%} of their log-probability, less than {FALL:.0%}, and answers are "
                f"of their old length: that is usual, and no harm.")
    return (f"{fell} The chosen lost {share:.1%} of their log-probability: read samples.jsonl for answers that are no "
            f"longer sentences, or longer than before. What helps, the strongest first: an SFT term "
            f"(train.loss_type=[sigmoid,sft], train.loss_weights=[1.0,1.0]; more weight holds harder), a lower "
            f"train.learning_rate or fewer steps, a higher train.beta, `prefloop sft` on the chosen answers first, or "
            f"online DPO, which ranks the policy's own answers (configs/online_dpo.yaml).")
