"""Claims about `pensieve chat` as it is run: from a pipe, and at a terminal."""

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "vllm_pensieve"]
SMALL = ["--gpu-cache", "0.05", "--cpu-cache", "0.05"]
WAIT_S = 120


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No network, and a cache folder for the demo model."""
    from vllm_pensieve.demo_model import ensure_demo_model

    ensure_demo_model()
    return {name: value for name, value in os.environ.items() if not name.startswith("VLLM")} | {
        "HF_HUB_OFFLINE": "1"
    }


@pytest.mark.engine
def test_piped_lines_are_answered(environment):
    done = subprocess.run(
        [*COMMAND, "chat", *SMALL],
        input="Hello\nstats\nexit\nnot read\n",
        env=environment | {"MAX_NEW_TOKENS": "7"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"pensieve on demo, context of [\d,]+ tokens; `help` lists commands\n"
        r">>> Hello\n[a-z ,.]{7}\n"
        r"Turn 1: TTFT \d\.\d{3} s, 7 tokens in \d\.\d{3} s, Cache 0 of 9 prompt tokens \(0%\)\n"
        r">>> stats\nmode +pensieve\nrequests +1 in 1 sessions\n(?:.+\n){5,}"
        r">>> exit\n",
        done.stdout,
    ), done.stdout
    assert done.stderr == "starting vLLM with demo (a random model: its answers mean nothing) ...\n"


def take_terminal() -> None:
    """In the new process: the terminal is its own, and Ctrl-C ignored, as in a job of a shell script."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Terminal:
    """A chat on a pseudo-terminal."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment | {"TERM": "dumb"},
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(slave)
        self.shown = ""
        self._from = 0

    def until(self, wanted: str) -> str:
        """What is shown from the last such call on, up to this text."""
        while wanted not in self.shown[self._from :]:
            piece = b""
            if select.select([self._master], [], [], WAIT_S)[0]:
                with contextlib.suppress(OSError):
                    piece = os.read(self._master, 4096)
            assert piece, f"no {wanted!r} in {self.shown!r}"
            self.shown += piece.decode(errors="replace").replace("\r\n", "\n")
        begin, self._from = self._from, self.shown.index(wanted, self._from) + len(wanted)
        return self.shown[begin : self._from]

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def end(self) -> int:
        return self._process.wait(WAIT_S)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@pytest.mark.engine
def test_at_a_terminal_lines_are_edited_and_ctrl_c_stops_the_answer_only(environment):
    terminal = Terminal(["chat", *SMALL, "--max-new-tokens", "3000"], environment)
    try:
        terminal.until(">>> ")
        terminal.type(b"helXX\x7f\x7fp\n")  # two characters taken back
        terminal.until("Ctrl-C stops an answer\n")
        terminal.until("\n>>> ")
        terminal.type(b"talk for long\n")
        terminal.until(", ")  # of the answer
        terminal.type(b"\x03")
        terminal.until("(stopped)\nTurn 1: ")
        terminal.until("\n>>> ")
        terminal.type(b"\x1b[A\x1b[A\n")  # two lines back in the history: help
        terminal.until("Ctrl-C stops an answer\n")
        terminal.until("\n>>> ")
        terminal.type(b"half a line\x03")
        terminal.until("(exit or Ctrl-D leaves)\n>>> ")
        terminal.type(b"stats\n")
        assert "requests          1 in 1 sessions" in terminal.until(">>> ")
        terminal.type(b"\x04")
        assert terminal.end() == 0
    finally:
        terminal.close()


@pytest.mark.engine
def test_bytes_and_letters_that_the_terminal_does_not_know_end_nothing(environment):
    """`session` shows the name again; the model is sent a mark where the byte was."""
    done = subprocess.run(
        [*COMMAND, "chat", *SMALL, "--max-new-tokens", "3"],
        input=b"caf\xe9\nsession caf\xe9\nstats\n",
        env=environment | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"conversation caf?\n" in done.stdout and b"1 in 1 sessions" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--mode", "fast"], "unknown mode 'fast'; choose one of: "),
        (["--mode", "vllm", "--cpu-cache", "1"], "mode vllm keeps nothing in host memory"),
        (["--gpu-cache", "0"], "gpu_cache_gb is 0.0; it must be above 0"),
        (["--gpu-cache", "much"], "Invalid value for '--gpu-cache'"),
        (["--max-new-tokens", "0"], "max_new_tokens is 0; at least 1"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--device", "cuda:0"], "the installed vLLM is the CPU build"),
    ],
)
def test_what_cannot_be_used_is_refused_before_vllm_starts(arguments, said, environment):
    done = subprocess.run(
        [*COMMAND, "chat", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_bad_length_in_the_environment_is_named(environment):
    done = subprocess.run(
        [*COMMAND, "chat"],
        env=environment | {"MAX_NEW_TOKENS": "many"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 2
    assert done.stderr == "pensieve: MAX_NEW_TOKENS='many'; allowed: a whole number above 0.\n"
