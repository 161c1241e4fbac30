"""Conversations: lists of messages in the forms they are published in, and plain text with a rule for who speaks.

A message is `{"role": ..., "content": ...}` or `{"from": ..., "value": ...}`; a prompt is a text (the user's only
message) or a list of messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from prefloop.errors import RequestError
from prefloop.formats.row import BadRow, Left, Row, Rules, brief, number, unpacked, wrong
from prefloop.records import Demonstration, Message, Prompt

WHO = {"system": "system", "developer": "system",
       "user": "user", "human": "user", "prompter": "user",
       "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant"}
SKIP = "skip"
TEXT_PARTS = ("text", "input_text", "output_text")
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
SPEAKERS = {"System:": "system", "User:": "user", "Human:": "user", "Assistant:": "assistant"}


def messages(row: Row) -> Iterator[Demonstration | Left]:
    """`messages` of a chat: the last answer of the assistant is the demonstration, and all before it the prompt.

    With import.turns=all every answer is one.
    """
    yield from demonstrations(row, _opened_by_system(row, said(row, "messages", alternating=True)), "messages")


def log(row: Row) -> Iterator[Demonstration | Left]:
    """`text`: a conversation in plain text. import.speakers says who begins a turn how."""
    text = row.need("text")
    if not isinstance(text, str):
        raise wrong(row.name("text"), "a text", text)
    yield from demonstrations(row, transcript(text, row.name("text"), row.rules), "text")


def completion(row: Row) -> Iterator[Demonstration]:
    """TRL's `prompt` and `completion`: a text, or a list of one message of the assistant's.

    Where a `label` column is mapped by hand, answers that it calls bad are left out.
    """
    if "label" in row.rules.columns and not number(row.need("label"), row.name("label")):
        raise BadRow("labelled bad", f"column {row.name('label')!r}: the answer is labelled bad")
    before = asked(row)
    yield Demonstration(prompt(row, "prompt", before), continuation(row, "completion", before))


def demonstrations(row: Row, chat: tuple[Message, ...], column: str) -> Iterator[Demonstration | Left]:
    answered = [place for place, message in enumerate(chat) if message.role == "assistant"]
    if not answered:
        raise BadRow("no answer", f"column {row.name(column)!r}: no message is the assistant's")
    if row.rules.turns == "last":
        asking = prompt(row, column, chat[: answered[-1]])
        yield Demonstration(asking, not_empty(row, column, chat[answered[-1]].content))
    else:
        kept = [place for place in answered if chat[place].content.strip() and _asks(chat[:place])]
        if not kept:
            raise BadRow("no answer", f"column {row.name(column)!r}: no message of the assistant's answers anything")
        for place in kept:
            yield Demonstration(prompt(row, column, chat[:place]), chat[place].content)
        if len(kept) < len(answered):
            yield Left("answers that are empty or answer nothing", len(answered) - len(kept))
    after = len(chat) - 1 - answered[-1]
    if after:
        yield Left("turns after the last answer", after)


def _asks(chat: tuple[Message, ...]) -> bool:
    return bool(chat) and chat[-1].role != "assistant" and any(m.content.strip() for m in chat)


def asked(row: Row) -> tuple[Message, ...]:
    """What a row asks: its `prompt`, or import.prompt filled in, after its `system` message."""
    if row.rules.prompt is not None:
        return _opened_by_system(row, (Message("user", row.filled(row.rules.prompt)),))
    chat = said(row, "prompt")
    # "...\n\nAssistant:" is how a transcript says that it waits.
    waits = len(chat) > 1 and chat[-1] == Message("assistant", "") and row.rules.speakers
    return _opened_by_system(row, chat[:-1] if waits else chat)


def _opened_by_system(row: Row, chat: tuple[Message, ...]) -> tuple[Message, ...]:
    system = row.get("system")
    if system is None or not str(system).strip():
        return chat
    if not isinstance(system, str):
        raise wrong(row.name("system"), "a text", system)
    return (Message("system", system), *chat)


def prompt(row: Row, column: str, chat: tuple[Message, ...]) -> Prompt:
    where = f"column {row.name(column)!r}" if row.rules.prompt is None or column != "prompt" else "import.prompt"
    if not any(message.content.strip() for message in chat):
        raise BadRow("empty prompt", f"{where}: the prompt is empty")
    if chat[-1].role == "assistant":
        raise BadRow("prompt ends with an answer", f"{where}: the prompt ends with a turn of the assistant's")
    return Prompt(chat, stratum(row), row.source)


def stratum(row: Row) -> str:
    told = row.get("stratum")
    return "" if told is None else str(told)


def said(row: Row, column: str, alternating: bool = False) -> tuple[Message, ...]:
    return chat_of(row.need(column), row.name(column), row.rules, alternating)


def chat_of(value: Any, column: str, rules: Rules, alternating: bool = False) -> tuple[Message, ...]:
    """`alternating`: a list of texts is a chat that the user begins."""
    if isinstance(value, str):
        value = _cell(value)
    if isinstance(value, str):
        return transcript(value, column, rules) if rules.speakers else (Message("user", value),)
    if isinstance(value, dict):
        value = value["messages"] if isinstance(value.get("messages"), list) else [value]
    if not isinstance(value, list):
        raise wrong(column, "a text or a list of messages", value)
    if alternating and value and all(isinstance(one, str) for one in value):
        return tuple(Message(("user", "assistant")[place % 2], one) for place, one in enumerate(value))
    chat = (_message(one, f"{column}[{place}]", rules) for place, one in enumerate(value))
    return tuple(one for one in chat if one is not None)


def _cell(text: str) -> Any:
    """A table's cell may hold a list of messages as text; any other text is what it is."""
    if not text.lstrip().startswith(("[{", "[ {", '{"messages"')):
        return text
    inner = unpacked(text, "")
    told = inner.get("messages") if isinstance(inner, dict) else inner
    is_chat = isinstance(told, list) and all(isinstance(m, dict) and ("role" in m or "from" in m) for m in told)
    return inner if is_chat else text


