"""Conversations from a dataset: ShareGPT form and its relatives; files are JSON or JSON lines, plain or
gzip.

A record is an object with `conversations` ([{from, value}]), `messages` or `traj` ([{role,
content}]), or such a list itself. The user's side of a turn is every message since the last reply
(tool results included, joined by newlines); of a reply only its length is used, because the served
model answers itself.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_pensieve.workloads.conversations import Conversation, Turn, draw_think_time
from vllm_pensieve.workloads.errors import UsageError

LIST_KEYS = ("conversations", "messages", "traj")
REPLY_ROLES = ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "function_call")
USER_ROLES = ("user", "human", "tool", "function", "observation")
SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True)
class Dialogue:
    """One record: the system text or None, and (user text, reply text) per turn."""

    system: str | None
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DatasetLimits:
    """How much of a dataset is used. None: no limit of that kind."""

    sessions: int
    turns: int | None
    output_tokens: int | None
    think_time_s: float
    max_context_tokens: int
    message_overhead_tokens: int
    min_turns: int = 1
    """Conversations with fewer turns, or room for fewer, are left out."""
    max_output_tokens: int | None = None
    """Longer replies are cut to this length."""


@dataclass(frozen=True)
class DatasetSample:
    """The conversations taken from a dataset, and what was left out of them."""

    conversations: list[Conversation]
    records: int
    without_turns: int
    """Records that hold no user message followed by a reply."""
    too_few_turns: int
    """Records with turns, but fewer than asked for."""
    cut_turns: int
    """Turns left out because the conversation would outgrow the context."""


def load_dialogues(path: Path) -> list[Dialogue]:
    """Return one dialogue per record.

    Raises UsageError naming the file, and the record (from 0) or the line (from 1).
    """
    return read_dialogues(str(path), _parse(path, _read(path)))


def read_dialogues(source: str, records: Iterable[object]) -> list[Dialogue]:
    """Return one dialogue per record; `source` says where they are from.

    Raises UsageError naming the source and the record (from 0).
    """
    dialogues = [_dialogue(source, number, record) for number, record in enumerate(records)]
    if not dialogues:
        raise UsageError(f"{source}: the dataset is empty")
    return dialogues


def sample_dataset(
    source: str,
    dialogues: Sequence[Dialogue],
    limits: DatasetLimits,
    seed: int,
    count: Callable[[str], int],
) -> DatasetSample:
    """Draw conversations in an order given by the seed.

    `source` says where the dialogues are from; `count` counts the tokens of a text. Raises UsageError
    if none can be used.
    """
    spoken = [dialogue for dialogue in dialogues if dialogue.turns]
    usable = [dialogue for dialogue in spoken if len(dialogue.turns) >= limits.min_turns]
    random.Random(f"{seed}/order").shuffle(usable)
    conversations: list[Conversation] = []
    cut_turns = 0
    for dialogue in usable:
        if len(conversations) == limits.sessions:
            break
        wanted = (
            len(dialogue.turns) if limits.turns is None else min(limits.turns, len(dialogue.turns))
        )
        conversation = _conversation(
            dialogue, limits, f"session-{seed}-{len(conversations)}", count
        )
        if len(conversation.turns) >= limits.min_turns:
            conversations.append(conversation)
            cut_turns += wanted - len(conversation.turns)
    if not conversations:
        raise UsageError(f"{source}: {_why_none(len(dialogues), spoken, usable, limits)}")
    return DatasetSample(
        conversations,
        len(dialogues),
        len(dialogues) - len(spoken),
        len(spoken) - len(usable),
        cut_turns,
    )


def _why_none(
    records: int, spoken: Sequence[Dialogue], usable: Sequence[Dialogue], limits: DatasetLimits
) -> str:
    none = f"none of its {records} records"
    if not spoken:
        return f"{none} has a user message with a reply"
    turns = f"{limits.min_turns} turns" if limits.min_turns > 1 else "a turn"
    if not usable:
        longest = max(len(dialogue.turns) for dialogue in spoken)
        return f"{none} has {turns}; the longest has {longest}"
    room = f"({limits.max_context_tokens} tokens at most)"
    if limits.min_turns > 1:
        return f"{none} has {turns} that fit the context {room}"
    return f"{none} fits the context {room}"


def _conversation(
    dialogue: Dialogue, limits: DatasetLimits, session_id: str, count: Callable[[str], int]
) -> Conversation:
    """As many turns of the dialogue as the limits leave room for; maybe none."""
    rng = random.Random(session_id)
    system_tokens = count(dialogue.system) if dialogue.system else 0
    conversation = Conversation(session_id, (), dialogue.system, system_tokens)
    for text, reply in dialogue.turns[: limits.turns]:
        output_tokens = limits.output_tokens or max(1, count(reply))
        if limits.max_output_tokens is not None:
            output_tokens = min(output_tokens, limits.max_output_tokens)
        turn = Turn(text, count(text), output_tokens, draw_think_time(rng, limits.think_time_s))
        longer = Conversation(
            session_id, (*conversation.turns, turn), dialogue.system, system_tokens
        )
        if longer.context_tokens(limits.message_overhead_tokens) > limits.max_context_tokens:
            break
        conversation = longer
    return conversation


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text: byte {error.start}") from error


def _parse(path: Path, text: str) -> list[object]:
    """The records of a JSON list, of one JSON object, or of JSON lines."""
    if not text.strip():
        return []
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except json.JSONDecodeError as error:
        if text.lstrip()[0] == "[":
            raise UsageError(
                f"{path}: malformed JSON at line {error.lineno}: {error.msg}"
            ) from error
    records = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}: malformed JSON at line {number}: {error.msg}") from error
    return records


def _dialogue(source: str, number: int, record: object) -> Dialogue:
    where = f"{source}: record {number}"
    messages = record
    if isinstance(record, dict):
        key = next((key for key in LIST_KEYS if key in record), None)
        if key is None:
            raise UsageError(
                f"{where} has none of {', '.join(LIST_KEYS)}; it has {', '.join(map(str, record)) or 'nothing'}"
            )
        messages = record[key]
    if not isinstance(messages, list):
        raise UsageError(f"{where} is not a list of messages but {type(messages).__name__}")
    pairs = [
        _role_and_text(f"{where}, message {index}", message)
        for index, message in enumerate(messages)
    ]
    return _group(pairs)


def _role_and_text(where: str, message: object) -> tuple[str, str]:
    """("system" | "user" | "reply", text) of one message."""
    if not isinstance(message, dict):
        raise UsageError(f"{where} is not an object but {type(message).__name__}")
    role = message.get("from", message.get("role"))
    text = message.get("value", message.get("content"))
    for name, roles in (("reply", REPLY_ROLES), ("user", USER_ROLES), ("system", SYSTEM_ROLES)):
        if role in roles:
            return name, _text(where, text, message)
    raise UsageError(
        f"{where} has the unknown role {role!r} (known: {', '.join(USER_ROLES + REPLY_ROLES + SYSTEM_ROLES)})"
    )


def _text(where: str, content: object, message: dict[str, object]) -> str:
    """The text of a message: a string, a list of parts, or the tool calls that stand for it."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [
            part.get("text") or part.get("value") for part in content if isinstance(part, dict)
        ]
        return "\n".join(
            part if isinstance(part, str) else json.dumps(part) for part in parts if part
        )
    if content is None and (message.get("tool_calls") or message.get("function_call")):
        return json.dumps(message.get("tool_calls") or message.get("function_call"))
    raise UsageError(f"{where} has no text: {type(content).__name__} instead of a string")


def _group(pairs: list[tuple[str, str]]) -> Dialogue:
    """Join the messages of each side; replies before the first user message and an unanswered end
    are left out.
    """
    system: list[str] = []
    asked: list[str] = []
    turns: list[tuple[str, str]] = []
    for index, (role, text) in enumerate(pairs):
        if role == "system":
            system.append(text)
        elif role == "user":
            asked.append(text)
        elif asked:
            turns.append(("\n".join(asked), text))
            asked = []
        elif turns and index and pairs[index - 1][0] == "reply":
            turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n{text}")
    return Dialogue("\n".join(system) or None, tuple(turns))
