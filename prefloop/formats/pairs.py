"""Two answers of which one was preferred: transcripts, TRL's columns, and battles with their votes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from prefloop.formats.chats import asked, continuation, hh_transcript, not_empty, prompt, said
from prefloop.formats.row import BadRow, Row, brief, number, wrong
from prefloop.records import Message, Ranking, Response

UNNAMED_RATER = "import"
WINNERS = {"model_a": "a", "a": "a", "model_b": "b", "b": "b",
           "tie": "tie", "tie (bothbad)": "bad", "both_bad": "bad", "bothbad": "bad"}
RANKS = {"a": (1, 2), "b": (2, 1), "tie": (1, 1), "bad": (1, 1)}


def hh(row: Row) -> Iterator[Ranking]:
    """`chosen` and `rejected`: transcripts with "\\n\\nHuman:" and "\\n\\nAssistant:" turns, equal up to the last."""
    yield _preferred(row, hh_transcript(row, "chosen"), hh_transcript(row, "rejected"))


def preference(row: Row) -> Iterator[Ranking]:
    """TRL's columns: `chosen` and `rejected` answers to `prompt`; without it, the prompt is what they share."""
    if row.rules.prompt is not None or row.get("prompt") is not None:
        before = asked(row)
        better, worse = continuation(row, "chosen", before), continuation(row, "rejected", before)
        yield _ranking(row, "prompt", before, better, worse)
        return
    chats = {column: said(row, column) for column in ("chosen", "rejected")}
    for column, chat in chats.items():
        if len(chat) == 1 and isinstance(row.get(column), str) and not row.rules.speakers:
            # Plain texts share no prompt that can be told apart from a shared beginning of two answers.
            raise row.missing("prompt")
    yield _preferred(row, chats["chosen"], chats["rejected"])


