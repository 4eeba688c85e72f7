"""A format is one file and a line in the registry: detection, help and the refusal of others follow from it."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from tests.trace.traces import MOONCAKE, write
from vllm_pensieve.cli import app
from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.formats import FORMATS, Format, about_formats
from vllm_pensieve.trace.readers import read_trace
from vllm_pensieve.trace.readers.builder import TraceBuilder
from vllm_pensieve.trace.readers.lines import Records


class Call(msgspec.Struct):
    """at: s. pages: block ids."""

    at: float
    pages: list[int]


def matches(fields: dict[str, Any]) -> bool:
    return "pages" in fields


def read(lines: Records, builder: TraceBuilder) -> int | None:
    for _, record in lines.records(Call, "calls"):
        builder.add(record.at, record.pages, 8 * len(record.pages), 1)
    return 8


CALLS = [{"at": 0.0, "pages": [1, 2]}, {"at": 1.0, "pages": [1, 3]}]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file in a format that is registered for one test."""
    monkeypatch.setitem(FORMATS, "calls", Format("calls", "of a test", __name__))
    return write(tmp_path / "calls.jsonl", CALLS)


def test_a_format_with_a_line_in_the_registry_is_recognised_and_read(calls):
    trace = read_trace(calls)
    assert (trace.format, trace.block_tokens, trace.infinite_hits) == ("calls", 8, 1)
    assert "calls (of a test)" in about_formats()
    write(calls, [*CALLS, MOONCAKE[0]])
    with pytest.raises(TraceError, match="line 3 has a different format from calls"):
        read_trace(calls)


def test_without_that_line_it_is_no_format(tmp_path):
    with pytest.raises(TraceError, match="the formats are: pensieve, bailian, kvct, mooncake"):
        read_trace(write(tmp_path / "calls.jsonl", CALLS))


def test_the_help_names_every_format():
    said = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["simulate", "--help"]).output
    assert all(name in said for name in FORMATS)
