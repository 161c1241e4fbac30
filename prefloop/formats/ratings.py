"""Several answers to one prompt: ranked, rated, or voted on pair by pair; in one row, or one answer a row."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Any

from prefloop.formats.chats import asked, chat_of, continuation, prompt
from prefloop.formats.pairs import RANKS, named, outcome, rater
from prefloop.formats.row import BadRow, Left, Part, Row, brief, found, number, unpacked, wrong
from prefloop.records import Message, Prompt, Ranking, Response

OF_A_RANKING = ("strength", "none_acceptable", "reason", "edited", "shown", "seconds", "guideline", "kind",
                "dimensions", "propensity")
TEXTS = ("text", "response", "answer", "content", "completion", "value")
MOST = 64  # answers of one ranking: its pairs grow with the square


def rankings(row: Row) -> Iterator[Ranking]:
    """`prompt`, `responses` (K texts), `ranks` (1 is best, equal is a tie, null is unranked) and `rater`.

    `order` may stand for `ranks`: places in `responses`, from 0, the best first. Answers that are objects may hold
    their own `rank`. With import.raters each rater's ranks have a column of their own. The form that
    `Ranking.to_json` writes is read too, with all it holds.
    """
    given = None if row.rules.prompt is not None else row.listed("prompt")
    own = given if isinstance(given, dict) and "messages" in given else {}
    asking = own_prompt(row, own) if own else prompt(row, "prompt", asked(row))
    answers, items = responses(row, exact=bool(own))
    more = _more(row)
    for who, ranks in _told_by(row, "ranks", _ranks(row, items, len(answers))):
        _fit(row, who[1], "ranks", ranks, len(answers))
        yield Ranking(asking, answers, tuple(map(_rank, ranks)), who[0], **more)


def _more(row: Row) -> dict[str, Any]:
    """What a ranking says beside its ranks; in a table's cells, lists, numbers and truths are told as text."""
    more: dict[str, Any] = {name: row.get(name) for name in OF_A_RANKING if row.get(name) is not None}
    for name in ("shown", "dimensions"):
        if name in more:
            more[name] = unpacked(more[name], row.name(name))
    if isinstance(more.get("shown"), list):
        more["shown"] = tuple(more["shown"])
    if isinstance(more.get("dimensions"), dict):
        more["dimensions"] = {name: tuple(own) if isinstance(own, list) else own
                              for name, own in more["dimensions"].items()}
    for name in ("seconds", "propensity"):
        if isinstance(more.get(name), str):
            more[name] = number(more[name], row.name(name))
    if str(more.get("none_acceptable")).lower() in ("true", "false"):
        more["none_acceptable"] = str(more["none_acceptable"]).lower() == "true"
    return more


def own_prompt(row: Row, own: dict[str, Any]) -> Prompt:
    made = prompt(row, "prompt", chat_of(own["messages"], row.name("prompt"), row.rules))
    return Prompt(made.messages, made.stratum or str(own.get("stratum") or ""), str(own.get("source", row.source)))


def _ranks(row: Row, items: list[Any], count: int) -> Any:
    """The ranks of the row's only rater, None where each has a column."""
    if row.rules.raters:
        return None
    order = row.listed("order")
    if order is not None:
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(map(str, range(count))):
            raise BadRow("order does not fit", f"column {row.name('order')!r}: expected the places 0 to {count - 1}, "
                                               f"the best first, got {brief(order)}")
        places = list(map(str, order))
        return [places.index(str(place)) + 1 for place in range(count)]
    within = [one.get("rank") if isinstance(one, dict) else None for one in items]
    if row.get("ranks") is None and any(rank is not None for rank in within):
        least = min((rank for rank in within if isinstance(rank, int)), default=1)
        return [rank + 1 if least == 0 and isinstance(rank, int) else rank for rank in within]
    if row.rules.rater is None and row.get("rater") is None and not isinstance(row.get("ranks"), dict):
        missing = row.missing("rater")
        raise BadRow(missing.reason, f"{missing}; or say who ranked: import.rater=NAME")
    return row.listed("ranks") if row.get("ranks") is not None else row.need("ranks")


