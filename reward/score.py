"""`prefloop score`: a reward model's scores for a file of answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from prefloop import checkpoints, config, heads, models, runs
from prefloop.errors import RequestError
from prefloop.records import Answers

ADAPTER = "reward"


@dataclass(frozen=True)
class ScoreConfig:
    """`score:`. `answers` is a file as `prefloop generate` writes it; `out` gets one line per answer."""

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
    answers = read_answers(Path(settings.answers))
    checkpoints.require_place(Path(settings.out), "score.out")
    checkpoint = models.resolve(model_config.path)
    if checkpoint.folder is None:
        raise RequestError(f"{model_config.path}: a plain model, not a reward model; name a reward run")
    chat = models.load_chat(checkpoint)
    head = heads.Head.load(checkpoint.folder, models.device())
    model = models.add_adapter(models.load_base(checkpoint, model_config), ADAPTER, checkpoint.adapter, model_config)
    responses = [(one, response) for one in answers for response in one.responses]
    prompts = [chat.prompt_ids(one.prompt) for one, _ in responses]
    rows = [ids + chat.answer_ids(response.text) for ids, (_, response) in zip(prompts, responses, strict=True)]
    scores = heads.score(model, head, ADAPTER, rows, [len(ids) for ids in prompts], chat.pad_id, settings.batch)
    out = Path(settings.out)
    with checkpoints.replacing(out) as file:
        for (one, response), score in zip(responses, scores.tolist(), strict=True):
            file.write(runs.line({"prompt_id": one.prompt.id, "response_id": response.id, "text": response.text,
                                  "score": round(score, 6)}))
    print(f"{out}: {len(responses)} scores, mean {scores.mean():.3f}, standard deviation "
          f"{scores.std(correction=0):.3f}")


def read_answers(path: Path) -> list[Answers]:
    if not path.is_file():
        raise RequestError(f"{path}: there is no such file of answers")
    answers = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            answers += [Answers.from_json(json.loads(line))] if line.strip() else []
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"{path}:{number}: not a row of answers as `prefloop generate` writes it "
                               f"({type(error).__name__}: {error})") from None
    if not any(one.responses for one in answers):
        raise RequestError(f"{path}: it holds no answers")
    return answers
