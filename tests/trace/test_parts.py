"""A trace whose files were put aside as they grew is read as one, and what is read is said."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.trace.recorded import chat, record
from tests.trace.traces import MOONCAKE, write
from vllm_pensieve.analysis.summaries import MEASURED, read_prefix_stats, summarize
from vllm_pensieve.cli import app
from vllm_pensieve.collection.collect import make_room
from vllm_pensieve.collection.recording import Recording
from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.files import JsonLines
from vllm_pensieve.trace.parts import parts_of
from vllm_pensieve.trace.readers import read_trace


def rotated(prefix: Path, max_bytes: int) -> list[Path]:
    """Write both files of a trace again as a server does that may not let them grow beyond `max_bytes`."""
    for kind in ("requests", "blocks"):
        path = Path(f"{prefix}_{kind}.jsonl")
        lines = path.read_text().splitlines()
        path.unlink()
        file = JsonLines(path, max_bytes)
        for line in lines:
            fields = json.loads(line)
            file.append(json.dumps({"schema": fields.pop("schema"), **fields}).encode())
            file.flush()
        file.close()
    return parts_of(Path(f"{prefix}_requests.jsonl"))


@pytest.fixture
def whole(tmp_path: Path) -> dict:
    """The summary of a trace of 2 sessions and 6 turns in one piece."""
    (tmp_path / "whole").mkdir()
    return summarize(read_prefix_stats(record(tmp_path / "whole", "chat", chat(2, 6))))


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """The same trace, before it is put into parts."""
    return record(tmp_path, "chat", chat(2, 6))


def numbers(summary: dict) -> dict:
    trace = summary["trace"]
    kept = {name: trace[name] for name in trace if name not in ("name", "notes")}
    return summary | {"trace": kept}


@pytest.mark.parametrize("max_bytes", [1500, 2500])
def test_parts_are_read_as_one_and_their_number_is_said(prefix, whole, max_bytes):
    parts = rotated(prefix, max_bytes)
    assert len(parts) > 2 and parts[-1] == Path(f"{prefix}_requests.jsonl")
    stats = read_prefix_stats(prefix)
    assert stats.block_source == MEASURED
    assert numbers(summarize(stats)) == numbers(whole)
    names = ", ".join(part.name for part in parts)
    assert stats.trace.notes[0] == f"read from {len(parts)} parts: {names}"
    assert read_trace(parts[-1]).requests == 12


def test_parts_may_be_packed_and_the_newest_may_be_gone(prefix, whole):
    parts = rotated(prefix, 2500)
    for part in parts[:-1]:
        part.with_name(f"{part.name}.gz").write_bytes(gzip.compress(part.read_bytes()))
    assert read_trace(prefix).requests == 12  # of a part that is there twice, one counts
    for part in parts[:-1]:
        part.unlink()
    assert numbers(summarize(read_prefix_stats(prefix))) == numbers(whole)
    newest = len(parts[-1].read_text().splitlines())
    parts[-1].unlink()
    assert read_trace(prefix).requests == 12 - newest


def test_a_part_that_is_named_is_read_alone_and_said_to_be_one(prefix):
    parts = rotated(prefix, 2500)
    alone = read_trace(parts[0])
    assert alone.requests == len(parts[0].read_text().splitlines())
    assert alone.block_tokens == 32  # as the name says
    told = f"one of {len(parts)} parts alone; {parts[-1].name} names all of them"
    assert alone.notes[0] == told


def test_a_part_that_was_removed_is_missed_and_no_later_one_takes_its_number(prefix):
    parts = rotated(prefix, 2500)
    lines = len(parts[0].read_text().splitlines())
    parts[0].unlink()
    trace = read_trace(prefix)
    assert trace.requests == 12 - lines
    assert "1 part removed (1)" in " ".join(trace.notes)
    file = JsonLines(parts[-1], max_bytes=1)
    file.append(b'{"schema": 2, "more": 1}')
    file.flush()
    file.close()
    assert [part.name.split(".")[1] for part in parts_of(parts[-1])[:-1]] == [
        str(number) for number in range(2, len(parts) + 1)
    ]


def test_bad_lines_are_named_with_their_part(prefix):
    parts = rotated(prefix, 2500)
    with parts[1].open("a") as file:
        file.write("oops\n")
    skipped = read_trace(prefix).skipped
    assert len(skipped) == 1 and skipped[0].startswith(f"{parts[1].name} line ")
    with pytest.raises(TraceError, match=parts[1].name):
        read_trace(prefix, strict=True)


@pytest.mark.parametrize(
    "command",
    [
        ("simulate", "PREFIX"),
        ("trace", "summarize", "PREFIX"),
        ("trace", "analyze", "PREFIX"),
        ("trace", "policies", "PREFIX", "32", "lru"),
        ("trace", "analyze-all", "FOLDER"),
        ("trace", "mix", "FOLDER"),
        ("report", "PREFIX", "-o", "FOLDER/report.html"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
@pytest.mark.parametrize("newest", [True, False])
def test_every_command_reads_all_parts_and_says_so(prefix, command, newest):
    parts = rotated(prefix, 2500)
    if not newest:
        parts.pop().unlink()
    names = {"PREFIX": str(prefix), "FOLDER": str(prefix.parent)}
    arguments = [names.get(item, item.replace("FOLDER", names["FOLDER"])) for item in command]
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, arguments)
    assert result.exception is None, result.exception
    page = prefix.parent / "report.html"
    said = page.read_text() if page.exists() else result.output
    assert f"read from {len(parts)} parts" in said


def test_files_of_others_are_no_parts(tmp_path):
    write(tmp_path / "traffic.2.jsonl", MOONCAKE)
    assert read_trace(write(tmp_path / "traffic.jsonl", MOONCAKE)).requests == len(MOONCAKE)
    assert read_trace(tmp_path / "traffic.2.jsonl").notes == ()
    with pytest.raises(TraceError, match="no such file"):
        read_trace(tmp_path / "absent.jsonl")


def test_a_trace_that_is_recorded_anew_keeps_no_part_of_the_one_before(prefix):
    rotated(prefix, 2500)
    recording = Recording(
        workload="chat",
        model="demo",
        block_tokens=32,
        out=prefix.parent,
        simulate=True,
        max_prompt_tokens=1,
        max_output_tokens=1,
        kv_cache_gib=1.0,
        real_time=False,
    )
    assert recording.prefix == prefix
    make_room(recording)
    assert not list(prefix.parent.glob("*.jsonl"))
