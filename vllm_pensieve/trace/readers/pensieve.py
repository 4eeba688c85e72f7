"""Our own PREFIX_requests.jsonl: Mooncake's fields, and session and workload."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np

from vllm_pensieve.trace.errors import TraceError
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import LineReader
from vllm_pensieve.trace.readers.records import PensieveRecord

NAME = "pensieve"
REQUESTS_SUFFIX = "_requests.jsonl"
BLOCK_IN_NAME = re.compile(r"_b(\d+)_requests\.jsonl")


def read(lines: LineReader, builder: TraceBuilder) -> int | None:
    """Add the file's requests; return tokens of a block, from the records or else from the file's name."""
    sizes = set()
    for number, record in lines.records(PensieveRecord, NAME):
        sizes.add(record.block_tokens)
        if builder.model is None and isinstance(record.model, str):
            builder.model = record.model
        if builder.recorded_on is None:
            builder.recorded_on = _day(record.time)
        if len(sizes) > 1:
            raise TraceError(
                f"{lines.path}: line {number} has blocks of {record.block_tokens} tokens, earlier lines have others; "
                "give each block size a file of its own"
            )
        builder.add(
            record.timestamp / 1000,
            np.array(record.hash_ids, np.int64),
            record.input_length,
            record.output_length,
            session=record.session_id,
            workload=record.workload,
        )
    told = next(iter(sizes), None)
    named = BLOCK_IN_NAME.search(lines.path.name)
    return told or (int(named[1]) if named else None)


def _day(time_s: Any) -> str | None:
    """The UTC day of seconds since 1970; None if they cannot be that."""
    if not isinstance(time_s, int | float):
        return None
    try:
        return datetime.fromtimestamp(time_s, UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return None
