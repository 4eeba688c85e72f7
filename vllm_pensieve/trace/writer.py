"""Appends records to files beside the engine: a thread of its own, bounded memory, whole lines only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Full, Queue

import msgspec

from vllm_pensieve.trace.errors import TraceError

FLUSH_INTERVAL_S = 1.0
MAX_WAITING = 50_000
"""Records that may wait to be written; more are dropped and counted."""


class JsonLines:
    """A file of JSON lines that grows by whole lines, readable by the owner only.

    When it would outgrow max_bytes it is renamed (`NAME.1.jsonl`, `NAME.2.jsonl`, ...) and begun anew. A write is one
    system call of whole lines; only a process killed in the middle of that call can leave half a line at the end, which
    is cut off when the file is continued.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._waiting = bytearray()
        self._open()

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._bytes = _end_of_last_line(self._file)
        os.ftruncate(self._file, self._bytes)

    def append(self, line: bytes) -> None:
        """Add a line, without its end, to what the next flush writes."""
        self._waiting += line + b"\n"

    def flush(self) -> None:
        """Write what was appended. Raises OSError."""
        if not self._waiting:
            return
        if self._bytes and self._bytes + len(self._waiting) > self._max_bytes:
            self._rotate()
        written = os.write(self._file, self._waiting)
        self._bytes += written
        if written < len(self._waiting):  # no room left: take back the part of a line
            os.ftruncate(self._file, self._bytes - written)
            raise OSError(f"{self._path}: only {written} of {len(self._waiting)} bytes written")
        self._waiting.clear()

    def _rotate(self) -> None:
        os.close(self._file)
        number = 1
        while (aside := self._path.with_suffix(f".{number}.jsonl")).exists():
            number += 1
        self._path.rename(aside)
        self._open()

    def close(self) -> None:
        """Write the rest and close. Raises OSError."""
        try:
            self.flush()
        finally:
            os.close(self._file)


def _end_of_last_line(file: int) -> int:
    """Bytes up to and with the last line end."""
    end = os.fstat(file).st_size
    while end:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


class TraceWriter:
    """Writes PREFIX_requests.jsonl and PREFIX_blocks.jsonl.

    The engine hands over what makes a record, a function; the record itself is made and encoded in the writer's
    thread. Flushed every second and on `close`.

    dropped: records that found no place in the queue, or could not be written.
    """

    def __init__(self, prefix: str, max_bytes: int) -> None:
        """Raises TraceError if the files cannot be written."""
        self.dropped = 0
        self.failure: str | None = None
        self._queue: Queue[tuple[int, Callable[[], msgspec.Struct]] | None] = Queue(MAX_WAITING)
        base = Path(prefix)
        try:
            base.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files = [
                JsonLines(base.with_name(f"{base.name}_{kind}.jsonl"), max_bytes)
                for kind in ("requests", "blocks")
            ]
        except OSError as error:
            raise TraceError(f"the trace {prefix}_*.jsonl cannot be written: {error}") from error
        self._thread = threading.Thread(target=self._run, name="pensieve-trace", daemon=True)
        self._thread.start()

    def request(self, make_record: Callable[[], msgspec.Struct]) -> None:
        """Write a record of a request."""
        self._put(0, make_record)

    def block(self, make_record: Callable[[], msgspec.Struct]) -> None:
        """Write a record of a block."""
        self._put(1, make_record)

    def _put(self, file: int, make_record: Callable[[], msgspec.Struct]) -> None:
        try:
            self._queue.put_nowait((file, make_record))
        except Full:
            self.dropped += 1

    def _run(self) -> None:
        encoder = msgspec.json.Encoder()
        flush_at_s = time.monotonic() + FLUSH_INTERVAL_S
        while True:
            try:
                entry = self._queue.get(timeout=max(0.0, flush_at_s - time.monotonic()))
            except Empty:
                self._flush()
                flush_at_s = time.monotonic() + FLUSH_INTERVAL_S
                continue
            if entry is None:
                return
            file, make_record = entry
            self._files[file].append(encoder.encode(make_record()))
            if time.monotonic() >= flush_at_s:
                self._flush()
                flush_at_s = time.monotonic() + FLUSH_INTERVAL_S

    def _flush(self) -> None:
        for file in self._files:
            try:
                file.flush()
            except OSError as error:
                self.failure = str(error)
                self.dropped += file._waiting.count(b"\n")
                file._waiting.clear()

    def close(self) -> None:
        """Write everything that was handed over. Idempotent."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
            self._flush()
            for file in self._files:
                file.close()
