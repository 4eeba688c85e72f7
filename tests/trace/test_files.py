"""Files of a trace: whole lines whatever happens, the owner's alone, and never anybody else's file."""

import json
import os
import socket
import stat
import subprocess
import sys

import pytest

from vllm_pensieve.errors import TraceError
from vllm_pensieve.trace.files import JsonLines, check_place


def line(number, filler=b""):
    return b'{"schema":2,"number":%d,"filler":"%s"}' % (number, filler)


def numbers(path):
    return [json.loads(text)["number"] for text in path.read_bytes().splitlines() if text]


def written(path, *given, max_bytes=10**9):
    file = JsonLines(path, max_bytes)
    for number in given:
        file.append(line(number))
    file.close()


def test_the_file_is_the_owners_alone(tmp_path):
    written(tmp_path / "t.jsonl", 1)
    assert stat.S_IMODE((tmp_path / "t.jsonl").stat().st_mode) == 0o600


def test_a_file_that_would_outgrow_its_size_is_put_aside_under_a_number(tmp_path):
    path = tmp_path / "t_requests.jsonl"
    file = JsonLines(path, max_bytes=100)
    for number in range(5):
        file.append(line(number, b"x" * 40))
        file.flush()
    file.close()
    parts = [*(tmp_path / f"t_requests.{n}.jsonl" for n in (1, 2, 3, 4)), path]
    assert [numbers(part) for part in parts] == [[0], [1], [2], [3], [4]]
    assert all(part.stat().st_size <= 100 for part in tmp_path.iterdir())


FULL_DISK = """
import resource, sys
from pathlib import Path
from vllm_pensieve.trace.files import JsonLines

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

file = JsonLines(Path(sys.argv[1]), 10**9)
lines = [b'{"schema":2,"number":%d}' % number for number in range(10, 40)]
size = len(lines[0]) + 1
sizes = [3 * size, 3 * size, 5 * size + 7, 5 * size + 9, 6 * size + 1, resource.RLIM_INFINITY]
for step, bytes_left in enumerate(sizes):
    room(bytes_left)
    for text in lines[4 * step : 4 * step + 4]:
        file.append(text)
    try:
        file.flush()
    except OSError:
        pass
file.close()
print(file.lost)
"""


def test_a_full_disk_met_again_and_again_loses_lines_but_never_half_a_line(tmp_path):
    path = tmp_path / "t.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    # Room for 3 of 4, none, 2, none, 1, all: what stands there is whole, and the rest is counted.
    assert numbers(path) == [10, 11, 12, 18, 19, 26, 30, 31, 32, 33]
    assert int(done.stdout) == 24 - 10


def test_half_a_line_that_cannot_be_taken_back_spoils_no_other(tmp_path, monkeypatch):
    path = tmp_path / "t.jsonl"
    file = JsonLines(path, 10**9)
    real_write, parts = os.write, [9]

    def write(to, data):
        if not parts:
            return real_write(to, data)
        size = parts.pop()
        if size == 0:
            raise OSError(28, "No space left on device")
        parts.append(0)
        return real_write(to, bytes(data)[:size])

    with monkeypatch.context() as full:
        full.setattr(os, "write", write)
        full.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(5, "refused")))
        file.append(line(1))
        with pytest.raises(OSError, match="No space left"):
            file.flush()
    file.append(line(2))
    file.close()
    assert file.lost == 1
    assert path.read_bytes() == line(1)[:9] + b"\n" + line(2) + b"\n"


def test_after_a_rotation_that_failed_no_descriptor_of_others_is_written_or_closed(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    file = JsonLines(folder / "t.jsonl", max_bytes=50)
    file.append(line(1))
    file.flush()
    os.rename(folder, tmp_path / "away")
    folder.write_text("in the way")
    file.append(line(2, b"x" * 60))
    with pytest.raises(OSError, match="folder"):
        file.flush()
    ours, theirs = socket.socketpair()
    for number in range(3):
        file.append(line(number))
        with pytest.raises(OSError, match="folder"):
            file.flush()
    file.close()
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(100)
    theirs.send(b"still open")
    assert ours.recv(100) == b"still open"
    assert file.lost == 4
    assert numbers(tmp_path / "away" / "t.jsonl") == [1]


@pytest.mark.parametrize("housekeeping", ["deleted", "renamed", "folder deleted", "emptied"])
def test_a_file_that_others_deleted_renamed_or_emptied_is_begun_anew(tmp_path, housekeeping):
    path = tmp_path / "folder" / "t.jsonl"
    path.parent.mkdir()
    file = JsonLines(path, 10**9)
    file.append(line(1))
    file.flush()
    aside = path.with_name("t.jsonl.1")
    if housekeeping == "renamed":
        path.rename(aside)
    elif housekeeping == "emptied":
        os.truncate(path, 0)
    else:
        path.unlink()
        if housekeeping == "folder deleted":
            path.parent.rmdir()
    file.append(line(2))
    file.close()
    assert numbers(path) == [2]
    assert not aside.exists() or numbers(aside) == [1]


@pytest.mark.parametrize(
    ("end", "left"),
    [
        (b'{"schema":2,"number":5,"fil', [1, 2]),  # killed in the middle of a line
        (b'{"sch', [1, 2]),
        (b'{"schema":2,', [1, 2]),
        (b'{"number": 7}', [1, 7, 2]),  # somebody's, by hand
    ],
)
def test_what_a_killed_process_left_of_a_line_is_cut_off_and_nothing_else(tmp_path, end, left):
    path = tmp_path / "t.jsonl"
    path.write_bytes(line(1) + b"\n" + end)
    written(path, 2)
    assert numbers(path) == left


@pytest.mark.parametrize(
    "content",
    [b"no line end", b"a line\n", b'{"timestamp": 0, "hash_ids": [1]}\n', b'{"a"', b"\0" * 20],
)
def test_a_file_that_is_not_ours_is_refused_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "t_requests.jsonl"
    path.write_bytes(content)
    for refused in (lambda: JsonLines(path, 10**9), lambda: check_place(str(tmp_path / "t"))):
        with pytest.raises(TraceError, match="is not a trace of this plugin; choose another"):
            refused()
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "t_requests.jsonl")
    with pytest.raises(TraceError, match="is not a regular file"):
        check_place(str(tmp_path / "t"))


def test_a_place_is_looked_at_without_leaving_files_there(tmp_path):
    check_place(str(tmp_path / "new" / "t"))
    assert list((tmp_path / "new").iterdir()) == []
    written(tmp_path / "t_requests.jsonl", 1)
    check_place(str(tmp_path / "t"))
    assert numbers(tmp_path / "t_requests.jsonl") == [1]


@pytest.mark.parametrize("name", ["file/t", "x" * 250, "/proc/t"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match=r"cannot be written: .*; choose another trace_prefix"):
        check_place(str(tmp_path / name))


def test_a_file_is_written_by_one_process_at_a_time(tmp_path):
    path = tmp_path / "t_requests.jsonl"
    file = JsonLines(path, max_bytes=60)
    for number in range(3):  # put aside and begun anew, it is still ours
        file.append(line(number, b"x" * 20))
        file.flush()
        with pytest.raises(TraceError, match="is being written by another engine"):
            check_place(str(tmp_path / "t"))
    file.close()
    check_place(str(tmp_path / "t"))
