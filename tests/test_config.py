"""What a config file and overrides become, and what a mistake is told."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from prefloop import config
from prefloop.errors import RequestError


@dataclass(frozen=True)
class Train:
    output_dir: str = "runs/x"
    learning_rate: float = 1e-3
    steps: int = 10
    loss: Literal["a", "b"] = "a"
    where: Path | None = None
    shape: tuple[int, ...] = ()
    extra: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps is below 0")


@dataclass(frozen=True)
class Needy:
    path: str


def built(*overrides: str, file: Path | None = None) -> Train:
    (train,) = config.build(config.read("sft", file, list(overrides)), {"train": config.Section(Train)})
    return train


def told(*overrides: str, file: Path | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        built(*overrides, file=file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("text", "number"), [
    ("5e-6", 5e-6), ("5E6", 5e6), ("1.5e3", 1500.0), ("-2e+1", -20.0), (".5e-1", 0.05), ("5.e-6", 5e-6), ("3", 3.0)])
def test_numbers_are_floats(text: str, number: float) -> None:
    found = built(f"train.learning_rate={text}").learning_rate
    assert (found, type(found)) == (number, float)


def test_a_file_and_overrides_merge_by_key(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train:\n  learning_rate: 5e-6\n  steps: 3\n  where: a/b\n")
    assert built("train.steps=4", "train.shape=[1, 2]", "train.extra={x: 1e-2}", file=file) == Train(
        learning_rate=5e-6, steps=4, where=Path("a/b"), shape=(1, 2), extra={"x": 0.01})


def test_what_dump_writes_is_the_same_request(tmp_path: Path) -> None:
    asked = config.read("sft", None, ["train.output_dir='5e-6'", "train.learning_rate=5e-6", "train.where=null",
                                      "train.loss='1e5'", "train.extra={'.5e3': 1}"])
    (tmp_path / "run.yaml").write_text(config.dump(asked))
    assert config.read("sft", tmp_path / "run.yaml", []) == asked


@pytest.mark.parametrize(("override", "message"), [
    ("train.learning_rat=1", "unknown key train.learning_rat; did you mean train.learning_rate?"),
    ("trian.steps=1", "unknown section trian; did you mean train?"),
    ("train.steps=1.5", "train.steps: expected int, got 1.5"),
    ("train.steps=true", "train.steps: expected int, got True"),
    ("train.learning_rate=fast", "train.learning_rate: expected float, got 'fast'"),
    ("train.learning_rate=null", "train.learning_rate: expected float, got None"),
    ("train.output_dir=7", "train.output_dir: expected str, got 7"),
    ("train.where=7", "train.where: expected Path or nothing, got 7"),
    ("train.loss=c", "train.loss: expected 'a' or 'b', got 'c'"),
    ("train.steps=-1", "section train: steps is below 0"),
    ("train.steps", "expected section.key=value"),
    ("steps=3", "expected section.key=value"),
    ("train.steps=[1", "not valid YAML"),
    ("train.output_dir=2024-13-45", "not valid YAML"),
    ("train.output_dir=!!python/name:os.system", "not valid YAML"),
    ("train.extra={a: 1, a: 2}", "the key 'a' stands twice"),
    ("train.output_dir=" + "[" * 5000, "not valid YAML"),
])
def test_a_mistake_is_told_in_one_line(override: str, message: str) -> None:
    assert message in told(override)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(RequestError, match=r"^data\.path is missing"):
        config.build(config.read("sft", None, []), {"data": config.Section(Needy)})


@pytest.mark.parametrize(("content", "message"), [
    (b"train:\n  steps: 1\ntrain:\n  steps: 2\n", "the key 'train' stands twice"),
    (b"train: 5\n", "section 'train' should hold keys"),
    (b"- a\n", "expected sections"),
    (b"train:\n\tsteps: 1\n", "not valid YAML"),
    (b"\xff\xfe", "cannot read this config"),
])
def test_a_broken_file_is_told_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    said = told(file=file)
    assert message in said
    assert "c.yaml" in said


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    assert "none.yaml" in told(file=tmp_path / "none.yaml")


def test_an_empty_section_is_all_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("train:\n")
    assert built(file=file) == Train()


def test_a_stages_default_stands_until_the_user_says_otherwise_and_a_closed_key_says_why() -> None:
    section = config.Section(Train, {"steps": 7}, {"output_dir": "the run's folder is named by run.root"})
    assert config.build(config.read("sft", None, []), {"train": section}) == [Train(steps=7)]
    assert config.build(config.read("sft", None, ["train.steps=8"]), {"train": section}) == [Train(steps=8)]
    with pytest.raises(RequestError, match=r"^train\.output_dir: the run's folder is named by run\.root$"):
        config.build(config.read("sft", None, ["train.output_dir=x"]), {"train": section})
