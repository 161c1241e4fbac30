"""Outside formats: one pure function each, from a row to a Ranking or a Demonstration.

A message is `{"role": ..., "content": ...}`; a prompt is a text (the user's only message) or a list of messages.
Every format also takes a `stratum` column, and those that rank a `rater` column.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prefloop.errors import RequestError
from prefloop.formats.row import BadRow, Row
from prefloop.records import Demonstration, Message, Prompt, Ranking, Response

UNNAMED_RATER = "import"
OF_A_RANKING = ("strength", "none_acceptable", "reason", "edited", "shown", "seconds", "guideline", "kind")
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Format:
    """How to read a row, the columns it may have, and whether rows are rankings (else demonstrations)."""

    read: Callable[[Row], Ranking | Demonstration]
    columns: tuple[str, ...]
    ranks: bool


def hh(row: Row) -> Ranking:
    """`chosen` and `rejected`: transcripts with "\\n\\nHuman:" and "\\n\\nAssistant:" turns, equal up to the last."""
    return _preferred(row, _transcript(row, "chosen"), _transcript(row, "rejected"))


def preference(row: Row) -> Ranking:
    """TRL's columns: `chosen` and `rejected` answers to `prompt`; without it, the prompt is what they share."""
    if row.get("prompt") is not None:
        asked = _messages(row, "prompt")
        return _ranking(row, asked, _continuation(row, "chosen", asked), _continuation(row, "rejected", asked))
    for column in ("chosen", "rejected"):
        if isinstance(row.need(column), str):
            # Plain texts share no prompt that can be told apart from a shared beginning of two answers.
            raise row.missing("prompt")
    return _preferred(row, _messages(row, "chosen"), _messages(row, "rejected"))


def completion(row: Row) -> Demonstration:
    """TRL's `prompt` and `completion`: a text, or a list of one message of the assistant's."""
    asked = _messages(row, "prompt")
    return Demonstration(_prompt(row, "prompt", asked), _continuation(row, "completion", asked))


def messages(row: Row) -> Demonstration:
    """`messages` of a chat: the last answer of the assistant is the demonstration, and all before it the prompt."""
    chat = _messages(row, "messages")
    answered = [place for place, message in enumerate(chat) if message.role == "assistant"]
    if not answered:
        raise BadRow("no answer", f"column {row.name('messages')!r}: no message is the assistant's")
    asked, answer = chat[: answered[-1]], chat[answered[-1]].content
    return Demonstration(_prompt(row, "messages", asked), _not_empty(row, "messages", answer))


def rankings(row: Row) -> Ranking:
    """`prompt`, `responses` (K texts), `ranks` (1 is best, equal is a tie, null is unranked) and `rater`.

    The form that `Ranking.to_json` writes is read too, with all it holds.
    """
    given = row.need("prompt")
    own = given if isinstance(given, dict) else {"messages": given}
    prompt = _prompt(row, "prompt", _chat(own.get("messages"), row.name("prompt")), own)
    responses = _responses(row)
    ranks = row.need("ranks")
    if not isinstance(ranks, list) or len(ranks) != len(responses):
        raise BadRow("ranks do not fit", f"column {row.name('ranks')!r}: expected a list of {len(responses)} ranks, "
                                         f"one for each answer, got {_brief(ranks)}")
    if row.get("rater") is None and row.rater is None:
        raise row.missing("rater")
    more: dict[str, Any] = {name: row.get(name) for name in OF_A_RANKING if row.get(name) is not None}
    if isinstance(more.get("shown"), list):
        more["shown"] = tuple(more["shown"])
    return Ranking(prompt, responses, tuple(map(_rank, ranks)), _rater(row), **more)


FORMATS = {
    "hh": Format(hh, ("chosen", "rejected", "rater", "stratum"), ranks=True),
    "preference": Format(preference, ("prompt", "chosen", "rejected", "rater", "stratum"), ranks=True),
    "rankings": Format(rankings, ("prompt", "responses", "ranks", "rater", "stratum", *OF_A_RANKING), ranks=True),
    "messages": Format(messages, ("messages", "stratum"), ranks=False),
    "completion": Format(completion, ("prompt", "completion", "stratum"), ranks=False),
}


