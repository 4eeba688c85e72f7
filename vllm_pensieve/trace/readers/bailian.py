"""Qwen-Bailian: one request a line, usually with blocks of 16 tokens, timestamps in seconds, turns linked by parent."""

from __future__ import annotations

from vllm_pensieve.trace.readers.block_size import DeclaredSize
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import LineReader
from vllm_pensieve.trace.readers.records import BailianRecord

NAME = "bailian"


def read(lines: LineReader, builder: TraceBuilder) -> int | None:
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
