"""Label Studio's tasks: a list that was ranked (Ranker), or two texts of which one was chosen (Pairwise).

A task has `data`, which is free, and `annotations`, one for each rater, each a list of results of the controls that
the labelling config names. docs/formats.md has a config for the tasks that we write. Theirs have their answers where
their config says: import.columns maps `prompt`, and `answers` or `left` and `right`, to keys of `data`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prefloop.formats.chats import chat_of, prompt
from prefloop.formats.joining import Duel, duels, part
from prefloop.formats.pairs import RANKS, named, rater
from prefloop.formats.row import BadRow, Left, Part, Row, brief, found, number, refuse_broken_text, unpacked, wrong
from prefloop.records import Answers, Prompt, Ranking, Response

TEXTS = ("text", "body", "html", "title")  # of an item of a List, the first of these is the answer
PROMPTS = ("prompt", "instruction", "question", "text")
SIDES = (("answer1", "answer2"), ("text1", "text2"), ("response_1", "response_2"), ("left", "right"))
REST = ("shown", "guideline", "kind", "dimensions", "propensity")  # of a ranking, what no control is for
PLACE = re.compile(r"answer-([1-9]\d?)")
RANK = re.compile(r"rank-[1-9]\d{0,5}")
UNSEEN = "_"  # the bucket of what was put into no other

# -- out ------------------------------------------------------------------------------------------------------------


def ranker_task(group: list[Ranking]) -> Iterator[dict[str, Any]]:
    """The task of one item, with an annotation by each of its raters."""
    first = group[0]
    data = {**_asked(first.prompt), "items": [_item(place, one) for place, one in enumerate(first.responses)]}
    yield {"data": data, "annotations": [_annotation(one, [_buckets(one)]) for one in group]}


def pairwise_tasks(group: list[Ranking]) -> Iterator[dict[str, Any]]:
    """A task for each pair of one item's answers; the first of the pair is on the left."""
    first = group[0]
    told = [{(min(one.a, one.b), max(one.a, one.b)): one for one in duels(ranking)} for ranking in group]
    for i, j in sorted(told[0]):
        sides = [_item(place, first.responses[place]) for place in (i, j)]
        data = {**_asked(first.prompt), "answer1": sides[0]["text"], "answer2": sides[1]["text"], "pair": sides,
                "of": _name(first)}
        yield {"data": data, "annotations": [_annotation(one, _chosen(own[i, j], i))
                                             for one, own in zip(group, told, strict=True)]}


def _asked(asking: Prompt) -> dict[str, Any]:
    """The prompt as a text for people, and as it is."""
    text = "\n\n".join(one.content if one.role == "user" else f"[{one.role}] {one.content}" for one in asking.messages)
    return {"prompt": text, "messages": asking.chat(), "stratum": asking.stratum, "source": asking.source}


def _name(one: Ranking) -> str:
    """What the tasks of one item's pairs share."""
    return " ".join((one.prompt.id, *(response.id for response in one.responses)))


def _item(place: int, one: Response) -> dict[str, Any]:
    own = one.to_json()
    return {"id": f"answer-{place + 1}", "title": f"Answer {place + 1}", "body": one.text,
            **{name: own[name] for name in ("text", "policy", "checksum", "sampling", "seed")}}


def _buckets(one: Ranking) -> dict[str, Any]:
    """Ranks as buckets, so that a bucket holds a tie; what was left unranked is in none of them."""
    buckets: dict[str, list[str]] = {}
    for place, rank in sorted(enumerate(one.ranks), key=lambda own: (own[1] is None, own[1] or 0, own[0])):
        buckets.setdefault(UNSEEN if rank is None else f"rank-{rank}", []).append(f"answer-{place + 1}")
    return _result("ranker", "rank", {"ranker": buckets}, "answers")


def _chosen(duel: Duel, left: int) -> list[dict[str, Any]]:
    if duel.outcome in ("a", "b"):
        side = "left" if (duel.a == left) == (duel.outcome == "a") else "right"
        return [_result("pairwise", "better", {"selected": side}, "answer1,answer2")]
    return [_result("choices", "tie", {"choices": ["both bad" if duel.outcome == "bad" else "tie"]}, "prompt")]


