"""Answers behind the prompt they share: the numbers and gradients of separate rows; bases that cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_adapter, tiny_model

from prefloop import heads, models, passes, prefix
from prefloop.chat import Chat

PAD = 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prefix")
    return tiny_adapter(root / "adapter", tiny_model(root / "base"), 1)


def loaded(place: Path, **settings: Any) -> models.PeftModel:
    found, config = models.resolve(str(place)), models.ModelConfig(str(place), **settings)
    model = models.add_adapter(models.load_base(found, config), "reward", found.adapter, config)
    models.train_only(model, {"reward"})
    return model


def some_rows(seed: int = 0) -> tuple[list[list[int]], list[int]]:
    """Three prompts with 4, 1 and 3 answers of 1 to 20 tokens."""
    chance = torch.Generator().manual_seed(seed)
    rows, starts = [], []
    for prompt, answers in ((9, 4), (4, 1), (17, 3)):
        asked = torch.randint(1, 320, (prompt,), generator=chance).tolist()
        for _ in range(answers):
            length = int(torch.randint(1, 21, (1,), generator=chance))
            rows.append(asked + torch.randint(1, 320, (length,), generator=chance).tolist())
            starts.append(prompt)
    return rows, starts


def a_head(pooling: str = "mean", likelihood: bool = False, members: int = 2) -> heads.Head:
    torch.manual_seed(3)
    head = heads.Head(64, pooling, likelihood, {"overall": 1.0, "kind": 0.5}, members)
    torch.nn.init.normal_(head.linear.weight)
    return head


@pytest.mark.parametrize(("pooling", "likelihood"), [("mean", False), ("last", False), ("mean", True)])
def test_scores_and_gradients_are_those_of_separate_rows(place: Path, pooling: str, likelihood: bool) -> None:
    model, head, (rows, starts) = loaded(place), a_head(pooling, likelihood), some_rows()
    found = []
    for share, checkpointed in ((False, False), (True, False), (True, True)):
        if checkpointed:
            passes.plain(model).gradient_checkpointing_enable({"use_reentrant": False})
        model.train(checkpointed)
        scores_RO = heads.score_rows(model, head, rows, starts, PAD, share)
        trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
        found.append((scores_RO.detach(), torch.autograd.grad(scores_RO.square().sum(), trained, allow_unused=True)))
    for scores_RO, gradients in found[1:]:
        torch.testing.assert_close(scores_RO, found[0][0], atol=2e-5, rtol=1e-5)
        for own, other in zip(gradients, found[0][1], strict=True):
            assert (own is None) == (other is None)
            if own is not None:
                torch.testing.assert_close(own, other, atol=1e-3, rtol=1e-3)


def test_the_base_reads_a_prompt_once(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, starts = some_rows()
    layout = prefix.shared(rows, starts, PAD, torch.device("cpu"), 64)
    assert layout.ids_BT.shape[0] == 3
    assert int(layout.mask.diagonal(dim1=2, dim2=3).sum()) == layout.ids_BT.numel()
    monkeypatch.setattr(prefix, "TOKENS", 25)  # a longer line is broken, and its prompt read again
    broken = prefix.shared(rows, starts, PAD, torch.device("cpu"), 64)
    assert broken.ids_BT.shape[0] > 3
    assert broken.ids_BT.shape[1] <= 37  # one answer at least
    model, head = loaded(place), a_head()
    torch.testing.assert_close(heads.score_rows(model, head, rows, starts, PAD, True),
                               heads.score_rows(model, head, rows, starts, PAD), atol=2e-5, rtol=1e-5)


def test_a_line_is_shared_only_where_that_is_less_work() -> None:
    """Attention is over the whole line: long answers to a short prompt cost more together than apart."""
    def lines(prompt: int, answer: int, width: int) -> int:
        rows = [[1] * (prompt + answer)] * 4
        return len(prefix.shared(rows, [prompt] * 4, PAD, torch.device("cpu"), width).ids_BT)

    assert lines(prompt=44, answer=244, width=64) == 4
    assert lines(prompt=44, answer=244, width=4096) == 1
    assert lines(prompt=650, answer=100, width=64) == 1


def test_scores_do_not_depend_on_batch_or_order(place: Path) -> None:
    model, head, (rows, starts) = loaded(place), a_head(), some_rows()
    whole_RO = heads.outputs(model, head, "reward", rows, starts, PAD)
    assert head.shares is True
    for batch in (1, 3, 5):
        torch.testing.assert_close(heads.outputs(model, head, "reward", rows, starts, PAD, batch), whole_RO,
                                   atol=2e-5, rtol=1e-5)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1)).tolist()
    shuffled = heads.outputs(model, head, "reward", [rows[n] for n in order], [starts[n] for n in order], PAD)
    torch.testing.assert_close(shuffled, whole_RO[order], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("settings", [{"dtype": "bfloat16"}, {"four_bit": True}])
def test_in_low_precision_too(place: Path, settings: dict[str, Any]) -> None:
    model, head, (rows, starts) = loaded(place, **settings), a_head(), some_rows()
    with passes.acting(model, "reward"), torch.no_grad():
        assert prefix.sound(model, PAD)
        apart_RO, shared_RO = (heads.score_rows(model, head, rows, starts, PAD, share) for share in (False, True))
    assert float((apart_RO - shared_RO).norm() / apart_RO.norm()) < 0.05


def made(kind: str) -> Any:
    """Bases with which a shared line is no row: they must be found out, by their config or by trial."""
    import transformers as t

    torch.manual_seed(0)
    shape: dict[str, Any] = {"vocab_size": 320, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    if kind == "bloom":  # biases by distance in the line
        return t.BloomForCausalLM(t.BloomConfig(vocab_size=320, hidden_size=64, n_layer=2, n_head=2))
    if kind == "mistral":
        return t.MistralForCausalLM(t.MistralConfig(**shape, intermediate_size=64, num_key_value_heads=2,
                                                    sliding_window=8))
    if kind == "mamba":
        return t.MambaForCausalLM(t.MambaConfig(vocab_size=320, hidden_size=64, num_hidden_layers=2, state_size=8))
    if kind == "falcon":  # which takes no mask of its own beside such biases
        return t.FalconForCausalLM(t.FalconConfig(**shape, alibi=True))
    if kind == "gpt2":  # learned positions, which it takes from outside
        return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=320, n_embd=64, n_layer=2, n_head=2))
    llama = t.LlamaForCausalLM(t.LlamaConfig(**shape, intermediate_size=64))
    llama.set_attn_implementation(kind)
    return llama


@pytest.mark.parametrize(("kind", "shares"), [("bloom", False), ("mistral", False), ("mamba", False), ("gpt2", True),
                                              ("falcon", False), ("eager", False), ("sdpa", True)])
def test_a_base_that_reads_shared_lines_otherwise_is_found_out(kind: str, shares: bool) -> None:
    assert prefix.sound(made(kind).eval(), PAD) is shares


def test_where_the_trial_fails_rows_stand_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, head, (rows, starts) = loaded(place), a_head(), some_rows()
    whole_RO = heads.outputs(model, head, "reward", rows, starts, PAD)
    monkeypatch.setattr(prefix, "sound", lambda *_: False)
    monkeypatch.setattr(prefix, "shared", None)
    other = a_head()
    torch.testing.assert_close(heads.outputs(model, other, "reward", rows, starts, PAD), whole_RO,
                               atol=2e-5, rtol=1e-5)


def test_objectives_and_members_by_hand(tmp_path: Path) -> None:
    head = heads.Head(1, objectives={"overall": 1.0, "kind": 0.5}, members=2)
    raw_RO = torch.tensor([[1.0, 2.0, 10.0, 30.0], [3.0, 6.0, 20.0, 10.0]])
    head.zeros_DE, head.units_D = torch.tensor([[1.0, 2.0], [10.0, 10.0]]), torch.tensor([2.0, 10.0])
    head.shift, head.scale = 0.25, 0.5
    assert head.by_objective(raw_RO)[1].tolist() == [[1.0, 2.0], [1.0, 0.0]]
    assert head.by_member(raw_RO).tolist() == [[-0.5, 1.5], [(1.0 + 0.5 - 0.25) / 0.5, (2.0 + 0.0 - 0.25) / 0.5]]
    head.save(tmp_path)
    again = heads.Head.load(tmp_path, models.device())
    assert torch.equal(again.by_member(raw_RO), head.by_member(raw_RO))
    assert (again.objectives, again.members) == ({"overall": 1.0, "kind": 0.5}, 2)
    hidden_BTH = torch.randn(3, 1, 1)
    torch.testing.assert_close(head.folded()(hidden_BTH).flatten(), head.by_member(head(hidden_BTH)[:, 0]).mean(1))


def test_a_settled_head_is_centred_and_scaled_whatever_its_members_chose_as_zero() -> None:
    head = heads.Head(1, objectives={"overall": 1.0, "kind": 0.5}, members=3)
    base_R = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    raw_RO = torch.stack([base_R * (10 if o > 2 else 1) + 7 * o for o in range(6)], 1)
    assert head.settle(raw_RO) > 0
    scaled_RE = head.by_member(raw_RO)
    low, middle, high = scaled_RE.mean(1).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    assert (round(middle, 4), round((high - low) / 1.349, 4)) == (0.0, 1.0)
    assert float(scaled_RE.std(1, correction=0).max()) < 1e-4  # the members differ by their zeros alone
    assert head.by_objective(raw_RO).quantile(0.5, 0).abs().max() < 1e-4
    assert head.settle(torch.ones(5, 6)) == 0.0


def test_a_conversation_of_the_same_words_is_another_prompt(place: Path) -> None:
    chat: Chat = models.load_chat(models.resolve(str(place)))
    rows = [chat.answer_ids("a b c"), chat.answer_ids("a b d")]
    layout = prefix.shared([[5, *rows[0]], [5, 5, *rows[1]]], [1, 2], PAD, torch.device("cpu"), 64)
    assert layout.ids_BT.shape[0] == 2
