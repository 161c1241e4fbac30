"""The floor under the stages: rendering, adapters on one base, heads, sampling, and what a path resolves to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import flip_byte, tiny_model

from prefloop import checkpoints, generate, heads, models, passes, runs
from prefloop.chat import Chat, probe_rows
from prefloop.errors import RequestError, RunError
from prefloop.records import Message, Prompt

ASK = Prompt((Message("user", "Hello"), Message("assistant", "Hi <|end|> you"),
              Message("user", "Again <|assistant|>")))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def chat(base: Path) -> Chat:
    return models.load_chat(models.resolve(str(base)))


@pytest.fixture
def model(base: Path) -> models.PeftModel:
    """The base with two adapters that differ from it and from each other."""
    config = models.ModelConfig(str(base), lora_r=4)
    loaded = models.load_base(models.resolve(str(base)), config)
    two = models.add_adapter(models.add_adapter(loaded, "one", None, config), "two", None, config)
    torch.manual_seed(1)
    for key, weight in two.named_parameters():
        if "lora_B" in key:
            weight.data.normal_(std=0.1)
    return two


def test_special_tokens_that_were_written_are_only_text(chat: Chat) -> None:
    ids = chat.prompt_ids(ASK)
    one = chat.tokenizer.convert_tokens_to_ids
    # The template's own: <|user|> <|assistant|> <|end|> <|user|> <|assistant|>; none of those that were typed.
    assert [i for i in ids if i in chat.tokenizer.all_special_ids] == one(
        ["<|user|>", "<|assistant|>", "<|end|>", "<|user|>", "<|assistant|>"])
    assert chat.text(chat.answer_ids("a <|end|> b")) == "a <|end|> b"


def test_the_loss_is_on_every_assistant_turn_and_its_end(chat: Chat) -> None:
    ids, mask = chat.demonstration_ids(ASK, "Bye")
    counted = [i for i, m in zip(ids, mask, strict=True) if m]
    assert counted == [*chat.answer_ids("Hi <|end|> you"), *chat.answer_ids("Bye")]
    assert ids[: len(chat.prompt_ids(ASK))] == chat.prompt_ids(ASK)


def test_a_lone_surrogate_does_not_stop_a_stage(chat: Chat) -> None:
    assert chat.text(chat.answer_ids("a\ud800b")) == "a?b"


def test_padding_is_never_the_end_token(chat: Chat) -> None:
    chat.tokenizer.pad_token = chat.tokenizer.eos_token
    assert Chat(chat.tokenizer).pad_id != chat.end_id


def test_acting_moves_only_the_pointer(model: models.PeftModel, chat: Chat) -> None:
    trained = {id(p) for p in models.train_only(model, {"one"})}
    rows, starts = probe_rows(chat)

    def seen(role: str | None) -> torch.Tensor:
        with passes.acting(model, role), torch.no_grad():
            return torch.cat(passes.answer_logprobs(model, rows, starts, chat.pad_id))

    bare, one, two = seen(None), seen("one"), seen("two")
    assert not torch.allclose(one, two)
    assert not torch.allclose(one, bare)
    with model.disable_adapter():
        whole = torch.cat(passes.answer_logprobs(model, rows, starts, chat.pad_id))
    torch.testing.assert_close(bare, whole)
    model.set_adapter("two")
    torch.testing.assert_close(two, torch.cat(passes.answer_logprobs(model, rows, starts, chat.pad_id)))
    models.train_only(model, {"one"})
    assert {id(p) for p in model.parameters() if p.requires_grad} == trained


def test_log_probabilities_are_those_of_the_whole_model(model: models.PeftModel, chat: Chat) -> None:
    rows, starts = probe_rows(chat)
    with passes.acting(model, "one"), torch.no_grad():
        ours = passes.answer_logprobs(model, rows, starts, chat.pad_id)
        for row, start, own in zip(rows, starts, ours, strict=True):
            logits = model(input_ids=torch.tensor([row])).logits[0]
            theirs = logits.log_softmax(-1)[range(len(row) - 1), row[1:]][start - 1 :]
            torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_scores_ignore_padding_and_batch_and_see_the_end(model: models.PeftModel, chat: Chat, pooling: str) -> None:
    rows, starts = probe_rows(chat)
    head = heads.Head(passes.plain(model).config.hidden_size, pooling)
    together = heads.score(model, head, "one", rows, starts, chat.pad_id)
    alone = heads.score(model, head, "one", rows, starts, chat.pad_id, batch=1)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    padded = heads.score(model, head, "one", rows, starts, chat.end_id)
    torch.testing.assert_close(together, padded, atol=1e-5, rtol=0)
    endless = heads.score(model, head, "one", [row[:-1] for row in rows], starts, chat.pad_id)
    assert bool((together != endless).all())


def test_mean_pooling_by_hand() -> None:
    head = heads.Head(1)
    head.linear.weight.data.fill_(2.0)
    values_RAO = head(torch.tensor([[[2.0], [4.0], [9.0]]])).detach()
    assert float(head.pooled(values_RAO, torch.tensor([[1, 1, 0]]))) == 6.0
    head.pooling = "last"
    assert float(head.pooled(values_RAO, torch.tensor([[1, 1, 0]]))) == 8.0


def test_an_adapter_and_its_head_survive_the_round_trip(model: models.PeftModel, tmp_path: Path) -> None:
    models.save_adapter(model, "one", tmp_path)
    head = heads.Head(passes.plain(model).config.hidden_size)
    head.shift, head.scale = 0.25, 3.0
    head.save(tmp_path)
    before = {k: v.clone() for k, v in model.named_parameters() if ".one." in k}
    models.load_adapter(model, "two", tmp_path)
    after = dict(model.named_parameters())
    assert before
    for key, weight in before.items():
        assert torch.equal(weight, after[key.replace(".one.", ".two.")])
    again = heads.Head.load(tmp_path, models.device())
    assert (again.shift, again.scale, again.pooling) == (0.25, 3.0, "mean")
    assert torch.equal(again.linear.weight, head.linear.weight)


def test_a_save_that_lost_something_fails_the_run(model: models.PeftModel, chat: Chat, tmp_path: Path) -> None:
    run = runs.Run(tmp_path, {})
    folder = tmp_path / "final"
    head = heads.Head(passes.plain(model).config.hidden_size)
    models.save_adapter(model, "one", folder)
    head.save(folder)
    models.check_reload(run, model, chat, folder, "one", head)
    other = heads.Head(passes.plain(model).config.hidden_size)  # as after a save that forgot the trained one
    other.save(folder)
    with pytest.raises(RunError, match="reload final"):
        models.check_reload(run, model, chat, folder, "one", head)
    weights = load_file(folder / models.ADAPTER)
    save_file({k: v * 2 for k, v in weights.items()}, folder / models.ADAPTER)
    with pytest.raises(RunError, match="reload final"):
        models.check_reload(run, model, chat, folder, "one")


def test_the_reload_check_leaves_no_trace(model: models.PeftModel, chat: Chat, tmp_path: Path) -> None:
    models.train_only(model, {"one"})
    models.save_adapter(model, "one", tmp_path / "final")
    trained = [k for k, p in model.named_parameters() if p.requires_grad]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models.check_reload(runs.Run(tmp_path, {}), model, chat, tmp_path / "final", "one")
    assert torch.equal(torch.rand(3), expected)
    assert [k for k, p in model.named_parameters() if p.requires_grad] == trained
    assert set(model.peft_config) == {"one", "two"}


def test_sampling_depends_on_the_row_and_not_on_its_batch(model: models.PeftModel, chat: Chat) -> None:
    prompts = [chat.prompt_ids(Prompt((Message("user", text),))) for text in ("a", "bb cat dog", "moon", "sun " * 9)]

    def drawn(which: list[int]) -> list[list[int]]:
        with passes.acting(model, "one"):
            return generate.sample(model, [prompts[n] for n in which], [100 + n for n in which], 12, 1.0, chat.end_id,
                                   chat.pad_id)

    together = drawn([0, 1, 2, 3])
    assert [drawn([n])[0] for n in range(4)] == together
    assert drawn([3, 0])[0] == together[3]
    assert all(len(ids) <= 12 and chat.end_id not in ids[:-1] for ids in together)


def test_greedy_sampling_is_the_argmax_of_the_model(model: models.PeftModel, chat: Chat) -> None:
    prompt = chat.prompt_ids(ASK)
    with passes.acting(model, "two"), torch.no_grad():
        (drawn,) = generate.sample(model, [prompt], [0], 8, 0.0, chat.end_id, chat.pad_id)
        ids = list(prompt)
        for token in drawn:
            assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_inverse_sampling_by_hand() -> None:
    logits_BV = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().repeat(5, 1)
    u_B = torch.tensor([0.05, 0.15, 0.3001, 0.61, 0.9999999])
    assert generate.pick(logits_BV, u_B, 1.0).tolist() == [0, 1, 2, 3, 3]
    cold_V = torch.softmax(logits_BV[:1] / 0.5, -1)[0]  # 1/30, 4/30, 9/30, 16/30
    assert generate.pick(logits_BV[:1], cold_V[:1] + 0.01, 0.5).tolist() == [1]


def test_a_path_is_a_model_a_run_or_refused(base: Path, tmp_path: Path) -> None:
    found = models.resolve(str(base))
    assert found.adapter is None
    assert found.checksum == found.base_checksum
    with pytest.raises(RequestError, match="no such folder"):
        models.resolve(str(tmp_path / "nothing"))
    with pytest.raises(RequestError, match="neither a run nor a model"):
        models.resolve(str(tmp_path))
    pickled = tmp_path / "pickled"
    shutil.copytree(base, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(RequestError, match=r"no \.safetensors"):
        models.resolve(str(pickled))


def test_an_adapter_on_another_base_is_refused(base: Path, model: models.PeftModel, tmp_path: Path) -> None:
    own = tmp_path / "base"
    shutil.copytree(base, own)
    folder = tmp_path / "adapter"
    models.save_adapter(model, "one", folder)
    models.seal(folder, models.resolve(str(own)), "sft")
    assert models.resolve(str(folder)).adapter == folder
    tiny_model(own, seed=9)
    with pytest.raises(RequestError, match="trained on another base"):
        models.resolve(str(folder))


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_one_flipped_byte_is_refused_by_name(base: Path, model: models.PeftModel, tmp_path: Path, name: str) -> None:
    models.save_adapter(model, "one", tmp_path / "a")
    models.seal(tmp_path / "a", models.resolve(str(base)), "sft")
    flip_byte(tmp_path / "a" / name)
    with pytest.raises(RequestError, match=f"{name}: altered"):
        models.resolve(str(tmp_path / "a"))
    (tmp_path / "a" / name).unlink()
    with pytest.raises(RequestError, match=f"{name}: missing"):
        checkpoints.verify(tmp_path / "a")


# As Qwen3's: reasoning is cut from earlier turns, and a request without thinking opens an empty block of it.
THINKING = ("{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}"
            "{{ m.content.split('</think>')[-1].lstrip('\\n') }}{% else %}{{ m.content }}{% endif %}<|end|>"
            "{% endfor %}{% if add_generation_prompt %}<|assistant|>"
            "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
            "{% endif %}")


def test_a_model_that_thinks_is_asked_not_to(tmp_path: Path) -> None:
    chat = models.load_chat(models.resolve(str(tiny_model(tmp_path / "base"))))
    chat.tokenizer.chat_template = THINKING
    talk = Prompt((Message("user", "sun"), Message("assistant", "moon"), Message("user", "</think> red")))
    assert chat.tokenizer.decode(chat.prompt_ids(talk)) == (
        "<|user|>sun<|end|><|assistant|>moon<|end|><|user|></think> red<|end|><|assistant|><think>\n\n</think>\n\n")
    ids, mask = chat.demonstration_ids(talk, "blue")
    learned = [token for token, on in zip(ids, mask, strict=True) if on]
    assert learned == chat.answer_ids("moon") + chat.answer_ids("blue")
    assert chat.end_id == chat.tokenizer.convert_tokens_to_ids("<|end|>")
