"""What a reward model is trained on: TRL's loss for two answers, any split into micro-batches, raters, ensembles."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import launch, tiny_model, tiny_prompt
from torch import Tensor

from prefloop import models, scoring
from prefloop.chat import Chat
from prefloop.formats import snapshot
from prefloop.records import STRENGTHS, Ranking, Response
from prefloop.reward import loss
from prefloop.reward.adapter import Adapter
from prefloop.reward.criterion import Criterion, LossConfig, says
from prefloop.reward.groups import Tokens, collated, encoded, resampled
from prefloop.reward.judgements import Judgement, gathered
from prefloop.reward.settings import HeadConfig
from prefloop.reward.trainer import RewardModel

KINDS = [{"kind": kind, "ties": ties} for kind in ("pairs", "plackett_luce") for ties in ("ignore", "davidson")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def chat(base: Path) -> Chat:
    return models.load_chat(models.resolve(str(base)))


def ranked(number: int, ranks: tuple[int | None, ...], **more: Any) -> Ranking:
    """Nicer answers have the earlier place."""
    answers = tuple(Response(" ".join(["nice"] * (len(ranks) - n) + ["nasty"] * n)) for n in range(len(ranks)))
    return Ranking(tiny_prompt(number), answers, ranks, more.pop("rater", "ann"), **more)


def tokens(chat: Chat, rankings: list[Ranking], config: LossConfig, objectives: tuple[str, ...] = ("overall",),
           ) -> list[Tokens]:
    kind = Adapter(models.resolve(chat.tokenizer.name_or_path), models.ModelConfig("any"), chat, 256)
    return encoded(kind.rows, gathered(rankings), lambda one: says(config, objectives, one)).groups


MIXED = [ranked(0, (1, 2, 3)), ranked(1, (1, 1)), ranked(1, (2, 1), rater="bob", strength="better"),
         ranked(2, (2, 1, None, None)), ranked(3, (1, 2, 2, 3), strength="slightly"), ranked(4, (1, 2))]


def reward_model(base: Path, criterion: Criterion, **head: Any) -> RewardModel:
    kind = Adapter.of(models.resolve(str(base)), models.ModelConfig(str(base), lora_r=4), 256)
    model = RewardModel(kind.begin(HeadConfig(**head), 0, 256), criterion)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    return model


@pytest.mark.parametrize("config", KINDS)
def test_two_answers_without_ties_have_trls_loss(base: Path, chat: Chat, config: dict[str, Any],
                                                 tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    rankings = [ranked(number, (1, 2) if number % 3 else (2, 1)) for number in range(6)]
    settings = LossConfig(**config)
    groups = tokens(chat, rankings, settings)
    pairs = [(group.rows[one.places[best]][0], group.rows[one.places[1 - best]][0])
             for group in groups for one in group.judgements for best in [one.ranks.index(1)]]
    model = AutoModelForSequenceClassification.from_pretrained(str(base), num_labels=1)
    args = RewardConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", center_rewards_coefficient=0.01,
                        gradient_checkpointing=False, dataloader_pin_memory=False)
    trainer: Any = RewardTrainer(model, args, processing_class=chat.tokenizer, train_dataset=Dataset.from_list(
        [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in pairs]))
    inputs = trainer.data_collator([trainer.train_dataset[n] for n in range(len(pairs))])
    theirs = float(trainer.compute_loss(trainer.model.eval(), dict(inputs)))

    batch = collated(groups, ["overall"])
    with torch.no_grad():
        scores_R = torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in batch.rows])
        scores_JK, levels_JK = scores_R[batch.judged.rows_JK], batch.judged.levels_DJK[0]
        total = Criterion(settings, ["overall"], groups)(scores_R[:, None, None], batch.judged)
        total = total + 0.01 * loss.centring(scores_JK, levels_JK).sum()
    assert float(total) / batch.prompts == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("config", [*KINDS, {"kind": "pairs", "ties": "rao_kupper", "acceptable": True},
                                    {"kind": "plackett_luce", "strength": "margin"}, {"strength": "scaled"}])
def test_any_split_into_micro_batches_has_the_same_gradient(base: Path, chat: Chat, config: dict[str, Any]) -> None:
    settings = LossConfig(**config)
    groups = [replace(group, judgements=tuple(replace(one, reliability=0.8, weight=0.5) for one in group.judgements))
              for group in tokens(chat, MIXED, settings)]
    model = reward_model(base, Criterion(settings, ["overall"], groups), members=2)
    found = []
    for split in ([groups], [groups[:1], groups[1:]], [[group] for group in groups]):
        model.zero_grad()
        totals = [model(collated(part, ["overall"], 2), 0.01) for part in split]
        torch.stack(totals).sum().backward()
        found.append((float(torch.stack(totals).detach().sum()),
                      {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}))
    assert any(name.startswith("criterion") for name in found[0][1]) == (settings.ties != "ignore" or (
        settings.strength == "thresholds"))
    for total, gradients in found[1:]:
        assert total == pytest.approx(found[0][0], rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], atol=1e-5, rtol=1e-3)


def test_the_loss_of_a_prompt_is_the_mean_over_its_judgements_by_hand(chat: Chat) -> None:
    settings = LossConfig(ties="ignore", strength="ignore")
    groups = tokens(chat, [ranked(0, (1, 2)), ranked(0, (2, 1), rater="bob"), ranked(1, (1, 2))], settings)
    first, second = groups[0].judgements
    groups[0] = replace(groups[0], judgements=(replace(first, weight=0.5), replace(second, offsets=(0.25, 0.0))))
    scores_R = torch.tensor([1.0, 0.2, 0.5, 0.1])
    total = Criterion(settings, ["overall"], groups)(scores_R[:, None, None], collated(groups, ["overall"]).judged)
    lost = [math.log(1 + math.exp(-gap)) for gap in (0.8, -0.8 - 0.25, 0.4)]
    assert float(total) == pytest.approx((0.5 * lost[0] + lost[1]) / 2 + lost[2])


def test_each_member_draws_prompts_of_its_own_and_the_same_ones_again() -> None:
    drawn = [resampled(7, 4, str(number)) for number in range(4000)]
    assert drawn == [resampled(7, 4, str(number)) for number in range(4000)]
    assert [resampled(8, 4, str(number)) for number in range(50)] != drawn[:50]
    counts = torch.tensor(drawn, dtype=torch.float64)
    torch.testing.assert_close(counts.mean(0), torch.ones(4, dtype=torch.float64), atol=0.06, rtol=0)
    torch.testing.assert_close(counts.var(0), torch.ones(4, dtype=torch.float64), atol=0.1, rtol=0)
    assert float(torch.corrcoef(counts.T).fill_diagonal_(0).abs().max()) < 0.06
    assert float((counts == 0).double().mean()) == pytest.approx(math.exp(-1), abs=0.02)
    assert resampled(7, 1, "any") == [1]


def fitted(criterion: Criterion, scores_R: Tensor, groups: list[Tokens]) -> dict[str, Any]:
    """What the loss learns beside fixed scores."""
    judged = collated(groups, ["overall"]).judged
    optimizer = torch.optim.Adam([p for p in criterion.parameters() if p.requires_grad], 0.05)
    for _ in range(200):
        optimizer.zero_grad()
        criterion(scores_R[:, None, None], judged).backward()
        optimizer.step()
    return criterion.learned()


@pytest.mark.parametrize(("config", "name", "expected"), [
    ({"ties": "davidson"}, "tie nu of overall", 0.8), ({"ties": "rao_kupper"}, "tie theta of overall", 1.8),
    ({"kind": "plackett_luce"}, "tie nu of overall", 0.8)])
def test_how_easily_raters_tie_is_found(config: dict[str, Any], name: str, expected: float) -> None:
    """Of 3000 pairs, drawn from the model itself."""
    generator, settings = torch.Generator().manual_seed(0), LossConfig(**config, strength="ignore")
    gaps_N = torch.randn(3000, generator=generator) * 1.5
    if "rao_kupper" in config.values():
        won_N = torch.sigmoid(gaps_N - math.log(expected))
        tied_N = 1 - won_N - torch.sigmoid(-gaps_N - math.log(expected))
    else:
        total_N = (gaps_N / 2).exp() + (-gaps_N / 2).exp() + expected
        won_N, tied_N = (gaps_N / 2).exp() / total_N, expected / total_N
    draw_N = torch.rand(3000, generator=generator)
    groups = [Tokens(str(n), (([1, 2], 1), ([1, 3], 1)), (Judgement((0, 1), ranks, "ann"),)) for n, ranks in enumerate(
        (1, 2) if draw < won else (1, 1) if draw < won + tied else (2, 1)
        for draw, won, tied in zip(draw_N, won_N, tied_N, strict=True))]
    scores_R = torch.stack([gaps_N, torch.zeros(3000)], 1).flatten()
    found = fitted(Criterion(settings, ["overall"], groups), scores_R, groups)[name]
    assert (found[0] if isinstance(found, list) else found) == pytest.approx(expected, abs=0.12)


def test_when_raters_call_a_preference_strong_is_found() -> None:
    generator, cuts = torch.Generator().manual_seed(0), torch.tensor([0.4, 1.2, 2.5])
    gaps_N = torch.randn(4000, generator=generator).abs() * 2
    felt_N = gaps_N + torch.logit(torch.rand(4000, generator=generator).clamp(1e-6, 1 - 1e-6))
    kept = [n for n in range(4000) if felt_N[n] > 0]
    groups = [Tokens(str(n), (([1, 2], 1), ([1, 3], 1)), (
        Judgement((0, 1), (1, 2), "ann", strength=STRENGTHS[int((felt_N[n] > cuts).sum())]),)) for n in kept]
    scores_R = torch.stack([gaps_N[kept], torch.zeros(len(kept))], 1).flatten()
    found = fitted(Criterion(LossConfig(ties="ignore"), ["overall"], groups), scores_R, groups)["strength thresholds"]
    assert found == pytest.approx(cuts.tolist(), abs=0.2)


@pytest.mark.parametrize(("config", "ranks", "expected"), [
    ({"ties": "ignore"}, (1, 1), False), ({"ties": "davidson"}, (1, 1), True), ({"ties": "ignore"}, (1, None), True),
    ({"ties": "davidson"}, (None, None), False), ({"acceptable": True}, (None, None), True)])
def test_what_says_something(config: dict[str, Any], ranks: tuple[int | None, ...], expected: bool) -> None:
    assert says(LossConfig(**config), ["overall"], Judgement((0, 1), ranks, "ann")) is expected
    assert says(LossConfig(**config), ["kind"], Judgement((0, 1), ranks, "ann")) is False
    assert says(LossConfig(**config), ["kind"], Judgement((0, 1), (1, 1), "ann", dimensions={"kind": (2, 1)}))


@pytest.mark.parametrize("dropout", [False, True])
def test_dropout_is_as_asked(tmp_path: Path, dropout: bool) -> None:
    import transformers as t

    folder = tiny_model(tmp_path)  # for its tokenizer
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2}
    words = len(t.AutoTokenizer.from_pretrained(str(folder)))
    t.GPT2LMHeadModel(t.GPT2Config(vocab_size=words, **sizes)  # type: ignore
                      ).save_pretrained(str(folder))
    kind = Adapter.of(models.resolve(str(folder)), models.ModelConfig(str(folder), lora_r=4), 256, dropout)
    reader = kind.begin(HeadConfig(), 0, 8).train()
    one, other = (reader([[1, 2, 3, 4]], [2]) for _ in range(2))
    assert torch.equal(one, other) is not dropout


def test_an_ensemble_with_objectives_learns_each(base: Path, tmp_path: Path) -> None:
    """The shorter answer is the better one, and helpfulness says the opposite. Tie and threshold are learned too."""
    rankings = []
    for number in range(80):
        rankings.append(ranked(number, (1, 2, 3), strength=STRENGTHS[number % 4],
                               dimensions={"helpful": (3, 2, 1)}))
        rankings.append(ranked(number, (1, 1, 2) if number % 2 else (1, 2, None), rater="bob"))
    rankings.append(ranked(80, (None, None), none_acceptable=True))
    data = snapshot.write(tmp_path / "data", rankings)
    words = ["reward", f"model.path={base}", f"data.path={data}", f"run.root={tmp_path}", "run.name=r",
             "model.lora_r=4", "head.members=3", "head.objectives={overall: 1.0, helpful: 0.25}",
             "loss.kind=plackett_luce",
             "loss.acceptable=true", "train.max_steps=30", "train.save_steps=15", "train.learning_rate=0.01",
             "train.max_length=64", "train.per_device_train_batch_size=4"]
    assert launch(*words) == 0
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert set(record["learned"]) == {"tie nu of overall", "tie nu of helpful", "strength thresholds",
                                      "acceptable above"}
    scorer = scoring.load(str(tmp_path / "r"), models.ModelConfig(str(tmp_path / "r")))
    assert scorer.objectives == ("overall", "helpful")
    nice, nasty = (scorer.score([(tiny_prompt(number), text) for number in range(20)]) for text in
                   ("nice nice nice", "nice nasty nasty"))
    assert (nice.objectives_ND[:, 0] > nasty.objectives_ND[:, 0]).all()
    assert (nice.objectives_ND[:, 1] < nasty.objectives_ND[:, 1]).all()
    assert (nice.mean_N > nasty.mean_N).all()
    assert (nice.spread_N > 0).all()
