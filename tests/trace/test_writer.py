"""What the server records: whole lines whatever happens, bounded memory, files for the owner only."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time

import msgspec
import pytest

from vllm_pensieve.trace import writer as writer_module
from vllm_pensieve.trace.errors import TraceError
from vllm_pensieve.trace.writer import JsonLines, TraceWriter


class Numbered(msgspec.Struct):
    number: int


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_everything_handed_over_is_written_on_close(tmp_path):
    writer = TraceWriter(str(tmp_path / "new" / "t"), max_bytes=10**9)
    for number in range(100):
        writer.request(lambda number=number: Numbered(number))
    writer.block(lambda: Numbered(7))
    writer.close()
    writer.close()
    written = lines(tmp_path / "new" / "t_requests.jsonl")
    assert [line["number"] for line in written] == list(range(100))
    assert lines(tmp_path / "new" / "t_blocks.jsonl") == [{"number": 7}]
    assert writer.dropped == 0


def test_the_files_are_the_owners_alone(tmp_path):
    TraceWriter(str(tmp_path / "t"), max_bytes=10**9).close()
    mode = (tmp_path / "t_requests.jsonl").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


def test_a_file_that_would_outgrow_its_size_is_put_aside_under_a_number(tmp_path):
    path = tmp_path / "t_requests.jsonl"
    file = JsonLines(path, max_bytes=100)
    for number in range(5):
        file.append(b'{"number": %d, "filler": "%s"}' % (number, b"x" * 40))
        file.flush()
    file.close()
    parts = [*(tmp_path / f"t_requests.{n}.jsonl" for n in (1, 2, 3, 4)), path]
    assert [[line["number"] for line in lines(part)] for part in parts] == [[0], [1], [2], [3], [4]]
    assert all(part.stat().st_size <= 100 for part in tmp_path.iterdir())


def test_a_trace_is_continued_not_overwritten(tmp_path):
    for number in range(2):
        writer = TraceWriter(str(tmp_path / "t"), max_bytes=10**9)
        writer.request(lambda number=number: Numbered(number))
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
        return Numbered(0)

    writer.request(slow)
    for number in range(100):
        writer.request(lambda number=number: Numbered(number))
    assert writer.dropped >= 89
    go_on.set()
    writer.close()
    assert len(lines(tmp_path / "t_requests.jsonl")) == 101 - writer.dropped


def test_a_full_disk_loses_records_but_leaves_whole_lines(tmp_path, monkeypatch):
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: real_write(file, bytes(data)[:30]))
    writer = TraceWriter(str(tmp_path / "t"), max_bytes=10**9)
    for number in range(10):
        writer.request(lambda number=number: Numbered(number))
    writer._queue.put(None)
    writer._thread.join()
    writer._flush()
    assert writer.dropped == 10 and "bytes written" in writer.failure
    assert (tmp_path / "t_requests.jsonl").read_text() == ""


def test_a_killed_process_loses_at_most_the_last_second_and_its_file_can_be_continued(tmp_path):
    program = """
import sys, time, msgspec
from vllm_pensieve.trace.writer import TraceWriter
class Record(msgspec.Struct):
    number: int
    filler: str = "x" * 500
writer = TraceWriter(sys.argv[1], 10**9)
for number in range(10**9):
    writer.request(lambda number=number: Record(number))
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