def _preferred(row: Row, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Ranking:
    """The ranking of two conversations that differ in their last answer only."""
    for column, chat in (("chosen", chosen), ("rejected", rejected)):
        if not chat or chat[-1].role != "assistant":
            raise BadRow("no answer", f"column {row.name(column)!r}: its last turn is not the assistant's")
    if chosen[:-1] != rejected[:-1]:
        raise BadRow("conversations differ before the last answer",
                     f"columns {row.name('chosen')!r} and {row.name('rejected')!r} differ before their last answer")
    return _ranking(row, chosen[:-1], chosen[-1].content, rejected[-1].content)


def _ranking(row: Row, asked: tuple[Message, ...], chosen: str, rejected: str) -> Ranking:
    better, worse = _not_empty(row, "chosen", chosen), _not_empty(row, "rejected", rejected)
    if better.strip() == worse.strip():
        raise BadRow("answer equal to its rival",
                     f"column {row.name('rejected')!r}: the answer equals its rival, column {row.name('chosen')!r}")
    prompt = _prompt(row, "prompt" if row.get("prompt") is not None else "chosen", asked)
    return Ranking(prompt, (Response(better), Response(worse)), (1, 2), _rater(row))


def _transcript(row: Row, column: str) -> tuple[Message, ...]:
    text = row.need(column)
    if not isinstance(text, str):
        raise _wrong(row.name(column), "a transcript", text)
    before, *turns = HH_TURN.split("\n\n" + text.lstrip())
    if before.strip() or not turns:
        raise BadRow("not a transcript", f"column {row.name(column)!r}: a transcript begins with \"\\n\\nHuman:\", "
                                         f"this with {_brief(text)}")
    return tuple(Message(HH_ROLES[who], said.strip()) for who, said in zip(turns[::2], turns[1::2], strict=True))


def _messages(row: Row, column: str) -> tuple[Message, ...]:
    return _chat(row.need(column), row.name(column))


def _chat(value: Any, column: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", value),)
    if not isinstance(value, list):
        raise _wrong(column, "a text or a list of messages", value)
    chat = []
    for place, one in enumerate(value):
        where = f"{column}[{place}]"
        if not isinstance(one, dict) or "role" not in one or "content" not in one:
            raise _wrong(where, "a message with 'role' and 'content'", one)
        try:
            chat.append(Message(one["role"], one["content"]))
        except RequestError as error:
            raise BadRow("not a message", f"column {where!r}: {_brief(str(error), quoted=False)}") from None
    return tuple(chat)


def _continuation(row: Row, column: str, asked: tuple[Message, ...]) -> str:
    """The one answer that follows `asked`; a list of messages may repeat `asked` before it, as many data sets do."""
    value = row.need(column)
    if isinstance(value, str):
        return _not_empty(row, column, value)
    chat = _messages(row, column)
    rest = chat[len(asked):] if chat[: len(asked)] == asked else chat
    if len(rest) != 1 or rest[0].role != "assistant":
        raise BadRow("not one answer", f"column {row.name(column)!r}: expected one message of the assistant's after "
                                       f"the prompt, got {', '.join(m.role for m in rest[:9]) or 'none'}")
    return _not_empty(row, column, rest[0].content)


def _responses(row: Row) -> tuple[Response, ...]:
    column, given = row.name("responses"), row.need("responses")
    if not isinstance(given, list):
        raise _wrong(column, "a list of answers", given)
    if len(given) < 2:
        raise BadRow("ranking with one answer", f"column {column!r}: a ranking needs two answers, got {len(given)}")
    responses: list[Response] = []
    for place, one in enumerate(given):
        text = one.get("text") if isinstance(one, dict) else one
        if not isinstance(text, str):
            raise _wrong(f"{column}[{place}]", "an answer", one)
        if not text.strip():
            raise BadRow("empty answer", f"column '{column}[{place}]': the answer is empty")
        for other, earlier in enumerate(responses):
            if text.strip() == earlier.text.strip():
                raise BadRow("answer equal to its rival",
                             f"column '{column}[{place}]': the answer equals its rival '{column}[{other}]'")
        responses.append(Response.from_json(one) if isinstance(one, dict) else Response(text))
    return tuple(responses)


def _prompt(row: Row, column: str, asked: tuple[Message, ...], own: dict[str, Any] | None = None) -> Prompt:
    where = f"column {row.name(column)!r}"
    if not any(message.content.strip() for message in asked):
        raise BadRow("empty prompt", f"{where}: the prompt is empty")
    if asked[-1].role == "assistant":
        raise BadRow("prompt ends with an answer", f"{where}: the prompt ends with a turn of the assistant's")
    stratum = row.get("stratum") if row.get("stratum") is not None else (own or {}).get("stratum")
    return Prompt(asked, "" if stratum is None else str(stratum), str((own or {}).get("source") or row.source))


def _rater(row: Row) -> str:
    given = row.get("rater")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        raise _wrong(row.name("rater"), "a name or a number", given)
    return str(given) if given is not None else row.rater or UNNAMED_RATER


def _rank(value: Any) -> Any:
    """Tables with gaps hold ranks as 1.0, 2.0 and NaN: a whole number, and no rank. Ranking judges the rest."""
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return value


def _not_empty(row: Row, column: str, answer: str) -> str:
    if not answer.strip():
        raise BadRow("empty answer", f"column {row.name(column)!r}: the answer is empty")
    return answer


def _wrong(column: str, expected: str, value: Any) -> BadRow:
    return BadRow(f"not {expected}", f"column {column!r}: expected {expected}, got {_brief(value)}")


def _brief(value: Any, quoted: bool = True) -> str:
    text = repr(value) if quoted else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
