"""An earlier comparison's answers judged again through the command line: by a language model, and for what parted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from judging_server import StandIn, longer_wins, serving

from prefloop import checkpoints
from prefloop.compare import kept
from prefloop.compare.kept import Compared
from prefloop.compare.records import HELD_OUT, Answer, Contestant, Question, Rewards
from prefloop.records import Message, Prompt

RUNS = ("sft", "step-1", "step-2")
PROXY, SECOND = (0.0, 1.0, 2.0), (0.0, 1.0, -1.0)  # what two reward models say of the runs


def question(number: int, kind: str = HELD_OUT, reference: str = "") -> Question:
    return Question(Prompt((Message("user", f"What is number {number}?"),)), kind, reference)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A sweep of two checkpoints: the first writes longer than the baseline, the second shorter."""
    questions = (*(question(n) for n in range(40)), question(40, "must pass", "a good one"),
                 question(41, "must pass", "ok"))
    words = {"sft": "two words", "step-1": "these are four words", "step-2": "one"}
    contestants = tuple(
        Contestant(name, f"{name}'s", tuple((Answer(f"{text} {n}", len(text.split()) + 1, True, 0.5 * len(text)),)
                                            for n, _ in enumerate(questions)))
        for name, text in words.items())
    rewards = tuple(Rewards(name, name, tuple(tuple((mean + 0.01 * (n % 7),) for n, _ in enumerate(questions))
                                              for mean in means)) for name, means in (("r1", PROXY), ("r2", SECOND)))
    compared = Compared(questions, contestants, rewards, {})
    folder = tmp_path / "earlier"
    kept.write(folder, kept.rows(compared))
    checkpoints.write_json(folder / kept.REPORT, {
        "runs": {name: {"checksum": f"{name}'s"} for name in RUNS}, "provenance": {}, "split": "test",
        "sampling": {"answers": 1, "max_new_tokens": 16, "temperature": 1.0, "seed": 0}, "hold": {},
        "judges": {"r1": {}, "r2": {}}, "over_length": 0,
        "proxies": ["r1"], "swept": True})
    return folder


def judged(earlier: Path, *overrides: str) -> tuple[int, dict[str, Any]]:
    out = earlier.parent / "out"
    code = tiny.launch("compare", f"compare.answers=[{earlier}]", f"compare.out={out}",
                       f"run.root={earlier.parent / 'runs'}", *overrides)
    return code, json.loads((out / "report.json").read_text())


def test_a_language_model_gives_the_verdict_where_it_is_asked_to(earlier: Path,
                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    with serving(StandIn()) as server:
        ai = (f"judge.url={server.url}", "judge.model=judge-7b", "compare.length_gate=false")
        code, report = judged(earlier, "compare.by=ai", *ai)
        assert len(server.asked) == 2 * 2 * 42
        assert code == 0
        assert (report["verdict"], report["best"], report["by"]) == ("ship", "step-1", "judge-7b")
        own = report["judges"]["judge-7b"]
        assert own["runs"]["step-1"]["win_rate"]["value"] == 1.0
        assert own["runs"]["step-2"]["win_rate"]["value"] == 0.0
        assert own["consistent"]["value"] == 1.0
        assert own["agreement"] is None
        # step-1's answers are longer than both that were recorded, step-2's only than one
        assert report["regressions"]["must_pass"]["passed"] == {"step-1": 2, "step-2": 1}
        assert "judge-7b" in capsys.readouterr().out
        assert len((earlier.parent / "out" / "report.html").read_text()) > 1000
        code, again = judged(earlier, *ai)
        assert len(server.asked) == 2 * 2 * 42  # nothing was asked again
        assert again["by"] == "judge-7b"  # before reward models, where nobody voted
        assert again["judges"].keys() == {"judge-7b", "r1", "r2"}


def test_a_judge_that_is_away_is_reported_as_missing(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(StandIn()) as server:
        pass  # it has stopped
    code, report = judged(earlier, f"judge.url={server.url}", "judge.model=judge-7b", "judge.patience=0.1")
    assert code in (0, 3, 4)
    assert report["by"] == "r1"
    assert report["judges"]["judge-7b"]["missing"] == 80
    assert "asked for 0.1 seconds" in report["judges"]["judge-7b"]["complaint"]
    assert "judge-7b: 80 verdicts are missing: http://127.0.0.1:" in capsys.readouterr().out


def test_rewards_that_part_along_a_sweep_are_flagged(earlier: Path) -> None:
    _, report = judged(earlier)
    found = report["overoptimisation"]
    assert (found["proxy"], found["other"]) == ("r1", "r2")
    assert [(one["run"], one["flagged"]) for one in found["points"]] == [("step-1", False), ("step-2", True)]
    assert "from step-1 to step-2 the reward of r1 rose" in found["words"]
    assert report["swept"]


def test_a_server_that_refuses_the_key_ends_the_run(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(StandIn(answers=lambda body: (401, {"error": {"message": "who are you?"}}))) as server:
        assert tiny.launch("compare", f"compare.answers=[{earlier}]", f"run.root={earlier.parent / 'runs'}",
                           f"judge.url={server.url}", "judge.model=m") == 1
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("prefloop compare: "))
    assert "401, who are you? (judge.url, judge.model, judge.token_file)" in said


def test_agreement_with_people_stands_beside(earlier: Path) -> None:
    """People who voted on the same pairs, as a snapshot: they like long answers as the judge does, but for one."""
    from prefloop.formats import snapshot
    from prefloop.records import Ranking, Response

    compared = kept.read(earlier)
    rankings = []
    for n in range(10):
        texts = [Response(one.answers[n][0].text, one.name, one.key) for one in compared.contestants[:2]]
        rankings.append(Ranking(compared.questions[n].prompt, tuple(texts), (1, 2) if n == 0 else (2, 1), "rater"))
    votes = snapshot.write(earlier.parent / "votes", rankings)
    with serving(StandIn(longer_wins)) as server:
        _, report = judged(earlier, f"judge.url={server.url}", "judge.model=judge-7b", f"compare.votes=[{votes}]")
    assert report["by"] == "people"
    agreed = report["judges"]["judge-7b"]["agreement"]
    assert (agreed["pairs"], agreed["share"]["value"]) == (10, pytest.approx(0.9))
    assert agreed["alpha"] == pytest.approx(0.0)  # a judge that says the same of all says nothing


@pytest.mark.parametrize("odd", [
    {"sampling": {}}, {"sampling": {"answers": "1", "max_new_tokens": 16, "temperature": 1.0}}, {"hold": []},
    {"split": None}, {"overlap": ["all"]}, {"overlap": {"in": 7, "unchecked": [], "near_questions": []}},
    {"runs": dict.fromkeys(RUNS, "fine")}])
def test_a_report_that_lacks_what_the_page_shows_is_refused(earlier: Path, odd: dict[str, Any],
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    path = earlier / kept.REPORT
    checkpoints.write_json(path, json.loads(path.read_text()) | odd)
    assert tiny.launch("compare", f"compare.answers=[{earlier}]", f"run.root={earlier.parent / 'runs'}") == 2
    assert f"{path}: not a report that" in capsys.readouterr().err
