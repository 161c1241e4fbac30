"""Encoders as reward models: text pairs by hand, what is loaded and what is refused, and scores that survive."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import flip_byte, tiny_encoder, tiny_model

from prefloop import checkpoints, encoders, heads, models, scoring
from prefloop.errors import RequestError
from prefloop.records import Message, Prompt

PROMPT = Prompt((Message("user", "Say something about cat"),))
TALK = Prompt((Message("system", "Be nice"), Message("user", "Say cat"), Message("assistant", "cat"),
               Message("user", "Say dog")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def reader(folder: Path, max_length: int = 64) -> encoders.Reader:
    return encoders.reader_of(models.resolve(str(folder)), max_length, "train.max_length")


def saved(folder: Path, encoder: Path, members: int = 1, max_length: int = 64) -> Path:
    """A reward model as training leaves it, without the training."""
    found = models.resolve(str(encoder))
    backbone, own = encoders.backbone_of(found), encoders.reader_of(found, max_length, "train.max_length")
    torch.manual_seed(1)
    head = heads.Head(backbone.config.hidden_size, objectives={"overall": 1.0, "kind": 0.5}, members=members)
    encoders.save(encoders.Encoder(backbone, head, own.pad_id), own, folder)
    models.seal(folder, found, "reward")
    return folder


def tokens(own: encoders.Reader, row: encoders.Row | None) -> str:
    assert row is not None
    return " ".join(own.tokenizer.convert_ids_to_tokens(row[0]))


def test_a_pair_is_joined_as_the_tokenizer_does(folder: Path) -> None:
    own = reader(folder)
    (row,) = own.rows([(PROMPT, "red nice")])
    assert tokens(own, row) == "[CLS] say something about cat [SEP] red nice [SEP]"
    assert row is not None
    assert row[1] == 6
    told = own.tokenizer("Say something about cat", "red nice", return_token_type_ids=True)
    assert row[0] == told["input_ids"]
    types = [int(place >= row[1]) for place in range(len(row[0]))]
    assert types == told["token_type_ids"]


def test_what_is_written_is_no_structure(folder: Path) -> None:
    own = reader(folder)
    (row,) = own.rows([(PROMPT, "[SEP] nice [CLS]")])
    assert tokens(own, row).count("[SEP]") == 2
    assert encoders.load(models.resolve(str(saved(folder.parent / "structure", folder)))).taken_for_structure() == 0


def test_the_oldest_part_of_the_prompt_gives_way_and_never_the_answer(folder: Path) -> None:
    whole = reader(folder)
    (row,) = whole.rows([(TALK, "red nice")])
    assert row is not None
    assert tokens(whole, row).endswith("[SEP] red nice [SEP]")
    size = len(row[0])
    (cut,) = reader(folder, size - 4).rows([(TALK, "red nice")])
    assert cut is not None
    assert len(cut[0]) == size - 4
    assert cut == ([row[0][0], *row[0][5:]], row[1] - 4)
    least, over = (reader(folder, 3 + n).rows([(TALK, "red nice")])[0] for n in (2, 1))
    assert tokens(whole, least) == "[CLS] [SEP] red nice [SEP]"
    assert over is None


def test_several_messages_say_whose_they_are() -> None:
    assert encoders.spoken(PROMPT) == "Say something about cat"
    assert encoders.spoken(TALK) == "system: Be nice\nuser: Say cat\nassistant: cat\nuser: Say dog"


@pytest.mark.parametrize("kind", ["bert", "distilbert", "albert", "roberta"])
def test_scores_hang_on_neither_padding_nor_company_and_survive(tmp_path: Path, kind: str) -> None:
    path = str(saved(tmp_path / "r", tiny_encoder(tmp_path / "e", kind), members=3))
    asked = [(PROMPT, "red nice"), (TALK, "sad " * 40), (PROMPT, "nasty"), (PROMPT, "")]
    scorer = scoring.load(path, models.ModelConfig(path))
    found = scorer.score(asked)
    for n, one in enumerate(asked):
        alone = scorer.score([one])
        np.testing.assert_allclose(alone.mean_N, found.mean_N[n : n + 1], atol=1e-5)
    assert len(set(found.mean_N.round(4))) == 4
    assert (found.spread_N > 0).all()
    assert scorer.objectives == ("overall", "kind")
    assert found.objectives_ND.shape == (4, 2)
    again = scoring.load(path, models.ModelConfig(path)).score(asked)
    np.testing.assert_allclose(again.mean_N, found.mean_N, atol=1e-6)
    np.testing.assert_allclose(scoring.scored(scorer, asked, 1).mean_N, found.mean_N, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "albert"])
def test_a_score_is_the_heads_mean_over_the_answer(tmp_path: Path, kind: str) -> None:
    """Against the library's own call on its own tokens, types of the two texts included."""
    scorer = encoders.load(models.resolve(str(saved(tmp_path / "r", tiny_encoder(tmp_path / "e", kind)))))
    own, tokenizer = scorer.model, scorer.reader.tokenizer
    told = tokenizer("Say something about cat", "red nice", return_tensors="pt",
                     return_token_type_ids=kind != "distilbert")
    with torch.no_grad():
        hidden_TH = own.backbone(**told).last_hidden_state[0]
        wanted_O = own.head.linear(hidden_TH[6:]).mean(0)  # red, nice and the end
    row = scorer.reader.rows([(PROMPT, "red nice")])[0]
    assert row is not None
    torch.testing.assert_close(encoders.outputs(own, [row])[0], wanted_O)


