"""The formats: how each reads a row, and the columns it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefloop.formats.argilla import argilla
from prefloop.formats.chats import asked, completion, log, messages, prompt
from prefloop.formats.joining import battles, rejoined
from prefloop.formats.label_studio import label_studio
from prefloop.formats.pairs import hh, preference
from prefloop.formats.ratings import (
    OF_A_RANKING,
    own_prompt,
    rankings,
    ratings,
    responses,
    together,
    unpaired,
    votes,
)
from prefloop.formats.row import BadRow, Left, Part, Row
from prefloop.formats.trees import grown, tree
from prefloop.records import Answers, Demonstration, Ranking


@dataclass(frozen=True)
class Format:
    """`read` yields what a row says: records, what was left out, or parts that `join` puts together by their key.

    Answers that nobody ranked are records too, of formats whose rows may wait for raters.

    `needs` are columns by which a row of this format is known: all of one of these sets.
    """

    read: Callable[[Row], Iterator[Any]]
    columns: tuple[str, ...]
    needs: tuple[frozenset[str], ...]
    ranks: bool = True
    join: Callable[[list[dict[str, Any]]], Iterator[tuple[Ranking | BadRow, list[int]]]] | None = None


Said = Ranking | Demonstration | Answers | Left | Part


def _format(read: Callable[[Row], Iterator[Said]], columns: str, *needs: str, ranks: bool = True,
            join: Any = None) -> Format:
    common = ("stratum", "rater") if ranks else ("stratum",)
    return Format(read, (*columns.split(), *common), tuple(frozenset(one.split()) for one in needs), ranks, join)


def answers(row: Row) -> Iterator[Answers]:
    """`prompt` and `responses`, to be ranked, as `prefloop generate` writes them too."""
    own = row.listed("prompt")
    whole = isinstance(own, dict) and "messages" in own
    asking = own_prompt(row, own) if isinstance(own, dict) and whole else prompt(row, "prompt", asked(row))
    yield Answers(asking, responses(row, exact=whole)[0])


ANSWERS = _format(answers, "system prompt responses", "prompt responses")
FORMATS: Mapping[str, Format] = {
    "hh": _format(hh, "chosen rejected"),
    "preference": _format(preference, "system prompt chosen rejected", "chosen rejected"),
    "unpaired": _format(unpaired, "system prompt completion label model", "prompt completion label", join=together),
    "rankings": _format(rankings, f"system prompt responses ranks order {' '.join(OF_A_RANKING)}",
                        "prompt responses ranks", "prompt responses order"),
    "ratings": _format(ratings, "system prompt responses ratings response rating model",
                       "prompt responses ratings", "prompt response rating", "prompt response helpfulness",
                       "instruction completions", join=together),
    "votes": _format(votes, "system prompt responses pairs", "prompt responses pairs"),
    "battles": _format(battles, "system prompt conversation_a conversation_b response_a response_b model_a model_b "
                       "winner winner_model_a winner_model_b winner_tie margin votes reason ranking place_a place_b "
                       "shown_first",
                       "conversation_a conversation_b", "prompt response_a response_b", join=rejoined),
    "label_studio": _format(label_studio, "data annotations prompt answers left right", "data annotations",
                            join=rejoined),
    "argilla": _format(argilla, "fields responses metadata prompt answers", "fields responses"),
    "tree": _format(tree, "prompt text role rank deleted model_name message_id parent_id message_tree_id",
                    "message_id parent_id message_tree_id", "message_tree_id prompt", join=grown),
    "messages": _format(messages, "system messages", "messages", "conversations", "conversation", ranks=False),
    "completion": _format(completion, "system prompt completion label", "prompt completion",
                          "instruction output", "instruction response", ranks=False),
    "log": _format(log, "text", "text", ranks=False),
}


def looks_like(values: Mapping[str, Any]) -> list[str]:
    """The formats whose columns a row has, those with the most first."""
    chosen = values.get("chosen")
    if isinstance(chosen, str) and "rejected" in values and "prompt" not in values and "\n\nAssistant:" in chosen:
        return ["hh"]
    fits = [(len(needs), name) for name, form in FORMATS.items() for needs in form.needs if needs <= set(values)]
    return list(dict.fromkeys(name for _, name in sorted(fits, key=lambda fit: -fit[0])))