def _told_by(row: Row, column: str, only: Any) -> Iterator[tuple[tuple[str, str], Any]]:
    """Each rater, with the column that holds what they said, and what it holds."""
    if row.rules.raters:
        for who, theirs in row.rules.raters.items():
            there, value = found(row.values, theirs)
            if not there:
                raise BadRow(f"no column {theirs!r}", f"column {theirs!r} of rater {who!r} is missing (import.raters)")
            if value is not None and value != "":
                yield (who, theirs), unpacked(value, theirs)
    elif isinstance(only, dict):
        yield from (((named(who, row.name(column)), row.name(column)), told) for who, told in only.items())
    else:
        yield (rater(row), row.name(column)), only


def _fit(row: Row, column: str, what: str, given: Any, count: int) -> None:
    if not isinstance(given, list) or len(given) != count:
        raise BadRow(f"{what} do not fit", f"column {column!r}: expected a list of {count} {what}, one for each "
                                           f"answer, got {brief(given)}")


def responses(row: Row, exact: bool = False) -> tuple[tuple[Response, ...], list[Any]]:
    """The answers, none empty and no two alike, and what the column held for each.

    `exact`: rows that we wrote ourselves may hold two answers that differ in white space.
    """
    items = _items(row)
    made: list[Response] = []
    for place, one in enumerate(items):
        where = f"{row.name('responses')}[{place}]"
        own = _response(row, one, where)
        if not own.text.strip():
            raise BadRow("empty answer", f"column {where!r}: the answer is empty")
        for other, earlier in enumerate(made):
            if own.text == earlier.text or (not exact and own.text.strip() == earlier.text.strip()):
                raise BadRow("answer equal to its rival", f"column {where!r}: the answer equals its rival "
                                                          f"'{row.name('responses')}[{other}]'")
        made.append(own)
    return tuple(made), items


def _items(row: Row) -> list[Any]:
    column, given = row.name("responses"), row.listed("responses")
    if given is None:
        raise row.missing("responses")
    if not isinstance(given, list):
        raise wrong(column, "a list of answers", given)
    if len(given) < 2:
        raise BadRow("ranking with one answer", f"column {column!r}: a ranking needs two answers, got {len(given)}")
    if len(given) > MOST:
        raise BadRow(f"over {MOST} answers", f"column {column!r}: expected {MOST} answers at most, got {len(given)}")
    return given


def _response(row: Row, one: Any, where: str) -> Response:
    """An answer: a text, an object that holds one, or a chat of which it is the last message."""
    if isinstance(one, list) and one and isinstance(one[-1], dict):
        one = one[-1]
    text = next((one[key] for key in TEXTS if one.get(key) is not None), None) if isinstance(one, dict) else one
    if not isinstance(text, str):
        raise wrong(where, "an answer", one)
    if isinstance(one, dict) and {"policy", "checksum", "sampling", "seed"} & set(one):
        return Response.from_json({**one, "text": text, "sampling": unpacked(one.get("sampling") or {}, where)})
    model = one.get("model", one.get("model_name")) if isinstance(one, dict) else None
    return Response(text, model if isinstance(model, str) else "")


