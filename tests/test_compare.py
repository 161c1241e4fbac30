"""Compare through the command line on two-layer models, and its arithmetic by hand."""

from __future__ import annotations

import gc
import json
import math
import shutil
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_loop import Loop

from prefloop import checkpoints, encoders, generate, heads, models
from prefloop.compare import answering, figures, rewards, settings
from prefloop.compare import verdict as deciding
from prefloop.compare.cache import Cache
from prefloop.compare.records import Answer, Contestant, Question, Rewards
from prefloop.formats import snapshot
from prefloop.generate import SamplingConfig
from prefloop.records import Message, Prompt


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs (sft, other: adapters on one base; whole: a base of its own) and a reward run on the first base."""
    root = tmp_path_factory.mktemp("compare")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data")
    tiny.sft_run(root / "runs", root / "base", root / "data")
    tiny.sft_run(root / "runs", root / "base", root / "data", "train.max_steps=30", name="other")
    tiny.sft_run(root / "runs", root / "base", root / "data", "model.whole=true", "train.learning_rate=1e-3",
                 name="whole")
    for seed, (name, policy) in enumerate((("reward", "sft"), ("second", "sft"), ("whole-reward", "whole"))):
        assert tiny.launch("reward", f"model.path={root / 'runs' / policy}", f"data.path={root / 'data'}",
                           f"run.root={root / 'runs'}", f"run.name={name}", "train.max_steps=2",
                           "train.max_length=64", f"train.seed={seed}") == 0
    return root


def asked(home: Path, names: list[str], *overrides: str) -> list[str]:
    places = ",".join(str(home / "runs" / name) for name in names)
    return ["compare", f"compare.runs=[{places}]", f"data.path={home / 'data'}", f"run.root={home / 'verdicts'}",
            "compare.split=train", "compare.allow_overlap=true", "compare.limit=20", "sampling.max_new_tokens=12",
            *overrides]


def verdict(home: Path, out: Path, names: list[str], *overrides: str) -> tuple[int, dict[str, Any]]:
    code = tiny.launch(*asked(home, names, f"compare.out={out}", *overrides))
    report = json.loads((out / "report.json").read_text())
    named = {Path(name).name: own for name, own in report["runs"].items()}
    judges = {judge: {**own, **{kind: {Path(name).name: each for name, each in own[kind].items()}
                                for kind in ("runs", "reward", "gain")}} for judge, own in report["judges"].items()}
    return code, {**report, "runs": named, "judges": judges}


def test_three_runs_on_two_bases(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, load = [], models.load_base
    monkeypatch.setattr(models, "load_base", lambda one, settings: (loaded.append(one.base), load(one, settings))[1])
    code, report = verdict(home, tmp_path, ["sft", "other", "whole"], f"compare.reward={home / 'runs' / 'reward'}")
    assert len(loaded) == len(set(loaded)) == 2
    assert code == deciding.EXIT[report["verdict"]]
    assert report["prompts"] == 20
    assert report["by"] == str(home / "runs" / "reward")
    judged = report["judges"][report["by"]]
    assert "sft" not in judged["runs"]
    assert "kl" not in report["runs"]["sft"]
    for name in ("other", "whole"):
        own = report["runs"][name]
        assert own["kl"]["low"] > 0
        assert own["kl_per_token"] == pytest.approx(own["kl"]["value"] / own["mean_length"])
        wins = judged["runs"][name]["win_rate"]
        assert wins["low"] < wins["value"] < wins["high"]
        assert judged["gain"][name]["value"] == pytest.approx(
            judged["reward"][name]["value"] - judged["reward"]["sft"]["value"], abs=1e-6)
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    prompts = snapshot.read(home / "data").prompts_of("train")[:20]
    assert [row["prompt"]["id"] for row in rows] == [prompt.id for prompt in prompts]
    assert all([Path(name).name for name in row["answers"]] == ["sft", "other", "whole"] for row in rows)
    for name in ("sft", "other", "whole"):
        each = [own for row in rows for run, (own,) in row["rewards"][report["by"]].items() if Path(run).name == name]
        assert judged["reward"][name]["value"] == pytest.approx(sum(each) / 20)
    assert report["line"] in capsys.readouterr().out
    capsys.readouterr()
    assert tiny.launch("runs", f"run.root={home / 'verdicts'}") == 0
    assert f"verdict {report['verdict']}" in capsys.readouterr().out


def test_a_run_against_its_copy_is_a_draw(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "runs" / "sft", home / "runs" / "copy", dirs_exist_ok=True)
    code, report = verdict(home, tmp_path, ["sft", "copy"], f"compare.reward={home / 'runs' / 'reward'}",
                           "sampling.answers=2")
    assert code == 4
    assert abs(report["runs"]["copy"]["kl"]["value"]) < 1e-6
    assert report["judges"][report["by"]]["runs"]["copy"]["win_rate"]["value"] == 0.5
    assert report["runs"]["copy"]["same"] == 40
    for row in map(json.loads, (tmp_path / "answers.jsonl").open()):
        first, second = row["answers"].values()
        assert first == second
        assert len(first) == 2


def test_a_reward_model_on_another_base_judges_too(home: Path, tmp_path: Path) -> None:
    """It is given texts: its scores are those that `prefloop score` gives to what was compared."""
    reward = home / "runs" / "whole-reward"
    _, report = verdict(home, tmp_path, ["sft", "other"], f"compare.reward={reward}")
    rows = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    asked = [{"prompt": row["prompt"]["messages"], "answer": own}
             for row in rows for (own,) in row["answers"].values()]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    assert tiny.launch("score", f"model.path={reward}", f"score.answers={tmp_path / 'asked.jsonl'}",
                       f"score.out={tmp_path / 'scores.jsonl'}") == 0
    scores = [json.loads(line)["score"] for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    told = [own for row in rows for (own,) in row["rewards"][str(reward)].values()]
    assert told == pytest.approx(scores, abs=1e-5)
    assert "disagreement" not in report["judges"][str(reward)]  # of one member there is none


def test_prompts_with_an_answer_too_long_for_the_reward_model_have_no_rewards(
        home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = short_encoder(tmp_path, 8)
    _, report = verdict(home, tmp_path / "out", ["sft", "other"], f"compare.reward={path}", "sampling.answers=2")
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    scorer = encoders.load(models.resolve(str(path)))
    for row in rows:
        prompt = Prompt.from_json(row["prompt"])
        read = scorer.reads([(prompt, text) for own in row["answers"].values() for text in own])
        assert bool(row["rewards"]) == all(read)
    told, judged = [row["rewards"][str(path)] for row in rows if row["rewards"]], report["judges"][str(path)]
    assert 0 < judged["unread"] == 20 - len(told) < 20
    for name in ("sft", "other"):
        each = [sum(own) / 2 for row in told for run, own in row.items() if Path(run).name == name]
        assert judged["reward"][name]["value"] == pytest.approx(sum(each) / len(told))
    assert f"{judged['unread']} without rewards" in capsys.readouterr().out


def test_a_reward_model_that_reads_no_answer_says_so(home: Path, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.launch(*asked(home, ["sft", "other"], f"compare.reward={short_encoder(tmp_path, 3)}")) == 1
    assert "longer than this reward model reads" in capsys.readouterr().err


def short_encoder(folder: Path, max_length: int) -> Path:
    """An untrained encoder that reads so many tokens."""
    found = models.resolve(str(tiny.tiny_encoder(folder / "encoder")))
    backbone, reader = encoders.backbone_of(found), encoders.reader_of(found, max_length, "train.max_length")
    head = heads.Head(backbone.config.hidden_size)
    encoders.save(encoders.Encoder(backbone, head, reader.pad_id), reader, folder / "reward")
    models.seal(folder / "reward", found, "reward")
    return folder / "reward"


def test_swapping_the_runs_mirrors_the_win_rate(home: Path, tmp_path: Path) -> None:
    reward = f"compare.reward={home / 'runs' / 'reward'}"
    _, there = verdict(home, tmp_path / "there", ["sft", "other"], reward)
    _, back = verdict(home, tmp_path / "back", ["other", "sft"], reward)
    own, mirrored = there["judges"][there["by"]]["runs"]["other"], back["judges"][back["by"]]["runs"]["sft"]
    for figure in ("win_rate", "decide", "length_controlled"):
        assert own[figure]["value"] + mirrored[figure]["value"] == pytest.approx(1)
        assert own[figure]["low"] + mirrored[figure]["high"] == pytest.approx(1)
    assert there["runs"]["sft"]["mean_length"] == back["runs"]["sft"]["mean_length"]


def test_without_a_reward_or_a_sample_less_is_said(home: Path, tmp_path: Path) -> None:
    code, report = verdict(home, tmp_path, ["sft", "other"], "sampling.temperature=0")
    assert code == 4
    assert "kl" not in report["runs"]["other"]
    assert report["judges"] == {}
    assert "compare.reward" in report["line"]


def test_log_ratios_are_those_of_the_saved_runs(home: Path, tmp_path: Path) -> None:
    """Against PEFT's own loading, at the temperature of the sample, for both sides of the KL."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = [models.resolve(str(home / "runs" / name)) for name in ("sft", "other")]
    questions = tuple(Question(prompt) for prompt in snapshot.read(home / "data").prompts_of("train")[:5])
    sampling = SamplingConfig(answers=2, max_new_tokens=8, temperature=0.7)
    setting = answering.Setting(questions, settings.HoldConfig(), sampling, Cache(tmp_path))
    _, other = answering.answered(found, setting)[0]
    own = [json.loads(line)["ids"] for path in tmp_path.glob("answers-*") for line in path.open()]
    chat = models.load_chat(found[0])
    sides = [PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "base"), str(one.adapter)).eval()
             for one in found]
    for question, answers in zip(questions, other.answers, strict=True):
        asked = chat.prompt_ids(question.prompt)
        for answer in answers:
            same = (one for one in own if (chat.text(one), len(one)) == (answer.text, answer.tokens))
            ids = asked + next(same)
            with torch.no_grad():
                base, policy = ((model(torch.tensor([ids])).logits[0] / 0.7).log_softmax(-1) for model in sides)
            wanted = sum(float(policy[n - 1, ids[n]] - base[n - 1, ids[n]]) for n in range(len(asked), len(ids)))
            assert answer.kl == pytest.approx(wanted, abs=1e-3)


