"""Reads traces of every known format: one file a format, as `trace/formats.py` lists them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.combine import coarsen
from vllm_pensieve.trace.files import BLOCKS_SUFFIX, REQUESTS_SUFFIX
from vllm_pensieve.trace.formats import AUTO, FORMATS, Format
from vllm_pensieve.trace.parts import parts_of, put_aside, whole_of
from vllm_pensieve.trace.readers import pensieve
from vllm_pensieve.trace.readers.block_size import choose_block_size
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.detect import format_of_line
from vllm_pensieve.trace.readers.folder import FolderReader
from vllm_pensieve.trace.readers.lines import Records
from vllm_pensieve.trace.readers.parts import PartsReader, about_parts
from vllm_pensieve.trace.records import BlockRecord
from vllm_pensieve.trace.trace import Trace
from vllm_pensieve.trace.wording import counted

__all__ = ["find_trace", "read_blocks", "read_trace", "read_trace_and_ids"]


def read_trace(
    path: Path,
    format_name: str = AUTO,
    strict: bool = False,
    block_tokens: int | None = None,
) -> Trace:
    """Read a trace, plain or gzipped; a folder of sessions is one. A prefix stands for our own `PREFIX_requests.jsonl`.

    The parts of a file that was rotated are read as one; a part that is named itself is read alone.

    block_tokens: tokens of a block, where the file does not say; else a multiple, to which blocks are merged.

    Raises:
        TraceError: the file cannot be read, has no usable record, holds another format, or has blocks of another size;
            with `strict` also at the first bad record.
    """
    return _read(path, format_name, strict, block_tokens)[0]


def read_trace_and_ids(
    path: Path,
    format_name: str = AUTO,
    strict: bool = False,
    block_tokens: int | None = None,
) -> tuple[Trace, NDArray[np.int64]]:
    """As `read_trace`, and the ids, as they stand in the file, of the full blocks of all prompts that had an answer."""
    trace, builder, file_block_tokens = _read(path, format_name, strict, block_tokens)
    return trace, builder.computed_ids(file_block_tokens)


def read_blocks(requests: Path, strict: bool = False) -> tuple[list[BlockRecord], list[str]] | None:
    """What the server recorded of blocks next to a file of requests, and bad lines; None if there is no such file.

    Raises:
        TraceError: as `read_trace`.
    """
    path = requests.with_name(requests.name.replace(REQUESTS_SUFFIX, BLOCKS_SUFFIX))
    parts = parts_of(path) if path != requests else []
    if not parts:
        return None
    lines = _lines(path, parts, strict)
    records = [record for _, record in lines.records(BlockRecord, pensieve.NAME)]
    if not records and lines.skipped:
        raise TraceError(f"{path}: no usable block record in it; {lines.skipped[0]}")
    name = f"{parts[0].name} " if len(parts) == 1 else ""
    return records, [f"{name}{text}" for text in lines.skipped]


def find_trace(path: Path) -> Path:
    """What `path` names: a file, a folder, or `PREFIX_requests.jsonl` (also .gz). TraceError if there is none.

    Of a file that was rotated the newest part may be missing.
    """
    own = path.with_name(f"{path.name}{REQUESTS_SUFFIX}")
    for candidate in (path, own, own.with_name(f"{own.name}.gz")):
        if candidate.exists() or put_aside(candidate):
            return candidate
    raise TraceError(f"{path}: no such file, and no {own.name} next to it")


def _read(
    path: Path, format_name: str, strict: bool, block_tokens: int | None
) -> tuple[Trace, TraceBuilder, int | None]:
    """The trace, what it was built from, and the tokens of a block as they stand in the file."""
    if format_name != AUTO and format_name not in FORMATS:
        raise TraceError(
            f"unknown trace format {format_name!r}; choose one of: {', '.join((AUTO, *FORMATS))}"
        )
    path = find_trace(path)
    parts = [path] if path.is_dir() or whole_of(path) != path else parts_of(path) or [path]
    lines = _lines(path, parts, strict)
    form = FORMATS[_detect(lines) if format_name == AUTO else format_name]
    if path.is_dir() and not form.in_folders:
        raise TraceError(
            f"{path}: each {form.name} file in this folder is a trace of its own; name one of them"
        )
    builder = TraceBuilder(path.resolve().name.split(".")[0], block_tokens)
    declared = form.reader().read(lines, builder)
    _check_usable(path, form, lines, builder)
    size = choose_block_size(
        *builder.known_lengths(), declared, form.usual_block_tokens, block_tokens
    )
    trace = builder.build(str(path), form.name, size.tokens)
    if not trace.accesses:
        raise TraceError(f"{path}: no request has a block; there is nothing to look up")
    trace = replace(
        trace,
        skipped=tuple(lines.skipped),
        records=lines.count,
        notes=(*about_parts(path, parts), *size.notes, *builder.notes),
    )
    if size.merge_to:
        trace = coarsen(trace, size.merge_to)
    return trace, builder, size.tokens


def _lines(path: Path, parts: list[Path], strict: bool) -> Records:
    if path.is_dir():
        return FolderReader(path, strict, format_of_line)
    return PartsReader(path, parts, strict, format_of_line)


def _check_usable(path: Path, form: Format, lines: Records, builder: TraceBuilder) -> None:
    if not len(builder):
        first = f"; {lines.skipped[0]}" if lines.skipped else ""
        raise TraceError(
            f"{path}: no usable {form.name} record in it, {counted(len(lines.skipped), 'bad line')}{first}"
        )
    if not builder.knows_blocks:
        raise TraceError(
            f"{path}: no {form.name} record has hash_ids; without them it is not known what prompts share"
        )


def _detect(lines: Records) -> str:
    """The format of the first record that is of a known one."""
    objects = 0
    for _, line in lines:
        name = format_of_line(line)
        if name:
            return name
        objects += line.lstrip().startswith(b"{")
    if objects:
        raise TraceError(
            f"{lines.path}: no record in it has the fields of a known format (such as hash_ids); the formats are: "
            f"{', '.join(FORMATS)}"
        )
    raise TraceError(f"{lines.path}: is empty, or has no line with a JSON object")
