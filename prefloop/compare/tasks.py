"""Tasks of lm-evaluation-harness by their names: it scores each checkpoint under its own adapter, we compare.

The harness is no dependency of ours: whoever names tasks installs it. Where a metric is a mean over a task's
documents, checkpoints are compared document by document; else (BLEU, a group of tasks) by its standard error.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from numbers import Real
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from prefloop import stats
from prefloop.compare.metrics import MetricsConfig, averaged, figure
from prefloop.compare.records import Contestant
from prefloop.errors import RequestError, RunError
from prefloop.records import digest

if TYPE_CHECKING:
    from torch import nn

    from prefloop.chat import Chat
    from prefloop.compare.answering import Setting, Writer

# {task: {metric: {"values": one for each document} or {"value": mean, "stderr": its standard error}}}: plain JSON
Scores = dict[str, dict[str, dict[str, Any]]]

BATCH = 8


def require(settings: MetricsConfig) -> None:
    """Refuse tasks that cannot be had, before a base is loaded."""
    if not settings.tasks:
        return
    manager = task_manager(settings)
    unknown = [name for name in settings.tasks if not manager.match_tasks([name])]
    if unknown:
        raise RequestError(f"metrics.tasks: lm-evaluation-harness knows no task {', '.join(unknown)}; `lm-eval ls "
                           "tasks` lists what it knows, and metrics.tasks_folder adds a folder of your own")


def task_manager(settings: MetricsConfig) -> Any:
    if settings.tasks_folder and not Path(settings.tasks_folder).is_dir():
        raise RequestError(f"metrics.tasks_folder: there is no folder {settings.tasks_folder}")
    try:
        return import_module("lm_eval.tasks").TaskManager(include_path=settings.tasks_folder or None)
    except ImportError as error:
        raise RequestError("metrics.tasks needs lm-evaluation-harness, which is not installed here "
                           f"({error}): pip install lm_eval") from None


class Tasks:
    """The scores that were asked for of a writer, and those that it still owes."""

    def __init__(self, one: Writer, setting: Setting) -> None:
        self.one, self.settings = one, setting.measuring
        self.kept = setting.cache.of("tasks", one.checkpoint.checksum, one.checkpoint.base_checksum, setting.hold,
                                     self.settings.tasks_limit, self.settings.tasks_chat, own_files(self.settings))

    @property
    def owed(self) -> list[str]:
        return [name for name in self.settings.tasks if name not in self.kept]

    def read(self, model: nn.Module) -> None:
        for name in self.owed:
            found = scores(model, self.one.role, self.one.chat, replace(self.settings, tasks=[name]),
                           self.one.checkpoint.path)
            self.kept.add([{"key": name, "scores": found}])

    def facts(self) -> dict[str, Scores]:
        """As the report tells them of the run."""
        found = {task: own for name in self.settings.tasks for task, own in self.kept[name]["scores"].items()}
        return {"tasks": found} if found else {}


def own_files(settings: MetricsConfig) -> str:
    """A digest of the user's own task files, by their names, sizes and times."""
    files = sorted(path for path in Path(settings.tasks_folder).rglob("*") if path.is_file()) if (
        settings.tasks_folder) else []
    return digest(*(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files))


def scores(model: nn.Module, role: str | None, chat: Chat, settings: MetricsConfig, name: str) -> Scores:
    """What the harness finds of the tasks under `role`; `name` is the checkpoint's, for errors."""
    from prefloop.chat import PLAIN_TEMPLATE
    from prefloop.passes import acting, plain

    harness, language_models = import_module("lm_eval"), import_module("lm_eval.models.huggingface")
    tokenizer: Any = copy.deepcopy(chat.tokenizer)  # the harness sets a padding token on its own
    tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE
    with acting(model, role):
        try:
            held = language_models.HFLM(pretrained=plain(model), tokenizer=tokenizer, batch_size=BATCH)
            found = harness.simple_evaluate(
                model=held, tasks=list(settings.tasks), task_manager=task_manager(settings),
                limit=settings.tasks_limit, apply_chat_template=settings.tasks_chat, log_samples=True)
        except Exception as error:  # another program's: its task files, its data, its metrics
            raise RunError(f"metrics.tasks [{', '.join(settings.tasks)}] failed for {name}: "
                           + " ".join(f"{type(error).__name__}: {error}".split())[:300]) from error
    return {task: of_task(own, found["samples"].get(task, ())) for task, own in found["results"].items()}


def of_task(results: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """A task's metrics: by document where the harness's figure is their mean. One without any error is left out."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in results.items():
        metric, comma, how = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, Real) or not math.isfinite(value):
            continue
        label = metric if how == "none" else f"{metric} ({how})"
        own = sorted((one for one in samples if one.get("filter") == how), key=lambda one: one["doc_id"])
        values = [float(one[metric]) for one in own if isinstance(one.get(metric), Real | np.bool_)]
        stderr = results.get(f"{metric}_stderr,{how}")
        if values and len(values) == len(own) and math.isclose(np.mean(values), value, abs_tol=1e-9):
            found[label] = {"values": values}
        elif isinstance(stderr, Real) and math.isfinite(stderr):
            found[label] = {"value": float(value), "stderr": float(stderr)}
    return found


def measured(contestants: Sequence[Contestant], level: float) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """{contestant: {"task NAME": {metric: {value, low, high, prompts?, gain?}}}}, in the form of metrics.measured, of
    the tasks and metrics that the baseline, the first, has as well."""
    found = {one.name: known(one) for one in contestants}
    report: dict[str, dict[str, dict[str, dict[str, Any]]]] = {name: {} for name in found}
    for task, metrics in found[contestants[0].name].items():
        for metric in metrics:
            own = {name: scored[task][metric] for name, scored in found.items() if metric in scored.get(task, {})}
            for name, one in compared(own, level).items():
                report[name].setdefault(f"task {task}", {})[metric] = one
    return report


def known(one: Contestant) -> Scores:
    """Its scores, which may have been read from an earlier report."""
    found = one.facts.get("tasks", {})
    try:
        right = all(all(math.isfinite(value) for value in own["values"]) and len(own["values"]) if "values" in own else
                    math.isfinite(own["value"]) and math.isfinite(own["stderr"])
                    for metrics in found.values() for own in metrics.values())
    except (AttributeError, TypeError, KeyError):
        right = False
    if not right:
        raise RequestError(f"{one.name}: the tasks that its report tells of are not what `prefloop compare` wrote")
    return found


def compared(own: Mapping[str, Mapping[str, Any]], level: float) -> dict[str, dict[str, Any]]:
    """One metric of all who have it."""
    if all("values" in one for one in own.values()) and len({len(one["values"]) for one in own.values()}) == 1:
        values_CN = np.array([one["values"] for one in own.values()])
        places_N, weights_RN = np.arange(values_CN.shape[1]), stats.resample_weights(values_CN.shape[1])
        measure = averaged(values_CN, share=bool((values_CN >= 0).all() and (values_CN <= 1).all()))
        figures = [figure(measure, c, places_N, weights_RN, level) for c in range(len(own))]
        return {name: one for name, one in zip(own, figures, strict=True) if one}
    z = NormalDist().inv_cdf((1 + level) / 2)
    return {name: {"value": one["value"], "low": one["value"] - z * one["stderr"],
                   "high": one["value"] + z * one["stderr"]} for name, one in own.items() if "stderr" in one}