def _rank(value: Any) -> Any:
    """Tables with gaps hold ranks as 1.0, "2" and NaN: a whole number, and no rank. Ranking judges the rest."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float):
        return None if math.isnan(value) else int(value) if value.is_integer() else value
    return None if value == "" else value


def ratings(row: Row) -> Iterator[Ranking | Left | Part]:
    """`prompt`, `responses` and `ratings` (K numbers, or an object with a list of them for each rater).

    Or one answer a row: `prompt`, `response` and `rating`; the rows of one prompt and rater make a ranking together.
    import.scores names other columns that hold the score, or weighs several; in a row of K answers these are keys of
    each answer. The higher score is the better, equal scores are a tie; an answer that was not rated is left out.
    import.dimensions names columns, or keys of each answer, whose scores rank the answers by one thing each.
    """
    if row.get("responses") is None and row.get("response") is not None:
        score = _score(row, row.values, "rating")
        if score is None:
            raise BadRow("no rating", f"column {_scored(row, 'rating')!r}: the answer has no rating")
        yield _part(row, "response", score, binary=False)
        return
    asking = prompt(row, "prompt", asked(row))
    items = _items(row)
    answers = [_response(row, one, f"{row.name('responses')}[{place}]") for place, one in enumerate(items)]
    for who, scores in _told_by(row, "ratings", None if row.rules.raters else _scores(row, items)):
        _fit(row, who[1], "ratings", scores, len(answers))
        told = [number(one, f"{who[1]}[{place}]") for place, one in enumerate(scores)]
        yield from ranked(asking, answers, told, who[0], [_dimensions(row, one) for one in items])


def _scores(row: Row, items: list[Any]) -> Any:
    if row.rules.scores is None:
        return row.listed("ratings") if row.get("ratings") is not None else row.need("ratings")
    return [_score(row, one, "ratings") for one in items]


def _scored(row: Row, column: str) -> str:
    asked_for = row.rules.scores
    return ", ".join(asked_for) if isinstance(asked_for, dict) else asked_for or row.name(column)


def _score(row: Row, values: Any, column: str) -> float | None:
    """The weighted mean of the columns that hold the score; None where one of them holds none."""
    weights = row.rules.scores
    if weights is None:
        return number(row.need(column), row.name(column))
    total, weight = 0.0, 0.0
    for path, own in ({weights: 1.0} if isinstance(weights, str) else weights).items():
        there, value = found(values, path)
        if not there:
            raise BadRow(f"no column {path!r}", f"column {path!r} is missing (import.scores)")
        told = number(value, path)
        if told is None:
            return None
        total, weight = total + own * told, weight + abs(own)
    return total / weight


def _dimensions(row: Row, values: Any) -> dict[str, float | None]:
    """The score of one answer by each of the dimensions."""
    told = {}
    for name, path in row.rules.dimensions.items():
        there, value = found(values, path)
        if not there:
            raise BadRow(f"no column {path!r}", f"column {path!r} is missing (import.dimensions)")
        told[name] = number(value, path)
    return told


def _places(scores: list[Any]) -> tuple[int | None, ...]:
    """Ranks that scores make: 1 is the highest, None where there is none."""
    best = sorted({score for score in scores if score is not None}, reverse=True)
    return tuple(None if score is None else best.index(score) + 1 for score in scores)


def _by_dimension(told: list[dict[str, float | None]]) -> dict[str, tuple[int | None, ...]]:
    """Ranks of several answers by each dimension that was told of any of them."""
    ranks = {name: _places([one[name] for one in told]) for name in told[0]}
    return {name: own for name, own in ranks.items() if any(own)}


def ranked(asking: Prompt, answers: list[Response], scores: list[float | None], who: str,
           dimensions: list[dict[str, float | None]]) -> Iterator[Ranking | Left]:
    """The ranking that scores make, of the answers that can be ranked."""
    kept: dict[str, tuple[Response, float, dict[str, float | None]]] = {}
    left: dict[str, int] = defaultdict(int)
    for answer, score, by in zip(answers, scores, dimensions, strict=True):
        text = answer.text.strip()
        if score is None or not text:
            left["answers without a rating" if text else "empty answers"] += 1
        elif text not in kept:
            kept[text] = (answer, score, by)
        elif kept[text][1] == score:
            left["answers equal to another, rated alike"] += 1
        else:
            raise BadRow("the same answer rated in two ways",
                         f"the answer {brief(text)} stands twice, rated {kept[text][1]:g} and {score:g}")
    if len(kept) < 2:
        raise BadRow("fewer than two rated answers", f"of {len(answers)} answers {len(kept)} can be ranked")
    used, worth, by_dimension = (list(own) for own in zip(*kept.values(), strict=True))
    yield Ranking(asking, tuple(used), _places(worth), who, dimensions=_by_dimension(by_dimension))
    yield from (Left(reason, count) for reason, count in left.items())


def unpaired(row: Row) -> Iterator[Part]:
    """TRL's `prompt`, `completion` and `label`: the rows of one prompt and rater make a ranking, good above bad."""
    label = number(row.need("label"), row.name("label"))
    if label not in (0, 1):
        raise wrong(row.name("label"), "true or false", row.get("label"))
    yield _part(row, "completion", label, binary=True)


def _part(row: Row, column: str, score: float, binary: bool) -> Part:
    before = asked(row)
    asking, who = prompt(row, "prompt", before), rater(row)
    model = row.get("model")
    return Part(f"{asking.id} {who}", {
        "messages": asking.chat(), "stratum": asking.stratum, "source": asking.source, "rater": who, "binary": binary,
        "text": continuation(row, column, before), "model": model if isinstance(model, str) else "", "score": score,
        "dimensions": _dimensions(row, row.values)})