def test_kl_by_hand() -> None:
    def answers(*pairs: tuple[float, int]) -> tuple[Answer, ...]:
        return tuple(Answer("text", tokens, True, kl) for kl, tokens in pairs)

    found = figures.kl_figures([answers((1.0, 2), (1.0, 4)), answers((3.0, 5), (3.0, 5))], 0.95)
    assert found["kl"]["value"] == 2.0  # prompts 1 and 3 nats
    assert found["kl_per_token"] == 0.5  # answers of 3 and 5 tokens
    assert 1.0 <= found["kl"]["low"] < found["kl"]["high"] <= 3.0


def contestant(name: str, *texts: str) -> Contestant:
    return Contestant(name, name, tuple((Answer(text, len(text.split()), True),) for text in texts))


def test_contests_by_reward_and_by_rule() -> None:
    """A higher reward wins, equals and the same text tie, and an empty answer loses whatever its reward."""
    questions = [Question(Prompt((Message("user", f"{n}"),))) for n in range(5)]
    questions[4] = replace(questions[4], set="near")
    both = contestant("a", "one two", "x", "same", "", "z"), contestant("b", "one", "y", "same", "w", "q")
    scored = Rewards("r", "", (((1.0,), (0.5,), (0.1,), (9.0,), (1.0,)), ((0.0,), (0.5,), (0.2,), (0.0,), (0.0,))))
    found = rewards.contests(scored, both, questions)
    assert found.prompt_D.tolist() == [0, 1, 2, 3]
    assert found.won_D.tolist() == [1.0, 0.5, 0.5, 0.0]
    assert found.gap_D.tolist() == pytest.approx([math.log(2), 0.0, 0.0, 0.0])


