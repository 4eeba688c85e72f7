"""Tells the formats apart by the fields of one record."""

from __future__ import annotations

from typing import Any

import msgspec

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not the JSON asked for."""
LENGTHS = ("input_length", "input_tokens")
TIMES = ("timestamp", "created_time", "delay", "delay_ms", "session_id")


def format_of_line(line: bytes) -> str | None:
    """The format whose fields this line has; None if it is none of them, or no JSON object."""
    try:
        record: Any = msgspec.json.decode(line)
    except UNREADABLE:
        return None
    if not isinstance(record, dict):
        return None
    if "requests" in record and "block_size" in record:
        return "kvct"
    if "hash_ids" not in record:
        timed = any(name in record for name in TIMES)
        return "mooncake" if timed and any(name in record for name in LENGTHS) else None
    if "chat_id" in record:
        return "bailian"
    own = "request_id" in record and isinstance(record.get("schema"), int)
    return "pensieve" if own else "mooncake"
