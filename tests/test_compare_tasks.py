"""lm-evaluation-harness beside us: its figures become ours, and what is missing or fails is told. The harness itself
is tried by tests/benchmarks/lm_eval_tasks.py."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from prefloop.compare import tasks
from prefloop.compare.metrics import MetricsConfig
from prefloop.compare.records import Contestant
from prefloop.errors import RequestError, RunError

SETTINGS = MetricsConfig(tasks=["arc", "mmlu"])


class Manager:
    def __init__(self, include_path: str | None) -> None:
        self.known = ["arc", "mmlu", *([Path(include_path).name] if include_path else [])]

    def match_tasks(self, names: list[str]) -> list[str]:
        return [name for name in names if name in self.known]


def sample(doc: int, how: str = "none", **metrics: Any) -> dict[str, Any]:
    return {"doc_id": doc, "filter": how, "metrics": list(metrics), **metrics}


def harness(monkeypatch: pytest.MonkeyPatch, evaluate: Any) -> None:
    """A stand-in for the harness's three modules."""
    parts = {"lm_eval": {"simple_evaluate": evaluate}, "lm_eval.tasks": {"TaskManager": Manager},
             "lm_eval.models": {}, "lm_eval.models.huggingface": {"HFLM": lambda **given: SimpleNamespace(**given)}}
    for name, content in parts.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)


def test_without_the_harness_tasks_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tasks.require(MetricsConfig())
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(RequestError, match=r"metrics.tasks needs lm-evaluation-harness.*pip install lm_eval"):
        tasks.require(SETTINGS)
    with pytest.raises(RequestError, match=r"metrics.tasks_folder: there is no folder"):
        tasks.require(MetricsConfig(tasks=["arc"], tasks_folder=str(tmp_path / "none")))


def test_a_task_that_the_harness_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    harness(monkeypatch, None)
    tasks.require(SETTINGS)
    tasks.require(MetricsConfig(tasks=[tmp_path.name], tasks_folder=str(tmp_path)))
    with pytest.raises(RequestError, match="knows no task arcc, gsm; "):
        tasks.require(MetricsConfig(tasks=["arc", "arcc", "gsm"]))


def test_each_checkpoint_is_scored_under_its_adapter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch
    from tiny import tiny_adapter, tiny_model

    from prefloop import models

    base = tiny_model(tmp_path / "base")
    held = models.ModelConfig(str(base), four_bit=False, dtype="float32")
    found = models.resolve(str(base))
    model = models.add_adapter(models.load_base(found, held), "run1", tiny_adapter(tmp_path / "run", base, 1), held)
    chat = models.load_chat(found)
    seen: list[float] = []

    def evaluate(model: Any, tasks: list[str], limit: int, apply_chat_template: bool, **_: Any) -> dict[str, Any]:
        with torch.no_grad():
            seen.append(model.pretrained(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().item())
        model.tokenizer.pad_token = "<|end|>"
        assert (tasks, limit, apply_chat_template) == (["arc"], 9, True)
        return {"results": {"arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1}},
                "samples": {"arc": [sample(1, acc=0.0), sample(0, acc=1.0)]}}

    harness(monkeypatch, evaluate)
    settings = MetricsConfig(tasks=["arc"], tasks_limit=9, tasks_chat=True)
    for role in (None, "run1", None):
        assert tasks.scores(model, role, chat, settings, "x") == {"arc": {"acc": {"values": [1.0, 0.0]}}}
    assert seen[0] == seen[2] != seen[1]
    assert chat.tokenizer.pad_token == "<|pad|>"


def test_what_fails_inside_the_harness_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tiny import tiny_model

    from prefloop import models

    def evaluate(**_: Any) -> None:
        raise KeyError("no such\ndata set")

    harness(monkeypatch, evaluate)
    base = models.resolve(str(tiny_model(tmp_path / "base")))
    held = models.ModelConfig(str(tmp_path / "base"), four_bit=False)
    with pytest.raises(RunError, match=r"metrics.tasks \[arc, mmlu\] failed for runs/x: KeyError: 'no such") as told:
        tasks.scores(models.load_base(base, held), None, models.load_chat(base), SETTINGS, "runs/x")
    assert "\n" not in str(told.value)


def test_means_go_by_document_and_the_rest_by_standard_error() -> None:
    results = {"alias": "t", "sample_len": 2, "acc,none": 0.5, "acc_stderr,none": 0.4, "bleu,none": 12.0,
               "bleu_stderr,none": 3.0, "em,strict": 1.0, "em_stderr,strict": "N/A", "f1,none": 0.3,
               "f1_stderr,none": "N/A", "odd,none": float("nan"), "odd_stderr,none": 1.0}
    samples = [sample(1, acc=True, bleu=("a", "b"), f1=0.9), sample(0, acc=False, bleu=("a", "b"), f1=0.9),
               sample(0, "strict", em=1), sample(1, "strict", em=1)]
    assert tasks.of_task(results, samples) == {
        "acc": {"values": [0.0, 1.0]}, "bleu": {"value": 12.0, "stderr": 3.0}, "em (strict)": {"values": [1.0, 1.0]}}
    assert tasks.of_task({"acc,none": 0.5, "acc_stderr,none": 0.1}, ()) == {"acc": {"value": 0.5, "stderr": 0.1}}


def scored(name: str, found: Any) -> Contestant:
    return Contestant(name, name, (), {"tasks": found} if found else {})


def test_checkpoints_are_compared_document_by_document() -> None:
    wrong_right, right = {"values": [0.0, 0.0, 1.0, 1.0]}, {"values": [1.0] * 4}
    found = tasks.measured([
        scored("a", {"arc": {"acc": wrong_right, "bleu": {"value": 10.0, "stderr": 2.0}}, "more": {"acc": right}}),
        scored("b", {"arc": {"acc": right, "bleu": {"value": 20.0, "stderr": 1.0}}}), scored("c", None)], 0.95)
    own = found["b"]["task arc"]["acc"]
    assert (own["value"], own["prompts"], own["gain"]["value"], own["high"]) == (1, 4, 0.5, 1)
    assert 0 < own["low"] < 1
    bleu = found["a"]["task arc"]["bleu"]
    assert (bleu["value"], bleu["low"], bleu["high"]) == pytest.approx((10, 10 - 1.96 * 2, 10 + 1.96 * 2), abs=1e-3)
    assert (list(found["a"]), list(found["b"]), found["c"]) == (["task arc", "task more"], ["task arc"], {})


@pytest.mark.parametrize("found", [3, [1], {"arc": 3}, {"arc": {"acc": {}}}, {"arc": {"acc": {"values": []}}},
                                   {"arc": {"acc": {"values": ["x"]}}}, {"arc": {"acc": {"value": 1}}},
                                   {"arc": {"acc": {"value": float("nan"), "stderr": 1}}}])
def test_scores_of_an_earlier_report_are_looked_at(found: Any) -> None:
    with pytest.raises(RequestError, match="runs/x: the tasks that its report tells of are not"):
        tasks.measured([scored("runs/x", found)], 0.95)
