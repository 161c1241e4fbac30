"""`prefloop score`: the scores that a reward model, of any kind, gives to a file of answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop import checkpoints, config, models, runs, scoring
from prefloop.errors import RequestError
from prefloop.formats import snapshot
from prefloop.records import Answers, Message, Prompt, Response


@dataclass(frozen=True)
class ScoreConfig:
    """`score:`. `answers` is a file of JSON lines; `out` gets one line per answer, once all are scored."""

    answers: str = ""
    out: str = ""
    batch: int = 32

    def __post_init__(self) -> None:
        if not self.answers or not self.out:
            raise ValueError("score.answers and score.out are needed: the file of answers, and where scores go")
        if self.batch < 1:
            raise ValueError("score.batch is at least 1")


def sections() -> config.Sections:
    return {"model": config.Section(models.ModelConfig), "score": config.Section(ScoreConfig)}


def main(asked: config.Asked) -> None:
    model_config, settings = config.build(asked, sections())
    rows = [(one.prompt, response) for one in read_answers(Path(settings.answers)) for response in one.responses]
    checkpoints.require_place(Path(settings.out), "score.out")
    scorer = scoring.load(model_config.path, model_config)
    wanted = [(prompt, response.text) for prompt, response in rows]
    read = scorer.reads(wanted)
    if not any(read):
        raise RequestError(f"{settings.answers}: every answer is longer than {model_config.path} can read")
    found = scoring.scored(scorer, [one for one, whole in zip(wanted, read, strict=True) if whole], settings.batch)
    said = told(scorer.objectives, found)
    with checkpoints.replacing(Path(settings.out)) as file:
        for (prompt, response), whole in zip(rows, read, strict=True):
            own = next(said) if whole else {"score": None}
            row = runs.line({"prompt_id": prompt.id, "response_id": response.id, "text": response.text, **own})
            file.write(row.encode("utf-8", "backslashreplace").decode())
    over = f"; {read.count(False)} are longer than the model can read and have none" if not all(read) else ""
    print(f"{settings.out}: {len(found.mean_N)} scores, mean {found.mean_N.mean():.3f}, standard deviation "
          f"{found.mean_N.std():.3f}{over}")


def told(names: tuple[str, ...], found: scoring.Scores) -> Iterator[dict[str, Any]]:
    """What is said of each answer: its score, and where a model has several members or objectives, what these say."""
    for mean, spread, own_D in zip(found.mean_N, found.spread_N, found.objectives_ND, strict=True):
        row: dict[str, Any] = {"score": round(float(mean), 6)}
        if found.spread_N.any():
            row["spread"] = round(float(spread), 6)
        if len(names) > 1:
            row["objectives"] = {name: round(float(value), 6) for name, value in zip(names, own_D, strict=True)}
        yield row


def read_answers(path: Path) -> list[Answers]:
    """A snapshot's answers; or rows as `prefloop generate` writes them, or {"prompt": ..., "answer": text}."""
    if path.is_dir():
        return ranked(snapshot.read(path))
    if not path.is_file():
        raise RequestError(f"{path}: there is no such file of answers")
    answers = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            answers += [one_row(json.loads(line))] if line.strip() else []
        except (ValueError, KeyError, TypeError, AttributeError, RequestError, RecursionError) as error:
            raise RequestError(f'{path}:{number}: not a row of answers as `prefloop generate` writes it, nor '
                               f'{{"prompt": ..., "answer": ...}} ({type(error).__name__}: {error})') from None
    if not any(one.responses for one in answers):
        raise RequestError(f"{path}: it holds no answers")
    return answers


def ranked(source: snapshot.Snapshot) -> list[Answers]:
    """Every answer that was ranked, once for each prompt."""
    found: dict[Prompt, dict[str, Response]] = {}
    for ranking in source.rankings:
        found.setdefault(ranking.prompt, {}).update({one.id: one for one in ranking.responses})
    if not found:
        raise RequestError(f"{source.path}: it holds no rankings, so no answers")
    return [Answers(prompt, tuple(own.values())) for prompt, own in found.items()]


def one_row(row: dict[str, Any]) -> Answers:
    if "answer" in row:
        return Answers(prompt_of(row["prompt"]), (Response(row["answer"]),))
    return Answers.from_json(row)


def prompt_of(said: object) -> Prompt:
    """A prompt from the text of its one message, or from a list of {role, content}."""
    if isinstance(said, str):
        return Prompt((Message("user", said),))
    if isinstance(said, list):
        return Prompt.from_json({"messages": said})
    raise RequestError(f"prompt: expected a text or a list of messages, got {type(said).__name__}")
