"""The forms in which rankings leave: what each writes, how it is read back, and which facts it holds (losses.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prefloop.formats.argilla import records
from prefloop.formats.joining import duels
from prefloop.formats.label_studio import pairwise_tasks, ranker_task
from prefloop.formats.losses import FACTS, dense
from prefloop.formats.writing import KINDS, Columns
from prefloop.records import STRENGTHS, Ranking, digest

ALL = frozenset(FACTS)
CHAT = [{"role": "text", "content": "text"}]
FREE = ("json", "jsonl")  # of nested tasks and records, which no table holds


@dataclass(frozen=True)
class Layout:
    """`rows` makes the rows of a group of rankings: of one, or, with `group`, of all that it gives the same key.

    `read` is the format that reads them (readers.py), by the `rules` of an import; a file whose rows have all of
    `known` is taken for one of these. `kinds` has the usual kind of file first.
    """

    words: str
    rows: Callable[[list[Ranking]], Iterator[dict[str, Any]]]
    holds: frozenset[str]
    read: str
    known: frozenset[str]
    rules: Mapping[str, Any] = field(default_factory=dict)
    columns: Columns = field(default_factory=dict)
    kinds: tuple[str, ...] = KINDS
    group: Callable[[Ranking], str] | None = None


def whole(group: list[Ranking]) -> Iterator[dict[str, Any]]:
    for one in group:
        yield {"dimensions": {}, **one.to_json()}


RANKING: Columns = {
    "prompt": {"id": "text", "messages": CHAT, "stratum": "text", "source": "text", "split": "text"},
    "responses": [{"id": "text", "text": "text", "policy": "text", "checksum": "text", "sampling": "any",
                   "seed": "int"}],
    "ranks": ["int"], "rater": "text", "strength": "text", "none_acceptable": "bool", "reason": "text",
    "edited": "text", "shown": ["int"], "seconds": "float", "guideline": "text", "kind": "text", "dimensions": "any",
    "propensity": "float"}

# -- pairs ------------------------------------------------------------------------------------------------------------

WINNERS = {"a": "model_a", "b": "model_b", "tie": "tie", "bad": "tie (bothbad)"}


def arena(group: list[Ranking]) -> Iterator[dict[str, Any]]:
    """Chatbot Arena's columns, a row for each pair; the last four of ours put the pairs of a ranking together again.

    `model_a` is the answer that was shown first, where that is known.
    """
    for one in group:
        name = digest("ranking", json.dumps(one.to_json(), sort_keys=True))
        for duel in duels(one):
            a, b = one.responses[duel.a], one.responses[duel.b]
            asked = one.prompt.chat()
            yield {"question_id": one.prompt.id, "model_a": a.policy, "model_b": b.policy,
                   "winner": WINNERS[duel.outcome], "judge": one.rater,
                   "conversation_a": [*asked, {"role": "assistant", "content": a.text}],
                   "conversation_b": [*asked, {"role": "assistant", "content": b.text}],
                   "turn": sum(message.role == "user" for message in one.prompt.messages), "reason": one.reason,
                   "ranking": name, "place_a": duel.a, "place_b": duel.b, "shown_first": bool(one.shown)}


BATTLE: Columns = {"question_id": "text", "model_a": "text", "model_b": "text", "winner": "text", "judge": "text",
                   "conversation_a": CHAT, "conversation_b": CHAT, "turn": "int", "reason": "text", "ranking": "text",
                   "place_a": "int", "place_b": "int", "shown_first": "bool"}


def preferences(group: list[Ranking]) -> Iterator[dict[str, Any]]:
    """TRL's conversational columns, a row for each pair that one answer won.

    `margin` is for pairs of the best answer and another: 0, 1/3, 2/3 or 1 by the strength of the preference (Llama 2,
    arXiv 2307.09288, equation 2); 0 for all others.
    """
    for one in group:
        top = STRENGTHS.index(one.strength) / 3 if one.strength else 0.0
        ranks = dense(one.ranks)
        for better, worse in one.decided():
            chosen, rejected = ([{"role": "assistant", "content": one.responses[place].text}]
                                for place in (better, worse))
            yield {"prompt": one.prompt.chat(), "chosen": chosen, "rejected": rejected,
                   "margin": top if ranks[better] == 1 else 0.0}


# -- ratings ----------------------------------------------------------------------------------------------------------


def scores(one: Ranking, least: float, most: float) -> list[float]:
    """Ranks spread evenly over a scale, the best at its top."""
    ranks = [rank or 1 for rank in dense(one.ranks)]
    steps = max(ranks) - 1
    return [round(most - (most - least) * (rank - 1) / steps, 6) if steps else most for rank in ranks]


def plain_text(chat: list[dict[str, str]]) -> str:
    """A prompt or an answer as a text, where it is read back as that; else its messages as JSON."""
    text = chat[0]["content"]
    plain = len(chat) == 1 and chat[0]["role"] != "system" and not text.lstrip().startswith(("[", "{"))
    return text if plain else json.dumps(chat, ensure_ascii=False)


def rated(group: list[Ranking]) -> Iterator[dict[str, Any]]:
    """UltraFeedback's columns, a row for each ranking; `overall_score` from 1 to 10."""
    for one in group:
        yield {"source": one.prompt.stratum, "instruction": plain_text(one.prompt.chat()),
               "models": [response.policy for response in one.responses],
               "completions": [{"model": response.policy, "response": response.text, "overall_score": score}
                               for response, score in zip(one.responses, scores(one, 1, 10), strict=True)]}


