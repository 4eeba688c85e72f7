"""Appends records to files alongside the engine: a thread of its own, bounded memory, whole lines only."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, Full, Queue

import msgspec

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.files import JsonLines, cannot_be_written, trace_paths

logger = logging.getLogger("vllm.pensieve")

FLUSH_INTERVAL_S = 1.0
FLUSH_BYTES = 1 << 20
MAX_WAITING = 50_000
"""Handings-over that may wait to be written; more are dropped and counted."""

MakeRecord = Callable[[], msgspec.Struct]


class FirstLine(msgspec.Struct):
    """What a file that is continued says of its beginning: wall time of an arrival (s), and ms since the first one."""

    time: float
    timestamp: float


class TraceWriter:
    """Writes PREFIX_requests.jsonl and PREFIX_blocks.jsonl.

    The engine hands over what makes a record, a function; the record itself is made and encoded in the writer's
    thread. Flushed every second and on `close`.
    """

    def __init__(self, prefix: str, max_bytes: int) -> None:
        """Raises TraceError if the files cannot be written, or another process writes them."""
        self.failure: str | None = None
        self._found_no_place = 0  # counted by the engine's thread
        self._not_encoded = 0  # by the writer's
        self._closed = False
        self._process = os.getpid()
        self._queue: Queue[tuple[int, Sequence[MakeRecord]] | None] = Queue(MAX_WAITING)
        self._encoder = msgspec.json.Encoder()
        self._files: list[JsonLines] = []
        self._failing: set[JsonLines] = set()
        try:
            for path in trace_paths(prefix):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._files.append(JsonLines(path, max_bytes))
        except (OSError, TraceError) as error:
            for file in self._files:
                file.close()
            if isinstance(error, OSError):
                raise cannot_be_written(prefix, error) from error
            raise
        self.first_arrival_s = self._read_first_arrival()
        self._thread = threading.Thread(target=self._run, name="pensieve-trace", daemon=True)
        self._thread.start()

    def _read_first_arrival(self) -> float | None:
        """Wall time (s) that the timestamps of a file that is continued count from; None for a new one."""
        try:
            with self._files[0].path.open("rb") as file:
                first = msgspec.json.decode(file.readline(), type=FirstLine)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        return first.time - first.timestamp / 1000

    @property
    def dropped(self) -> int:
        """Records that found no place in the queue, could not be encoded or could not be written, so far."""
        return self._found_no_place + self._not_encoded + sum(file.lost for file in self._files)

    def request(self, make_record: MakeRecord) -> None:
        """Write a record of a request."""
        self._put(0, (make_record,))

    def blocks(self, make_records: Sequence[MakeRecord]) -> None:
        """Write records of blocks; together they take one place in the queue."""
        self._put(1, make_records)

    def _put(self, file: int, make_records: Sequence[MakeRecord]) -> None:
        try:
            self._queue.put_nowait((file, make_records))
        except Full:
            if not self._found_no_place:
                logger.warning("Pensieve: the trace writer has fallen behind; records are dropped")
            self._found_no_place += len(make_records)

    def _run(self) -> None:
        flush_at_s = time.monotonic() + FLUSH_INTERVAL_S
        while True:
            try:
                entry = self._queue.get(timeout=max(0.0, flush_at_s - time.monotonic()))
            except Empty:
                pass
            else:
                if entry is None:
                    return
                self._encode(*entry)
            if time.monotonic() >= flush_at_s:
                self._flush()
                flush_at_s = time.monotonic() + FLUSH_INTERVAL_S

    def _encode(self, index: int, make_records: Sequence[MakeRecord]) -> None:
        file = self._files[index]
        for make_record in make_records:
            try:
                file.append(self._encoder.encode(make_record()))
            except Exception as error:  # of one record, which must not end the trace
                if not self._not_encoded:
                    logger.exception("Pensieve: a record of the trace could not be made")
                self._not_encoded += 1
                self.failure = f"{type(error).__name__}: {error}"
            if file.waiting_bytes >= FLUSH_BYTES:
                self._flush()

    def _flush(self) -> None:
        for file in self._files:
            self._carry_out(file, file.flush)

    def _carry_out(self, file: JsonLines, write: Callable[[], None]) -> None:
        lost = file.lost
        try:
            write()
        except (OSError, TraceError) as error:
            self.failure = str(error)
            if file not in self._failing:
                logger.warning(
                    "Pensieve: the trace cannot be written; records are lost until it can be: %s: %s",
                    file.path,
                    error,
                )
            self._failing.add(file)
        else:
            if file in self._failing and file.lost == lost:
                logger.warning(
                    "Pensieve: the trace is being written again: %s; %d records were lost",
                    file.path,
                    file.lost,
                )
                self._failing.discard(file)

    def close(self) -> None:
        """Write everything that was handed over. Idempotent; without effect in a forked process."""
        if self._closed or os.getpid() != self._process:
            return
        self._closed = True
        self._queue.put(None)
        self._thread.join()
        for file in self._files:
            self._carry_out(file, file.close)
