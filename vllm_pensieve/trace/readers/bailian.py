"""Qwen-Bailian: one request a line, usually with blocks of 16 tokens, timestamps in seconds, turns linked by parent."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from vllm_pensieve.trace.readers.block_size import DeclaredSize
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import MARKS, Records
from vllm_pensieve.trace.records import BlockId, Count, Size, Time

NAME = "bailian"


class BailianRecord(Struct, gc=False, rename=MARKS):
    """timestamp: s. A conversation is a chain of parent_chat_id, -1 at its start."""

    chat_id: int | str
    timestamp: Time
    input_length: Count
    output_length: Count
    hash_ids: list[BlockId]
    parent_chat_id: int | str | None = -1
    type: str | None = None
    block_size: Size | None = None
    block_tokens: Size | None = None
    trace_block_size: Size | None = None
    not_if_schema: Any | UnsetType = UNSET


def matches(fields: dict[str, Any]) -> bool:
    """Whether a record is a chat that names its blocks."""
    return "hash_ids" in fields and "chat_id" in fields


def read(lines: Records, builder: TraceBuilder) -> int | None:
    """Add the file's requests; return the tokens of a block that the records declare.

    A session is named by its first chat in the file.
    """
    declared = DeclaredSize(lines)
    session_of: dict[int | str | None, int | str] = {}
    for number, record in lines.records(BailianRecord, NAME):
        declared.add(number, record)
        session = session_of.get(record.parent_chat_id, record.chat_id)
        session_of[record.chat_id] = session
        builder.add(
            record.timestamp,
            record.hash_ids,
            record.input_length,
            record.output_length,
            session=session,
            workload=record.type,
        )
    return declared.tokens
