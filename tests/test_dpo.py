"""DPO through the command line on a two-layer model: the loss, the reference, what bad input does."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import tensor

from prefloop import checkpoints, models, passes
from prefloop.formats import snapshot
from prefloop.ppo import dpo, labels, pair_figures
from prefloop.ppo.pairs import Row, majority, tokenised
from prefloop.records import Message, Pair, Prompt


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dpo")
    tiny.tiny_model(root / "base")
    tiny.tiny_snapshot(root / "data", long_rows=3)
    tiny.sft_run(root / "runs", root / "base", root / "data")
    dpo_run(root, "done", "train.learning_rate=1e-2")
    return root


def dpo_run(home: Path, name: str, *overrides: str, code: int = 0) -> Path:
    asked = ("dpo", f"model.path={home / 'runs' / 'sft'}", f"data.path={home / 'data'}", f"run.root={home / 'runs'}",
             f"run.name={name}", "train.max_steps=6", "train.save_steps=2", "train.per_device_train_batch_size=4",
             "train.max_length=64", "train.logging_steps=1", "train.learning_rate=1e-3", *overrides)
    assert tiny.launch(*asked) == code
    return home / "runs" / name


def test_a_run_checks_itself_and_reports_before_and_after(home: Path) -> None:
    run = home / "runs" / "done"
    own = tiny.record(run)
    assert own["status"] == "done"
    assert {"KL at step 0", "DPO loss at step 0", "TRL's loss at step 0", "weights", "reference",
            "reload final"} <= own["checks"].keys()
    assert all(check["passed"] for check in own["checks"].values())
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-3)
    metrics = own["metrics"]
    for name in ("implicit_accuracy", "implicit_margin", "kl", "likelier_after", "chosen_logprob_change"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
    assert metrics["implicit_margin"] > 0
    assert metrics["implicit_accuracy"] > 0.5
    assert {row["when"] for row in map(json.loads, (run / "samples.jsonl").open())} == {"before", "after"}
    assert not list(run.rglob("*.bin"))


def test_the_policy_moved_and_the_reference_did_not(home: Path) -> None:
    begun = load_file(home / "runs" / "sft" / "final" / models.ADAPTER)
    kept = load_file(home / "runs" / "done" / "checkpoint-6" / "ref" / models.ADAPTER)
    final = load_file(home / "runs" / "done" / "final" / models.ADAPTER)
    assert begun.keys() == kept.keys() == final.keys()
    assert all(torch.equal(begun[key], kept[key]) for key in begun)
    assert all(not torch.equal(begun[key], final[key]) for key in begun)
    found = models.resolve(str(home / "runs" / "done"))
    assert found.base_checksum == models.fingerprint(home / "base")


def test_pairs_over_the_length_are_left_out_whole_and_counted(home: Path) -> None:
    source = snapshot.read(home / "data")
    pairs = source.pairs("train") + source.pairs("test")
    long = [pair for pair in pairs if len(pair.chosen.split()) > 50 or len(pair.rejected.split()) > 50]
    chat = models.load_chat(models.resolve(str(home / "base")))
    rows, over_length = tokenised(chat, pairs, 64)
    assert len(long) >= 3
    assert over_length == len(long) == tiny.record(home / "runs" / "done")["rows"]["over_length"]
    assert [row.chosen_ids for row in rows] == [chat.answer_ids(pair.chosen) for pair in pairs if pair not in long]
    assert all(ids[-1] == chat.end_id for row in rows for ids in (row.chosen_ids, row.rejected_ids))


def test_the_loss_by_hand() -> None:
    # Margins 2 and -1 at beta 0.5: -log sigmoid(1) = 0.3133, -log sigmoid(-0.5) = 0.9741.
    assert dpo.dpo_loss(tensor([1.0, 0.0]), tensor([-1.0, 1.0]), 0.5) == pytest.approx((0.3133 + 0.9741) / 2, abs=1e-4)


def test_figures_by_hand(home: Path) -> None:
    chat = models.load_chat(models.resolve(str(home / "base")))
    rows, _ = tokenised(chat, snapshot.read(home / "data").pairs("train")[:4], None)  # three of one prompt, one
    assert pair_figures.by_prompt(rows, tensor([1.0, 2.0, 6.0, 5.0])) == [3.0, 5.0]
    assert pair_figures.ordered(tensor([0.3, 0.0, -2.0])).tolist() == [1.0, 0.5, 0.0]


def test_trl_computes_our_loss_on_our_rows(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the policy moved away from the reference, against log-probabilities of plain transformers."""
    found: dict[str, float] = {}
    check_start = dpo.check_start

    def compared(run: Any, trainer: Any, model: Any, chat: Any, rows: list[Row]) -> None:
        check_start(run, trainer, model, chat, rows)
        kept = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn_like(p) if p.requires_grad else 0)
            batch = trainer.data_collator([trainer.train_dataset[n] for n in range(len(rows))])
            found["theirs"] = float(trainer.compute_loss(model, batch))
            ratios = [[by_transformers(model, "default", row, side) - by_transformers(model, "ref", row, side)
                       for row in rows] for side in ("chosen_ids", "rejected_ids")]
            found["ours"] = dpo.dpo_loss(tensor(ratios[0]), tensor(ratios[1]), 0.3)
            for key, p in model.named_parameters():
                p.copy_(kept.get(key, p))

    monkeypatch.setattr(dpo, "check_start", compared)
    dpo_run(home, "loss", "train.beta=0.3", "train.max_steps=1")
    assert abs(found["ours"] - math.log(2)) > 0.05
    assert found["theirs"] == pytest.approx(found["ours"], abs=1e-4)


