"""Our own PREFIX_requests.jsonl: Mooncake's fields, and session and workload; one run of a server after the other."""

from __future__ import annotations

import re
from collections.abc import Hashable

from vllm_pensieve.trace.errors import TraceError
from vllm_pensieve.trace.files import REQUESTS_SUFFIX as REQUESTS_SUFFIX
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import LineReader
from vllm_pensieve.trace.readers.records import PensieveRecord

NAME = "pensieve"
SAME_RUN_S = 1e-3
"""How far the beginnings that two lines of one run imply may differ: of rounding."""
BLOCK_IN_NAME = re.compile(r"_b(\d+)_requests\.jsonl")


def read(lines: LineReader, builder: TraceBuilder) -> int | None:
    """Add the file's requests; return tokens of a block, from the records or else from the file's name."""
    sizes = set()
    runs = Runs()
    for number, record in lines.records(PensieveRecord, NAME):
        sizes.add(record.block_tokens)
        if len(sizes) > 1:
            raise TraceError(
                f"{lines.path}: line {number} has blocks of {record.block_tokens} tokens, earlier lines have others; "
                "give each block size a file of its own"
            )
        if record.choice:  # the prompt of another line once more, within one request
            continue
        run, begun_s = runs.of(record)
        builder.add(
            begun_s + record.timestamp / 1000,
            record.hash_ids,
            record.input_length,
            record.output_length,
            session=None if record.session_id is None else (run, record.session_id),
            workload=record.workload,
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

    def of(self, record: PensieveRecord) -> tuple[Hashable, float]:
        """The run of a line, and how long after the file's first one it began to count, in s."""
        if record.time is None:
            return record.run, 0.0
        implied_s = record.time - record.timestamp / 1000
        number = next(
            (
                number
                for number, beginning_s in enumerate(self._beginnings_s)
                if abs(implied_s - beginning_s) < SAME_RUN_S
            ),
            len(self._beginnings_s),
        )
        if number == len(self._beginnings_s):
            self._beginnings_s.append(implied_s)
        begun_s = 0.0 if number == 0 else self._beginnings_s[number] - self._beginnings_s[0]
        return (number if record.run is None else record.run), begun_s
