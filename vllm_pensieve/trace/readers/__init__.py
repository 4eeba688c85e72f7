"""Reads traces of every known format: one file a format, each with `read(lines, builder)`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.combine import coarsen
from vllm_pensieve.trace.readers import bailian, kvct, mooncake, pensieve
from vllm_pensieve.trace.readers.block_size import USUAL, choose_block_size
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.detect import format_of_line
from vllm_pensieve.trace.readers.folder import FolderReader
from vllm_pensieve.trace.readers.lines import LineReader
from vllm_pensieve.trace.trace import Trace
from vllm_pensieve.trace.wording import counted

__all__ = ["FORMATS", "read_trace"]

FORMATS: dict[str, ModuleType] = {
    module.NAME: module for module in (pensieve, mooncake, bailian, kvct)
}
AUTO = "auto"


def read_trace(
    path: Path,
    format_name: str = AUTO,
    strict: bool = False,
    block_tokens: int | None = None,
) -> Trace:
    """Read a trace, plain or gzipped; a folder of sessions is one. A prefix stands for our own `PREFIX_requests.jsonl`.

    block_tokens: tokens of a block, where the file does not say; else a multiple, to which blocks are merged.

    Raises:
        TraceError: the file cannot be read, has no usable record, holds another format, or has blocks of another size;
            with `strict` also at the first bad record.
    """
    if format_name != AUTO and format_name not in FORMATS:
        raise TraceError(
            f"unknown trace format {format_name!r}; choose one of: {AUTO}, {', '.join(FORMATS)}"
        )
    path = find_trace(path)
    lines = FolderReader(path, strict) if path.is_dir() else LineReader(path, strict)
    reader = FORMATS[_detect(lines) if format_name == AUTO else format_name]
    if isinstance(lines, FolderReader) and reader is not kvct:
        raise TraceError(
            f"{path}: each {reader.NAME} file in this folder is a trace of its own; name one of them"
        )
    builder = TraceBuilder(path.resolve().name.split(".")[0], block_tokens)
    declared = reader.read(lines, builder)
    if not len(builder):
        first = f"; {lines.skipped[0]}" if lines.skipped else ""
        raise TraceError(
            f"{path}: no usable {reader.NAME} record in it, {counted(len(lines.skipped), 'bad line')}{first}"
        )
    if not builder.knows_blocks:
        raise TraceError(
            f"{path}: no {reader.NAME} record has hash_ids; without them it is not known what prompts share"
        )
    size = choose_block_size(
        *builder.known_lengths(), declared, USUAL.get(reader.NAME), block_tokens
    )
    trace = builder.build(str(path), reader.NAME, size.tokens)
    if not trace.accesses:
        raise TraceError(f"{path}: no request has a block; there is nothing to look up")
    trace = replace(
        trace,
        skipped=tuple(lines.skipped),
        records=lines.count,
        notes=(*size.notes, *builder.notes),
    )
    return coarsen(trace, size.merge_to) if size.merge_to else trace


def find_trace(path: Path) -> Path:
    """What `path` names: a file, a folder, or `PREFIX_requests.jsonl` (also .gz). TraceError if there is none."""
    if path.exists():
        return path
    for suffix in (pensieve.REQUESTS_SUFFIX, f"{pensieve.REQUESTS_SUFFIX}.gz"):
        candidate = path.with_name(path.name + suffix)
        if candidate.exists():
            return candidate
    raise TraceError(
        f"{path}: no such file, and no {path.name}{pensieve.REQUESTS_SUFFIX} next to it"
    )


def _detect(lines: LineReader | FolderReader) -> str:
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
