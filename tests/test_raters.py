"""Who said it, in the recipe: weights and labels by hand, the files a run leaves, rounds that are not done twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tiny
from scipy.special import expit

from prefloop import checkpoints, runs, scoring
from prefloop.errors import RequestError
from prefloop.records import Message, Prompt, Ranking, Response
from prefloop.reward import raters
from prefloop.reward.judgements import Group, Judgement, gathered
from prefloop.reward.raters import RatersConfig

GOOD, BAD, PLAIN = ("kind", "clear", "helpful"), ("rude", "vague", "useless"), ("tea", "bus", "lamp", "road", "sky")


def groups(prompts: int, careful: int = 4, spammers: int = 2, seed: int = 0) -> list[Group]:
    """Two answers each, of which the first is better; the raters take turns, and spammers toss a coin."""
    rng, found = Random(seed), []
    for n in range(prompts):
        texts = tuple(" ".join(rng.choices(mood, k=2) + rng.choices(PLAIN, k=4)) + f" {n}" for mood in (GOOD, BAD))
        who = n % (careful + spammers)
        right = rng.random() < (0.97 if who < careful else 0.5)
        name = f"careful {who}" if who < careful else f"spammer {who}"
        shown = rng.choice([(0, 1), (1, 0)])
        found.append(Group(Prompt((Message("user", f"question {n}"),)), texts,
                           (Judgement((0, 1), (1, 2) if right else (2, 1), name, shown),)))
    return found


def given(name: str, number: int, weight: float = 1.0) -> list[Group]:
    return [Group(Prompt((Message("user", f"{name} {n}"),)), ("a", "b"),
                  (Judgement((0, 1), (1, 2), name, weight=weight),)) for n in range(number)]


def test_nobody_has_more_than_the_cap() -> None:
    many = [one for n in range(100) for one in given(f"small {n}", 1)]
    told = raters.capped([*given("loud", 400), *given("big", 50), *many], 0.03)
    weights = {"loud": 400 * told["loud"], "big": 50 * told["big"]} | {f"small {n}": told[f"small {n}"]
                                                                       for n in range(100)}
    total = sum(weights.values())
    assert weights["loud"] / total == pytest.approx(0.03)
    assert weights["big"] / total == pytest.approx(0.03)
    assert told["small 7"] == 1.0


def test_of_few_raters_only_far_more_than_a_share_is_cut() -> None:
    """Four raters: nobody is held below a half. 60 of 90 are: to 30, the others' sum."""
    told = raters.capped([*given("loud", 60), *given("ann", 10), *given("bob", 10), *given("cy", 10)], 0.03)
    assert told == pytest.approx({"loud": 0.5, "ann": 1.0, "bob": 1.0, "cy": 1.0})
    assert raters.capped(given("ann", 3), 0.03) == {"ann": 1.0}


def test_spammers_weigh_little_and_careful_raters_nearly_all() -> None:
    found = raters.heard(groups(360), RatersConfig())
    known = {one.name: one for one in found.raters}
    spam = [one for name, one in known.items() if name.startswith("spammer")]
    care = [one for name, one in known.items() if name.startswith("careful")]
    assert max(one.reliability for one in spam) < 0.75 < 0.85 < min(one.reliability for one in care)
    assert all(one.low <= one.reliability <= one.high for one in known.values())
    assert sum(one.share for one in known.values()) == pytest.approx(1)
    assert {one.judgements for one in known.values()} == {60}
    first = found.groups[0].judgements[0]
    assert first.reliability == known[first.rater].reliability
    gamma = found.position()["value"]  # type: ignore[index]
    assert first.offsets == pytest.approx(tuple(-gamma * place for place in first.shown))


def test_perfect_raters_are_left_as_they_are() -> None:
    found = raters.heard(groups(240, spammers=0), RatersConfig())
    assert min(one.reliability for one in found.raters) > 0.85
    assert {one.counts for one in found.raters} == {1.0}


def test_one_rater_and_none_asked_for_change_nothing() -> None:
    alone = [replace(one, judgements=tuple(replace(own, rater="ann") for own in one.judgements))
             for one in groups(30)]
    assert raters.heard(alone, RatersConfig()).groups == alone
    assert raters.heard(groups(30), RatersConfig(reliability=False)).groups == groups(30)


def test_a_trusted_rater_who_ranked_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match=r"raters\.trusted: 'nobody' ranked nothing"):
        raters.heard(groups(30), RatersConfig(trusted=["nobody"]))


def test_labels_by_hand() -> None:
    """Two say a is better and one says b, where the others and the model give a 0.6, whoever is left out."""
    prompt = Prompt((Message("user", "Q"),))
    judgements = (Judgement((0, 1), (1, 2), "ann", reliability=0.8), Judgement((1, 0), (2, 1), "bob", reliability=0.9),
                  Judgement((0, 1), (2, 1), "cy", reliability=0.8, weight=2.0))
    own = [Group(prompt, ("a", "b"), judgements)]
    fit = raters.heard(groups(30), RatersConfig()).fit
    assert fit is not None
    heard = raters.Heard(own, [], replace(fit, others_P=np.array([0.6, 0.6, 0.4])))  # of cy's, b stands first
    (label,) = raters.labels(own, heard)
    ann, bob = 0.48 / (0.48 + 0.08), 0.54 / (0.54 + 0.04)
    cy = 1 - 0.32 / (0.32 + 0.12)
    assert label == {"prompt_id": prompt.id, "chosen": "a", "rejected": "b", "weight": 4.0,
                     "probability": pytest.approx((ann + bob + 2 * cy) / 4, abs=1e-6)}


