"""What the server records: everything that was handed over, in bounded memory; what is lost is counted and told."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace import writer as writer_module
from vllm_pensieve.trace.writer import TraceWriter


class Numbered(msgspec.Struct):
    schema: int = 2
    number: int = 0
    text: str = ""
    time: float = 0.0
    timestamp: float = 0.0


def numbered(number):
    return lambda: Numbered(number=number)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_everything_handed_over_is_written_on_close(tmp_path):
    writer = TraceWriter(str(tmp_path / "new" / "t"), max_bytes=10**9)
    for number in range(100):
        writer.request(numbered(number))
    writer.blocks([numbered(7)])
    writer.close()
    writer.close()
    written = lines(tmp_path / "new" / "t_requests.jsonl")
    assert [line["number"] for line in written] == list(range(100))
    assert [line["number"] for line in lines(tmp_path / "new" / "t_blocks.jsonl")] == [7]
    assert writer.dropped == 0


def test_a_trace_is_continued_not_overwritten(tmp_path):
    for number in range(2):
        writer = TraceWriter(str(tmp_path / "t"), max_bytes=10**9)
        writer.request(numbered(number))
        writer.close()
    assert [line["number"] for line in lines(tmp_path / "t_requests.jsonl")] == [0, 1]


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot be written"):
        TraceWriter(str(tmp_path / "file" / "t"), max_bytes=10**9)


def test_memory_is_bounded_and_what_is_dropped_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "MAX_WAITING", 10)
    writer = TraceWriter(str(tmp_path / "t"), max_bytes=10**9)
    go_on = threading.Event()

    def slow():
        go_on.wait()
        return Numbered()

    writer.request(slow)
    for number in range(100):
        writer.request(numbered(number))
    assert writer.dropped >= 89
    go_on.set()
    writer.close()
    assert len(lines(tmp_path / "t_requests.jsonl")) == 101 - writer.dropped


def test_of_many_blocks_that_end_at_once_none_is_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(writer_module, "MAX_WAITING", 10)
    monkeypatch.setattr(writer_module, "FLUSH_BYTES", 1000)
    writer = TraceWriter(str(tmp_path / "t"), max_bytes=2000)
    writer.blocks([numbered(number) for number in range(500)])
    writer.close()
    parts = sorted(tmp_path.glob("t_blocks*"))
    assert writer.dropped == 0 and len(parts) > 10
    assert all(part.stat().st_size <= 2000 for part in parts)
    numbers = [line["number"] for part in parts for line in lines(part)]
    assert sorted(numbers) == list(range(500))


@pytest.mark.parametrize(
    "bad", [lambda: Numbered(text="caf\udce9"), lambda: 1 / 0], ids=["surrogate", "failure"]
)
def test_a_record_that_cannot_be_made_is_lost_alone_and_counted(tmp_path, bad, caplog_vllm):
    writer = TraceWriter(str(tmp_path / "t"), max_bytes=10**9)
    for make in (numbered(0), bad, numbered(1), bad, numbered(2)):
        writer.request(make)
    writer.close()
    assert [line["number"] for line in lines(tmp_path / "t_requests.jsonl")] == [0, 1, 2]
    assert writer.dropped == 2 and "Error" in writer.failure
    assert caplog_vllm.text.count("a record of the trace could not be made") == 1


def test_a_file_that_is_continued_says_when_it_began(tmp_path):
    assert TraceWriter(str(tmp_path / "new"), 10**9).first_arrival_s is None
    writer = TraceWriter(str(tmp_path / "t"), 10**9)
    writer.request(lambda: Numbered(time=1000.0, timestamp=250.0))
    writer.close()
    assert TraceWriter(str(tmp_path / "t"), 10**9).first_arrival_s == 999.75


def test_one_line_of_the_log_tells_of_an_outage_and_one_of_its_end(tmp_path, caplog_vllm):
    caplog_vllm.set_level(logging.INFO)
    (tmp_path / "folder").mkdir()
    writer = TraceWriter(str(tmp_path / "folder" / "t"), 10**9)
    os.rename(tmp_path / "folder", tmp_path / "away")
    (tmp_path / "folder").write_text("in the way")
    for _ in range(3):
        writer.request(numbered(0))
        flushed(writer)
    assert writer.dropped == 3
    (tmp_path / "folder").unlink()
    writer.request(numbered(1))
    writer.close()
    assert [line["number"] for line in lines(tmp_path / "folder" / "t_requests.jsonl")] == [1]
    assert caplog_vllm.text.count("the trace cannot be written") == 1
    assert (
        "the trace is being written again" in caplog_vllm.text and "3 records" in caplog_vllm.text
    )


def flushed(writer):
    """Have the writer's thread take all it was given, then flush in its place."""
    done = threading.Event()

    def last():
        done.set()
        raise LookupError

    before = writer._not_encoded
    writer.request(last)
    assert done.wait(60)
    while writer._not_encoded == before:
        time.sleep(0.001)
    writer._not_encoded = before
    writer._flush()


def test_two_writers_of_one_prefix_are_refused(tmp_path):
    writer = TraceWriter(str(tmp_path / "t"), 10**9)
    with pytest.raises(TraceError, match="is being written by another engine; give each server"):
        TraceWriter(str(tmp_path / "t"), 10**9)
    writer.close()
    TraceWriter(str(tmp_path / "t"), 10**9).close()


def test_a_forked_process_that_exits_leaves_the_trace_to_its_owner(tmp_path):
    writer = TraceWriter(str(tmp_path / "t"), 10**9)
    if (child := os.fork()) == 0:
        writer.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    writer.request(numbered(1))
    writer.close()
    assert [line["number"] for line in lines(tmp_path / "t_requests.jsonl")] == [1]


def test_a_killed_process_loses_at_most_the_last_second_and_its_file_can_be_continued(tmp_path):
    program = """
import sys, time, msgspec
from vllm_pensieve.trace.writer import TraceWriter
class Record(msgspec.Struct):
    schema: int
    number: int
    filler: str = "x" * 500
writer = TraceWriter(sys.argv[1], 10**9)
for number in range(10**9):
    writer.request(lambda number=number: Record(2, number))
    if number % 100 == 0:
        time.sleep(0.001)
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "t")])
    path = tmp_path / "t_requests.jsonl"
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < 100_000:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    *whole, rest = path.read_bytes().split(b"\n")
    TraceWriter(str(tmp_path / "t"), 10**9).close()
    numbers = [line["number"] for line in lines(path)]
    assert numbers == list(range(len(whole))) and len(numbers) > 100
    assert rest == b"" or len(path.read_bytes().split(b"\n")) == len(whole) + 1
