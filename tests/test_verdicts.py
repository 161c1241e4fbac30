"""`prefloop verdicts`: what it lists, what it passes over, and which verdicts a line joins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop import cli
from prefloop.compare import history

MORNING = "2026-03-0{}T08:00:00Z"


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def reported(day: int, best: str = "runs/ppo", baseline: str = "runs/sft", by: str = "people", questions: str = "q",
             temperature: float = 1.0, model: str = "", won: float = 0.6, verdict: str = "ship") -> dict[str, Any]:
    own = {"win_rate": estimate(won), "length_controlled": estimate(won - 0.02)}
    return {"format": 2, "made": MORNING.format(day), "verdict": verdict, "line": verdict, "best": best, "by": by,
            "baseline": baseline, "prompts": 40, "provenance": {"held_out": questions},
            "sampling": {"answers": 1, "temperature": temperature},
            "runs": {baseline: {"checksum": f"of {baseline}"},
                     best: {"checksum": f"of {best}", "kl": estimate(3.0)}},
            "judges": {by: {"kind": "people", "runs": {best: own}, **({"checksum": model} if model else {})}}}


def written(root: Path, name: str, report: Any) -> Path:
    (root / name).mkdir(parents=True)
    (root / name / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return root / name


def found(root: Path) -> list[history.Verdict]:
    return list(history.verdicts(root))


def test_comparisons_are_listed_oldest_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, "compare-0001", reported(5, verdict="reject", won=0.4))
    written(tmp_path, "compare-0002", reported(2))
    assert cli.main(["verdicts", f"run.root={tmp_path}"]) == 0
    head, first, second, last = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["made", "(UTC)", "verdict"]
    assert first.split()[:7] == ["2026-03-02", "08:00", "ship", "runs/ppo", "runs/sft", "people", "60.0%"]
    assert "60.0% [55.0, 65.0%]  58.0% [53.0, 63.0%]  3.00 [2.95, 3.05]" in first
    assert second.split()[2] == "reject"
    assert "verdicts.html" in last
    page = (tmp_path / "verdicts.html").read_text(encoding="utf-8")
    assert page.index("2026-03-02 08:00") < page.index("2026-03-05 08:00")


def test_files_that_a_run_put_elsewhere_are_found_once(tmp_path: Path) -> None:
    elsewhere = written(tmp_path, "elsewhere", reported(1))
    for number in (1, 2):
        run = tmp_path / "runs" / f"compare-000{number}"
        run.mkdir(parents=True)
        (run / "run.json").write_text(json.dumps({"stage": "compare", "status": "done", "report": str(elsewhere)}))
    assert [one.folder for one in found(tmp_path / "runs")] == [elsewhere]


def test_other_reports_are_passed_over_in_silence_and_broken_ones_aloud(tmp_path: Path,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, "good", reported(1))
    written(tmp_path, "reward-0001", {"kind": "head", "held_out": None})
    written(tmp_path, "old", {"verdict": "ship", "runs": {}})
    written(tmp_path, "odd", {**reported(1), "runs": []})
    written(tmp_path, "when", {**reported(1), "made": "yesterday"})
    written(tmp_path, "half", reported(1))
    (tmp_path / "half" / "report.json").write_text('{"verdict": ')
    written(tmp_path, "deep", {})
    (tmp_path / "deep" / "report.json").write_text("[" * 100_000)
    assert [one.folder.name for one in found(tmp_path)] == ["good"]
    told = capsys.readouterr().out.splitlines()
    assert sorted(Path(line.partition(": ")[0].removeprefix("passed over ")).parent.name for line in told) == [
        "deep", "half", "odd", "old", "when"]


def test_without_a_comparison_it_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["verdicts", f"run.root={tmp_path}"]) == 0
    assert "`prefloop compare` makes one" in capsys.readouterr().out
    assert not (tmp_path / "verdicts.html").exists()


def test_a_comparison_that_nobody_judged_is_listed_and_not_charted(tmp_path: Path) -> None:
    written(tmp_path, "a", {**reported(1), "best": None, "by": None, "judges": {}, "verdict": "undecided"})
    (one,) = found(tmp_path)
    assert (one.best, one.by, one.win_rate) == ("", "", None)
    assert history.charts([one]) == []
    assert "<svg" not in history.page([one])


@pytest.mark.parametrize("other", [{"questions": "others"}, {"temperature": 0.5}, {"by": "gpt"}, {"model": "abc"}])
def test_a_line_joins_only_what_was_measured_alike(tmp_path: Path, other: dict[str, Any]) -> None:
    for day, more in ((1, {}), (2, other), (3, {}), (4, other)):
        written(tmp_path, f"{day}", reported(day, best=f"runs/{day}", **more))
    (chart,) = history.charts(found(tmp_path))
    assert [[spot.label for spot in one.points] for one in chart.plot.series] == [["1", "3"], ["2", "4"]]
    assert len({one.name for one in chart.plot.series}) == 2
    assert history.page(found(tmp_path)).count('class="join"') == 2


def test_every_baseline_has_a_chart_and_says_what_shipped_it(tmp_path: Path) -> None:
    written(tmp_path, "a", reported(1, best="runs/dpo"))
    written(tmp_path, "b", reported(2, best="runs/ppo", baseline="runs/dpo"))
    first, second = history.charts(found(tmp_path))
    assert (first.baseline, first.shipped) == ("runs/sft", None)
    assert second.shipped is not None
    assert second.shipped.folder.name == "a"
    assert (first.plot.x, first.plot.y) == (second.plot.x, second.plot.y)


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = '"><script>alert(1)</script>'
    written(tmp_path, "a", reported(1, best=hostile, baseline=f"b{hostile}", by=hostile, verdict=hostile))
    page = history.page(found(tmp_path))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