def together(parts: list[dict[str, Any]]) -> Iterator[tuple[Ranking | BadRow, list[int]]]:
    """The rankings of one rater's rated answers to one prompt, or why there is none, each with its parts' places."""
    scores: dict[str, set[float]] = defaultdict(set)
    for part in parts:
        scores[part["text"].strip()].add(part["score"])
    kept: dict[str, int] = {}
    for place, part in enumerate(parts):
        text = part["text"].strip()
        if len(scores[text]) > 1:
            told = ", ".join(f"{score:g}" for score in sorted(scores[text]))
            yield BadRow("the same answer rated in two ways", f"the answer {brief(text)} is rated {told}"), [place]
        elif text in kept:
            yield BadRow("exact duplicate", "an earlier row says the same"), [place]
        else:
            kept[text] = place
    places = list(kept.values())
    for start in range(0, len(places), MOST):
        yield _ranked_together(parts, places[start: start + MOST])


def _ranked_together(parts: list[dict[str, Any]], places: list[int]) -> tuple[Ranking | BadRow, list[int]]:
    own = [parts[place] for place in places]
    if len(own) < 2:
        return BadRow("the only rated answer of its prompt",
                      "no other row of this rater's rates an answer to this prompt"), places
    ranks = _places([one["score"] for one in own])
    if set(ranks) == {1} and own[0]["binary"]:
        return BadRow("all answers of its prompt are labelled alike",
                      "no answer to this prompt has the other label"), places
    first = own[0]
    chat = tuple(Message(m["role"], m["content"]) for m in first["messages"])
    asking = Prompt(chat, first["stratum"], first["source"])
    return Ranking(asking, tuple(Response(one["text"], one["model"]) for one in own),
                   ranks, first["rater"], dimensions=_by_dimension([one["dimensions"] for one in own])), places


def votes(row: Row) -> Iterator[Ranking]:
    """`prompt`, `responses` and `pairs`: one rater's votes [i, j, winner] on pairs of them; i and j count from 0.

    If every pair was voted on and the votes agree with one order, ties included, that order is the ranking. Votes on
    some pairs only are a ranking each. Votes that no order agrees with (A over B over C over A) are dropped, or with
    import.cycles=pairs a ranking each.
    """
    asking, who = prompt(row, "prompt", asked(row)), rater(row)
    answers, _ = responses(row)
    told = _told_votes(row, len(answers))
    if len(told) == len(answers) * (len(answers) - 1) // 2:
        ranks = order_of(told, len(answers))
        if ranks is not None:
            yield Ranking(asking, answers, ranks, who)
            return
        if row.rules.cycles == "drop":
            raise BadRow("votes that no order agrees with", f"column {row.name('pairs')!r}: the votes contradict each "
                         f"other: {brief(row.get('pairs'))}; to take each as a ranking of two: import.cycles=pairs")
    for (i, j), won in told.items():
        yield Ranking(asking, (answers[i], answers[j]), RANKS[won], who, none_acceptable=won == "bad")


def _told_votes(row: Row, count: int) -> dict[tuple[int, int], str]:
    column, given = row.name("pairs"), row.listed("pairs")
    if not isinstance(given, list) or not given:
        raise row.missing("pairs") if given is None else wrong(column, "a list of votes [i, j, winner]", given)
    told: dict[tuple[int, int], str] = {}
    for place, vote in enumerate(given):
        where = f"{column}[{place}]"
        if not isinstance(vote, list) or len(vote) != 3:
            raise wrong(where, "a vote [i, j, winner]", vote)
        i, j = vote[:2]
        if not all(isinstance(one, int) and 0 <= one < count for one in (i, j)) or i == j:
            raise wrong(where, f"two places from 0 to {count - 1}", vote[:2])
        won = outcome(row, vote[2], where)
        if i > j:
            i, j, won = j, i, {"a": "b", "b": "a"}.get(won, won)
        if told.setdefault((i, j), won) != won:
            raise BadRow("two votes on one pair that differ",
                         f"column {where!r}: an earlier vote on this pair differs")
    return told


def order_of(told: dict[tuple[int, int], str], count: int) -> tuple[int, ...] | None:
    """The ranks that all votes agree with, one vote for each pair; None where there are none."""
    above = [0] * count
    for (i, j), won in told.items():
        above[i] += won == "b"
        above[j] += won == "a"
    for i, j in combinations(range(count), 2):
        won = told[i, j]
        if (above[i] < above[j], above[i] > above[j]) != (won == "a", won == "b"):
            return None
    places = sorted(set(above))
    return tuple(places.index(one) + 1 for one in above)