def test_an_answer_over_the_limit_is_said(tmp_path: Path, folder: Path) -> None:
    path = str(saved(tmp_path / "r", folder, max_length=16))
    scorer = scoring.load(path, models.ModelConfig(path))
    asked = [(PROMPT, "red"), (PROMPT, "red " * 20), (PROMPT, "red " * 30)]
    assert scorer.reads(asked) == [True, False, False]
    with pytest.raises(RequestError, match=r"'(red ){10}'\.\.\. to 'Say something .*16 tokens.* so are 1 more"):
        scorer.score(asked)


def test_what_is_no_encoder_is_refused(tmp_path: Path, folder: Path) -> None:
    llama = models.resolve(str(tiny_model(tmp_path / "llama")))
    with pytest.raises(RequestError, match=r"a model of type llama, and model\.kind=encoder takes"):
        encoders.reader_of(llama, 64, "train.max_length")
    with pytest.raises(RequestError, match=r"train\.max_length: 129 tokens, and this encoder reads 128"):
        encoders.reader_of(models.resolve(str(folder)), 129, "train.max_length")


@pytest.mark.parametrize(("kind", "most"), [("bert", 128), ("camembert", 127), ("mpnet", 126), ("longformer", 127)])
def test_as_much_as_its_positions_reach_is_read(tmp_path: Path, kind: str, most: int) -> None:
    """Where positions count from behind the padding's (0 here, 1 in every MPNet), so many fewer tokens have one."""
    found = models.resolve(str(tiny_encoder(tmp_path, kind)))
    own = encoders.reader_of(found, None, "train.max_length")
    assert own.max_length == most
    (row,) = own.rows([(PROMPT, "red " * (most - 4))])
    assert row is not None
    assert len(row[0]) == most
    encoders.outputs(encoders.Encoder(encoders.backbone_of(found), heads.Head(32), own.pad_id), [row])


def test_checkpointing_that_an_encoder_does_not_have_is_one_line(tmp_path: Path) -> None:
    own = encoders.backbone_of(models.resolve(str(tiny_encoder(tmp_path, "albert"))))
    with pytest.raises(RequestError, match=r"train\.gradient_checkpointing: a model of type albert"):
        encoders.Encoder(own, heads.Head(32), 0).gradient_checkpointing_enable()


@pytest.mark.parametrize(("hurt", "told"), [
    (lambda folder: (folder / "config.json").write_text("[]"), "a model of type None"),
    (lambda folder: (folder / "tokenizer.json").unlink(), "it has no tokenizer"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "its tokenizer cannot join two texts"),
    (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "not a model|lack"),
])
def test_a_damaged_encoder_is_one_line(tmp_path: Path, hurt: object, told: str) -> None:
    folder = tiny_encoder(tmp_path / "e")
    hurt(folder)  # type: ignore[operator]

    def load() -> None:
        encoders.reader_of(models.resolve(str(folder)), 64, "train.max_length")
        encoders.backbone_of(models.resolve(str(folder)))

    with pytest.raises(RequestError, match=told) as raised:
        load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "encoder.json", "tokenizer.json"])
def test_a_damaged_reward_model_is_named(tmp_path: Path, folder: Path, name: str) -> None:
    path = saved(tmp_path / "r", folder)
    flip_byte(path / name)
    with pytest.raises(RequestError, match=f"{name}: altered"):
        scoring.load(str(path), models.ModelConfig(str(path)))


def test_settings_and_heads_of_another_model_are_refused(tmp_path: Path, folder: Path) -> None:
    path = saved(tmp_path / "r", folder)

    def reseal() -> None:
        (path / checkpoints.MANIFEST).unlink()
        checkpoints.seal(path, stage="reward")

    (path / "encoder.json").write_text(json.dumps({"max_length": "64"}))
    reseal()
    with pytest.raises(RequestError, match="max_length is no whole number"):
        scoring.load(str(path), models.ModelConfig(str(path)))
    (path / "encoder.json").write_text(json.dumps({"max_length": 64}))
    heads.Head(16).save(path)
    reseal()
    with pytest.raises(RequestError, match="its head reads 16 dimensions"):
        scoring.load(str(path), models.ModelConfig(str(path)))
