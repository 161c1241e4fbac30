"""Every loss of TRL's DPO by config: known at its start, trained for a few steps, or refused with the reason."""

from __future__ import annotations

import re
from dataclasses import fields
from math import log
from pathlib import Path
from typing import Any

import pytest
import tiny
from trl import DPOConfig

from prefloop.ppo import preference_losses
from prefloop.ppo.preference_losses import AT_START, SFT

MORE = {"exo_pair": ("train.label_smoothing=0.001",), "robust": ("train.label_smoothing=0.1",),
        "aot": ("train.label_smoothing=0.2",)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("losses")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data")
    tiny.sft_run(root / "runs", root / "base", root / "data")
    return root


def dpo(home: Path, name: str, *overrides: str, code: int = 0) -> Path:
    assert tiny.launch("dpo", f"model.path={home / 'runs' / 'sft'}", f"data.path={home / 'data'}",
                       f"run.root={home / 'runs'}", f"run.name={name}", "train.max_steps=3", "train.max_length=64",
                       "train.per_device_train_batch_size=4", "train.logging_steps=1", "train.learning_rate=1e-3",
                       *overrides) == code
    return home / "runs" / name


def test_no_loss_of_this_trl_is_forgotten() -> None:
    told = next(one.metadata["help"] for one in fields(DPOConfig) if one.name == "loss_type")
    assert set(re.findall(r"`'(\w+)'`", told)) == {*AT_START, SFT}


@pytest.mark.parametrize("kind", AT_START)
def test_a_loss_begins_where_it_must_and_trains(home: Path, kind: str) -> None:
    own = tiny.record(dpo(home, kind, f"train.loss_type=[{kind}]", *MORE.get(kind, ())))
    assert own["checks"]["TRL's loss at step 0"]["passed"]
    assert own["checks"]["weights"]["passed"]


@pytest.mark.parametrize(("settings", "named"), [
    (("train.loss_type=[sigmoid,bco_pair,sft]", "train.loss_weights=[0.8,0.2,1.0]"), "three"),  # as in MPO
    (("train.f_divergence_type=js_divergence",), "js"), (("train.f_divergence_type=alpha_divergence",), "alpha"),
    (("train.f_divergence_type=forward_kl",), "forward"), (("train.ld_alpha=0.5",), "ld"),
    (("train.use_weighting=true",), "wpo"),
])
def test_what_can_be_set_beside_a_loss_works(home: Path, settings: tuple[str, ...], named: str) -> None:
    own = tiny.record(dpo(home, named, *settings))
    assert own["checks"]["weights"]["passed"]
    assert ("TRL's loss at step 0" in own["checks"]) == (named != "wpo")  # which weighs pairs by the policy itself


def test_a_loss_that_begins_elsewhere_fails_the_run(home: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(AT_START, "hinge", lambda args: 1.01)
    dpo(home, "elsewhere", "train.loss_type=[hinge]", code=1)
    assert "self-check failed: TRL's loss at step 0: 1.000000 of 1.010000" in capsys.readouterr().err


def test_the_start_by_hand() -> None:
    """beta 0.5: ipo (1/1)^2, sppo_hard twice (1/1)^2; exo_pair at 0.1: 0.5 ln(0.5/0.9) + 0.5 ln(0.5/0.1)."""
    def begun(*kinds: str, chosen_nll: float = 0.0, weight: float = 1.0, **more: Any) -> float:
        args = DPOConfig("x", beta=0.5, loss_type=list(kinds), use_cpu=True, bf16=False, **more)
        return preference_losses.before_first_step(args, chosen_nll, weight)

    assert begun("ipo") == 1
    assert begun("sppo_hard") == 2
    assert begun("exo_pair", label_smoothing=0.1) == pytest.approx(0.5 * log(0.5 / 0.9) + 0.5 * log(0.5 / 0.1))
    assert begun("sigmoid", "sft", loss_weights=[2.0, 0.5], chosen_nll=3.0, weight=0.1) == pytest.approx(
        2 * 0.1 * log(2) + 0.5 * 3)


@pytest.mark.parametrize(("overrides", "said"), [
    (["train.loss_type=[sigmod]"], "did you mean sigmoid?"),
    (["train.loss_type=[kto]"], "known: sigmoid, hinge"),
    (["train.loss_type=[sft]"], "sft alone compares nothing"),
    (["train.loss_type=[]"], "name a loss, such as sigmoid"),
    (["train.loss_type=null"], "train.loss_type: expected list"),
    (["train.loss_type=[sigmoid,[sft]]"], "['sft'] is unknown"),
    (["train.loss_type=[sigmoid,[sft]]", "data.labels=runs/none"], "['sft'] is unknown"),
    (["train.loss_type=[sigmoid,sft]", "train.loss_weights=[a,b]"], "expected numbers of at least 0"),
    (["train.loss_type=[sigmoid,sft]", "train.loss_weights=[[1],1]"], "expected numbers of at least 0"),
    (["train.loss_weights=1.0"], "train.loss_weights"),
    (["train.loss_type=[sigmoid,sigmoid]"], "stands twice"),
    (["train.loss_type=[sigmoid,sft]", "train.loss_weights=[1.0]"], "`loss_weights` must have the same length"),
    (["train.loss_type=[sigmoid,sft]", "train.loss_weights=[0,0]"], "not all 0"),
    (["train.loss_type=[sigmoid,sft]", "train.loss_weights=[1,-1]"], "at least 0"),
    (["train.loss_type=[exo_pair]"], "exo_pair needs it above 0"),
    (["train.loss_type=[robust]", "train.label_smoothing=0.5"], "below 0.5"),
    (["train.label_smoothing=0.1"], "sigmoid does not read it"),
    (["train.f_divergence_type=kl"], "known: reverse_kl"),
    (["train.loss_type=[nca_pair]", "train.f_divergence_type=forward_kl"], "nca_pair is only defined for reverse_kl"),
    (["train.loss_type=[aot]", "train.per_device_train_batch_size=1"], "needs 2 or more"),
    (["train.loss_type=[aot_unpaired]", "train.use_weighting=true"], "no weight stays with its own"),
    (["train.padding_free=true"], "has it no more"),
    (["train.ld_alpha=2"], "at most 1"),
    (["train.discopop_tau=0"], "above 0"),
])
def test_what_cannot_be_is_refused_before_a_model_loads(home: Path, capsys: pytest.CaptureFixture[str],
                                                        overrides: list[str], said: str) -> None:
    capsys.readouterr()
    run = dpo(home, "refused", *overrides, code=2)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("prefloop dpo: ")
    assert said in message
    assert not run.exists()


def test_the_page_on_dpo_has_every_loss() -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "dpo.md").read_text(encoding="utf-8")
    rows = [line.partition("|")[2].partition("|")[0] for line in page.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} - {"loss_type"} == {*AT_START, SFT}
