"""Mooncake: one request a line, usually with blocks of 512 tokens, timestamps in milliseconds.

A turn of a session that has no timestamp comes `delay` after the one before it; a line without any time comes with the
line before it. Each line holds its whole prompt.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from vllm_pensieve.trace.readers.block_size import DeclaredSize
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import MARKS, Records
from vllm_pensieve.trace.records import MOST_TOKENS, BlockId, Size, Time

NAME = "mooncake"
LENGTHS = ("input_length", "input_tokens")
TIMES = ("timestamp", "created_time", "delay", "delay_ms", "session_id")
Length = Annotated[float, Meta(ge=0, le=MOST_TOKENS)]
"""A count that tools with columns of floats write as 1024.0."""


class MooncakeRecord(Struct, gc=False, rename=MARKS):
    """timestamp, created_time, delay, delay_ms: ms. Each pair of names means one thing; all of them may be absent.

    delay: from the previous turn of the session. hash_ids: of the whole prompt; None: nothing is known of its blocks.
    """

    timestamp: Time | None = None
    created_time: Time | None = None
    delay: Time | None = None
    delay_ms: Time | None = None
    input_length: Length | None = None
    input_tokens: Length | None = None
    output_length: Length | None = None
    output_tokens: Length | None = None
    hash_ids: list[BlockId] | None = None
    session_id: int | str | None = None
    block_size: Size | None = None
    block_tokens: Size | None = None
    trace_block_size: Size | None = None
    not_if_schema: Any | UnsetType = UNSET
    not_if_chat_id: Any | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.hash_ids is None and self.input_length is None and self.input_tokens is None:
            raise ValueError("a request has neither hash_ids nor input_length")


def matches(fields: dict[str, Any]) -> bool:
    """Whether a record has blocks, or a length and a time. Richer formats have the same fields and come before this."""
    if "hash_ids" in fields:
        return True
    return any(name in fields for name in LENGTHS) and any(name in fields for name in TIMES)


def read(lines: Records, builder: TraceBuilder) -> int | None:
    """Add the file's requests; return the tokens of a block that the records declare."""
    declared = DeclaredSize(lines)
    clock = _Clock()
    turns = _Turns()
    for number, record in lines.records(MooncakeRecord, NAME):
        declared.add(number, record)
        turns.add(record)
        builder.add(
            clock.time_s(record),
            record.hash_ids,
            _first(record.input_length, record.input_tokens),
            _first(record.output_length, record.output_tokens) or 0,
            session=record.session_id,
        )
    if len(builder) and not clock.has_times:
        builder.notes.append("no line has a time; requests come in the order of the file")
    builder.notes += turns.notes()
    return declared.tokens


def _first(value: float | None, other: float | None) -> float | None:
    return other if value is None else value


class _Clock:
    """When each request comes, from its timestamp, or the delay after its session's turn before."""

    def __init__(self) -> None:
        self.has_times = False
        self._latest_s = 0.0
        self._turn_s: dict[int | str, float] = {}

    def time_s(self, record: MooncakeRecord) -> float:
        timestamp = _first(record.timestamp, record.created_time)
        delay = _first(record.delay, record.delay_ms)
        self.has_times |= timestamp is not None or delay is not None
        time_s = self._latest_s
        if timestamp is not None:
            time_s = timestamp / 1000
        elif record.session_id in self._turn_s:
            time_s = self._turn_s[record.session_id] + (delay or 0.0) / 1000
        if record.session_id is not None:
            self._turn_s[record.session_id] = time_s
        self._latest_s = time_s
        return time_s


class _Turns:
    """Whether later turns of a session begin as the ones before them, as whole prompts do."""

    def __init__(self) -> None:
        self._first_block: dict[int | str, BlockId] = {}
        self._later = 0
        self._apart = 0

    def add(self, record: MooncakeRecord) -> None:
        if record.session_id is None or not record.hash_ids:
            return
        before = self._first_block.get(record.session_id)
        if before is not None:
            self._later += 1
            self._apart += before != record.hash_ids[0]
        self._first_block[record.session_id] = record.hash_ids[0]

    def notes(self) -> list[str]:
        if 2 * self._apart <= self._later:
            return []
        return [
            f"{self._apart:,} of {self._later:,} later turns do not begin as the turn before them: if these lines hold "
            "only what is new in a turn, reuse is underestimated, since each is read as a whole prompt"
        ]