class Told:
    """A model that knows the truth: the first answer of each prompt."""

    objectives = ("overall",)

    def score(self, asked: Sequence[tuple[Prompt, str]], batch: int = 32) -> scoring.Scores:
        return scoring.of_one([float(any(word in text for word in GOOD)) for _, text in asked])

    def reads(self, asked: Sequence[tuple[Prompt, str]]) -> list[bool]:
        return [len(text) < 1000 for _, text in asked]


def test_rounds_use_the_model_and_are_not_done_twice(tmp_path: Path) -> None:
    own, asked = groups(120), []
    first = raters.heard(own, RatersConfig())

    def fit(name: str, half: Sequence[Group]) -> Told:
        asked.append((name, {group.prompt.id for group in half}))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return Told()

    run = runs.Run(tmp_path, {"stage": "reward"})
    with pytest.raises(KeyboardInterrupt):
        raters.again(run, own, RatersConfig(rounds=2), first, fit)  # type: ignore
    found = raters.again(run, own, RatersConfig(rounds=2), first, fit)  # type: ignore
    assert [name for name, _ in asked] == ["round-1-1", "round-1-2", "round-1-2", "round-2-1", "round-2-2"]
    assert asked[0][1].isdisjoint(asked[1][1])
    assert asked[0][1] | asked[1][1] == {group.prompt.id for group in own}
    assert "round 2 of 2" in found.how
    known = {one.name: one.reliability for one in found.raters}
    assert max(known["spammer 4"], known["spammer 5"]) < min(known[f"careful {n}"] for n in range(4))
    assert raters.again(run, own, RatersConfig(), first, fit) is first  # type: ignore


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raters")
    tiny.tiny_snapshot(root / "data")
    assert launch(root, "done") == 0
    return root


def launch(home: Path, name: str, *more: str) -> int:
    return tiny.launch("reward", "model.kind=linear", f"data.path={home / 'data'}", f"run.root={home / 'runs'}",
                       f"run.name={name}", *more)


def test_a_run_leaves_what_it_found_out_with_checksums(home: Path) -> None:
    run = home / "runs" / "done"
    told, record = json.loads((run / raters.RATERS).read_text()), tiny.record(run)
    assert record["status"] == "done"
    assert record["files"] == {name: checkpoints.file_sha256(run / name) for name in (raters.RATERS, raters.LABELS)}
    assert {"name", "reliability", "low", "high", "judgements", "share", "counts"} == set(told["raters"][0])
    labels = runs.read_lines(run / raters.LABELS)
    assert labels
    assert all(0.5 <= label["probability"] <= 1 and label["weight"] > 0 for label in labels)
    assert "Who said it" in (run / "report.html").read_text()


@pytest.mark.parametrize(("override", "said"), [
    ("raters.trusted=[zoe]", "raters.trusted: 'zoe' ranked nothing"),
    ("raters.cap=0", "raters.cap is a share"),
    ("raters.rounds=-1", "raters.rounds is at least 0"),
    ("raters.reliabilty=true", "did you mean raters.reliability?"),
])
def test_a_wrong_request_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], override: str, said: str) -> None:
    capsys.readouterr()
    assert launch(home, f"wrong-{override.partition('=')[0]}", override) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("prefloop reward: ")
    assert said in message


def test_a_label_is_what_would_be_seen_in_one_place() -> None:
    # Of what one in two sees on the left because it is on the left, nothing is left.
    s = expit(np.array([1.0, -1.0]))
    told = raters.fairly(np.array([0.9, 0.3]), s, np.array([1.0, -1.0]))
    assert told.tolist() == pytest.approx([0.9 * 0.5 / s[0], 0.3 + 0.7 * (0.5 - s[1]) / (1 - s[1])])
    # Brute force: a noise decides what is seen; a rater of reliability 0.8 said the first.
    rng, eta, lift, gap = np.random.default_rng(0), 0.8, 1.2, 0.4
    noise = rng.logistic(size=400_000)
    seen, fair = gap + lift + noise > 0, gap + noise > 0
    said = np.where(rng.random(noise.size) < eta, seen, ~seen)
    p = expit(gap + lift)
    saw = eta * p / (eta * p + (1 - eta) * (1 - p))
    found = raters.fairly(np.array([saw]), np.array([p]), np.array([lift]))
    assert found[0] == pytest.approx(fair[said].mean(), abs=0.005)


def test_what_is_capped_is_what_the_loss_weighs() -> None:
    alone = given("loud", 100)
    crowd = gathered([Ranking(Prompt((Message("user", f"crowd {n}"),)), (Response("x"), Response("y")), (1, 2),
                              f"rater {m}") for n in range(100) for m in range(40)])
    plain, by_prompt = raters.capped([*alone, *crowd], 0.05), raters.capped([*alone, *crowd], 0.05, by_prompt=True)
    assert plain["loud"] == 1.0
    assert by_prompt["loud"] == pytest.approx(0.05 * 100 / 0.95 / 100)
