"""Our own PREFIX_requests.jsonl: Mooncake's fields, and session and workload; one run of a server after the other."""

from __future__ import annotations

import re
from collections.abc import Hashable
from datetime import UTC, datetime
from typing import Any

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import Records
from vllm_pensieve.trace.records import RequestRecord
from vllm_pensieve.trace.served import Measured

NAME = "pensieve"
SAME_RUN_S = 1e-3
"""How far the beginnings that two lines of one run imply may differ: of rounding."""
BLOCK_IN_NAME = re.compile(r"_b(\d+)_requests\.")


def matches(fields: dict[str, Any]) -> bool:
    """Whether a record is a request that this plugin recorded."""
    return "hash_ids" in fields and "request_id" in fields and isinstance(fields.get("schema"), int)


def read(lines: Records, builder: TraceBuilder) -> int | None:
    """Add the file's requests; return tokens of a block, from the records or else from the file's name."""
    sizes = set()
    runs = Runs()
    further_choices = 0
    for number, record in lines.records(RequestRecord, NAME):
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
        if record.choice:
            further_choices += 1
            continue
        run, begun_s = runs.of(record)
        builder.add(
            begun_s + record.timestamp / 1000,
            record.hash_ids,
            record.input_length,
            record.output_length,
            session=None if record.session_id is None else (run, record.session_id),
            workload=record.workload,
            measured=Measured.of(record),
        )
    if further_choices:
        builder.notes.append(
            f"{further_choices:,} lines are further choices of a request (n above 1, or a beam search), which repeat "
            "its prompt, and are left out"
        )
    if len(runs) > 1:
        builder.notes.append(
            f"the server was started {len(runs)} times: sessions and blocks of different starts count as different ones"
        )
    told = next(iter(sizes), None)
    named = BLOCK_IN_NAME.search(lines.path.name)
    return told or (int(named[1]) if named else None)


class Runs:
    """Tells the runs of a server apart that stand in one file, and puts their times one after the other.

    Lines of schema 1 do not name their run, and their timestamps begin at 0 with each; but `time` less `timestamp` is
    the same for all lines of one.
    """

    def __init__(self) -> None:
        self._beginnings_s: list[float] = []
        self._known: set[Hashable] = set()

    def of(self, record: RequestRecord) -> tuple[Hashable, float]:
        """The run of a line, and how long after the file's first one it began to count, in s."""
        number, begun_s = self._beginning(record)
        run = number if record.run is None else record.run
        self._known.add(run)
        return run, begun_s

    def _beginning(self, record: RequestRecord) -> tuple[int, float]:
        if record.time is None:
            return 0, 0.0
        implied_s = record.time - record.timestamp / 1000
        for number, beginning_s in enumerate(self._beginnings_s):
            if abs(implied_s - beginning_s) < SAME_RUN_S:
                return number, beginning_s - self._beginnings_s[0] if number else 0.0
        self._beginnings_s.append(implied_s)
        return len(self._beginnings_s) - 1, implied_s - self._beginnings_s[0]

    def __len__(self) -> int:
        return len(self._known)


def _day(time_s: Any) -> str | None:
    """The UTC day of seconds since 1970; None if they cannot be that."""
    if not isinstance(time_s, int | float):
        return None
    try:
        return datetime.fromtimestamp(time_s, UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return None
