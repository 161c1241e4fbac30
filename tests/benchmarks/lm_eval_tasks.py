"""Tasks of lm-evaluation-harness under our adapters, beside our own passes: `make bench NAME=lm_eval_tasks`.

The harness has a virtual environment of its own, which sees ours. A base and two adapters on it answer a made-up
multiple-choice task of 200 documents and one of generation, through `prefloop.compare.tasks`. `agreement` is the share
of documents that the harness calls right or wrong as our own pass under the same adapter does, by the choice that it
finds likeliest; `differ` is the share on which some two of the three choose otherwise. `rouge_gap` is the largest
difference of our ROUGE-L to that of the rouge_score package, which comes with the harness, on 3,000 made-up pairs.
Nothing is downloaded but the harness.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".venv" / "lm-eval-0.4.13"
DOCUMENTS, CHOICES = 200, ("red", "dog", "sun", "cat")
CHOOSING = """task: choosing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: {choices}
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
WRITING = """task: writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: red
generation_kwargs: {{until: ["\\n"], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean}}, {{metric: bleu, aggregation: bleu}}]
"""


def main() -> None:
    if not (PEER / "ready").exists():
        print(f"installing lm_eval 0.4.13 into {PEER.relative_to(ROOT)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        theirs = sysconfig.get_path("purelib", vars={"base": str(PEER), "platbase": str(PEER)})
        # addsitedir, so that an editable install of ours is found as well.
        Path(theirs, "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
        subprocess.run([PEER / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                        "--constraint", ROOT / "constraints.txt", "lm_eval==0.4.13"], check=True)
        (PEER / "ready").touch()
    with tempfile.TemporaryDirectory() as made:
        subprocess.run([PEER / "bin" / "python", __file__, made], check=True,
                       env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": f"{made}/hub", "TQDM_DISABLE": "1"})


def written(folder: Path) -> list[str]:
    """The two tasks; the questions of their documents."""
    choose = random.Random(0)
    asked = [f"Say something about {choose.choice(('tree', 'dog', 'night', 'ball'))} {n}" for n in range(DOCUMENTS)]
    rows = [{"question": one, "answer": choose.randrange(len(CHOICES))} for one in asked]
    folder.mkdir()
    (folder / "documents.json").write_text("\n".join(map(json.dumps, rows)))
    for name, text in (("choosing", CHOOSING), ("writing", WRITING)):
        (folder / f"{name}.yaml").write_text(text.format(data=folder / "documents.json", choices=json.dumps(CHOICES)))
    return [f"{row['question']}\t{row['answer']}" for row in rows]


def rouge_gap(pairs: int = 3000) -> float:
    from importlib import import_module

    from prefloop.compare.answer_rules import rouge_l

    scorer = import_module("rouge_score.rouge_scorer").RougeScorer(["rougeL"], use_stemmer=False)
    choose, words = random.Random(0), ["the", "a", "cat", "dog,", "sat", "on", "Mat!", "it's", "12", "blue-green."]

    def text() -> str:
        return " ".join(choose.choices(words, k=choose.randrange(1, 40)))

    made = [(text(), text()) for _ in range(pairs)]
    return max(abs((rouge_l([], answer, reference) or 0) - scorer.score(reference, answer)["rougeL"].fmeasure)
               for answer, reference in made)


def inside(root: Path) -> None:
    import numpy as np

    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import tiny_adapter, tiny_model

    from prefloop import models, passes
    from prefloop.compare import tasks
    from prefloop.compare.metrics import MetricsConfig
    from prefloop.compare.records import Contestant

    rows = [line.split("\t") for line in written(root / "tasks")]
    base = tiny_model(root / "base")
    settings = MetricsConfig(tasks=["choosing", "writing"], tasks_folder=str(root / "tasks"))
    tasks.require(settings)
    held = models.ModelConfig(str(base), four_bit=False, dtype="float32")
    model: Any = models.load_base(models.resolve(str(base)), held)
    chat = models.load_chat(models.resolve(str(base)))
    for seed, name in ((1, "one"), (2, "other")):
        model = models.add_adapter(model, name, tiny_adapter(root / name, base, seed), held)
    model.eval()
    found, ours, began = {}, {}, time.monotonic()
    for name, role in (("base", None), ("one", "one"), ("other", "other")):
        found[name] = tasks.scores(model, role, chat, settings, name)
        asked = [chat._plain(question) for question, _ in rows for _ in CHOICES]
        wholes = [chat._plain(f"{question} {choice}") for question, _ in rows for choice in CHOICES]
        likely = passes.total_logprobs(model, role, wholes, [len(ids) for ids in asked], chat.pad_id).numpy()
        ours[name] = likely.reshape(DOCUMENTS, len(CHOICES)).argmax(1)
    right = np.array([int(answer) for _, answer in rows])
    agreed = [np.mean((ours[name] == right) == np.array(found[name]["choosing"]["acc"]["values"])) for name in ours]
    figures = tasks.measured([Contestant(name, name, (), {"tasks": own}) for name, own in found.items()], 0.95)
    print(json.dumps({
        "rouge_gap": rouge_gap(), "documents": DOCUMENTS, "agreement": min(map(float, agreed)),
        "seconds": round(time.monotonic() - began, 1),
        "differ": float(np.mean([len(set(own)) > 1 for own in zip(*ours.values(), strict=True)])),
        "accuracy": {name: round(own["task choosing"]["acc"]["value"], 3) for name, own in figures.items()},
        "gain": {name: own["task choosing"]["acc"]["gain"] for name, own in figures.items() if name != "base"},
        "writing": sorted(figures["one"]["task writing"])}))


if __name__ == "__main__":
    inside(Path(sys.argv[1])) if sys.argv[1:] else main()
