"""What a record of a data set says: the forms of records, the names of roles, and the texts of messages.

A record is an object with a list of messages under one of LIST_KEYS, or such a list itself. Messages are
`{from, value}` or `{role, content}`; under `data` they may be bare texts, the user's and the reply in turn
(UltraChat). The user's side of a turn is every message since the last reply (tool results included, joined by
newlines); of a reply only its length is used, because the served model answers itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, pairwise

from vllm_pensieve.workloads.text import whole_characters

LIST_KEYS = ("conversations", "conversation", "messages", "traj", "items", "data")
ALTERNATING = "data"
REPLY, USER, SYSTEM = "reply", "user", "system"
ROLES = {
    USER: (
        "user", "human", "prompter", "tool", "function", "observation", "tool_response", "tool_result",
        "function_response", "function_result",
    ),
    REPLY: (
        "assistant", "gpt", "chatgpt", "bing", "bard", "claude", "model", "ai", "bot", "chatbot",
        "function_call", "tool_call", "tool_calls",
    ),
    SYSTEM: ("system", "developer"),
}  # fmt: skip
"""Names of roles by the side that speaks; they count in any case, and with a hyphen for the underscore."""
SIDE_OF_ROLE = {role: side for side, roles in ROLES.items() for role in roles}
CALLS = ("tool_calls", "function_call")
THOUGHTS = ("reasoning_content", "reasoning")
MILLISECONDS_FROM = 1e11
"""Numbers above this are times in milliseconds since 1970, those below in seconds."""


class BadRecord(ValueError):
    """What is wrong with one record."""


@dataclass(frozen=True)
class Dialogue:
    """One record: the system text or None, and (user text, reply text) per turn, neither of them blank.

    pauses_s: recorded seconds before each turn, None where they are not known (before the first, for one); empty
    if the record has no times. Where only replies have times, a pause is from one reply to the next and so includes
    the writing of the later one.
    """

    system: str | None
    turns: tuple[tuple[str, str], ...]
    pauses_s: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class _Message:
    side: str
    text: str
    time_s: float | None


def read_dialogue(record: object) -> Dialogue:
    """Return what a record says; turns without a question or without a reply are left out.

    Raises BadRecord saying what is wrong with it.
    """
    messages, bare = record, False
    if isinstance(record, Mapping):
        key = next((key for key in LIST_KEYS if key in record), None)
        if key is None:
            there = ", ".join(map(str, record)) or "nothing"
            raise BadRecord(f"has none of {', '.join(LIST_KEYS)}; it has {there}")
        messages, bare = record[key], key == ALTERNATING
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise BadRecord(f"is not a list of messages but {type(messages).__name__}")
    if bare and messages and all(isinstance(message, str) for message in messages):
        sides = (USER, REPLY)
        return _group([_Message(sides[i % 2], _clean(m), None) for i, m in enumerate(messages)])
    return _group([_message(index, message) for index, message in enumerate(messages)])


def _message(index: int, message: object) -> _Message:
    where = f"message {index}"
    if not isinstance(message, Mapping):
        raise BadRecord(f"{where} is not an object but {type(message).__name__}")
    role = message.get("from", message.get("role"))
    side = SIDE_OF_ROLE.get(str(role).strip().lower().replace("-", "_").replace(" ", "_"))
    if side is None:
        known = ", ".join(SIDE_OF_ROLE)
        raise BadRecord(f"{where} has the unknown role {role!r} (known: {known})")
    return _Message(side, _clean(_text(where, message)), _time_s(message.get("timestamp")))


def _text(where: str, message: Mapping[str, object]) -> str:
    """What a message says, and the calls of tools in it; where it says nothing, what was thought."""
    content = next((message[key] for key in ("value", "content") if key in message), None)
    calls = [message[key] for key in CALLS if message.get(key) is not None]
    thoughts = [message[key] for key in THOUGHTS if isinstance(message.get(key), str)]
    if isinstance(content, str):
        said = content
    elif isinstance(content, Sequence):
        said = _joined_parts(content)
    elif content is None and (calls or thoughts):
        said = ""
    else:
        raise BadRecord(f"{where} has no text: {type(content).__name__} instead of a string")
    parts = [said, *(json.dumps(call, default=str) for call in calls if call)]
    spoken = "\n".join(part for part in parts if part.strip())
    return spoken or "\n".join(map(str, thoughts))


def _joined_parts(content: Sequence[object]) -> str:
    """The texts of a message in parts."""
    parts = [
        part.get("text") or part.get("value") if isinstance(part, Mapping) else part
        for part in content
    ]
    return "\n".join(
        part if isinstance(part, str) else json.dumps(part, default=str) for part in parts if part
    )


def _clean(text: str) -> str:
    return whole_characters(text)


def _time_s(value: object) -> float | None:
    """A time in seconds since 1970: ISO 8601 (UTC where no zone stands), or a number; None if it is neither."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value / 1000 if value > MILLISECONDS_FROM else float(value)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return None


def _group(messages: Sequence[_Message]) -> Dialogue:
    """Join the messages of each side that follow each other.

    Replies before the first user message, an unanswered end, and blank turns are left out.
    """
    system = [m.text for m in messages if m.side == SYSTEM and m.text.strip()]
    spoken = [message for message in messages if message.side != SYSTEM]
    runs = [list(run) for _, run in groupby(spoken, key=lambda message: message.side)]
    turns: list[tuple[str, str]] = []
    pauses_s: list[float | None] = []
    last_reply_s: float | None = None
    for asked, replied in pairwise(runs):
        question, reply = _joined(asked), _joined(replied)
        if asked[0].side != USER or not question or not reply:
            continue
        replied_s = replied[-1].time_s
        begun_s = replied_s if asked[-1].time_s is None else asked[-1].time_s
        known = turns and begun_s is not None and last_reply_s is not None
        pauses_s.append(max(0.0, begun_s - last_reply_s) if known else None)  # type: ignore[operator]
        turns.append((question, reply))
        last_reply_s = replied_s
    timed = any(pause is not None for pause in pauses_s)
    return Dialogue("\n".join(system) or None, tuple(turns), tuple(pauses_s) if timed else ())


def _joined(messages: Sequence[_Message]) -> str:
    return "\n".join(message.text for message in messages if message.text.strip())
