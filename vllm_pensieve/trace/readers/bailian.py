"""Qwen-Bailian: one request a line, blocks of 16 tokens, timestamps in seconds, turns linked by parent."""

from __future__ import annotations

import numpy as np

from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import LineReader
from vllm_pensieve.trace.readers.records import BailianRecord

NAME = "bailian"
BLOCK_TOKENS = 16


def read(lines: LineReader, builder: TraceBuilder) -> int:
    """Add the file's requests; return tokens of a block. A session is named by its first chat in the file."""
    session_of: dict[int, int] = {}
    for _, record in lines.records(BailianRecord, NAME):
        session = session_of.get(record.parent_chat_id, record.chat_id)
        session_of[record.chat_id] = session
        builder.add(
            record.timestamp,
            np.array(record.hash_ids, np.int64),
            record.input_length,
            record.output_length,
            session=session,
            workload=record.type,
        )
    return BLOCK_TOKENS
