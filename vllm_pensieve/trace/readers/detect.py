"""Tells the formats apart by the fields of one record."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_pensieve.trace.formats import FORMATS
from vllm_pensieve.trace.readers.lines import UNREADABLE


def format_of_line(line: bytes) -> str | None:
    """The format whose fields this line has; None if it is none of them, or no JSON object."""
    try:
        fields: Any = msgspec.json.decode(line)
    except UNREADABLE:
        return None
    if not isinstance(fields, dict):
        return None
    return next((one.name for one in FORMATS.values() if one.reader().matches(fields)), None)
