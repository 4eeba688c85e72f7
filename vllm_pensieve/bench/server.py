"""One vLLM server as a process of its own: start it, wait until it is ready, watch it, and end it
always.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_pensieve.errors import UsageError

STOP_TIMEOUT_S = 15.0
POLL_S = 0.1
LOG_LINES = 20
LINE_PREFIX = re.compile(r"^\(\S+ pid=\d+\) ?(?:ERROR \d\d-\d\d [\d:]+ \[\S+?\] ?)?")
REASON = re.compile(r"^[\w.]*(?:Error|Exception|Interrupt): \S|^\S+: error: \S")
CONSEQUENCE = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|EngineDead"
)
EXIT_NOISE = re.compile(
    r"^nanobind: | - (?:leaked|\.\.\. skipped) |^See https://nanobind|resource_tracker"
)
"""Lines that libraries print at any abrupt exit; they would push the cause out of the log's tail."""


class ServerFailed(Exception):
    """The server died or did not get ready.

    The message says how; `log_tail` holds the last lines of its log.
    """

    def __init__(self, message: str, log_tail: str, reason: str | None) -> None:
        super().__init__(message)
        self.log_tail = log_tail
        self.reason = reason
        """The one line of the log that names the cause, if one does."""


@dataclass(frozen=True)
class ServerCommand:
    """Everything that starts a server: arguments, environment, port, and where its output goes."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        """The server's address, without a path."""
        return f"http://127.0.0.1:{self.port}"


def check_port(port: int) -> None:
    """Raise UsageError if something listens on this port already."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used: {error.strerror}; choose another with --port"
            ) from error


def free_port() -> int:
    """Return a port that nothing listens on now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A running server process in its own process group, so that a Ctrl-C in the terminal does not
    reach it first.
    """

    def __init__(self, command: ServerCommand) -> None:
        self.command = command
        command.log.parent.mkdir(parents=True, exist_ok=True)
        with command.log.open("wb") as log:
            self._process = subprocess.Popen(
                command.arguments,
                env=command.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, and the id of its process group."""
        return self._process.pid

    def check_alive(self) -> None:
        """Raise ServerFailed if the process has ended."""
        status = self._process.poll()
        if status is not None:
            raise self.failure(f"the server ended with {_describe_status(status)}")

    def wait_ready(self, timeout_s: float, waiting: Callable[[float], None]) -> float:
        """Wait until `/health` answers; return the seconds it took. Calls `waiting` with the
        seconds so far, often.

        Raises ServerFailed if the process ends first, or after `timeout_s`.
        """
        import httpx

        start = time.monotonic()
        while True:
            self.check_alive()
            with contextlib.suppress(httpx.HTTPError):
                if (
                    httpx.get(
                        f"{self.command.url}/health", timeout=2.0, trust_env=False
                    ).status_code
                    == 200
                ):
                    return time.monotonic() - start
            elapsed = time.monotonic() - start
            if elapsed > timeout_s:
                raise self.failure(f"the server was not ready after {timeout_s:.0f} s")
            waiting(elapsed)
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End the whole process group: politely first, by force after `STOP_TIMEOUT_S`.

        Safe to call twice.
        """
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def failure(self, message: str) -> ServerFailed:
        """Return the error that says `message` and shows the end of the log."""
        text = self.command.log.read_text(errors="replace")
        return ServerFailed(message, log_tail(text), find_reason(text))


@contextlib.contextmanager
def running(command: ServerCommand) -> Iterator[Server]:
    """Start a server and stop it at the end, whatever happens.

    Raises UsageError if its port is in use.
    """
    check_port(command.port)
    server = Server(command)
    try:
        yield server
    finally:
        server.stop()


def find_reason(log: str) -> str | None:
    """Return the first line of a server's log that names an error and not its mere consequence.

    vLLM's prefix of the line is taken off. None if there is no such line.
    """
    for line in log.splitlines():
        text = LINE_PREFIX.sub("", line).strip()
        if REASON.search(text) and not CONSEQUENCE.search(text):
            return text
    return None


def log_tail(log: str) -> str:
    """Return the last lines of a server's log, without the noise of libraries at an abrupt exit."""
    lines = [line for line in log.splitlines() if not EXIT_NOISE.search(line)]
    return "\n".join(lines[-LOG_LINES:])


def _describe_status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"signal {signal.Signals(-status).name}"
    return f"signal {-status}"
