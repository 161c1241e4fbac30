"""The watch against reward hacking: when it stops, what it keeps; healthy ranges, and reasons not to go on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from ppo_place import Place, make_place, make_run, record

from prefloop import checkpoints, cli, heads, models, runs
from prefloop.formats import snapshot
from prefloop.ppo import held_out, ranges, rollout, trainer, watch
from prefloop.ppo.watch import Evaluation

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("watch"))


@pytest.fixture(scope="module")
def opposed(place: Place) -> Path:
    """A second reward model that likes what the first does not."""
    run = make_run(place.folder / "opposed", place.base, "reward")
    head = heads.Head.load(run / "final", torch.device("cpu"))
    with torch.no_grad():
        head.linear.weight.neg_()
    head.shift = -head.shift
    (run / "final" / checkpoints.MANIFEST).unlink()
    head.save(run / "final")
    models.seal(run / "final", models.resolve(str(place.base)), "reward")
    return run


def seen(*given: tuple[float, float], kl: float = 1.0) -> list[Evaluation]:
    """Evaluations with these means of the proxy and of the second model, over 20 prompts that differ."""
    own = [n / 10 for n in range(20)]
    return [Evaluation(step, [proxy + one for one in own], [second + one for one in own], kl * step, 9, 1, 1, 1)
            for step, (proxy, second) in enumerate(given)]


@pytest.mark.parametrize(("given", "patience", "stops"), [
    ([(0, 0), (1, 1), (2, 0.9), (3, 0.8), (4, 0.7)], 3, True),
    ([(0, 0), (1, 1), (2, 0.9), (3, 0.8), (4, 0.7)], 4, False),  # too early to say
    ([(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)], 1, False),  # both rise
    ([(0, 0), (1, 1), (0.9, 0.9), (0.8, 0.8), (0.7, 0.7)], 3, False),  # both fall: ill, but not hacking
    ([(0, 0), (1, 1), (1, 1), (1, 1), (1, 1)], 3, False),  # both stand still
    ([(0, 0), (1, 1), (2, 0.5), (3, 0.5), (4, 1.5)], 3, False),  # it has come back
    ([(0, 1), (1, 1), (2, 1), (3, 1)], 3, True),  # the second never rose
])
def test_hacking_is_a_proxy_that_rises_alone(given: list[tuple[float, float]], patience: int, stops: bool) -> None:
    assert bool(watch.hacking(seen(*given), patience)) == stops


def test_a_rise_within_the_noise_is_none() -> None:
    found = seen((0, 0), (1, 1), (1, 0.9), (1, 0.9), (1, 0.9))
    noisy = [score + (3 if n % 2 else -2.9) for n, score in enumerate(found[-1].scores)]  # 0.05 higher on average
    last = Evaluation(4, noisy, found[-1].seconds, 1, 9, 1, 1, 1)
    assert watch.hacking([*found[:-1], last], 3) == ""


def test_the_best_is_the_second_models_and_near() -> None:
    found = seen((0, 0), (1, 2), (2, 1), (3, 5), kl=4)
    assert watch.best(found, 100) == 3
    assert watch.best(found, 8) == 1
    assert watch.best(found, 3) == 0


def test_repetition_by_hand() -> None:
    assert watch.distinct([1, 2, 1, 2, 1]) == 2 / 4
    assert watch.distinct([1]) == watch.distinct([]) == 1
    assert watch.distinct_over([[1, 2, 3], [1, 2], [4]]) == 2 / 3


def test_a_fooled_reward_stops_the_run_and_the_best_policy_is_kept(place: Place, opposed: Path) -> None:
    """The second model likes the reverse, so nothing beats the SFT model; without it the run goes on to its end."""
    asked = place.asked("run.name=fooled", "train.rollouts=12", "train.episodes=64", "train.micro_batch=32",
                        "train.learning_rate=1e-2", "train.critic_learning_rate=1e-2", "train.save_every=2",
                        "train.save_total_limit=1", "train.target_approx_kl=0.1", "train.kl_coef=0.02",
                        "watch.every=1", "watch.patience=3", f"watch.reward={opposed}")
    assert cli.main(asked) == 0
    run, own = place.folder / "fooled", record(place.folder / "fooled")
    rows = runs.read_lines(run / "metrics.jsonl")
    looks = [row for row in rows if "watch_score" in row]
    assert [row["step"] for row in looks] == list(range(own["rollouts"] + 1))
    assert 3 <= own["rollouts"] < 12
    assert looks[-1]["watch_score"] > looks[0]["watch_score"] + 0.2
    best = max(looks, key=lambda row: row["watch_second"])["step"]
    assert best < own["rollouts"] - 2
    assert (run / f"checkpoint-{best}").is_dir()  # though rotation keeps one
    kept = run / f"checkpoint-{best}" / models.ADAPTER
    assert (run / "final" / models.ADAPTER).read_bytes() == kept.read_bytes()
    assert f"for reward hacking: since rollout {best} the reward has risen by" in own["summary"]
    assert f"final/ is the policy after rollout {best} of" in own["summary"]
    assert own["summary"] in (run / "README.md").read_text()
    assert own["checks"]["second is frozen"]["passed"]


def test_without_a_second_model_the_card_says_that_nobody_watched(place: Place) -> None:
    assert cli.main(place.asked("run.name=alone")) == 0
    card = (place.folder / "alone" / "README.md").read_text()
    assert "Nobody watched for reward hacking" in card
    rows = runs.read_lines(place.folder / "alone" / "metrics.jsonl")
    (first, last) = [row for row in rows if "watch_score" in row]
    assert (first["step"], last["step"]) == (0, 3)
    assert first["watch_kl"] == 0
    assert "watch_second" not in last
    told = {one.metric for one in ranges.TABLE}
    free = {"step", "seconds_sampling", "seconds_scoring", "seconds_updating", "seconds_watching", "warnings",
            "policy_steps_planned"}
    assert {name for row in rows for name in row} - free <= told  # every other metric has its range


def test_a_damaged_best_checkpoint_is_not_passed_off_as_final(place: Place, opposed: Path,
                                                               monkeypatch: pytest.MonkeyPatch,
                                                               capsys: pytest.CaptureFixture[str]) -> None:
    best = place.folder / "damaged" / "checkpoint-0" / models.ADAPTER
    take_best = trainer.Trainer.take_best

    def damaged(self: trainer.Trainer) -> None:
        tiny.flip_byte(best)
        take_best(self)

    monkeypatch.setattr(trainer.Trainer, "take_best", damaged)
    assert cli.main(place.asked("run.name=damaged", "train.learning_rate=1e-2", f"watch.reward={opposed}",
                                "train.kl_coef=0")) == 2
    assert f"{best}: altered since it was saved" in capsys.readouterr().err
    assert not (place.folder / "damaged" / "final").exists()


HEALTHY = {"step": 20.0, "score": 0.5, "score_std": 1.0, "kl": 3.0, "kl_per_token": 0.1, "entropy": 1.0,
           "length": 20.0, "eos_rate": 0.95, "score_length_correlation": 0.1, "explained_variance": 0.4,
           "clip_fraction": 0.1, "approx_kl": 0.01, "unread": 0.0, "reward_clipped": 0.0}


@pytest.mark.parametrize(("changed", "told"), [
    ({}, []), ({"kl": 12.0}, ["kl is 12, and healthy is -0.5 to 10: far from the SFT model"]),
    ({"length": 40.0}, ["length is 40 (first 20), and healthy is 0.5 to 1.5 times its first value: answers grow"]),
    ({"length": 9.0}, ["length is 9 (first 20), and healthy is 0.5 to 1.5 times its first value: answers shrink"]),
    ({"eos_rate": 0.2, "unread": 0.1}, ["unread is 0.1, and healthy is at most 0", "eos_rate is 0.2, and healthy is at"
                                                                                  " least 0.7: many answers are cut"]),
    ({"explained_variance": -1.0}, ["explained_variance is -1, and healthy is 0 to 1: the critic is worse"]),
    ({"explained_variance": -1.0, "step": 11.0}, []),  # too early to say: 2 rollouts of warm-up, and 10 more
    ({"kl": 12.0, "step": 2.0}, []),
])
def test_a_warning_says_what_is_ill_and_what_to_do(changed: dict[str, float], told: list[str]) -> None:
    found = list(ranges.warnings([{**HEALTHY, "step": 1.0}, {**HEALTHY, **changed}], warmup=2))
    assert len(found) == len(told)
    assert all(any(one.startswith(words) for words in told) for one in found)


def test_a_stretch_is_told_once() -> None:
    ill = [False, True, True, False, True, False, False, False, False, False, True]
    rows = [{**HEALTHY, "step": float(n), "kl": 50.0 if one else 1.0} for n, one in enumerate(ill, start=1)]
    looks = {"step": 3.0, "watch_kl": 1.0}  # rows of the watch stand in between, and do not count
    told = [bool(list(ranges.warnings([*rows[: n // 2 + 1], looks, *rows[n // 2 + 1 : n + 1]]))) for n in
            range(2, len(rows))]
    assert told == [False] * 8 + [True]
    assert list(ranges.warnings(rows[:2]))


@pytest.mark.parametrize("one", ranges.TABLE, ids=lambda one: one.metric)
def test_every_range_has_words_where_it_has_a_bound(one: ranges.Range) -> None:
    assert one.low < one.high
    assert bool(one.low_says) == (one.low > -math.inf)
    assert bool(one.high_says) == (one.high < math.inf) or one.metric == "explained_variance"  # which is never above 1
    assert one.metric == one.metric.strip()


def test_the_page_has_the_table() -> None:
    assert ranges.table() in (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8"), (
        "put what `python -m prefloop.ppo.ranges` prints into docs/ppo.md")


@pytest.mark.parametrize(("what", "told"), [
    ("constant", "every answer of this rollout has the same score"),
    ("empty", "every answer of this rollout is empty"),
    ("exploded", "the KL has exploded: ")])
def test_what_cannot_be_learned_from_stops_it(place: Place, what: str, told: str, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    collect = rollout.collect

    def spoilt(actors: Any, prompts: Any, number: int, *given: Any) -> rollout.Rollout:
        if number == 2:
            with torch.no_grad():
                if what == "constant":
                    head = actors.judge.head
                    head.linear.weight.zero_()
                    head.linear.bias.fill_(head.shift + 0.1 * head.scale)  # whose mean is not quite itself in fp32
                elif what == "exploded":
                    for name, weight in actors.model.named_parameters():
                        if ".policy." in name:
                            weight.mul_(30)
                else:
                    output = actors.model.get_output_embeddings().weight
                    output.zero_()
                    hidden = actors.model.get_base_model().model.norm
                    monkeypatch.setattr(hidden, "forward", lambda states: torch.ones_like(states))
                    output[actors.chat.end_id] = 1
        return collect(actors, prompts, number, *given)

    monkeypatch.setattr(trainer, "collect", spoilt)
    run = place.folder / what
    assert cli.main(place.asked(f"run.name={what}", "train.save_every=1", "watch.every=null", "watch.max_kl=0.5",
                                "train.learning_rate=1e-4")) == 1
    said = capsys.readouterr().err
    assert f"rollout 3: {told}" in said
    assert f"the last good checkpoint is {run / 'checkpoint-1'}" in said  # 2 is what sampled this rollout
    assert record(run)["status"] == "failed"


def test_a_watch_without_held_out_prompts_is_refused(place: Place, opposed: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    data = snapshot.write(place.folder / "train-only", prompts=snapshot.read(place.data).prompts_of("train"))
    assert cli.main(place.asked("run.name=blind", f"watch.reward={opposed}", f"data.path={data}")) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prefloop ppo:")]
    assert "watch.reward: " in line
    assert "no held-out prompts" in line


def test_the_last_word_is_not_from_the_answers_that_chose(place: Place) -> None:
    made = place.trainer("draws")
    prompts = made.prompts[:16]
    watched, compared = (held_out.judged(made.actors, None, prompts, made.settings, draw=draw) for draw in (0, 1))
    assert watched.answers != compared.answers


def test_the_reward_itself_is_no_watch(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(place.asked("run.name=itself", f"watch.reward={place.reward}")) == 2
    assert "is the reward that PPO raises itself" in capsys.readouterr().err
    assert not (place.folder / "itself").exists()
