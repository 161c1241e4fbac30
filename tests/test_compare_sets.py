"""Metrics on every set of questions, through the command line on a two-layer base with two adapters."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from prefloop.compare import kept
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Demonstration, Message, Prompt

VARIANTS = ("typos", "paraphrase", "injection")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sets")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data", prompts=120)
    for seed, name in ((1, "one"), (2, "other")):
        tiny.tiny_adapter(root / name, root / "base", seed)
    far = [Prompt((Message("user", f"Tell me more about number {n}"),)) for n in range(4)]
    long = Demonstration(Prompt((Message("user", "Go on"),)), "red " * 600)  # beyond the model's context
    snapshot.write(root / "far", demonstrations=[*(Demonstration(one, "No.") for one in far), long])
    (root / "checks.py").write_text("def words(messages, answer, reference):\n    return len(answer.split())\n")
    return root


def compared(home: Path, *overrides: str) -> int:
    return tiny.launch("compare", f"compare.runs=[{home / 'one'},{home / 'other'}]", f"data.path={home / 'data'}",
                       f"run.root={home / 'verdicts'}", "compare.allow_overlap=true", "compare.limit=6",
                       "sampling.max_new_tokens=8", *overrides)


def report_in(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    return {**report, "runs": {Path(name).name: own for name, own in report["runs"].items()},
            "robustness": {Path(name).name: own for name, own in report["robustness"].items()}}


def test_every_set_is_measured_and_measured_again_without_a_model(home: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [*sys.path])
    wanted = ("metrics.functions={words: checks:words}", "metrics.format=json")
    assert compared(home, f"compare.out={tmp_path / 'first'}", f"compare.robust=[{','.join(VARIANTS)}]",
                    f"compare.far={home / 'far'}", "metrics.perplexity=true", *wanted) == 4
    report = report_in(tmp_path / "first")
    assert list(report["sets"]) == ["held out", *VARIANTS, "far"]
    assert (report["sets"]["far"], report["prompts"]) == (5, 6)
    own = report["runs"]["other"]["metrics"]
    assert set(own) == set(report["sets"])
    for of_set in own.values():
        assert {"exact_match", "rouge_l", "repetition", "length", "words", "format", "perplexity"} <= set(of_set)
        assert of_set["words"]["value"] == of_set["length"]["value"]
        assert "gain" in of_set["perplexity"]
    assert "gap" in own["far"]["length"]
    assert (own["far"]["rouge_l"]["prompts"], own["far"]["perplexity"]["prompts"]) == (5, 4)
    assert set(report["robustness"]["other"]) == set(VARIANTS)
    assert report["robustness"]["one"]["injection"]["obeyed"]["value"] == 0
    assert "rouge_l" in report["robustness"]["other"]["typos"]

    asked = ["compare", f"compare.answers=[{tmp_path / 'first'}]", f"compare.out={tmp_path / 'again'}",
             f"run.root={tmp_path / 'runs'}", *wanted]
    code = f"import sys\nfrom prefloop.cli import main\ncode = main({asked!r})\nassert 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", f"{code}sys.exit(code)"], capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    again = report_in(tmp_path / "again")
    assert again["robustness"] == report["robustness"]
    assert [one["metrics"] for one in again["runs"].values()] == [one["metrics"] for one in report["runs"].values()]

    rows = (tmp_path / "first" / "answers.jsonl").read_text().splitlines()
    for of, why in ((len(rows), "answers.jsonl: a row is a variant of question .*, which is not"),
                    (-1, f"answers.jsonl:{len(rows)}: .*row.of is not a whole number")):
        (tmp_path / "first" / "answers.jsonl").write_text("\n".join([*rows[:-1], json.dumps(
            json.loads(rows[-1]) | {"of": of})]))
        with pytest.raises(RequestError, match=why):
            kept.read(tmp_path / "first")


def test_nothing_is_read_twice(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefloop import models

    same = (f"compare.far={home / 'far'}", "metrics.perplexity=true", f"compare.cache={tmp_path / 'cache'}")
    assert compared(home, f"compare.out={tmp_path / 'first'}", *same) == 4
    monkeypatch.setattr(models, "load_base", lambda *_: pytest.fail("a base was loaded again"))
    assert compared(home, f"compare.out={tmp_path / 'again'}", *same) == 4
    first, again = (report_in(tmp_path / name)["runs"]["other"]["metrics"] for name in ("first", "again"))
    assert first == again


def test_tasks_of_the_harness_stand_in_the_report(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_compare_tasks import harness, sample

    calls: list[list[str]] = []

    def evaluate(tasks: list[str], **_: Any) -> dict[str, Any]:
        calls.append(tasks)
        right = float(len(calls) > 2)
        return {"results": {tasks[0]: {"acc,none": right, "acc_stderr,none": 0.0}},
                "samples": {tasks[0]: [sample(n, acc=right) for n in range(5)]}}

    harness(monkeypatch, evaluate)
    wanted = ("metrics.tasks=[arc,mmlu]", f"compare.cache={tmp_path / 'cache'}")
    assert compared(home, f"compare.out={tmp_path / 'first'}", *wanted) == 4
    assert compared(home, f"compare.out={tmp_path / 'second'}", *wanted) == 4
    assert calls == [["arc"], ["mmlu"]] * 2  # each once, whatever is asked again
    report = report_in(tmp_path / "second")
    assert report["runs"]["other"]["metrics"]["task mmlu"]["acc"]["gain"]["value"] == 1
    assert tiny.launch("compare", f"compare.answers=[{tmp_path / 'second'}]", f"compare.out={tmp_path / 'again'}",
                       f"run.root={tmp_path / 'runs'}") == 4
    again = report_in(tmp_path / "again")["runs"]["other"]["metrics"]["task arc"]
    assert again == report["runs"]["other"]["metrics"]["task arc"]


@pytest.mark.parametrize(("override", "why"), [
    ("metrics.functions={mine: checks:nothing}", "metrics.functions.mine: cannot import checks:nothing"),
    ("metrics.use=[bleu]", "metrics.use: 'bleu' is not one of"), ("metrics.format='('", "metrics.format is json"),
    ("metrics.tasks=[arc]", "metrics.tasks needs lm-evaluation-harness"),
    ("compare.robust=[typo]", "compare.robust: 'typo' is not one of"),
    ("compare.near=nowhere", "nowhere: not a snapshot")])
def test_a_wrong_request_is_one_line_before_any_model(home: Path, override: str, why: str,
                                                      monkeypatch: pytest.MonkeyPatch,
                                                      capsys: pytest.CaptureFixture[str]) -> None:
    from prefloop import models

    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    monkeypatch.setattr(models, "load_base", lambda *_: pytest.fail("a base was loaded"))
    assert compared(home, override) == 2
    said = capsys.readouterr().err.strip()
    assert why in said
    assert "Traceback" not in said
