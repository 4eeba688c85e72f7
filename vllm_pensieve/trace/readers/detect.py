"""Tells the formats apart by the fields of one record."""

from __future__ import annotations

from typing import Any

import msgspec


def format_of_line(line: bytes) -> str | None:
    """The format whose fields this line has; None if it is none of them, or no JSON object."""
    try:
        record: Any = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(record, dict):
        return None
    if "requests" in record and "block_size" in record:
        return "kvct"
    if "hash_ids" not in record:
        return None
    if "chat_id" in record:
        return "bailian"
    return "pensieve" if "request_id" in record else "mooncake"
