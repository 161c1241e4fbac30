"""Held out by prompt, by rater and by fold; who turns the model; nothing is judged by what learned from it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prefloop import config, runs, scoring
from prefloop.errors import RequestError
from prefloop.records import Message, Prompt, Ranking, Response, decided
from prefloop.reward import assess
from prefloop.reward.judgements import Group, gathered


class Words:
    """Scores by the words that won and lost; a text over 50 characters is too long for it."""

    objectives = ("overall",)

    def __init__(self, groups: Sequence[Group]) -> None:
        self.won: dict[str, float] = defaultdict(float)
        self.seen = {group.prompt.id for group in groups}
        for group in groups:
            for one in group.judgements:
                for better, worse in decided(one.ranks):
                    self.won[group.texts[one.places[better]].split()[0]] += 1
                    self.won[group.texts[one.places[worse]].split()[0]] -= 1

    def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]:
        return [len(text) < 50 for _, text in asked]

    def taken_for_structure(self) -> int:
        return 0

    def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> scoring.Scores:
        assert all(self.reads(asked))
        return scoring.of_one([self.won[text.split()[0]] for _, text in asked])


def rankings(prompts: int, ranks: dict[str, tuple[int, int]], first: int = 0) -> list[Ranking]:
    return [Ranking(Prompt((Message("user", f"question {n}"),)), (Response(f"good {n}"), Response(f"bad {n}")), own,
                    rater) for n in range(first, first + prompts) for rater, own in ranks.items()]


def test_figures_and_what_cannot_be_read() -> None:
    train, test = gathered(rankings(20, {"ann": (1, 2)})), rankings(20, {"ann": (1, 2), "bob": (2, 1)}, first=100)
    long = Ranking(test[0].prompt, (Response("good 100"), Response("bad " * 20)), (1, 2), "cat")
    own = assess.judged(Words(train), gathered([*test, long]))
    assert sum(len(group.judgements) for group in own.groups) == 40
    assert own.groups[0].texts == ("good 100", "bad 100")
    flat = assess.figures(own, {"none": Words([])}, frozenset({"ann"}))
    assert flat["accuracy"]["value"] == 0.5
    assert [one["accuracy"]["value"] for one in flat["slices"]["raters"]] == [1.0, 0.0]
    assert flat["baselines"]["none"]["accuracy"]["value"] == 0.5
    assert assess.figures(assess.judged(Words(train), gathered([long])), {}, frozenset()) == {}


def test_raters_are_held_out_by_name() -> None:
    found = rankings(5, {f"rater {n}": (1, 2) for n in range(200)})
    kept = {one.rater for one in assess.learned_from(found, 0.3)}
    assert 120 <= len(kept) <= 160
    assert kept == {one.rater for one in assess.learned_from(found[:200], 0.3)}
    assert assess.learned_from(found, 0.0) == found


def test_a_rater_who_turns_the_model_shows() -> None:
    # One rater outvotes two honest ones by sheer number, and the wrong way.
    train = gathered(rankings(10, {"ann": (1, 2), "bob": (1, 2)}) + rankings(40, {"mob": (2, 1)}, first=10))
    found = assess.influence(Words, train, gathered(rankings(20, {"cat": (1, 2)}, first=100)))
    assert found == {"mob": 1.0, "ann": 0.0, "bob": 0.0}


def test_each_fold_is_judged_by_what_did_not_learn_from_it(tmp_path: Path) -> None:
    groups = gathered(rankings(60, {"ann": (1, 2), "bob": (1, 2)}))
    asked: list[int] = []

    def fit(fold: int, others: Sequence[Group]) -> Words:
        own = {group.prompt.id for group in groups if assess.fold_of(group, 3) == fold}
        assert own
        assert not own & {group.prompt.id for group in others}
        assert len(own) + len(others) == 60
        asked.append(fold)
        return Words(others)

    run = runs.Run(tmp_path, {})
    found = assess.cross_validated(run, fit, groups, 3)
    assert (found["accuracy"]["value"], found["pairs"], found["prompts"]) == (1.0, 120, 60)
    lines = (tmp_path / assess.FOLDS).read_text().splitlines()
    (tmp_path / assess.FOLDS).write_text("\n".join(lines[:2]) + "\n" + lines[2][:30])  # killed in the third
    assert assess.cross_validated(run, fit, groups, 3) == found
    assert asked == [0, 1, 2, 2]


def test_the_report_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = gathered(rankings(40, {"ann": (1, 2)})), gathered(rankings(40, {"ann": (1, 2), "bob": (1, 2)}, 100))
    own = assess.judged(Words(train), test)
    run = runs.Run(tmp_path, {})
    assess.told(run, {"run": "r", "kind": "linear", "warnings": [], "parents": {},
                      "held_out": assess.figures(own, {}, frozenset({"ann"}))})
    assert run.record["metrics"]["accuracy"] == 1.0
    assert run.record["metrics"]["agreement of raters"] == 1.0
    assert json.loads((tmp_path / "report.json").read_text())["held_out"]["pairs"] == 80
    assert "orders 100.0%" in (tmp_path / "report.html").read_text()
    assert "orders 100.0%" in capsys.readouterr().out
    assert np.isfinite(list(run.record["metrics"].values())).all()


@pytest.mark.parametrize("key", ["folds=1", "folds=-1", "held_out_raters=1.0"])
def test_what_cannot_be_evaluated_is_refused(key: str) -> None:
    with pytest.raises(RequestError, match=f"evaluate.{key.partition('=')[0]}"):
        config.build(config.read("reward", None, [f"evaluate.{key}"]),
                     {"evaluate": config.Section(assess.EvaluateConfig)})
