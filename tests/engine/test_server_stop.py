"""A real server that records a trace and ends, in each of the ways that servers end: what stands in the trace."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest

pytestmark = pytest.mark.engine

START_TIMEOUT_S = 240
SESSIONS, TURNS, CHOICES = 3, 3, 2
IN_FLIGHT_TOKENS = 1200


class Recorded:
    """A server with little memory that has served some turns, and its trace."""

    def __init__(self, folder, model, *options):
        from vllm_pensieve.bench.server import Server, ServerCommand, free_port

        self.folder = folder
        self.prefix = folder / "trace"
        settings = {"trace_prefix": str(self.prefix), "step_cost_tokens": 0}
        port = free_port()
        arguments = [sys.executable, "-m", "vllm_pensieve", "serve", str(model)]
        arguments += ["--pensieve-config", json.dumps(settings | {"host_cache_gib": 20 / 2**14})]
        arguments += ["--port", str(port), "--served-model-name", "tiny", "--dtype", "float32"]
        arguments += ["--enforce-eager", "--block-size", "32", "--max-model-len", "1280"]
        arguments += ["--num-gpu-blocks-override", "45", *options]
        environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        command = ServerCommand(tuple(arguments), environment, port, folder / "log")
        self.finished = 0
        self.server = Server(command)
        self.server.wait_ready(START_TIMEOUT_S, lambda waited_s: None)

    def ask(self, prompt, tokens=6, **body):
        body |= {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        answer = httpx.post(f"{self.server.command.url}/v1/completions", json=body, timeout=120)
        answer.raise_for_status()
        self.finished += body.get("n", 1)

    def serve_some_turns(self):
        for turn in range(TURNS):
            for session in range(SESSIONS):
                prompt = f"session {session} " + "word " * (60 + 40 * turn)
                self.ask(prompt, session_id=f"s{session}")
        self.ask("several " * 50, n=CHOICES, session_id="choices")
        self.ask("several " * 50 + "more", session_id="choices")

    def prompt_tokens_by_source(self):
        """Of /metrics, whose last report may come a second after the last request."""
        pattern = r'^vllm:pensieve_prompt_tokens_total\{.*source="(\w+)".*\} (\S+)$'
        found = re.findall(pattern, self.metrics(), re.MULTILINE)
        return {source: float(count) for source, count in found}

    def metrics(self):
        return httpx.get(f"{self.server.command.url}/metrics", timeout=60).text

    def process(self, name):
        """The id of the server's descendant whose command or title begins so."""
        import psutil

        for process in psutil.Process(self.server.pid).children(recursive=True):
            if name in " ".join([process.name(), *process.cmdline()]):
                return process.pid
        raise AssertionError(f"no process {name}")

    def begin_long_request(self):
        """A request that is being answered, and what to close it with."""
        body = {"model": "tiny", "prompt": "in flight", "ignore_eos": True, "stream": True}
        stack = contextlib.ExitStack()
        answer = stack.enter_context(
            httpx.stream(
                "POST",
                f"{self.server.command.url}/v1/completions",
                json=body | {"max_tokens": IN_FLIGHT_TOKENS},
                timeout=120,
            )
        )
        assert next(answer.iter_lines()).startswith("data: ")
        return stack

    def wait_for_lines(self, count):
        """They are written every second."""
        deadline_s = time.monotonic() + 60
        while len(self.lines("requests")) < count:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)

    def lines(self, kind):
        path = self.folder / f"trace_{kind}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


def ended(server, pid, number, group=False):
    (os.killpg if group else os.kill)(pid, number)
    server._process.wait(120)


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("SIGTERM", ()),
        pytest.param("Ctrl-C in the terminal", (), marks=pytest.mark.long),
        pytest.param("SIGTERM, draining", ("--shutdown-timeout", "1"), marks=pytest.mark.long),
        pytest.param("the engine is told to stop", (), marks=pytest.mark.long),
        pytest.param("the engine fails in a step", (), marks=pytest.mark.long),
        pytest.param("the engine is killed", (), marks=pytest.mark.long),
    ],
)
def test_the_trace_of_a_server_that_ends_is_there(tmp_path, tiny_model, case, options):
    recorded = Recorded(tmp_path, tiny_model, *options)
    server = recorded.server
    try:
        recorded.serve_some_turns()
        told = recorded.prompt_tokens_by_source()
        finished = recorded.finished
        engine = recorded.process("EngineCore")
        with recorded.begin_long_request():
            if case == "Ctrl-C in the terminal":
                ended(server, server.pid, signal.SIGINT, group=True)
            elif case == "the engine is told to stop":
                ended(server, engine, signal.SIGTERM)
            elif case == "the engine is killed":
                recorded.wait_for_lines(finished)
                ended(server, engine, signal.SIGKILL)
            elif case == "the engine fails in a step":
                ended(server, recorded.process("Worker"), signal.SIGKILL)
            else:
                ended(server, server.pid, signal.SIGTERM)
    finally:
        server.stop()
    requests, blocks = recorded.lines("requests"), recorded.lines("blocks")
    requests.sort(key=lambda record: record["time"])
    done, rest = requests[:finished], requests[finished:]
    assert finished == SESSIONS * TURNS + CHOICES + 1
    assert [r["finish_reason"] for r in done] == ["length"] * finished
    for source, count in told.items():
        assert sum(r[f"prompt_tokens_{source}"] for r in done) == count
    assert all(
        r["prompt_tokens"] == sum(r[f"prompt_tokens_{source}"] for source in told) for r in requests
    )
    assert told["swapped"] > 0
    if case == "the engine is killed":
        assert {b["fate"] for b in blocks} <= {"dropped"}
        return
    (in_flight,) = rest
    assert in_flight["finish_reason"] in ("abort", "unfinished", "length")  # it may have been quick
    known = {block["block"] for block in blocks}
    left = [block["block"] for block in blocks if block["fate"] != "dropped"]
    assert {block["fate"] for block in blocks} == {"alive", "swapped", "dropped"}
    assert len(set(left)) == len(left), "a block that was dropped may live again, but ends once"
    named = {b for r in requests for b in r["hash_ids"][: r["prompt_tokens"] // r["block_tokens"]]}
    assert named <= known
    assert sum(b["hits"] for b in blocks) == (told["resident"] + told["swapped"]) / 32


@pytest.mark.long
def test_a_second_server_with_the_prefix_of_a_running_one_is_refused_before_it_loads_a_model(
    tmp_path, tiny_model
):
    from vllm_pensieve.bench.server import free_port

    recorded = Recorded(tmp_path, tiny_model)
    try:
        arguments = list(recorded.server.command.arguments)
        done = subprocess.run(
            [*arguments, "--port", str(free_port())],
            env=recorded.server.command.environment,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        assert done.returncode != 0
        assert "is being written by another engine; give each server" in done.stderr
        assert "EngineCore" not in done.stderr + done.stdout
    finally:
        recorded.server.stop()
