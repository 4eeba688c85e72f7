"""Records of a plain or gzipped file, with their numbers, and what is done about bad ones."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar, cast

import msgspec
from msgspec import UNSET

from vllm_pensieve.errors import TraceError

GZIP_MAGIC = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are not the JSON asked for."""
MARKS = {"not_if_schema": "schema", "not_if_chat_id": "chat_id"}
"""Fields that show a record to be of a format with more fields, in which they mean something else."""
Record = TypeVar("Record")
FormatOf = Callable[[bytes], str | None]
"""Names the format of one line; None if it is of no known one."""


class Records(Protocol):
    """What readers of formats read: the records of one file, or of several.

    skipped: a text for each bad record; count: records met by `records` so far.
    """

    path: Path
    skipped: list[str]
    count: int

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Number from 1 within its file and content of every record that is not blank."""
        ...

    def bad(self, number: int, reason: str) -> None:
        """Note a bad record. TraceError if reading is strict."""

    def records(self, kind: type[Record], format_name: str) -> Iterator[tuple[int, Record]]:
        """Number and record of everything that is one; the rest is noted."""
        ...


class LineReader:
    """Reads one file record by record: one a line, or all in one JSON document (an object, or a list of them).

    Bad records are noted in `skipped`, or stop the reading if `strict`. `count`: records met by `records` so far.
    """

    def __init__(self, path: Path, strict: bool, format_of: FormatOf) -> None:
        self.path = path
        self.skipped: list[str] = []
        self.count = 0
        self._strict = strict
        self._format_of = format_of
        self._noun = "line"

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Number from 1 and content of every record that is not blank.

        Raises:
            TraceError: the file cannot be read, its gzip stream is damaged, or its one JSON document is.
        """
        number = 0
        try:
            if (document := self._document()) is not None:
                self._noun = "record"
                yield from enumerate(document, 1)
                return
            with self._open() as file:
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        yield number, line.removeprefix(BYTE_ORDER_MARK)
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

    def _document(self) -> list[bytes] | None:
        """The records of a file that is one JSON document; None where each line is to be one.

        Raises:
            TraceError: nothing but a document can begin with such a line, and it is damaged.
        """
        with self._open() as file:
            first = next((line for line in file if not line.isspace()), b"")
            first = first.strip().removeprefix(BYTE_ORDER_MARK)
            if not first.startswith((b"{", b"[")) or _is_json(first, dict):
                return None
            content = first + file.read()
        try:
            if first.startswith(b"["):
                return [
                    bytes(part) for part in msgspec.json.decode(content, type=list[msgspec.Raw])
                ]
            return [bytes(msgspec.json.decode(content, type=msgspec.Raw))]
        except UNREADABLE as error:
            if first in (b"{", b"["):
                raise TraceError(
                    f"{self.path}: is one JSON document, and a damaged one: {error}"
                ) from error
            return None

    def bad(self, number: int, reason: str) -> None:
        """Note a bad record. TraceError if reading is strict."""
        text = f"{self._noun} {number}: {reason}"
        if self._strict:
            raise TraceError(f"{self.path}: {text}")
        self.skipped.append(text)

    def records(self, kind: type[Record], format_name: str) -> Iterator[tuple[int, Record]]:
        """Number and record of everything that is one; the rest is noted.

        Raises:
            TraceError: a record is of another format.
        """
        decoder = msgspec.json.Decoder(kind)
        for number, line in self:
            self.count += 1
            try:
                record = decoder.decode(line)
            except UNREADABLE as error:
                if self._format_of(line) not in (None, format_name):
                    self._refuse_mixture(number, format_name)
                self.bad(number, str(error))
                continue
            if _is_foreign(record):
                self._refuse_mixture(number, format_name)
            yield number, record

    def _refuse_mixture(self, number: int, format_name: str) -> None:
        raise TraceError(
            f"{self.path}: {self._noun} {number} has a different format from {format_name}; "
            "give each format a file of its own"
        )


def _is_foreign(record: Any) -> bool:
    """Whether the fields of a decoded record show that its line is of a richer format."""
    numbered = isinstance(getattr(record, "not_if_schema", UNSET), int)
    return numbered or getattr(record, "not_if_chat_id", UNSET) is not UNSET


def _is_json(text: bytes, kind: type) -> bool:
    try:
        msgspec.json.decode(text, type=kind)
    except UNREADABLE:
        return False
    return True
