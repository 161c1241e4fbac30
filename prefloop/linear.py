"""The linear kind of reward model: tf-idf of the answer and facts of its style, weighed and summed.

On disk `linear.json` holds the words and the scale, `linear.safetensors` the numbers. It learns in seconds on a CPU,
and is the baseline that every other reward model is held against.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from prefloop import checkpoints
from prefloop.errors import RequestError
from prefloop.models import LINEAR, Checkpoint
from prefloop.records import Prompt
from prefloop.scoring import Scores

Array = NDArray[np.float64]
Asked = Sequence[tuple[Prompt, str]]
WEIGHTS = "linear.safetensors"
MOST_WORDS = 20_000
# Words say less each than a fact of style, but there are many: on held-out topics of real arguments a scale of 1 to 5
# does about equally well.
WORD_SCALE = 3.0
STYLE = ("words", "root of words", "sentences", "characters", "letters per word", "long words", "words per sentence",
         "distinct words", "commas", "exclamations", "questions", "quotes", "capitals", "digits", "ellipses",
         "first person", "starts with a capital", "ends like a sentence", "lines", "words of the prompt",
         "likeness to the prompt")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def style(text: str, asked: str) -> list[float]:
    """Facts of an answer in the order of STYLE, all but the last."""
    own, size = words(text), max(1, len(text))
    count, ends = max(1, len(own)), max(1, len(re.findall(r"[.!?]+", text)))
    content = {word for word in own if len(word) > 3}
    return [np.log1p(len(own)), len(own) ** 0.5, np.log1p(ends), np.log1p(len(text)),
            sum(map(len, own)) / count, sum(len(word) > 6 for word in own) / count, len(own) / ends,
            len(set(own)) / count, text.count(",") / count, text.count("!") / count, text.count("?") / count,
            text.count('"') / count, sum(letter.isupper() for letter in text) / size,
            sum(letter.isdigit() for letter in text) / size, text.count("..") / count, own.count("i") / count,
            text[:1].isupper(), text.rstrip()[-1:] in {".", "!", "?"}, np.log1p(text.count("\n")),
            len(content & set(words(asked))) / max(1, len(content))]


@dataclass(frozen=True)
class Reader:
    """What an answer looks like to the model: `V` words by tf-idf, then the facts of STYLE, standardised."""

    vectorizer: TfidfVectorizer
    centre_S: Array
    spread_S: Array

    @classmethod
    def learned(cls, asked: Asked) -> Reader:
        """The words and the scale of these answers."""
        texts = [answer for _, answer in asked]
        vectorizer = _vectorizer(min_df=2 if len(texts) > 50 else 1, max_features=MOST_WORDS)
        try:
            vectorizer.fit(texts)
        except ValueError:  # no word occurs twice
            vectorizer = _vectorizer(vocabulary=["the"]).fit(texts)
        bare = cls(vectorizer, np.zeros(len(STYLE)), np.ones(len(STYLE)))
        facts_NS = bare.facts(asked)
        spread_S = facts_NS.std(axis=0)
        return cls(vectorizer, facts_NS.mean(axis=0), np.where(spread_S > 1e-9, spread_S, np.inf))

    def facts(self, asked: Asked) -> Array:
        prompts = {prompt: prompt.messages[-1].content for prompt in dict.fromkeys(prompt for prompt, _ in asked)}
        place = {prompt: n for n, prompt in enumerate(prompts)}
        answers_NV, prompts_MV = (self.vectorizer.transform(texts)
                                  for texts in ([answer for _, answer in asked], list(prompts.values())))
        alike_N = answers_NV.multiply(prompts_MV[[place[prompt] for prompt, _ in asked]]).sum(axis=1)
        return np.column_stack([[style(answer, prompts[prompt]) for prompt, answer in asked], np.asarray(alike_N)])

    def features(self, asked: Asked) -> sparse.csr_matrix:
        """features_NF, F = V + S."""
        facts_NS = (self.facts(asked) - self.centre_S) / self.spread_S
        words_NV = WORD_SCALE * self.vectorizer.transform([answer for _, answer in asked])
        return sparse.hstack([words_NV, sparse.csr_matrix(facts_NS)], format="csr")  # type: ignore


def _vectorizer(**settings: object) -> TfidfVectorizer:
    return TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+", **settings)  # type: ignore


@dataclass(frozen=True)
class LinearScorer:
    """`weights_MF` of an ensemble's M members; a score is (features @ weights - shift) / scale.

    Comparisons leave every member's zero to chance, so each has its own.
    """

    reader: Reader
    weights_MF: Array
    shift_M: Array | float = 0.0
    scale: float = 1.0
    objectives: tuple[str, ...] = ("overall",)

    def score(self, asked: Asked, batch: int = 32) -> Scores:
        if not asked:
            return Scores(np.zeros(0), np.zeros(0), np.zeros((0, 1)))
        scores_NM = (self.raw(asked) - self.shift_M) / self.scale
        mean_N = scores_NM.mean(axis=1)
        return Scores(mean_N, scores_NM.std(axis=1), mean_N[:, None])

    def raw(self, asked: Asked) -> Array:
        """raw_NM, before shift and scale."""
        return np.asarray(self.reader.features(asked) @ self.weights_MF.T)

    def reads(self, asked: Asked) -> list[bool]:
        return [True] * len(asked)

    def taken_for_structure(self) -> int:
        return 0  # it has no special tokens


def save(model: LinearScorer, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    reader = model.reader
    found = sorted(reader.vectorizer.vocabulary_, key=reader.vectorizer.vocabulary_.__getitem__)
    save_file({"weights": model.weights_MF, "idf": np.asarray(reader.vectorizer.idf_, dtype=np.float64),
               "centre": reader.centre_S, "spread": reader.spread_S}, folder / WEIGHTS)
    checkpoints.write_json(folder / LINEAR, {"words": found, "style": list(STYLE), "scale": model.scale,
                                             "shift": np.broadcast_to(model.shift_M, len(model.weights_MF)).tolist()})


def load(found: Checkpoint) -> LinearScorer:
    """What `save` wrote."""
    assert found.folder is not None
    path = found.folder / LINEAR
    told = checkpoints.read_json(path)
    try:
        own = load_file(found.folder / WEIGHTS)
        vectorizer = _vectorizer(vocabulary=told["words"])
        vectorizer.idf_ = own["idf"]
        model = LinearScorer(Reader(vectorizer, own["centre"], own["spread"]), own["weights"],
                             np.asarray(told["shift"], dtype=np.float64), float(told["scale"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{path}: not a linear model as prefloop saves it ({error}); name another run") from error
    shape = (len(told["words"]) + len(STYLE),)
    if (told.get("style") != list(STYLE) or model.weights_MF.shape != (np.size(model.shift_M), *shape)
            or own["centre"].shape != (len(STYLE),) or own["spread"].shape != (len(STYLE),)):
        raise RequestError(f"{path}: its features are not those of this version; train it again")
    return model
