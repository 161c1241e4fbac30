"""What can be measured of answers without a judge: by rules, against references, and by the user's own functions.

Dimensions: C contestants (the first is the baseline), Q questions of which N are in one set, R resamples. Every metric
is a sum over questions divided by a sum over questions, so that one bootstrap over prompts serves all.
"""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prefloop import stats
from prefloop.compare.answer_rules import BY_RULE, SHARES, Function, formatted
from prefloop.compare.question_sets import FAR, MUST_PASS, NEAR
from prefloop.compare.records import HELD_OUT, Contestant, Question, Rewards
from prefloop.errors import RequestError

if TYPE_CHECKING:
    from torch import nn

    from prefloop.chat import Chat

Array = NDArray[np.float64]
References = Sequence[tuple[float, int] | None]  # nats and tokens of each question's reference

PERPLEXITY = "perplexity"


@dataclass(frozen=True)
class MetricsConfig:
    """`metrics:`. `functions` are the user's own, by dotted path, imported from where prefloop was started."""

    use: list[str] = field(default_factory=lambda: ["exact_match", "rouge_l", "refusal", "repetition", "length"])
    format: str = ""
    functions: dict[str, str] = field(default_factory=dict)
    perplexity: bool = False
    tasks: list[str] = field(default_factory=list)
    tasks_folder: str = ""
    tasks_limit: int | None = None
    tasks_chat: bool = False

    def __post_init__(self) -> None:
        for name in self.use:
            if name not in BY_RULE:
                raise ValueError(f"metrics.use: {name!r} is not one of {', '.join(BY_RULE)}")
        try:
            re.compile(self.format)
        except re.error as error:
            raise ValueError(f"metrics.format is json or a regular expression; {self.format!r} is neither: "
                             f"{error}") from None
        for name, path in self.functions.items():
            if name in (*BY_RULE, "format", PERPLEXITY):
                raise ValueError(f"metrics.functions: {name} is the name of a metric that is built in")
            if not (isinstance(name, str) and isinstance(path, str) and re.fullmatch(r"[\w.]+:\w+", path)):
                raise ValueError(f"metrics.functions.{name}: expected package.module:function, got {path!r}")
        if not all(isinstance(one, str) and one for one in self.tasks):
            raise ValueError("metrics.tasks is a list of names: metrics.tasks=[arc_easy,gsm8k]")
        if self.tasks_limit is not None and self.tasks_limit < 1:
            raise ValueError("metrics.tasks_limit is at least 1")


@dataclass(frozen=True)
class Measure:
    """A metric of every contestant's answers: the sum of `sums_CQ` over the sum of `counts_CQ`, over questions.

    A count is 0 where there is nothing to measure. A `share` is between 0 and 1. A `perplexity` is the exponential of
    that quotient, of nats over tokens.
    """

    sums_CQ: Array
    counts_CQ: Array
    share: bool = False
    perplexity: bool = False


# ---- all metrics that were asked for


def functions(settings: MetricsConfig) -> dict[str, Function]:
    """Every metric of answers that was asked for, by its name. A function that cannot be had is refused here."""
    own = {name: imported(name, path) for name, path in settings.functions.items()}
    form: dict[str, Function] = {"format": partial(formatted, wanted=settings.format)} if settings.format else {}
    return {**{name: BY_RULE[name] for name in settings.use}, **form, **own}