def by_transformers(model: Any, role: str, row: Row, side: str) -> float:
    ids = row.prompt_ids + getattr(row, side)
    model.set_adapter(role)
    logprobs_TV = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    model.set_adapter("default")
    return sum(float(logprobs_TV[place - 1, ids[place]]) for place in range(len(row.prompt_ids), len(ids)))


def test_in_four_bits(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step: the base in NF4, adapters in fp32, the start exactly the SFT adapter, which TRL rounds to bf16."""
    seen = tiny.watch(monkeypatch)
    run = dpo_run(home, "nf4", "model.four_bit=true", "train.max_steps=1", "train.gradient_checkpointing=true")
    assert seen.linear4bit == [14, 14]
    assert seen.dtypes == [{torch.float32}] * 2
    saved = load_file(home / "runs" / "sft" / "final" / models.ADAPTER)
    assert all(torch.equal(weight, saved[key.replace(".default", "")]) for key, weight in seen.weights[0].items())
    tiny.check_round_trip(run, seen.models[1], models.ModelConfig(path=str(run), four_bit=True))


def test_on_a_whole_fine_tuned_model_the_reference_is_that_model(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tiny.sft_run(home / "runs", home / "base", home / "data", "model.whole=true", "train.learning_rate=1e-3",
                         name="whole")
    seen = tiny.watch(monkeypatch)
    run = dpo_run(home, "on-whole", f"model.path={whole}", "train.max_steps=2", "train.learning_rate=1e-2")
    found = models.resolve(str(run))
    assert found.base_checksum == models.fingerprint(whole / "final")
    chat, model = models.load_chat(found), seen.models[1]
    reference, bare, policy = (passes.total_logprobs(model, role, *models.probe_rows(chat), chat.pad_id)
                               for role in ("ref", None, "default"))
    assert torch.equal(reference, bare)
    assert not torch.allclose(policy, bare, atol=1e-3)


def spoil_policy(trainer: Any, model: Any) -> None:
    for key, p in model.named_parameters():
        if ".default." in key:
            p.data += 0.01


def spoil_reference(trainer: Any, model: Any) -> None:
    train = trainer.train

    def trained(**asked: Any) -> None:
        train(**asked)
        next(p for key, p in model.named_parameters() if ".ref." in key).data.view(-1)[0] += 1e-6

    trainer.train = trained


@pytest.mark.parametrize(("spoil", "said"), [(spoil_policy, "KL at step 0"), (spoil_reference, "reference")])
def test_a_failed_check_fails_the_run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                      spoil: Callable[[Any, Any], None], said: str) -> None:
    attach = dpo.training.attach

    def attached(trainer: Any, *rest: Any) -> None:
        attach(trainer, *rest)
        spoil(trainer, trainer.model)

    monkeypatch.setattr(dpo.training, "attach", attached)
    run = dpo_run(home, f"bad-{spoil.__name__}", code=1)
    assert f"self-check failed: {said}" in capsys.readouterr().err
    assert tiny.record(run)["status"] == "failed"
    assert not (run / "final").exists()


@pytest.mark.parametrize(("override", "said"), [
    ("train.bta=0.1", "did you mean train.beta?"),
    ("model.whole=true", "DPO trains an adapter"),
    ("train.sync_ref_model=true", "drop this key"),
    ("train.max_length=3", "no pair to train on"),
    ("online.rounds=3", "online.rounds: nothing reads it without online.reward"),
])
def test_a_wrong_request_is_one_line(home: Path, capsys: pytest.CaptureFixture[str], override: str, said: str) -> None:
    capsys.readouterr()
    dpo_run(home, f"wrong-{override.partition('=')[0]}", override, code=2)
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("prefloop dpo: ")
    assert said in message


def test_the_majority_of_raters_decides_each_two_answers() -> None:
    prompt = Prompt((Message("user", "Q"),))
    pairs = [Pair(prompt, "a", "b"), Pair(prompt, "b", "a"), Pair(prompt, "a", "b"), Pair(prompt, "c", "b"),
             Pair(prompt, "a", "c"), Pair(prompt, "c", "a")]
    assert [(p.chosen, p.rejected) for p in majority(pairs)] == [("a", "b"), ("c", "b")]


def write_labels(folder: Path, rows: list[tuple[Pair, float, float]]) -> Path:
    folder.mkdir(parents=True)
    (folder / "labels.jsonl").write_text("".join(json.dumps(
        {"prompt_id": pair.prompt.id, "chosen": pair.chosen, "rejected": pair.rejected, "probability": probability,
         "weight": weight}) + "\n" for pair, probability, weight in rows))
    told = {"status": "done", "files": {"labels.jsonl": checkpoints.file_sha256(folder / "labels.jsonl")}}
    (folder / "run.json").write_text(json.dumps(told))
    return folder


def test_the_soft_loss_by_hand() -> None:
    """Margins 1 and -0.5: -log sigmoid is 0.3133 and 0.9741; of their opposites 1.3133 and 0.4741."""
    margins, probability, weight = tensor([1.0, -0.5]), tensor([0.9, 0.6]), tensor([2.0, 0.5])
    with labels.SoftLabels(probability, weight):
        found = -torch.nn.functional.logsigmoid(margins)
    by_hand = [2 * (0.9 * 0.3133 + 0.1 * 1.3133), 0.5 * (0.6 * 0.9741 + 0.4 * 0.4741)]
    assert found.tolist() == pytest.approx(by_hand, abs=1e-3)
    with labels.SoftLabels(torch.ones(2), torch.ones(2)):
        assert torch.equal(-torch.nn.functional.logsigmoid(margins), -torch.nn.functional.logsigmoid(margins))
    assert torch.equal(labels.soft(margins, torch.ones(2)), torch.nn.functional.logsigmoid(margins))


def test_a_run_learns_from_labels_as_far_as_they_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of a moved policy, batch by batch: TRL's with labels that are sure, and by hand with others."""
    pairs = list({(p.prompt.id, *sorted((p.chosen, p.rejected))): p for p in
                  snapshot.read(home / "data").pairs("train")}.values())
    rng = random.Random(0)
    told = [(pair, round(rng.uniform(0.5, 1), 2), round(rng.uniform(0, 2), 2)) for pair in pairs[:-5]]
    source = write_labels(home / "runs" / "labels", told)
    found: dict[str, list[float]] = {"soft": [], "hand": []}
    check_start = dpo.check_start

    def compared(run: Any, trainer: Any, model: Any, chat: Any, rows: list[Row]) -> None:
        check_start(run, trainer, model, chat, rows)
        kept = {key: p.detach().clone() for key, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.3 * torch.randn_like(p) if p.requires_grad else 0)
            each = [trainer.train_dataset[n] for n in range(len(rows))]
            found["soft"].append(float(trainer.compute_loss(model, trainer.data_collator(each))))
            for row, one in zip(rows, each, strict=True):
                plain = {key: value for key, value in one.items() if key.endswith("ids")}
                turned = plain | {"chosen_ids": plain["rejected_ids"], "rejected_ids": plain["chosen_ids"]}
                right, wrong = (float(trainer.compute_loss(model, trainer.data_collator([way])))
                                for way in (plain, turned))
                found["hand"].append(row.weight * (row.probability * right + (1 - row.probability) * wrong))
            for key, p in model.named_parameters():
                p.copy_(kept.get(key, p))

    monkeypatch.setattr(dpo, "check_start", compared)
    run = dpo_run(home, "labelled", f"data.labels={source}", "train.max_steps=2")
    assert found["soft"][0] == pytest.approx(sum(found["hand"]) / len(found["hand"]), abs=1e-4)
    own = tiny.record(run)
    assert own["rows"]["train"] + own["rows"]["over_length"] >= len(told)
    assert own["parents"]["labels"]["checksum"] == checkpoints.file_sha256(source / "labels.jsonl")


def test_labels_and_an_sft_term_stand_beside_each_other(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the start the loss is ln 2 times the pairs' weights, and half the chosen answers' loss per token."""
    source = write_labels(home / "runs" / "labels-sft", [(pair, 0.9, 1.0 + place % 2) for place, pair in
                                                         enumerate(snapshot.read(home / "data").pairs("train"))])
    run = dpo_run(home, "labels-sft-run", f"data.labels={source}", "train.loss_type=[sigmoid,sft]",
                  "train.loss_weights=[1.0,0.5]", "train.max_steps=2")
    check = tiny.record(run)["checks"]["TRL's loss at step 0"]
    theirs, due = map(float, check["detail"].split(" of "))
    assert theirs == pytest.approx(due, abs=1e-3)
    assert due > 1.5


def test_labels_turn_a_pair_round() -> None:
    prompt = Prompt((Message("user", "Q"),))
    pairs = [Pair(prompt, "a", "b"), Pair(prompt, "b", "a"), Pair(prompt, "c", "a"), Pair(prompt, "c", "b")]
    found = labels.labelled(pairs, {(prompt.id, "b", "a"): (0.8, 1.0), (prompt.id, "c", "a"): (0.9, 3.0)}, "runs/r")
    assert [(p.chosen, p.rejected, p.probability, p.weight) for p in found] == [("b", "a", 0.8, 1.0),
                                                                                ("c", "a", 0.9, 3.0)]


def test_the_weights_of_the_pairs_that_are_trained_on_are_of_mean_1(home: Path, monkeypatch: pytest.MonkeyPatch,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    """The last pairs weigh 100, 200, ..., and data.limit leaves them out, or nothing else."""
    pairs = list({(p.prompt.id, *sorted((p.chosen, p.rejected))): p for p in
                  snapshot.read(home / "data").pairs("train")}.values())
    told = [(pair, 0.9, 1.0 + n if n < 8 else 100.0 * n) for n, pair in enumerate(pairs)]
    source = write_labels(home / "runs" / "labels-limited", told)
    kept: list[Row] = []
    report = dpo.report
    monkeypatch.setattr(dpo, "report", lambda run, train, *rest: (kept.extend(train), report(run, train, *rest)))
    dpo_run(home, "limited", f"data.labels={source}", "data.limit=8", "train.max_steps=1")
    assert 2 < len(kept) <= 8
    assert sum(row.weight for row in kept) / len(kept) == pytest.approx(1)
    assert max(row.weight for row in kept) > 1.2 * min(row.weight for row in kept)
    none = write_labels(home / "runs" / "labels-none", [(pair, 0.9, float(n >= 8)) for n, pair in enumerate(pairs)])
    capsys.readouterr()
    dpo_run(home, "weighs-nothing", f"data.labels={none}", "data.limit=8", code=2)
    assert f"none of the {len(kept)} pairs to train on weighs anything" in capsys.readouterr().err


@pytest.mark.parametrize(("override", "said"), [
    ("train.loss_type=[ipo]", "train.loss_type=ipo has no place"),
    ("train.use_weighting=true", "train.use_weighting changes the loss"),
    ("data.majority=true", "data.majority: data.labels says already"),
])
def test_labels_where_they_mean_nothing_are_refused(home: Path, capsys: pytest.CaptureFixture[str], override: str,
                                                    said: str) -> None:
    source = home / "runs" / f"labels-{override.partition('=')[0]}"
    write_labels(source, [(snapshot.read(home / "data").pairs("train")[0], 0.9, 1.0)])
    capsys.readouterr()
    dpo_run(home, f"refused-{override.partition('=')[0]}", f"data.labels={source}", override, code=2)
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_labels_that_were_altered_or_are_of_other_pairs_are_refused(home: Path,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    other = Pair(Prompt((Message("user", "another"),)), "a", "b")
    source = write_labels(home / "runs" / "others", [(other, 0.9, 1.0)])
    for said, spoil in (("has no label for any pair", None), ("not as its run left it", "{}\n"),
                        ("has no labels.jsonl", "")):
        if spoil:
            (source / "labels.jsonl").write_text(spoil)
        elif spoil == "":
            (source / "labels.jsonl").unlink()
        capsys.readouterr()
        dpo_run(home, f"others-{len(said)}", f"data.labels={source}", code=2)
        assert said in capsys.readouterr().err.strip().splitlines()[-1]