def _annotation(one: Ranking, results: list[dict[str, Any]]) -> dict[str, Any]:
    own = one.to_json()
    rest = {name: own[name] for name in REST if own.get(name) not in (None, [], "", "normal", {})}
    told = {"rater": one.rater, "strength": one.strength, "none_acceptable": "yes" if one.none_acceptable else None,
            "reason": one.reason, "edited": one.edited, "rest": rest and json.dumps(rest)}
    more = [_result("choices", name, {"choices": [value]}, "prompt") if name in ("strength", "none_acceptable")
            else _result("textarea", name, {"text": [value]}, "prompt") for name, value in told.items() if value]
    return {"result": results + more, "was_cancelled": False, "ground_truth": False, "lead_time": one.seconds}


def _result(kind: str, name: str, value: dict[str, Any], about: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": about, "type": kind, "value": value}


# -- in -------------------------------------------------------------------------------------------------------------


def label_studio(row: Row) -> Iterator[Ranking | Part | Left | Answers]:
    """`data` and `annotations`: a task as Label Studio exports it (as JSON, not JSON_MIN); a ranking by each rater."""
    data = row.listed("data")
    if not isinstance(data, dict):
        raise wrong(row.name("data"), "an object", data)
    asking, paired = _prompt(row, data), "pair" in data
    answers = _listed(row, data) or _sides(row, data)
    annotations = row.listed("annotations") or []
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise wrong(row.name("annotations"), "a list of annotations", annotations)
    kept = [(place, one) for place, one in enumerate(annotations) if not one.get("was_cancelled")]
    if len(kept) < len(annotations):
        yield Left("annotations that were cancelled", len(annotations) - len(kept))
    if not kept and not paired:
        yield Answers(asking, tuple(answers.values()))
    times: Counter[str] = Counter()
    for place, one in kept:
        where = f"{row.name('annotations')}[{place}]"
        results = _results(one, where)
        more = _more(row, one, results, where)
        if paired:
            times[more["rater"]] += 1  # who repeated an item has two annotations in each of its pairs
            yield part(f"{data.get('of')} {times[more['rater']]} {more['rater']}", asking, _two(answers),
                       Duel(*_places(answers), _outcome(results, where)), more)
        else:
            ranks = RANKS[won] if (won := _outcome(results, where, "")) else _ranks(list(answers), results, where)
            yield Ranking.from_json({"prompt": asking.to_json(), "ranks": ranks,
                                     "responses": [own.to_json() for own in answers.values()],
                                     **more, **({"none_acceptable": True} if won == "bad" else {})})


def _prompt(row: Row, data: dict[str, Any]) -> Prompt:
    told = row.rules.columns.get("prompt")
    name = told or next((own for own in ("messages", *PROMPTS) if data.get(own) is not None), "prompt")
    there, value = found(data, name)
    if not there or value is None:
        raise _absent("prompt", name, data)
    made = prompt(row, "data", chat_of(value, f"data.{name}", row.rules))
    return Prompt(made.messages, made.stratum or str(data.get("stratum") or ""), str(data.get("source", row.source)))


def _absent(what: str, name: str, data: dict[str, Any]) -> BadRow:
    here = brief(", ".join(map(repr, data)) or "nothing", 150, quoted=False)
    return BadRow(f"no {what}", f"column 'data': it has no {name!r}; here are {here} (map it with "
                                f"import.columns={{{what}: NAME}})")


def _listed(row: Row, data: dict[str, Any]) -> dict[str, Response]:
    """The answers of a List by their ids, or of a pair of ours; none where the task has no such list."""
    named = row.rules.columns.get("answers")
    lists = [name for name, own in data.items() if isinstance(own, list) and own and name != "messages"
             and all(isinstance(one, dict) and "id" in one for one in own)]
    name = named or next(iter(lists), None)
    if name is None:
        return {}
    there, items = found(data, name)
    if not there or not isinstance(items, list) or not all(isinstance(one, dict) for one in items):
        raise _absent("answers", name, data)
    answers = {str(one.get("id")): _response(one, f"data.{name}[{place}]") for place, one in enumerate(items)}
    if len(answers) < len(items):
        raise BadRow("an id twice", f"column 'data': two items of {name!r} have the same id")
    return answers


def _response(item: dict[str, Any], where: str) -> Response:
    text = next((item[name] for name in TEXTS if item.get(name)), None)
    if not isinstance(text, str) or not text.strip():
        raise BadRow("empty answer", f"column {where!r}: it has no text")
    own = {name: item[name] for name in ("policy", "checksum", "sampling", "seed") if name in item}
    return Response.from_json({**own, "text": text})


def _two(answers: dict[str, Response]) -> tuple[Response, Response]:
    if len(answers) != 2:
        raise BadRow("not a pair", f"column 'data': 'pair' has {len(answers)} answers, not two")
    left, right = answers.values()
    return left, right


def _places(answers: dict[str, Response]) -> tuple[int, int]:
    """`answer-3` is the third of its item, whose place is 2."""
    told = [PLACE.fullmatch(name) for name in answers]
    if None in told:
        raise BadRow("not a pair", f"column 'data': 'pair' has an answer that is not named answer-1, answer-2, ...: "
                                   f"{brief(', '.join(answers))}")
    left, right = (int(one[1]) - 1 for one in told if one)
    return left, right


def _sides(row: Row, data: dict[str, Any]) -> dict[str, Response]:
    """The two texts of a Pairwise, the left one first."""
    told = row.rules.columns
    names = ((told.get("left") or "", told.get("right") or "") if told.get("left") else
             next((own for own in SIDES if all(one in data for one in own)), SIDES[0]))
    for side, name in zip(("left", "right"), names, strict=True):
        if not found(data, name)[0]:
            raise _absent(side, name, data)
    return {name: _response({"text": found(data, name)[1]}, f"data.{name}") for name in names}


def _results(annotation: dict[str, Any], where: str) -> list[dict[str, Any]]:
    refuse_broken_text(annotation, where)
    results = annotation.get("result")
    if not isinstance(results, list) or not all(
            isinstance(one, dict) and isinstance(one.get("value"), dict) for one in results):
        raise wrong(f"{where}.result", "a list of results", results)
    return results


def _said(results: list[dict[str, Any]], control: str) -> str:
    """What a rater chose or wrote in a control; nothing if they did not."""
    for one in results:
        if one.get("from_name") == control:
            told = one["value"].get("choices", one["value"].get("text"))
            return "\n".join(map(str, told)) if isinstance(told, list) else str(told or "")
    return ""


def _more(row: Row, annotation: dict[str, Any], results: list[dict[str, Any]], where: str) -> dict[str, Any]:
    who = annotation.get("completed_by")
    who = who.get("email") or who.get("id") if isinstance(who, dict) else who
    said = _said(results, "rater")
    rest = unpacked(_said(results, "rest"), where)
    return {"rater": said or (rater(row) if who is None or row.rules.rater else named(who, f"{where}.completed_by")),
            "strength": _said(results, "strength") or None, "reason": _said(results, "reason"),
            "edited": _said(results, "edited"), "none_acceptable": bool(_said(results, "none_acceptable")),
            "seconds": number(annotation.get("lead_time"), f"{where}.lead_time"),
            **({name: rest[name] for name in REST if name in rest} if isinstance(rest, dict) else {})}


def _outcome(results: list[dict[str, Any]], where: str, otherwise: str | None = None) -> str:
    """Of two answers: a (the left one), b, tie or bad."""
    for one in results:
        if one.get("type") == "pairwise":
            side = one["value"].get("selected")
            if side not in ("left", "right"):
                raise wrong(f"{where}.result", "'left' or 'right' selected", side)
            return "a" if side == "left" else "b"
    tie = _said(results, "tie")
    if tie:
        return "bad" if "bad" in tie.lower() else "tie"
    if otherwise is None:
        raise BadRow("no verdict", f"column {where!r}: it chooses neither side")
    return otherwise


def _ranks(ids: list[str], results: list[dict[str, Any]], where: str) -> list[int | None]:
    """Ranks by the buckets' order, "rank-1" before "rank-2"; one bucket of another name is a list, the best first."""
    told = next((one["value"].get("ranker") for one in results if one.get("type") == "ranker"), None)
    if not isinstance(told, dict) or not all(isinstance(own, list) for own in told.values()):
        raise BadRow("no verdict", f"column {where!r}: it ranks nothing (a result of type 'ranker' with its buckets)")
    own = [(int(name[5:]) if RANK.fullmatch(name) else place, name, list(map(str, bucket)))
           for place, (name, bucket) in enumerate(told.items(), start=1) if name != UNSEEN]
    if len(own) == 1 and len(told) == 1 and not RANK.fullmatch(own[0][1]):
        own = [(place, name, [one]) for place, one in enumerate(own[0][2], start=1) for name in (one,)]
    ranks = {one: rank for rank, _, bucket in own for one in bucket}
    unknown = set(ranks) - set(ids)
    if unknown:
        raise BadRow("an unknown item", f"column {where!r}: it ranks {brief(min(unknown))}, which is no answer's id")
    return [ranks.get(one) for one in ids]
