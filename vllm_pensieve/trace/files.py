"""Files of JSON lines that grow by whole lines only, whatever becomes of the disk or of the file's name."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from pathlib import Path

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.parts import next_part

REQUESTS_SUFFIX = "_requests.jsonl"
BLOCKS_SUFFIX = "_blocks.jsonl"
BEGINNING = b'{"schema":'
OURS = re.compile(rb'\{"schema":\s*\d+,')
"""How every line of ours begins: a file whose first line begins otherwise is somebody else's."""


class JsonLines:
    """A file of JSON lines that grows by whole lines, readable by the owner only and written by one process at a time.

    A file that would outgrow max_bytes is renamed (`NAME.1.jsonl`, `NAME.2.jsonl`, ...) and begun anew, as is one that
    was deleted or renamed by others. A process killed in the middle of a write can leave half a line at the end, which
    is cut off when the file is continued.

    lost: lines that could not be written.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Raises OSError, and TraceError if the file is another process's or no trace of ours."""
        self.lost = 0
        self.path = path
        self.waiting_bytes = 0
        self._max_bytes = max_bytes
        self._waiting: list[bytes] = []
        self._torn = False  # half a line is at the end, which could not be taken back
        self._file = open_to_continue(path)

    def append(self, line: bytes) -> None:
        """Add a line, without its end, to what the next flush writes."""
        self._waiting.append(line + b"\n")
        self.waiting_bytes += len(line) + 1

    def flush(self) -> None:
        """Write what was appended. Raises OSError or TraceError; what could not be written then counts as lost."""
        if not self._waiting:
            return
        lines, self._waiting, self.waiting_bytes = self._waiting, [], 0
        data = b"".join(lines)
        written = 0
        try:
            self._make_ready(len(data))
            start = os.fstat(self._file).st_size
            written, error = _write(self._file, data)
            if error is not None:
                written = self._take_back_half_a_line(data, start, written)
                raise error
        finally:
            self.lost += len(lines) - data.count(b"\n", 0, written)

    def _make_ready(self, coming_bytes: int) -> None:
        if self._is_elsewhere():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._continue_in(open_to_continue(self.path))
        size = os.fstat(self._file).st_size
        if size and size + coming_bytes > self._max_bytes:
            self._rotate()
        if self._torn and size:
            _, error = _write(self._file, b"\n")
            if error is not None:
                raise error
            self._torn = False

    def _is_elsewhere(self) -> bool:
        """Whether the file was deleted, or renamed, since it was opened."""
        try:
            there = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return True
        ours = os.fstat(self._file)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _rotate(self) -> None:
        self.path.rename(next_part(self.path))
        self._continue_in(open_to_continue(self.path))

    def _continue_in(self, file: int) -> None:
        # The old file is closed only now: until the new one is open, no number is held that is not ours.
        old, self._file, self._torn = self._file, file, False
        os.close(old)

    def _take_back_half_a_line(self, data: bytes, start: int, written: int) -> int:
        """Cut the file, which ended at `start`, after the last whole line that was written; return its bytes."""
        whole = data.rfind(b"\n", 0, written) + 1
        self._torn = whole < written
        if self._torn and os.fstat(self._file).st_size == start + written:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, start + whole)
                self._torn = False
        return whole

    def close(self) -> None:
        """Write the rest and close. Raises as `flush`."""
        try:
            self.flush()
        finally:
            os.close(self._file)


def check_place(prefix: str) -> None:
    """Refuse a trace that could not be written now; where it could be, nothing is left but its folder.

    Raises:
        TraceError: names the file and what is wrong with it.
    """
    try:
        for path in trace_paths(prefix):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            new = not path.exists()
            os.close(open_to_continue(path))
            if new:
                path.unlink()
    except OSError as error:
        raise cannot_be_written(prefix, error) from error


def engine_prefix(prefix: str, engine: int) -> str:
    """The prefix of one of several engines (data parallel), by its number from 0."""
    return f"{prefix}_engine{engine}" if engine else prefix


def trace_paths(prefix: str) -> tuple[Path, Path]:
    """The files of requests and of blocks."""
    return Path(f"{prefix}{REQUESTS_SUFFIX}"), Path(f"{prefix}{BLOCKS_SUFFIX}")


def cannot_be_written(prefix: str, error: OSError) -> TraceError:
    """The error that says so."""
    return TraceError(
        f"the trace {prefix}_*.jsonl cannot be written: {error}; choose another trace_prefix"
    )


def open_to_continue(path: Path) -> int:
    """Open a file of ours, or a new one, after its last whole line, with a lock against other processes.

    Raises:
        OSError: it cannot be opened.
        TraceError: it is no file, is being written by another process, or holds something else.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise TraceError(f"{path} is not a regular file; choose another trace_prefix")
        _lock(file, path)
        first = os.pread(file, 64, 0)
        if first and not _is_ours(first):
            raise TraceError(
                f"{path} is there already and is not a trace of this plugin; choose another trace_prefix, or move it"
            )
        _cut_off_half_a_line(file)
    except BaseException:
        os.close(file)
        raise
    return file


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise TraceError(
            f"{path} is being written by another engine; give each server a trace_prefix of its own"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise  # else the file system has no locks


def _is_ours(start_of_line: bytes) -> bool:
    if len(start_of_line) < len(BEGINNING) + 2:
        return BEGINNING.startswith(start_of_line[: len(BEGINNING)])
    return OURS.match(start_of_line) is not None


def _cut_off_half_a_line(file: int) -> None:
    """Cut what follows the last line end, which a process that was killed left there."""
    size = os.fstat(file).st_size
    end = _end_of_last_line(file, size)
    if end == size:
        return
    if _is_ours(os.pread(file, 64, end)):
        os.ftruncate(file, end)
    else:  # somebody else's, so it stays, as a line of its own
        os.write(file, b"\n")


def _end_of_last_line(file: int, size: int) -> int:
    """Bytes up to and with the last line end."""
    end = size
    while end:
        start = max(0, end - 65536)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _write(file: int, data: bytes) -> tuple[int, OSError | None]:
    """Bytes written, and why not all were."""
    written = 0
    view = memoryview(data)
    while written < len(data):
        try:
            count = os.write(file, view[written:])
        except OSError as error:
            return written, error
        if not count:
            return written, OSError(errno.EIO, "nothing was written")
        written += count
    return written, None
