"""The linear kind: its arithmetic against scikit-learn, its files, and whom it believes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from prefloop import linear as saved
from prefloop import models
from prefloop.errors import RequestError
from prefloop.records import Message, Prompt
from prefloop.reward import linear
from prefloop.reward.comparisons import compared
from prefloop.reward.judgements import Group, Judgement

GOOD, BAD, PLAIN = ("kind", "clear", "helpful"), ("rude", "vague", "useless"), ("tea", "bus", "lamp", "road", "sky")


def answer(rng: Random, mood: tuple[str, ...]) -> str:
    return " ".join(rng.choices(mood, k=2) + rng.choices(PLAIN, k=4))


def groups(prompts: int, raters: int = 4, seed: int = 0) -> list[Group]:
    """Two answers each, of which the first is better; the raters take turns."""
    rng = Random(seed)
    return [Group(Prompt((Message("user", f"question {n} of {seed}"),)), (answer(rng, GOOD), answer(rng, BAD)),
                  (Judgement((0, 1), (1, 2), f"rater {n % raters}"),)) for n in range(prompts)]


def asked(own: list[Group]) -> list[tuple[Prompt, str]]:
    return [(group.prompt, text) for group in own for text in group.texts]


def accuracy(model: saved.LinearScorer, own: list[Group]) -> float:
    scores = model.score(asked(own)).mean_N.reshape(-1, 2)
    return float((scores[:, 0] > scores[:, 1]).mean())


def test_it_learns_what_new_prompts_confirm() -> None:
    assert accuracy(linear.learn(groups(80)).scorer, groups(50, seed=1)) > 0.95


def test_it_is_scikit_learns_logistic_regression_on_differences() -> None:
    own = groups(40)
    features = saved.Reader.learned(asked(own)).features(asked(own))
    ours = linear.weights_of(features, compared(own), prior=0.05)
    differences = features[0::2] - features[1::2]
    both = np.vstack([differences.toarray(), -differences.toarray()])
    peer = LogisticRegression(C=0.05 / 2, fit_intercept=False, tol=1e-10, max_iter=10_000)
    peer.fit(both, np.repeat([1, 0], len(own)))
    assert ours == pytest.approx(peer.coef_[0], abs=1e-4)


def test_a_coin_changes_nothing_and_the_opposite_counts_as_much() -> None:
    own = groups(60)
    features = saved.Reader.learned(asked(own)).features(asked(own))
    fit = linear.weights_of(features, compared(own), 0.05)
    coins = [replace(one, judgements=(*one.judgements, Judgement((1, 0), (1, 2), "coin", reliability=0.5)))
             for one in own]
    assert linear.weights_of(features, compared(coins), 0.05) == pytest.approx(fit, abs=1e-4)
    liars = [replace(one, judgements=(Judgement((1, 0), (1, 2), "liar", reliability=0.0),)) for one in own]
    assert linear.weights_of(features, compared(liars), 0.05) == pytest.approx(fit, abs=1e-4)


def test_a_tie_pulls_two_scores_together() -> None:
    own = groups(60)
    tied = [replace(one, judgements=(*one.judgements, Judgement((0, 1), (1, 1), "ann"))) for one in own]
    features = saved.Reader.learned(asked(own)).features(asked(own))
    apart, together = (np.abs(features @ linear.weights_of(features, compared(one), 0.05)).mean()
                       for one in (own, tied))
    assert together < 0.7 * apart


def test_position_is_taken_off_what_the_answer_earned() -> None:
    own = groups(60)
    features = saved.Reader.learned(asked(own)).features(asked(own))
    helped = [replace(one, judgements=tuple(replace(each, offsets=(4.0, 0.0)) for each in one.judgements))
              for one in own]
    plain, less = (np.abs(linear.weights_of(features, compared(one), 0.05)).sum() for one in (own, helped))
    assert less < 0.5 * plain


def test_members_differ_and_their_spread_is_told() -> None:
    found = linear.learn(groups(60), members=4, prior=0.03)
    scores = found.scorer.score(asked(groups(10, seed=1)))
    assert found.scorer.weights_MF.shape[0] == 4
    assert (scores.spread_N > 0).all()
    assert scores.objectives_ND.shape == (20, 1)
    again = linear.learn(groups(60), members=4, prior=0.03)
    assert (again.scorer.weights_MF == found.scorer.weights_MF).all()
    assert (linear.learn(groups(60), prior=0.03).scorer.score(asked(groups(10, seed=1))).spread_N == 0).all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = replace(linear.learn(groups(60), members=2, prior=0.03).scorer, shift_M=0.3, scale=1.7)
    saved.save(model, tmp_path / "model")
    return tmp_path / "model"


def checkpoint(folder: Path) -> models.Checkpoint:
    return models.Checkpoint(str(folder), base="", base_checksum="", checksum="", folder=folder)


def test_what_is_loaded_scores_as_what_was_saved(folder: Path) -> None:
    model = replace(linear.learn(groups(60), members=2, prior=0.03).scorer, shift_M=0.3, scale=1.7)
    these = asked(groups(20, seed=2))
    one, other = model.score(these), saved.load(checkpoint(folder)).score(these)
    assert other.mean_N == pytest.approx(one.mean_N, abs=1e-9)
    assert other.spread_N == pytest.approx(one.spread_N, abs=1e-9)
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_a_damaged_model_is_refused_in_one_line(folder: Path) -> None:
    told = json.loads((folder / "linear.json").read_text())
    for broken in ({**told, "words": told["words"][1:]}, {**told, "scale": "big"}, {}, {**told, "style": ["words"]}):
        (folder / "linear.json").write_text(json.dumps(broken))
        with pytest.raises(RequestError, match=r"linear\.json") as error:
            saved.load(checkpoint(folder))
        assert "\n" not in str(error.value)


def test_texts_without_a_word_in_common_are_read() -> None:
    own = [Group(Prompt((Message("user", "hello"),)), ("一", "?"), (Judgement((0, 1), (1, 2), "ann"),))]
    assert np.isfinite(linear.learn(own).scorer.score(asked(own)).mean_N).all()
