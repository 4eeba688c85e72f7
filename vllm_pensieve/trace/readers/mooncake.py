"""Mooncake: one request a line, blocks of 512 tokens, timestamps in milliseconds, no sessions."""

from __future__ import annotations

import numpy as np

from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import LineReader
from vllm_pensieve.trace.readers.records import MooncakeRecord

NAME = "mooncake"
BLOCK_TOKENS = 512


def read(lines: LineReader, builder: TraceBuilder) -> int:
    """Add the file's requests; return tokens of a block."""
    for _, record in lines.records(MooncakeRecord, NAME):
        builder.add(
            record.timestamp / 1000,
            np.array(record.hash_ids, np.int64),
            record.input_length,
            record.output_length,
        )
    return BLOCK_TOKENS