def _message(one: Any, where: str, rules: Rules) -> Message | None:
    if not isinstance(one, dict) or not (("role" in one or "from" in one) and {"content", "value", "text"} & set(one)):
        raise wrong(where, "a message with 'role' and 'content'", one)
    who = one["role"] if "role" in one else one["from"]
    role = rules.roles.get(str(who), WHO.get(who.lower()) if isinstance(who, str) else None)
    if role is None:
        raise BadRow(f"role {brief(who, 30)}",
                     f"column {where!r}: role: {brief(who)} is not known; say whose turns these are, such as "
                     "import.roles={tool: user}, or leave them out: import.roles={tool: skip}")
    content = next(one[name] for name in ("content", "value", "text") if name in one)
    # A call of a tool goes where its results go.
    if role == SKIP or (content in (None, "") and one.get("tool_calls") and rules.roles.get("tool") == SKIP):
        return None
    return Message(role, content if isinstance(content, str) else _joined(content, where))


def _joined(parts: Any, where: str) -> str:
    """Content as a list of parts, of which all must be text."""
    if not isinstance(parts, list) or not parts:
        raise BadRow("message without text", f"column {where!r}: content holds no text: {brief(parts)}")
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, dict) and part.get("type", "text") in TEXT_PARTS else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise BadRow("message that is not text", f"column {where!r}: content holds a part that is not text: "
                                                     f"{brief(kind)}")
        texts.append(text)
    return "\n".join(texts)


def transcript(text: str, column: str, rules: Rules) -> tuple[Message, ...]:
    """The turns of a plain text. A turn begins where a line begins as one of the speakers'; two of one are joined."""
    turn, roles = _turns(tuple((rules.speakers or SPEAKERS).items()))
    marks = list(turn.finditer(text))
    before = text[: marks[0].start()] if marks else text
    chat: list[Message] = []
    if before.strip():
        if rules.opens is None:
            names = brief(", ".join(rules.speakers or SPEAKERS), quoted=False)
            raise BadRow("not a transcript", f"column {column!r}: a transcript begins with a speaker ({names}), this "
                                             f"with {brief(before.strip())}; import.speakers says who speaks how, "
                                             "and import.opens who speaks first without saying so")
        chat.append(Message(rules.opens, before.strip()))
    for place, mark in enumerate(marks):
        own = text[mark.end(): marks[place + 1].start() if place + 1 < len(marks) else None].strip()
        role = roles[mark.lastgroup or ""]
        if role == SKIP:
            continue
        if chat and chat[-1].role == role:
            own = f"{chat.pop().content}\n{own}".strip()
        chat.append(Message(role, own))
    return tuple(chat)


@lru_cache(maxsize=8)
def _turns(speakers: tuple[tuple[str, str], ...]) -> tuple[re.Pattern[str], dict[str, str]]:
    """A pattern with a named group for each speaker, and whose role each is. `/.../` is a regular expression."""
    groups = []
    for place, (opening, _) in enumerate(speakers):
        regex = len(opening) > 2 and opening[0] == opening[-1] == "/"
        groups.append(f"(?P<s{place}>{opening[1:-1] if regex else re.escape(opening)})")
    try:
        pattern = re.compile(f"(?m:^)[ \t]*(?:{'|'.join(groups)})")
    except re.error as error:
        raise RequestError(f"import.speakers: not a regular expression: {error}") from None
    return pattern, {f"s{place}": role for place, (_, role) in enumerate(speakers)}


def hh_transcript(row: Row, column: str) -> tuple[Message, ...]:
    text = row.need(column)
    if not isinstance(text, str):
        raise wrong(row.name(column), "a transcript", text)
    if row.rules.speakers:
        return transcript(text, row.name(column), row.rules)
    before, *turns = HH_TURN.split("\n\n" + text.lstrip())
    if before.strip() or not turns:
        raise BadRow("not a transcript", f"column {row.name(column)!r}: a transcript begins with \"\\n\\nHuman:\", "
                                         f"this with {brief(text)}")
    return tuple(Message("user" if who == "Human" else "assistant", own.strip())
                 for who, own in zip(turns[::2], turns[1::2], strict=True))


def continuation(row: Row, column: str, before: tuple[Message, ...]) -> str:
    """The one answer that follows `before`; a list of messages may repeat `before`, as many data sets do."""
    value = row.need(column)
    if isinstance(value, str):
        value = _cell(value)
    if isinstance(value, str):
        return not_empty(row, column, value)
    chat = chat_of(value, row.name(column), row.rules)
    without_system = tuple(m for m in before if m.role != "system")
    for repeated in (before, without_system):
        if chat[: len(repeated)] == repeated:
            chat = chat[len(repeated):]
            break
    if len(chat) != 1 or chat[0].role != "assistant":
        raise BadRow("not one answer", f"column {row.name(column)!r}: expected one message of the assistant's after "
                                       f"the prompt, got {', '.join(m.role for m in chat[:9]) or 'none'}")
    return not_empty(row, column, chat[0].content)


def not_empty(row: Row, column: str, answer: str) -> str:
    if not answer.strip():
        raise BadRow("empty answer", f"column {row.name(column)!r}: the answer is empty")
    return answer