def helpful(group: list[Ranking]) -> Iterator[dict[str, Any]]:
    """HelpSteer's columns, a row for each answer to a prompt; `helpfulness` from 0 to 4, the mean over its raters."""
    told: dict[str, list[float]] = {}
    for one in group:
        for response, score in zip(one.responses, scores(one, 0, 4), strict=True):
            told.setdefault(response.text, []).append(score)
    for text, own in told.items():
        answer = plain_text([{"role": "assistant", "content": text}])
        mean = round(sum(own) / len(own), 6)
        yield {"prompt": plain_text(group[0].prompt.chat()), "response": answer, "helpfulness": mean,
               "correctness": None, "coherence": None, "complexity": None, "verbosity": None}


def item_of(one: Ranking) -> str:
    return digest(json.dumps([one.prompt.to_json(), *(response.to_json() for response in one.responses)],
                             sort_keys=True))


ORDER = frozenset(("ties", "together", "each"))
PAIRS = ALL - {"unranked", "rank numbers", "white space"}
LAYOUTS: Mapping[str, Layout] = {
    "rankings": Layout("a ranking a row, with all that it says", whole, ALL, "rankings",
                       frozenset(("prompt", "responses", "ranks")), columns=RANKING),
    "battles": Layout(
        "Chatbot Arena's battles, a pair a row", arena,
        ORDER | {"rater", "reason", "shown", "none acceptable", "policy"}, "battles",
        frozenset(("conversation_a", "conversation_b", "winner", "judge")), {"columns": {"rater": "judge"}}, BATTLE),
    "ultrafeedback": Layout(
        "UltraFeedback's columns, a rated prompt a row", rated, ORDER | {"policy", "stratum"}, "ratings",
        frozenset(("instruction", "completions")),
        {"columns": {"prompt": "instruction", "responses": "completions", "stratum": "source"},
         "scores": "overall_score"},
        {"source": "text", "instruction": "text", "models": ["text"],
         "completions": [{"model": "text", "response": "text", "overall_score": "float"}]}),
    "helpsteer": Layout(
        "HelpSteer's columns, a rated answer a row", helpful, ORDER - {"each"}, "ratings",
        frozenset(("prompt", "response", "helpfulness")), {"scores": "helpfulness"},
        {"prompt": "text", "response": "text",
         **dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), "float")},
        group=lambda one: one.prompt.id),
    "trl": Layout(
        "TRL's prompt, chosen, rejected and margin, a decided pair a row", preferences,
        frozenset(("unranked", "rank numbers", "strength", "each")), "preference",
        frozenset(("prompt", "chosen", "rejected")),
        columns={"prompt": CHAT, "chosen": CHAT, "rejected": CHAT, "margin": "float"}),
    "label_studio_ranker": Layout(
        "Label Studio's tasks with a ranked list", ranker_task, ALL, "label_studio",
        frozenset(("data", "annotations")), kinds=FREE, group=item_of),
    "label_studio_pairwise": Layout(
        "Label Studio's tasks with two texts, a pair each", pairwise_tasks, PAIRS, "label_studio",
        frozenset(("data", "annotations")), kinds=FREE, group=item_of),
    "argilla": Layout("Argilla's records", records, ALL, "argilla", frozenset(("fields", "responses")), kinds=FREE,
                      group=item_of),
}


def table() -> str:
    """docs/formats.md's table of what each form holds, as Markdown."""
    names = list(LAYOUTS)
    rows = [["", *names], ["---", *("---" for _ in names)],
            *([fact.lost, *("" if key in LAYOUTS[name].holds else "lost" for name in names)]
              for key, fact in FACTS.items())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table())
