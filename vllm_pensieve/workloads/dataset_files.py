"""Reads the records of a data set's file: JSON, JSON lines (either also as gzip or Zstandard), or Parquet."""

from __future__ import annotations

import gzip
import importlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_pensieve.errors import UsageError, first_lines
from vllm_pensieve.workloads.dialogues import BadRecord

GZIP_MAGIC = b"\x1f\x8b"
ZSTANDARD_MAGIC = b"\x28\xb5\x2f\xfd"
PARQUET_MAGIC = b"PAR1"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

Records = Iterator[tuple[str, object]]
"""Where each record stands (`record 3` from 0, or `line 4` from 1) and what it holds; a BadRecord in place of a line
that is not JSON.
"""


def read_records(path: Path) -> Records:
    """Yield the records of a file; its content says what it is, whatever its name.

    Raises UsageError if it cannot be read, or needs a package that is not here.
    """
    data = _read(path)
    if data[:2] == GZIP_MAGIC:
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
    elif data[:4] == ZSTANDARD_MAGIC:
        data = _unpack_zstandard(path, data)
    if data[:4] == PARQUET_MAGIC:
        return _numbered(_read_parquet(path))
    return _parse(path, data.removeprefix(BYTE_ORDER_MARK))


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error


def _numbered(records: list[object]) -> Records:
    for number, record in enumerate(records):
        yield f"record {number}", record


def _parse(path: Path, data: bytes) -> Records:
    """The records of a JSON list, of one JSON object, or of JSON lines."""
    if not data.strip():
        return iter(())
    try:
        whole = json.loads(data)
    except json.JSONDecodeError as error:
        # One value a line is more than one value, however each of them begins.
        if data.lstrip()[:1] == b"[" and error.msg != "Extra data":
            raise UsageError(
                f"{path}: malformed JSON at line {error.lineno}: {error.msg}"
            ) from error
    except UnicodeDecodeError as error:
        if data.lstrip()[:1] != b"{":
            raise UsageError(f"{path}: not UTF-8 text: byte {error.start}") from error
    except (ValueError, RecursionError) as error:  # numbers too long, lists too deep
        if data.lstrip()[:1] == b"[":
            raise UsageError(f"{path}: cannot be read: {error}") from error
    else:
        return _numbered(whole if isinstance(whole, list) else [whole])
    return _parse_lines(data)


def _parse_lines(data: bytes) -> Records:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        record: object
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            record = BadRecord(f"malformed JSON: {error.msg} at column {error.colno}")
        except UnicodeDecodeError as error:
            record = BadRecord(f"not UTF-8 text: byte {error.start}")
        except (ValueError, RecursionError) as error:
            record = BadRecord(str(error))
        yield f"line {number}", record


def _unpack_zstandard(path: Path, data: bytes) -> bytes:
    """Python's own module from 3.14 on, the package `zstandard` before."""
    for name in ("compression.zstd", "zstandard"):
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            continue
        try:
            if name == "zstandard":
                return _unpack_frames(module, data)
            return bytes(module.decompress(data))
        except Exception as error:
            raise UsageError(f"{path}: cannot be read: {error}") from error
    raise UsageError(
        f"{path} is packed with Zstandard, which needs the package `zstandard`: pip install zstandard, "
        "or unpack the file with `zstd -d`"
    )


def _unpack_frames(zstandard: Any, data: bytes) -> bytes:
    """The content of all frames; the package's own reader ends quietly where a file breaks off."""
    parts: list[bytes] = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        parts.append(frame.decompress(data))
        if not frame.eof:
            raise EOFError("the Zstandard stream ends too early; copy the file again")
        data = frame.unused_data
    return b"".join(parts)


def _read_parquet(path: Path) -> list[object]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UsageError(
            f"{path} is a Parquet file, which needs the package `pyarrow`: "
            "pip install 'vllm-pensieve[datasets]', or write its records as JSON lines"
        ) from error
    try:
        return list(parquet.read_table(path).to_pylist())
    except Exception as error:  # of the file's own form
        raise UsageError(f"{path}: cannot be read: {first_lines(error)}") from error
