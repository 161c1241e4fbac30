"""The formats: how each reads a row, and the columns it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prefloop.formats.chats import completion, log, messages
from prefloop.formats.pairs import battles, hh, preference
from prefloop.formats.ratings import OF_A_RANKING, rankings, ratings, together, unpaired, votes
from prefloop.formats.row import BadRow, Left, Part, Row
from prefloop.formats.trees import grown, tree
from prefloop.records import Demonstration, Ranking


@dataclass(frozen=True)
class Format:
    """`read` yields what a row says: records, what was left out, or parts that `join` puts together by their key.

    `needs` are columns by which a row of this format is known: all of one of these sets.
    """

    read: Callable[[Row], Iterator[Any]]
    columns: tuple[str, ...]
    needs: tuple[frozenset[str], ...]
    ranks: bool = True
    join: Callable[[list[dict[str, Any]]], Iterator[tuple[Ranking | BadRow, list[int]]]] | None = None


def _format(read: Callable[[Row], Iterator[Ranking | Demonstration | Left | Part]], columns: str, *needs: str,
            ranks: bool = True, join: Any = None) -> Format:
    common = ("stratum", "rater") if ranks else ("stratum",)
    return Format(read, (*columns.split(), *common), tuple(frozenset(one.split()) for one in needs), ranks, join)


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
                       "winner winner_model_a winner_model_b winner_tie margin votes reason",
                       "conversation_a conversation_b", "prompt response_a response_b"),
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
