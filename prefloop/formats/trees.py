"""Trees of messages in which people ranked the replies to one message, as Open Assistant publishes them.

Either one tree a row, replies within replies, or one message a row, which names its parent and its tree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from prefloop.formats.chats import WHO, stratum
from prefloop.formats.pairs import UNNAMED_RATER
from prefloop.formats.row import BadRow, Part, Row, brief, wrong
from prefloop.records import Message, Prompt, Ranking, Response

DEEPEST, MOST = 200, 100_000  # turns and messages; a larger tree is no conversation
OF_A_MESSAGE = ("text", "role", "rank", "deleted", "model_name", "parent_id", "message_id")


def tree(row: Row) -> Iterator[Ranking | Part]:
    """`prompt`: a message with `text`, `role` and `replies`; or `message_id`, `parent_id`, `message_tree_id`, ...

    Every message with at least two replies of the assistant's that hold a `rank` (the least is the best) makes a
    ranking of these.
    """
    facts = {"stratum": stratum(row), "source": row.source, "rater": row.rules.rater or UNNAMED_RATER}
    root = row.listed("prompt")
    if root is None and row.get("message_id") is not None:
        own = {name: row.get(name) for name in OF_A_MESSAGE}
        _said(own)
        yield Part(str(row.need("message_tree_id")), own | facts)
        return
    if not isinstance(root, dict):
        raise row.missing("prompt") if root is None else wrong(row.name("prompt"), "a message with replies", root)
    rankings = list(_rankings(root, facts))
    if not rankings:
        raise BadRow("no ranked replies", f"column {row.name('prompt')!r}: no message has two ranked replies")
    yield from rankings


def grown(parts: list[dict[str, Any]]) -> Iterator[tuple[Ranking | BadRow, list[int]]]:
    """The rankings of one tree that came a message a row. All its rows were used if there is one."""
    children: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for part in parts:
        children[part["parent_id"]].append(part)
    known = {part["message_id"] for part in parts}
    for part in parts:
        part["replies"] = children[part["message_id"]] if part["message_id"] != part["parent_id"] else []
    roots = [part for part in parts if part["parent_id"] not in known]
    places = list(range(len(parts)))
    try:
        rankings = [one for root in roots for one in _rankings(root, root)]
    except BadRow as error:
        yield error, places
        return
    if not rankings:
        yield BadRow("no ranked replies", "no message of this tree has two ranked replies"), places
    for count, ranking in enumerate(rankings):
        yield ranking, [] if count else places


def _rankings(root: dict[str, Any], facts: dict[str, Any]) -> Iterator[Ranking]:
    waiting: list[tuple[dict[str, Any], tuple[Message, ...]]] = [(root, ())]
    for _ in range(MOST):
        if not waiting:
            return
        node, before = waiting.pop()
        chat = (*before, _said(node))
        replies = [one for one in node.get("replies") or [] if isinstance(one, dict) and not one.get("deleted")]
        if len(chat) < DEEPEST:
            waiting += [(one, chat) for one in reversed(replies)]
        ranked = {_said(one).content.strip(): one for one in replies
                  if _said(one).role == "assistant" and _rank(one) is not None and _said(one).content.strip()}
        if len(ranked) > 1 and chat[-1].role != "assistant" and any(m.content.strip() for m in chat):
            order = sorted({_rank(one) or 0 for one in ranked.values()})
            yield Ranking(Prompt(chat, facts["stratum"], facts["source"]),
                          tuple(Response(_said(one).content, str(one.get("model_name") or ""))
                                for one in ranked.values()),
                          tuple(order.index(_rank(one) or 0) + 1 for one in ranked.values()), facts["rater"])
    raise BadRow("too large a tree", f"a tree of more than {MOST} messages")


def _said(node: dict[str, Any]) -> Message:
    role, text = WHO.get(str(node.get("role")).lower()), node.get("text")
    if role is None or not isinstance(text, str):
        raise BadRow("not a message", f"expected a message with 'role' and 'text', got {brief(node)}")
    return Message(role, text)


def _rank(node: dict[str, Any]) -> int | None:
    rank = node.get("rank")
    whole = isinstance(rank, int | float) and not isinstance(rank, bool) and rank == rank and float(rank).is_integer()
    return int(rank) if whole and rank is not None else None
