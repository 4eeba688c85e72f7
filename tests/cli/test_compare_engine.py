"""`pensieve compare` against real servers: what it writes, and what is left when something goes
wrong.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine

TINY = (
    "--sessions",
    "2",
    "--history-tokens",
    "256",
    "--output-tokens",
    "8",
    "--think-time-s",
    "0.1",
)
START_TIMEOUT_S = 240


def start(out: Path, *arguments: str, command: str = "compare") -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "vllm_pensieve", *command.split()]
    env = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "COLUMNS": "200"}
    return subprocess.Popen(
        [*program, "--out", str(out), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
    )


def finish(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=START_TIMEOUT_S)[0]


def wait_for_lines(path: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not path.exists() or len(path.read_text().splitlines()) < count:
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def server_processes(out: Path) -> list[int]:
    """Live processes whose output goes to a log of this comparison."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(folder / "fd" / "1").startswith(str(out)):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "requests.jsonl").read_text().splitlines()]


def test_a_comparison_writes_its_summary_requests_and_figures(tmp_path):
    process = start(
        tmp_path, *TINY, "--turns", "5", "--modes", "vllm,vllm-apc", "--", "--dtype", "float32"
    )
    output = finish(process)
    assert process.returncode == 0, output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["schema"] == 1
    assert summary["outputs_identical"] is True
    assert summary["failures"] == []
    assert set(summary["speedup"]) == {"vllm-apc/vllm"}
    for name, numbers in summary["modes"].items():
        assert (numbers["requests"], numbers["failed"]) == (10, 0)
        assert len(numbers["ttft_s"]["by_turn"]) == 5
        assert numbers["ttft_s"]["mean_turn5plus"] == numbers["ttft_s"]["by_turn"][4]
        for key in ("duration_s", "throughput_rps", "output_tok_s"):
            assert numbers[key] > 0
        for key in ("ttft_s", "e2e_s", "tpot_s"):
            assert numbers[key]["p50"] <= numbers[key]["p90"] <= numbers[key]["p99"]
        prompt = dict(numbers["prompt_tokens"])
        assert prompt.pop("total") == sum(prompt.values())
        assert "--dtype" in summary["servers"][name]["command"]
    assert summary["modes"]["vllm"]["prompt_tokens"]["resident"] == 0
    for figure in ("ttft_by_turn.png", "throughput.png", "prompt_tokens_by_source.png"):
        assert (tmp_path / figure).stat().st_size > 5000
    assert server_processes(tmp_path) == []
    replies_are_reused(records(tmp_path))


def test_users_at_the_same_time_are_measured_by_class(tmp_path):
    process = start(
        tmp_path,
        *("--modes", "vllm-apc,pensieve", "--users", "3", "--turns", "2"),
        *("--history-tokens", "256", "--gpu-cache", "0.02", "--cpu-cache", "0.02"),
        *("--max-new-tokens", "8", "--request-interval", "0.3"),
        *("--sheet", str(tmp_path / "sheet.md"), "--", "--dtype", "float32"),
        command="bench users",
    )
    output = finish(process)
    assert process.returncode == 0, output
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["outputs_identical"] is True
    clients = re.findall(r"^  Client (\d): (HOT|WARM|COLD) ", output, re.MULTILINE)
    assert clients == [("0", "HOT"), ("1", "WARM"), ("2", "COLD")] * 2  # in both phases
    for numbers in summary["modes"].values():
        assert list(numbers["by_class"]) == ["HOT", "WARM", "COLD"]
        assert [own["requests"] for own in numbers["by_class"].values()] == [6, 4, 2]
        assert sum(numbers["prompt_shares"].values()) == pytest.approx(1.0)
        cached = sum(own["prompt_tokens"]["cached"] for own in numbers["by_class"].values())
        prompt = numbers["prompt_tokens"]
        assert cached == prompt["resident"] + prompt["swapped"] > 0
    hot = summary["speedup"]["pensieve/vllm-apc"]["by_class"]["HOT"]["ttft_mean"]
    assert f"| TTFT of HOT users | 1.8x to 2.5x | not measured | {hot:.2f}x |" in (
        (tmp_path / "sheet.md").read_text()
    )
    assert f"{hot:.2f}x" in output
    assert str(tmp_path / "sheet.md") in (tmp_path / "sheet.md").read_text()
    assert server_processes(tmp_path) == []