def _preferred(row: Row, chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> Ranking:
    shared, better, worse = _two_answers(row, ("chosen", "rejected"), chosen, rejected)
    return _ranking(row, "chosen", shared, better, worse)


def _two_answers(row: Row, columns: tuple[str, str], first: tuple[Message, ...],
                 second: tuple[Message, ...]) -> tuple[tuple[Message, ...], str, str]:
    """What two conversations share, and their last answers: they may differ in nothing else."""
    for column, chat in zip(columns, (first, second), strict=True):
        if not chat or chat[-1].role != "assistant":
            raise BadRow("no answer", f"column {row.name(column)!r}: its last turn is not the assistant's")
    if first[:-1] != second[:-1]:
        raise BadRow("conversations differ before the last answer",
                     f"columns {row.name(columns[0])!r} and {row.name(columns[1])!r} differ before their last answer")
    return first[:-1], not_empty(row, columns[0], first[-1].content), not_empty(row, columns[1], second[-1].content)


def _ranking(row: Row, column: str, before: tuple[Message, ...], chosen: str, rejected: str) -> Ranking:
    _differ(row, ("chosen", "rejected"), chosen, rejected)
    return Ranking(prompt(row, column, before), (Response(chosen), Response(rejected)), (1, 2), rater(row))


def _differ(row: Row, columns: tuple[str, str], first: str, second: str) -> None:
    if first.strip() == second.strip():
        raise BadRow("answer equal to its rival", f"column {row.name(columns[1])!r}: the answer equals its rival, "
                                                  f"column {row.name(columns[0])!r}")


@dataclass(frozen=True)
class Verdict:
    """What one rater said of two answers. `outcome`: a, b, tie, or bad, which is a tie of unacceptable answers."""

    rater: str
    outcome: str
    strength: str | None = None
    reason: str = ""


def battles(row: Row) -> Iterator[Ranking]:
    """Two answers and who won: `conversation_a` and `conversation_b`, or `prompt`, `response_a` and `response_b`.

    The verdict is `winner` (a word), `winner_model_a`, `winner_model_b` and `winner_tie` (flags), `margin` (a number
    from -3, a is much better, to 3), or `votes`: a list of [rater, winner], each of which makes a ranking.
    """
    before, first, second = _sides(row)
    verdicts = _verdicts(row)
    policies = [str(row.get(name) or "") for name in ("model_a", "model_b")]
    responses = Response(first, policies[0]), Response(second, policies[1])
    asking = prompt(row, "prompt" if row.get("conversation_a") is None else "conversation_a", before)
    for told in verdicts:
        yield Ranking(asking, responses, RANKS[told.outcome], told.rater, told.strength, told.outcome == "bad",
                      told.reason)


def _sides(row: Row) -> tuple[tuple[Message, ...], str, str]:
    columns = ("conversation_a", "conversation_b")
    if any(row.get(column) is not None for column in columns):
        chats = [said(row, column) for column in columns]
        before, first, second = _two_answers(row, columns, chats[0], chats[1])
    else:
        columns = ("response_a", "response_b")
        turns = _turns(row, columns)
        if turns:
            before, first, second = _two_answers(row, columns, *turns)
        else:
            before = asked(row)
            first, second = (continuation(row, column, before) for column in columns)
    _differ(row, columns, first, second)
    return before, first, second


def _turns(row: Row, columns: tuple[str, str]) -> tuple[tuple[Message, ...], tuple[Message, ...]] | None:
    """Both conversations, where prompt and answers are lists of texts, or of what stands for one, turn by turn."""
    if row.rules.prompt is not None:
        return None
    told = [own for column in ("prompt", *columns) if isinstance(own := row.listed(column), list)
            and all(isinstance(text, str | None) for text in own)]
    if len(told) < 3:
        return None
    users, *answers = told
    for column, own in zip(columns, answers, strict=True):
        if len(own) != len(users) or None in own or None in users:
            raise BadRow("turns do not fit", f"column {row.name(column)!r}: expected {len(users)} answers, one for "
                                             f"each turn of the prompt, got {brief(own)}")
    chats = [tuple(Message(role, text) for pair in zip(users, own, strict=True)
                   for role, text in zip(("user", "assistant"), pair, strict=True)) for own in answers]
    return chats[0], chats[1]


def _verdicts(row: Row) -> list[Verdict]:
    votes = row.listed("votes")
    if votes is not None:
        if not isinstance(votes, list) or not votes:
            raise BadRow("no votes", f"column {row.name('votes')!r}: expected a list of votes, got {brief(votes)}")
        return [_vote(row, one, place) for place, one in enumerate(votes)]
    reason = str(row.get("reason") or "")
    if row.get("margin") is not None:
        return [_by_margin(row.get("margin"), row.name("margin"), rater(row), reason)]
    flags = ("winner_model_a", "winner_model_b", "winner_tie")
    if row.get("winner") is None and any(row.get(flag) is not None for flag in flags):
        won = [flag for flag in flags if number(row.get(flag), row.name(flag))]
        if len(won) != 1:
            raise BadRow("no winner", f"columns {', '.join(map(row.name, flags))}: expected one of them to be 1")
        told = {"winner_model_a": "a", "winner_model_b": "b"}.get(won[0], "tie")
        return [Verdict(rater(row), told, reason=reason)]
    return [Verdict(rater(row), outcome(row, row.need("winner"), row.name("winner")), reason=reason)]


def _vote(row: Row, vote: Any, place: int) -> Verdict:
    """[rater, winner], or an object with keys named as the columns are. A vote without a rater bears its place."""
    where = f"{row.name('votes')}[{place}]"
    unnamed = f"{row.rules.rater or UNNAMED_RATER} {place + 1}"
    if isinstance(vote, list) and len(vote) == 2:
        return Verdict(named(vote[0], where), outcome(row, vote[1], where))
    if isinstance(vote, dict):
        own = {ours: vote.get(row.name(ours)) for ours in ("rater", "winner", "margin", "reason")}
        who = unnamed if own["rater"] is None else named(own["rater"], where)
        if own["margin"] is not None:
            return _by_margin(own["margin"], where, who, str(own["reason"] or ""))
        if own["winner"] is not None:
            return Verdict(who, outcome(row, own["winner"], where), reason=str(own["reason"] or ""))
    raise wrong(where, "a vote such as [rater, winner]", vote)


def _by_margin(value: Any, column: str, who: str, reason: str = "") -> Verdict:
    margin = number(value, column)
    if margin is None or abs(margin) > 3:
        raise BadRow("margin beyond 3", f"column {column!r}: expected a number from -3 (a is much better) to 3 "
                                        f"(b is), got {brief(value)}")
    if margin == 0:
        return Verdict(who, "tie", reason=reason)
    strengths = ("negligibly", "slightly", "better", "significantly")
    return Verdict(who, "a" if margin < 0 else "b", strengths[int(abs(margin))], reason)


def outcome(row: Row, value: Any, column: str) -> str:
    """a, b, tie or bad. What a number means differs from one data set to the next: import.winners has to say it."""
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    told = row.rules.winners.get(str(plain), row.rules.winners.get(str(value)))
    if told is None and isinstance(value, str):
        told = WINNERS.get(value.strip().lower())
    if told is None:
        known = ", ".join({**WINNERS, **row.rules.winners})
        raise BadRow(f"winner {brief(value, 30)}", f"column {column!r}: winner {brief(value)} is not known (known: "
                     f"{known}); say what it means, such as import.winners={{1: a, 2: b, 0: tie}}")
    return told


def rater(row: Row) -> str:
    given = row.get("rater")
    return row.rules.rater or UNNAMED_RATER if given is None else named(given, row.name("rater"))


def named(value: Any, column: str) -> str:
    plain = int(value) if isinstance(value, float) and value.is_integer() else value
    if isinstance(plain, bool) or not isinstance(plain, str | int) or not str(plain).strip():
        raise wrong(column, "a name or a number", value)
    return str(plain)
