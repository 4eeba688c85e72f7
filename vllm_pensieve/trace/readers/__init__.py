"""Reads traces of every known format: one file a format, each with `read(lines, builder)`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from vllm_pensieve.trace.errors import TraceError
from vllm_pensieve.trace.readers import bailian, kvct, mooncake, pensieve
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.detect import format_of_line
from vllm_pensieve.trace.readers.lines import LineReader
from vllm_pensieve.trace.trace import Trace

__all__ = ["FORMATS", "read_trace"]

FORMATS: dict[str, ModuleType] = {
    module.NAME: module for module in (pensieve, mooncake, bailian, kvct)
}
AUTO = "auto"


def read_trace(path: Path, format_name: str = AUTO, strict: bool = False) -> Trace:
    """Read a trace, plain or gzipped. A path without `_requests.jsonl` may name our own trace by its prefix.

    Raises:
        TraceError: the file cannot be read, has no usable line, or holds another format; with `strict` also at the
            first bad line.
    """
    if format_name != AUTO and format_name not in FORMATS:
        raise TraceError(
            f"unknown trace format {format_name!r}; there are: {AUTO}, {', '.join(FORMATS)}"
        )
    path = find_trace(path)
    lines = LineReader(path, strict)
    reader = FORMATS[_detect(lines) if format_name == AUTO else format_name]
    builder = TraceBuilder(default_workload=path.name.split(".")[0])
    block_tokens = reader.read(lines, builder)
    if not len(builder):
        first = f"; {lines.skipped[0]}" if lines.skipped else ""
        raise TraceError(
            f"{path}: no usable {reader.NAME} record in it, {len(lines.skipped)} bad lines{first}"
        )
    trace: Trace = builder.build(str(path), reader.NAME, block_tokens, tuple(lines.skipped))
    if not trace.accesses:
        raise TraceError(f"{path}: no request has a block; there is nothing to look up")
    return trace


def find_trace(path: Path) -> Path:
    """The file that `path` names: itself, or `PREFIX_requests.jsonl` (also .gz). TraceError if there is none."""
    if path.is_dir():
        raise TraceError(f"{path}: is a folder; name a file in it")
    if path.exists():
        return path
    for suffix in (pensieve.REQUESTS_SUFFIX, f"{pensieve.REQUESTS_SUFFIX}.gz"):
        candidate = path.with_name(path.name + suffix)
        if candidate.exists():
            return candidate
    raise TraceError(
        f"{path}: no such file, and no {path.name}{pensieve.REQUESTS_SUFFIX} beside it"
    )


def _detect(lines: LineReader) -> str:
    """The format of the first line that is of a known one."""
    objects = 0
    for _, line in lines:
        name = format_of_line(line)
        if name:
            return name
        objects += line.lstrip().startswith(b"{")
    if objects:
        raise TraceError(
            f"{lines.path}: no line in it has the fields of a known format; there are: {', '.join(FORMATS)}"
        )
    raise TraceError(f"{lines.path}: no line in it holds a JSON object; is the file empty?")