def replies_are_reused(lines: list[dict]) -> None:
    """With prefix caching, a turn's cached tokens reach into the previous reply: all but its last,
    unfinished block.
    """
    cached = {(line["session"], line["turn"]): line for line in lines if line["mode"] == "vllm-apc"}
    for (session, turn), line in cached.items():
        if turn == 1:
            assert line["cached_tokens"] == 0
            continue
        before = cached[session, turn - 1]
        kept = before["prompt_tokens"] + before["output_tokens"] - 1
        assert line["cached_tokens"] == kept // 32 * 32


def test_a_killed_server_is_told_with_its_log_and_the_rest_is_measured(tmp_path):
    process = start(tmp_path, *TINY, "--turns", "12", "--modes", "vllm-apc,vllm")
    wait_for_lines(tmp_path / "requests.jsonl", 24 + 3, process)
    for pid in server_processes(tmp_path):
        os.kill(pid, signal.SIGKILL)
    output = finish(process)
    assert process.returncode == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    (failure,) = summary["failures"]
    assert "SIGKILL" in failure["server"]
    assert failure["log_tail"][-1] in output
    assert summary["modes"]["vllm-apc"]["missing"] == 0
    numbers = summary["modes"]["vllm"]
    assert numbers["requests"] == 24
    assert 0 < numbers["failed"] <= 21
    assert sum(1 for line in records(tmp_path) if line["error"]) == numbers["failed"]
    answered = 24 - numbers["failed"]
    assert numbers["missing"] == numbers["failed"]
    better = summary["speedup"]["vllm-apc/vllm"]
    assert (better["requests"], better["left_out"]) == (answered, numbers["failed"])
    assert better["throughput"] is None and better["ttft_mean"] > 0
    told = " ".join(output.split())
    assert f"vllm: {numbers['failed']} of 24 turns without an answer" in told
    assert f"compared over the {answered} requests that both answered, without throughput" in told


def test_a_turn_that_is_refused_is_told_with_those_that_were_not_sent_after_it(tmp_path):
    process = start(
        tmp_path,
        *TINY,
        *("--turns", "5", "--modes", "vllm-apc", "--sheet", str(tmp_path / "sheet.md")),
        *("--", "--max-model-len", "390"),
    )
    output = finish(process)
    assert process.returncode == 1, output
    lines = records(tmp_path)
    errors = [
        [line["error"] for line in lines if line["session"] == f"session-0-{i}"] for i in (0, 1)
    ]
    for answered in errors:
        first = next(number for number, error in enumerate(answered, start=1) if error)
        assert 1 < first < 5
        assert "400" in answered[first - 1] and "context" in answered[first - 1]
        assert answered[first:] == [f"not sent: turn {first} of this session failed"] * (5 - first)
    missing = sum(1 for line in lines if line["error"])
    said = f"vllm-apc: {missing} of 10 turns without an answer"
    assert said in " ".join(output.split())
    assert said in (tmp_path / "sheet.md").read_text()
    assert said in json.loads((tmp_path / "summary.json").read_text())["remarks"][0]


def test_an_interruption_keeps_what_was_measured_and_stops_the_server(tmp_path):
    process = start(tmp_path, *TINY, "--turns", "40", "--modes", "vllm-apc,vllm")
    wait_for_lines(tmp_path / "requests.jsonl", 3, process)
    assert server_processes(tmp_path) != []
    process.send_signal(signal.SIGINT)
    output = finish(process)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert server_processes(tmp_path) == []
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["interrupted"] is True
    assert summary["modes"]["vllm-apc"]["requests"] == len(records(tmp_path)) >= 3
    assert summary["modes"]["vllm-apc"]["failed"] == 0


def test_too_little_kv_memory_is_told_in_vllms_words(tmp_path):
    process = start(
        tmp_path,
        *TINY,
        "--turns",
        "2",
        "--modes",
        "vllm",
        "--kv-cache-gib",
        "0.003",
        "--max-model-len",
        "4096",
    )
    output = finish(process)
    assert process.returncode == 2
    assert "the server of mode vllm did not start: ValueError" in output
    assert "max seq len (4096)" in output
    assert "Traceback" not in output
