"""A server's process: its death is told with the log, and none is left behind.

Stand-in programs, no vLLM.
"""

import os
import socket
import sys
import time

import pytest

from vllm_pensieve.bench.server import (
    Server,
    ServerCommand,
    ServerFailed,
    check_port,
    find_reason,
    free_port,
    log_tail,
    running,
)
from vllm_pensieve.errors import UsageError

SERVES = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
DIES = """
for line in range(40): print("line", line)
print("(EngineCore pid=7) ERROR 11-21 15:07:18 [core.py:72] ValueError: not enough KV memory", flush=True)
raise SystemExit(3)
"""


def command(tmp_path, program: str) -> ServerCommand:
    port = free_port()
    arguments = (sys.executable, "-c", program, str(port))
    return ServerCommand(arguments, dict(os.environ), port, tmp_path / "logs" / "server.log")


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_server_and_its_children_are_gone_afterwards(tmp_path):
    with running(command(tmp_path, SERVES)) as server:
        server.wait_ready(30.0, lambda elapsed_s: None)
        child = int(server.command.log.read_text().split()[1])
        assert is_alive(child)
        pid = server.pid
    assert not is_alive(pid)
    deadline = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < deadline:
        os.sched_yield()
    assert not is_alive(child)


def interrupt(server: Server) -> None:
    raise KeyboardInterrupt(server.pid)


def test_a_server_is_stopped_when_the_measurement_raises(tmp_path):
    with pytest.raises(KeyboardInterrupt) as raised, running(command(tmp_path, SERVES)) as server:
        interrupt(server)
    assert not is_alive(raised.value.args[0])


def test_a_server_that_dies_is_told_with_the_end_of_its_log(tmp_path):
    server = Server(command(tmp_path, DIES))
    with pytest.raises(ServerFailed) as failed:
        server.wait_ready(30.0, lambda elapsed_s: None)
    server.stop()
    assert "exit status 3" in str(failed.value)
    assert failed.value.log_tail.splitlines()[0] == "line 21"
    assert len(failed.value.log_tail.splitlines()) == 20
    assert failed.value.reason == "ValueError: not enough KV memory"


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} cannot be used"):
            check_port(port)


def test_the_reason_is_the_cause_and_not_its_consequence():
    log = (
        "(APIServer pid=1) WARNING 11-21 15:07:09 [a.py:255] it can fail like `OSError: [Errno 24]`\n"
        "(EngineCore pid=2) ERROR 11-21 15:07:18 [core.py:9] ValueError: the cause\n"
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert find_reason(log) == "ValueError: the cause"
    refused = "api_server.py: error: unrecognized arguments: --nope"
    assert find_reason(refused) == refused
    assert find_reason("nothing to see") is None


def test_the_end_of_a_log_shows_the_cause_and_not_the_noise_of_exiting():
    noise = 'nanobind: leaked 5 types!\n - leaked type "x"\n - ... skipped remainder\n'
    assert log_tail(f"first\nTypeError: this\n{noise}") == "first\nTypeError: this"
