"""Two rewards that cannot understand: one sees only the length of an answer, one only its bag of words.

A trained reward must beat both, or it has learned style rather than what raters care about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from prefloop.records import Pair


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def length_accuracy(pairs: Sequence[Pair]) -> float:
    """The better of "longer wins" and "shorter wins", in words; equal lengths count half."""
    if not pairs:
        raise ValueError("no pairs to judge")
    signs = [np.sign(len(words(pair.chosen)) - len(words(pair.rejected))) for pair in pairs]
    longer = float(np.mean([0.5 + 0.5 * sign for sign in signs]))
    return max(longer, 1.0 - longer)


def word_weights(pairs: Sequence[Pair], decay: float = 1.0, steps: int = 12) -> dict[str, float]:
    """Logistic regression on differences of word counts, by Newton's method; `decay` is the ridge penalty."""
    vocabulary = sorted({word for pair in pairs for word in words(pair.chosen) + words(pair.rejected)})
    x = differences(pairs, vocabulary)
    importance = np.array([pair.weight for pair in pairs])
    weights = np.zeros(len(vocabulary))
    for _ in range(steps):
        wins = 1.0 / (1.0 + np.exp(-np.clip(x @ weights, -30.0, 30.0)))
        gradient = x.T @ (importance * (1.0 - wins)) - decay * weights
        curvature = (x * (importance * wins * (1.0 - wins))[:, None]).T @ x + decay * np.eye(len(vocabulary))
        weights = weights + np.linalg.solve(curvature, gradient)
    return dict(zip(vocabulary, weights.tolist(), strict=True))


def differences(pairs: Sequence[Pair], vocabulary: list[str]) -> np.ndarray:
    """Row i: how often each word occurs in the chosen answer of pair i, less how often in the rejected one."""
    column = {word: place for place, word in enumerate(vocabulary)}
    x = np.zeros((len(pairs), len(vocabulary)))
    for row, pair in enumerate(pairs):
        for word, count in Counter(words(pair.chosen)).items():
            if word in column:
                x[row, column[word]] += count
        for word, count in Counter(words(pair.rejected)).items():
            if word in column:
                x[row, column[word]] -= count
    return x


def bag_of_words_accuracy(train_pairs: Sequence[Pair], test_pairs: Sequence[Pair]) -> float:
    """How often the words alone, learned on `train_pairs`, choose as `test_pairs` did; a draw counts half."""
    if not train_pairs or not test_pairs:
        raise ValueError("no pairs to learn from, or none to judge")
    learned = word_weights(train_pairs)
    scores = differences(test_pairs, list(learned)) @ np.array(list(learned.values()))
    return float(np.mean(0.5 + 0.5 * np.sign(scores)))
