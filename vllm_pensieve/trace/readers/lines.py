"""Lines of a plain or gzipped file, with their numbers, and what is done about bad ones."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar, cast

import msgspec
from msgspec import UNSET

from vllm_pensieve.trace.errors import TraceError
from vllm_pensieve.trace.readers.detect import format_of_line

GZIP_MAGIC = b"\x1f\x8b"
FOREIGN_MARKS = ("not_if_request_id", "not_if_chat_id")
Record = TypeVar("Record")


class BadLine(ValueError):
    """What is wrong with one line."""


class LineReader:
    """Reads one file line by line; bad lines are noted in `skipped`, or stop the reading if `strict`."""

    def __init__(self, path: Path, strict: bool) -> None:
        self.path = path
        self.skipped: list[str] = []
        self._strict = strict

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Number from 1 and content of every line that is not blank.

        Raises:
            TraceError: the file cannot be read, or its gzip stream is damaged.
        """
        number = 0
        try:
            with self._open() as file:
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        yield number, line
        except EOFError as error:
            raise TraceError(
                f"{self.path}: the gzip stream ends too early, after {number} lines; "
                "the file is truncated, copy it again"
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(
                f"{self.path}: the gzip stream is damaged after {number} lines: {error}"
            ) from error
        except OSError as error:
            raise TraceError(f"{self.path}: cannot be read: {error.strerror}") from error

    def _open(self) -> IO[bytes]:
        with self.path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
        return cast(IO[bytes], gzip.open(self.path) if packed else self.path.open("rb"))

    def bad(self, number: int, reason: str) -> None:
        """Note a bad line. TraceError if reading is strict."""
        text = f"line {number}: {reason}"
        if self._strict:
            raise TraceError(f"{self.path}: {text}")
        self.skipped.append(text)

    def records(self, kind: type[Record], format_name: str) -> Iterator[tuple[int, Record]]:
        """Number and record of every line that holds one; others are noted.

        Raises:
            TraceError: a line is of another format.
        """
        decoder = msgspec.json.Decoder(kind)
        for number, line in self:
            try:
                record = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if format_of_line(line) not in (None, format_name):
                    self._refuse_mixture(number, format_name)
                self.bad(number, str(error))
                continue
            if any(getattr(record, mark, UNSET) is not UNSET for mark in FOREIGN_MARKS):
                self._refuse_mixture(number, format_name)
            yield number, record

    def _refuse_mixture(self, number: int, format_name: str) -> None:
        raise TraceError(
            f"{self.path}: line {number} is of another format than {format_name}; give each format a file of its own"
        )
