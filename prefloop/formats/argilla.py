"""Argilla's records: texts in fields, and every rater's responses to the questions of its dataset.

Version 2 has `responses` by question, each a list of {value, user_id}; version 1 a list of {values, user_id}. The
value of a ranking question is a list of {value: an answer's name, rank}. What is no question (who wrote an answer, who
a user is) goes into the metadata.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefloop.formats.chats import chat_of, prompt
from prefloop.formats.pairs import named, rater
from prefloop.formats.row import BadRow, Left, Row, brief, found, refuse_broken_text, unpacked, wrong
from prefloop.records import Answers, Prompt, Ranking, Response, digest

ASKED = ("prompt", "instruction", "question", "input")
TEXTS = ("strength", "reason", "edited", "none_acceptable")  # questions of their own
REST = ("shown", "seconds", "guideline", "kind", "dimensions", "propensity")  # all in one text, `rest`
WROTE = ("policy", "checksum", "sampling", "seed")


# -- out ------------------------------------------------------------------------------------------------------------


def records(group: list[Ranking]) -> Iterator[dict[str, Any]]:
    """The record of one item, with the responses of each of its raters; another for what they said a second time."""
    times: list[dict[str, Ranking]] = []
    for one in group:
        free = next((own for own in times if one.rater not in own), None)
        if free is None:
            times.append(free := {})
        free[one.rater] = one
    for place, own in enumerate(times):
        yield _record(list(own.values()), place)


def _record(group: list[Ranking], place: int) -> dict[str, Any]:
    first = group[0]
    names = [f"answer-{place + 1}" for place in range(len(first.responses))]
    wrote = {name: {key: one.to_json()[key] for key in WROTE}
             for name, one in zip(names, first.responses, strict=True)}
    users = {_user(one.rater): one.rater for one in group}
    responses: dict[str, list[dict[str, Any]]] = {}
    for one in group:
        for question, value in _values(one, names).items():
            responses.setdefault(question, []).append({"value": value, "user_id": _user(one.rater)})
    name = digest(*(response.id for response in first.responses), str(place))
    return {"id": f"{first.prompt.id}-{name}", "status": "completed",
            "fields": {"prompt": first.prompt.chat(),
                       **{name: one.text for name, one in zip(names, first.responses, strict=True)}},
            "metadata": {"stratum": first.prompt.stratum, "source": first.prompt.source, "users": json.dumps(users),
                         "answers": json.dumps(wrote)},
            "suggestions": {}, "responses": responses, "vectors": {}}


def _user(name: str) -> str:
    """Users are known by a UUID there."""
    return str(uuid5(NAMESPACE_URL, f"rater:{name}"))


def _values(one: Ranking, names: list[str]) -> dict[str, Any]:
    own = one.to_json()
    rest = {name: own[name] for name in REST if own.get(name) not in (None, [], "", "normal", {})}
    told = {"strength": one.strength, "none_acceptable": "yes" if one.none_acceptable else None,
            "reason": one.reason, "edited": one.edited, "rest": rest and json.dumps(rest)}
    ranks = [{"value": name, "rank": rank} for name, rank in zip(names, one.ranks, strict=True) if rank is not None]
    return {"ranking": ranks, **{name: value for name, value in told.items() if value}}


# -- in -------------------------------------------------------------------------------------------------------------


def argilla(row: Row) -> Iterator[Ranking | Left | Answers]:
    """`fields` and `responses`: a record; a ranking by each user who responded to its ranking question.

    import.columns maps `prompt` to the field that is the prompt, and `answers` to the ranking question.
    """
    fields, metadata = row.listed("fields"), row.listed("metadata") or {}
    if not isinstance(fields, dict) or not isinstance(metadata, dict):
        raise wrong(row.name("fields"), "an object", fields)
    asking, name = _prompt(row, fields, metadata)
    responses = _by_question(row)
    question = _ranking_question(row, responses)
    answers = _answers(fields, name, metadata, _named_in(responses.get(question, [])))
    users = unpacked(metadata.get("users") or "{}", "metadata.users")
    if not responses.get(question):
        yield Answers(asking, tuple(answers.values()))
    for place, one in enumerate(responses.get(question, [])):
        where = f"responses.{question}[{place}]"
        who = one.get("user_id")
        own = {other: told.get("value") for other, values in responses.items() for told in values
               if told.get("user_id") == who}
        known = users.get(who) if isinstance(users, dict) and isinstance(who, str) else None
        yield Ranking.from_json({**_more(own, where), "prompt": asking.to_json(),
                                 "responses": [answer.to_json() for answer in answers.values()],
                                 "ranks": _ranks(list(answers), one.get("value"), where),
                                 "rater": known or (rater(row) if who is None or row.rules.rater
                                                    else named(who, f"{where}.user_id"))})


def _prompt(row: Row, fields: dict[str, Any], metadata: dict[str, Any]) -> tuple[Prompt, str]:
    name = row.rules.columns.get("prompt") or next((own for own in ASKED if own in fields), "prompt")
    there, value = found(fields, name)
    if not there or value is None:
        here = brief(", ".join(map(repr, fields)) or "nothing", 150, quoted=False)
        raise BadRow("no prompt", f"column 'fields': it has no {name!r}; here are {here} (map it with "
                                  "import.columns={prompt: NAME})")
    made = prompt(row, "fields", chat_of(value, f"fields.{name}", row.rules))
    return Prompt(made.messages, made.stratum or str(metadata.get("stratum") or ""),
                  str(metadata.get("source", row.source))), name


def _by_question(row: Row) -> dict[str, list[dict[str, Any]]]:
    """Submitted responses by question, whichever version wrote them."""
    given = row.listed("responses")
    refuse_broken_text(given, row.name("responses"))
    if isinstance(given, list):  # version 1
        told: dict[str, Any] = {}
        for one in given:
            values = one.get("values") if isinstance(one, dict) else None
            if not isinstance(values, dict):
                raise wrong(row.name("responses"), "responses with 'values'", one)
            for question, value in values.items():
                own = value.get("value") if isinstance(value, dict) else value
                told.setdefault(question, []).append({"value": own, "user_id": one.get("user_id"),
                                                      "status": one.get("status", "submitted")})
        given = told
    if not isinstance(given, dict) or not all(
            isinstance(own, list) and all(isinstance(one, dict) for one in own) for own in given.values()):
        raise wrong(row.name("responses"), "responses by question", given)
    return {question: [one for one in own if one.get("status", "submitted") == "submitted"]
            for question, own in given.items()}


def _ranking_question(row: Row, responses: dict[str, list[dict[str, Any]]]) -> str:
    told = row.rules.columns.get("answers")
    ranking = (question for question, own in responses.items()
               if any(isinstance(one.get("value"), list) and one["value"]
                      and all(isinstance(each, dict) and {"value", "rank"} <= set(each) for each in one["value"])
                      for one in own))
    return told or next(ranking, "ranking")


def _named_in(responses: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(_plain(each.get("value")) for one in responses if isinstance(one.get("value"), list)
                              for each in one["value"] if isinstance(each, dict)))


def _plain(name: Any) -> str:
    """`reply-1` of a question is the field `reply_1`."""
    return re.sub(r"[\W_]+", "-", str(name)).strip("-").casefold()


def _answers(fields: dict[str, Any], asked: str, metadata: dict[str, Any], ranked: list[str]) -> dict[str, Response]:
    """The answers by their plain names: all fields that are numbered as an answer is, or that are ranked."""
    wrote = unpacked(metadata.get("answers") or "{}", "metadata.answers")
    stems = {re.sub(r"\d+$", "", name) for name in ranked} or {"answer-", "response-", "reply-", "generation-"}
    answers = {}
    for name, text in fields.items():
        plain = _plain(name)
        if name == asked or (plain not in ranked and re.sub(r"\d+$", "", plain) not in stems):
            continue
        if not isinstance(text, str) or not text.strip():
            raise BadRow("empty answer", f"column 'fields.{name}': the answer is empty")
        own = wrote.get(name) if isinstance(wrote, dict) else None
        answers[plain] = Response.from_json({**(own if isinstance(own, dict) else {}), "text": text})
    return answers


def _more(own: dict[str, Any], where: str) -> dict[str, Any]:
    told = {name: own[name] for name in TEXTS if own.get(name)}
    for name, value in told.items():
        if not isinstance(value, str):
            raise wrong(f"{where} ({name})", "a text", value)
    rest = unpacked(own.get("rest"), where)
    return {**told, "none_acceptable": bool(told.get("none_acceptable")),
            **({name: rest[name] for name in REST if name in rest} if isinstance(rest, dict) else {})}


def _ranks(names: list[str], value: Any, where: str) -> list[int | None]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise wrong(where, "a list of ranked answers", value)
    ranks = {_plain(one.get("value")): one.get("rank") for one in value}
    unknown = set(ranks) - set(names)
    if unknown:
        raise BadRow("an unknown answer", f"column {where!r}: it ranks {brief(min(unknown))}, which is no field")
    return [ranks.get(name) for name in names]