def imported(name: str, path: str) -> Function:
    """`package.module:function` from the folder that prefloop was started in, or of what is installed."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # behind what is installed, and to stay: the function may import more when it is called
    module, _, attribute = path.partition(":")
    try:
        found: Function = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise RequestError(f"metrics.functions.{name}: cannot import {path} from {here}: {_said(error)}") from error
    if not callable(found):
        raise RequestError(f"metrics.functions.{name}: {path} is no function")
    return found


def measures(contestants: Sequence[Contestant], questions: Sequence[Question],
             settings: MetricsConfig) -> dict[str, Measure]:
    """The metrics that were asked for; a question's samples are averaged first. One that nothing could be measured
    by, such as those of references where there are none, is left out."""
    found = {}
    for name, function in functions(settings).items():
        values_CQ = np.array([[_mean_of(name, function, one, questions, n) for n in range(len(questions))]
                              for one in contestants], dtype=np.float64)
        if np.isfinite(values_CQ).any():
            found[name] = averaged(values_CQ, share=name in SHARES)
    return found


def averaged(values_CQ: Array, share: bool = False) -> Measure:
    """The mean of numbers over questions; NaN where there is none."""
    known_CQ = np.isfinite(values_CQ)
    return Measure(np.where(known_CQ, values_CQ, 0.0), known_CQ.astype(np.float64), share)


def _mean_of(name: str, function: Function, one: Contestant, questions: Sequence[Question], number: int) -> float:
    asked = questions[number]
    given = [_called(name, function, asked, number, answer.text) for answer in one.answers[number]]
    known = [value for value in given if value is not None]
    return sum(known) / len(known) if known else math.nan


def _called(name: str, function: Function, asked: Question, number: int, answer: str) -> float | None:
    try:
        value: Any = function(asked.prompt.chat(), answer, asked.reference)
    except Exception as error:  # whatever the user's own code may raise
        raise RequestError(f"metrics.functions.{name} failed on {_which(asked, number)}: {_said(error)}") from error
    if value is None:
        return None
    try:
        given = float(value) if isinstance(value, Real | np.bool_) else math.nan
    except OverflowError:  # a whole number beyond what a float holds
        given = math.inf
    if not math.isfinite(given):
        raise RequestError(f"metrics.functions.{name} gave {repr(value)[:60]} on {_which(asked, number)}; it should "
                           "give a finite number, or None where it does not apply")
    return given


def _which(asked: Question, number: int) -> str:
    return f"question {number} ({asked.prompt.messages[-1].content[:60]!r})"


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def of_rewards(rewards: Sequence[Rewards]) -> dict[str, Measure]:
    """What reward models gave, by "reward NAME": the same tables show it on every set."""
    found = {}
    for one in rewards:
        values_CQ = np.array([[np.mean(own) if own else math.nan for own in scores] for scores in one.scores])
        if np.isfinite(values_CQ).any():
            found[f"reward {one.name}"] = averaged(values_CQ)
    return found


# ---- perplexity of references


def perplexities(model: nn.Module, role: str | None, chat: Chat,
                 questions: Sequence[Question]) -> list[tuple[float, int] | None]:
    """For each question -log p of its reference under `role`, in nats, and how many tokens that is, its end included.

    None where a question has no reference, or where the two are longer than the model's context. The reference is
    read as an answer to the prompt, by the chat template.
    """
    from prefloop import models, passes

    context = models.context_of(model) or math.inf
    rows = {n: (chat.prompt_ids(one.prompt), chat.answer_ids(one.reference))
            for n, one in enumerate(questions) if one.reference}
    read = {n: row for n, row in rows.items() if len(row[0]) + len(row[1]) <= context}
    found: list[tuple[float, int] | None] = [None] * len(questions)
    if read:
        logprobs = passes.total_logprobs(model, role, [asked + answer for asked, answer in read.values()],
                                         [len(asked) for asked, _ in read.values()], chat.pad_id)
        for (n, (_, answer)), value in zip(read.items(), logprobs.tolist(), strict=True):
            found[n] = -value, len(answer)
    return found


def of_references(found: Mapping[str, References]) -> dict[str, Measure]:
    """Perplexity per token of the references, from `perplexities` of every contestant, the baseline's first; of one
    whose references were not read, an empty list.

    Between two tokenizers it means nothing: who splits any reference into another number of tokens than the baseline
    does has a perplexity, and no gain over it.
    """
    if not any(one for own in found.values() for one in own):
        return {}
    questions = max(map(len, found.values()))
    read_CQ2 = np.array([[one or (0.0, 0) for one in own or [None] * questions] for own in found.values()])
    return {PERPLEXITY: Measure(read_CQ2[..., 0], read_CQ2[..., 1], perplexity=True)}


# ---- estimates


def measured(measures: Mapping[str, Measure], names: Sequence[str], questions: Sequence[Question],
             level: float) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """{contestant: {set: {metric: {value, low, high, prompts, gain?, gap?}}}}, with intervals over prompts.

    `gain` is the paired difference to the baseline, the first of `names`; `gap` that of a set near or far to the same
    contestant's held-out answers. The set that must pass is left out: its references are former answers.
    """
    sets = [name for name in dict.fromkeys(one.set for one in questions) if name != MUST_PASS]
    places = {name: np.array([n for n, one in enumerate(questions) if one.set == name]) for name in sets}
    weights = {name: stats.resample_weights(len(places[name]), seed) for seed, name in enumerate(sets)}
    report: dict[str, dict[str, dict[str, dict[str, Any]]]] = {name: {one: {} for one in sets} for name in names}
    for metric, measure in measures.items():
        for c, name in enumerate(names):
            for one in sets:
                found = figure(measure, c, places[one], weights[one], level)
                if not found:
                    continue
                if one in (NEAR, FAR) and metric in report[name].get(HELD_OUT, {}):
                    there, at_home = (means_of(measure, c, places[n], weights[n]) for n in (one, HELD_OUT))
                    found["gap"] = around(there[0] - at_home[0], there[1] - at_home[1], level)
                report[name][one][metric] = found
    return report


def figure(measure: Measure, c: int, places_N: NDArray[np.int64], weights_RN: Array,
           level: float) -> dict[str, Any] | None:
    """A metric of contestant `c` on these questions and its gain over the baseline; None if nothing was measured."""
    value, means_R = means_of(measure, c, places_N, weights_RN)
    if math.isnan(value):
        return None
    gain = gained(measure, c, places_N, weights_RN, level) if c else None
    return estimate(measure, c, places_N, value, means_R, level) | ({"gain": gain} if gain else {})


def means_of(measure: Measure, c: int, places_N: NDArray[np.int64], weights_RN: Array,
           among_N: NDArray[np.bool_] | None = None) -> tuple[float, Array]:
    """The metric of contestant `c` on these questions, and in each resample, R; NaN where nothing is measured."""
    sums_N, counts_N = measure.sums_CQ[c, places_N], measure.counts_CQ[c, places_N]
    if among_N is not None:
        sums_N, counts_N = sums_N * among_N, counts_N * among_N
    with np.errstate(invalid="ignore", divide="ignore"):
        value, means_R = sums_N.sum() / counts_N.sum(), weights_RN @ sums_N / (weights_RN @ counts_N)
    return (float(np.exp(value)), np.exp(means_R)) if measure.perplexity else (float(value), means_R)


def estimate(measure: Measure, c: int, places_N: NDArray[np.int64], value: float, means_R: Array,
              level: float) -> dict[str, Any]:
    prompts = int((measure.counts_CQ[c, places_N] > 0).sum())
    if measure.share and value in (0.0, 1.0):  # all the same: a bootstrap would say that nothing else can happen
        return {"value": value, **stats.wilson(value * prompts, prompts, level)._asdict(), "prompts": prompts}
    return around(value, means_R, level) | {"prompts": prompts}


def gained(measure: Measure, c: int, places_N: NDArray[np.int64], weights_RN: Array,
           level: float) -> dict[str, float] | None:
    """The paired difference to the baseline on the questions where both were measured; None if there are none."""
    counts_N, base_N = measure.counts_CQ[c, places_N], measure.counts_CQ[0, places_N]
    both_N = (counts_N > 0) & (base_N > 0)
    if not both_N.any() or (measure.perplexity and (counts_N != base_N)[both_N].any()):
        return None
    (own, own_R), (base, base_R) = (means_of(measure, n, places_N, weights_RN, both_N) for n in (c, 0))
    return around(own - base, own_R - base_R, level)


def around(value: float, resampled_R: Array, level: float) -> dict[str, float]:
    """A value with its percentile interval. Resamples that drew nothing to measure are left out."""
    low, high = np.nanquantile(resampled_R, [(1 - level) / 2, (1 + level) / 2])
    return {"value": float(value), "low": float(low), "high": float(high)}