def test_a_killed_comparison_goes_on_where_it_was(home: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """What was sampled is not sampled again, and the end is that of a comparison that nobody killed."""
    cache = f"compare.cache={tmp_path / 'cache'}"
    _, whole = verdict(home, tmp_path / "whole", ["sft", "other"], f"compare.cache={tmp_path / 'other'}",
                       "sampling.batch=4")
    sample, calls = generate.sample, []

    def dying(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return sample(*given)

    monkeypatch.setattr(generate, "sample", dying)
    assert tiny.launch(*asked(home, ["sft", "other"], cache, "sampling.batch=4")) == 1
    monkeypatch.setattr(generate, "sample", lambda *given: (calls.append(given), sample(*given))[1])
    _, resumed = verdict(home, tmp_path / "resumed", ["sft", "other"], cache, "sampling.batch=4")
    assert len(calls) == 1 + 10  # each of the ten batches once, and that which was stopped
    assert (tmp_path / "whole/answers.jsonl").read_bytes() == (tmp_path / "resumed/answers.jsonl").read_bytes()
    for one in (whole, resumed):
        for own in one["runs"].values():
            own.pop("cost")
    assert whole["runs"] == resumed["runs"]
    monkeypatch.setattr(models, "load_base", None)  # nothing is owed, so nothing is loaded
    assert verdict(home, tmp_path / "again", ["sft", "other"], cache, "sampling.batch=4")[0] == 4


def test_an_earlier_comparison_is_judged_again_without_models(home: Path, tmp_path: Path) -> None:
    _, first = verdict(home, tmp_path / "first", ["sft", "other"], f"compare.reward={home / 'runs' / 'reward'}")
    code = ("import sys; from prefloop.cli import main; code = main(sys.argv[1:]);"
            "print(code, [name for name in ('torch', 'transformers') if name in sys.modules])")
    told = subprocess.run([sys.executable, "-c", code, "compare", f"compare.answers=[{tmp_path / 'first'}]",
                           f"compare.out={tmp_path / 'again'}", f"run.root={tmp_path / 'runs'}"],
                          capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == f"{deciding.EXIT[first['verdict']]} []"
    again = json.loads((tmp_path / "again" / "report.json").read_text())
    assert {Path(name).name: own for name, own in again["runs"].items()} == first["runs"]
    assert again["judges"] == json.loads((tmp_path / "first" / "report.json").read_text())["judges"]
    assert (tmp_path / "again" / "answers.jsonl").read_bytes() == (tmp_path / "first" / "answers.jsonl").read_bytes()


def test_comparisons_are_put_together_where_they_ask_the_same(home: Path, tmp_path: Path,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    reward = f"compare.reward={home / 'runs' / 'reward'}"
    verdict(home, tmp_path / "one", ["sft", "other"], reward)
    verdict(home, tmp_path / "two", ["sft", "whole"], reward)
    verdict(home, tmp_path / "fewer", ["sft", "whole"], reward, "compare.limit=10")
    common = ["compare", f"compare.out={tmp_path / 'out'}", f"run.root={tmp_path / 'runs'}"]
    assert tiny.launch(*common, f"compare.answers=[{tmp_path / 'one'},{tmp_path / 'two'}]") in (0, 3, 4)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [Path(name).name for name in report["runs"]] == ["sft", "other", "whole"]
    capsys.readouterr()
    apart = f"compare.answers=[{tmp_path / 'one'},{tmp_path / 'fewer'}]"
    assert tiny.launch(*common, apart) == 2
    assert "10 are the same, 10 only there and 0 only here" in capsys.readouterr().err
    assert tiny.launch(*common, apart, "compare.shared_only=true") in (0, 3, 4)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["prompts"] == 10


def test_only_one_base_is_held_at_a_time(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the runs is gone before another base is loaded, for them or for a reward model."""
    bases, alive, load = [], [], models.load_base

    def loaded(one: Any, config: Any) -> Any:
        gc.collect()
        alive.append(sum(base() is not None for base in bases))
        made = load(one, config)
        bases.append(weakref.ref(made))
        return made

    monkeypatch.setattr(models, "load_base", loaded)
    verdict(home, tmp_path / "out", ["sft", "whole"], f"compare.reward={home / 'runs' / 'whole-reward'}",
            f"compare.second=[{home / 'runs' / 'reward'}]", f"compare.cache={tmp_path / 'cache'}")
    assert alive == [0] * 4


def test_a_log_ratio_is_of_the_very_answer(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is sampled again whole, for more is asked, may hold other answers; what was read of the old is not
    taken for theirs."""
    cache = f"compare.cache={tmp_path / 'cache'}"
    verdict(home, tmp_path / "few", ["sft", "other"], cache, "compare.limit=10")
    monkeypatch.setattr(generate, "pick", lambda logits, u, t, pick=generate.pick: pick(logits, 1 - u, t))
    verdict(home, tmp_path / "more", ["sft", "other"], cache)
    verdict(home, tmp_path / "anew", ["sft", "other"], f"compare.cache={tmp_path / 'other'}")
    rows = [[json.loads(line) for line in (tmp_path / name / "answers.jsonl").open()] for name in ("more", "anew")]
    for one, other in zip(*rows, strict=True):
        assert one["answers"] == other["answers"]
        assert one["kl"] == other["kl"]


def test_a_sweep_is_the_run_s_checkpoints_against_what_it_began_from(loop: Loop, tmp_path: Path) -> None:
    """Its final/ is not counted again where it is one of them."""
    run = loop.root / "runs" / "dpo"
    saved = [str(path) for path in checkpoints.steps(run)]
    assert saved
    code = tiny.launch("compare", f"compare.sweep={run}", f"data.path={loop.root / 'data'}", f"run.root={tmp_path}",
                       f"compare.out={tmp_path / 'out'}", "compare.split=train", "compare.allow_overlap=true",
                       "compare.limit=4", "sampling.max_new_tokens=4")
    assert code == 4
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["runs"]) == [str(loop.root / "runs" / "sft"), *saved]


def test_two_reward_models_on_one_base(home: Path, tmp_path: Path) -> None:
    """Each is its own judge, whichever was asked first."""
    one, other = (home / "runs" / name for name in ("reward", "second"))
    _, both = verdict(home, tmp_path / "both", ["sft", "other"], f"compare.reward={one}", f"compare.second=[{other}]",
                      f"compare.cache={tmp_path / 'a'}")
    _, alone = verdict(home, tmp_path / "alone", ["sft", "other"], f"compare.reward={other}",
                       f"compare.cache={tmp_path / 'b'}")
    assert both["judges"][str(one)]["proxy"]
    assert not both["judges"][str(other)]["proxy"]
    assert both["judges"][str(other)]["reward"] == alone["judges"][str(other)]["reward"]
    assert both["judges"][str(one)]["reward"] != both["judges"][str(other)]["reward"]
    assert both["by"] == str(one)


@pytest.mark.parametrize(("names", "override", "said"), [
    (["sft"], "", "two or more runs"),
    (["sft", "sft"], "", "twice"),
    (["sft", "sft/final"], "", "named twice"),
    (["sft", "nowhere"], "", "no such folder"),
    (["sft", "reward"], "", "a reward model writes no answers"),
    (["sft", "other"], "compare.reward={home}/runs/other", "it is no reward model"),
    (["sft", "other"], "compare.split=validatoin", "split"),
    (["sft", "other"], "sampling.max_prompt_tokens=1", "every prompt is over"),
    (["sft", "other"], "compare.allow_overlap=false", "it was trained on 20 of these 20 prompts"),
    (["sft", "other"], "judge.path={home}/runs/reward", "a reward model writes no answers"),
    (["sft", "other"], "compare.rewrd=x", "did you mean compare.reward?"),
])
def test_a_wrong_request_is_one_line_and_leaves_nothing(home: Path, tmp_path: Path, names: list[str], override: str,
                                                        said: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    overrides = [override.format(home=home)] if override else []
    assert tiny.launch(*asked(home, names, *overrides, f"run.root={tmp_path}")) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("prefloop compare: ")
    assert said in message
    assert not list(tmp_path.iterdir())
