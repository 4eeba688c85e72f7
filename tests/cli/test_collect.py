"""Recording of traces at the command line: bad input at once, a whole set without a model, and one with it."""

import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllm_pensieve.trace.combine import coarsen
from vllm_pensieve.trace.readers import read_trace

ROOT = Path(__file__).parents[2]
DOCUMENTED = {"VLLM_PLATFORM": "cpu", "VLLM_ATTENTION_BACKEND": "TORCH_SDPA"}
GENERATED = ("--dataset", "generated")


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != "PREFIX_MODE"}
    env |= {"COLUMNS": "200", "TERM": "dumb"} | environment
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT,
        timeout=300,
        check=False,
    )


def collect(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run(["-m", "vllm_pensieve", "trace", "collect", *arguments], **environment)


def requests(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / f"prefix_{name}_requests.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def is_quiet(answer: subprocess.CompletedProcess[str]) -> bool:
    """Nothing was said by vLLM or by a library."""
    said = [line for line in answer.stdout.splitlines() if re.search(r"(?i)warning|W1\d{3}", line)]
    return (answer.returncode, answer.stderr, said) == (0, "", [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dreams",), "unknown workload 'dreams'; choose one of: chat_multi, chat_single, qa, su"),
        (("qa", "--block-tokens", "some"), "--block-tokens 'some': give numbers above 0"),
        (
            ("sharegpt", "--mode", "both"),
            "--mode 'both' (PREFIX_MODE) is unknown; choose one of: single",
        ),
        (("qa", "--conversations", "0"), "Invalid value for '--conversations'"),
        (("chat_multi", "--dataset", "absent.json"), "absent.json: cannot be read: No such file"),
    ],
)
def test_bad_input_is_refused(tmp_path, arguments, message):
    answer = collect(*arguments, "--out", str(tmp_path), HF_HUB_OFFLINE="1")
    assert answer.returncode == 2
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(tmp_path.iterdir())


def test_the_mode_is_also_taken_from_the_environment(tmp_path):
    answer = collect("sharegpt", "--out", str(tmp_path), PREFIX_MODE="double")
    assert "--mode 'double' (PREFIX_MODE) is unknown" in answer.stderr


def test_the_client_simulator_writes_events():
    answer = run(["tools/sharegpt_client_simulator.py", "--mode", "multi", *GENERATED])
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    assert {event["mode"] for event in events} == {"multi"}
    assert len({event["conversation_id"] for event in events}) == 20
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """All workloads at three block sizes, without a model; the folder and what was said."""
    out = tmp_path_factory.mktemp("traces")
    answer = run(
        ["scripts/run_all_workloads_prefix.py", "--simulate", *GENERATED, "--out", str(out)],
        **DOCUMENTED,
    )
    assert answer.returncode == 0, answer.stderr
    return out, answer.stdout


@pytest.mark.engine
class TestAllWorkloadsWithoutAModel:
    def test_each_workload_and_block_size_has_its_two_files(self, simulated):
        folder, _ = simulated
        workloads = ("chat_multi", "chat_single", "qa", "summarization")
        assert {path.name for path in folder.iterdir()} == {
            f"prefix_{workload}_b{size}_{kind}.jsonl"
            for workload in workloads
            for size in (16, 32, 64)
            for kind in ("requests", "blocks")
        }

    def test_the_documented_environment_does_no_harm_and_is_left_out(self, simulated):
        _, said = simulated
        (notes,) = [line for line in said.splitlines() if line.startswith("note: ")]
        assert "VLLM_ATTENTION_BACKEND=TORCH_SDPA is left out: it is not known to vLLM" in notes
        assert "VLLM_PLATFORM=cpu is left out: it is not known to vLLM" in notes

    @pytest.mark.parametrize("size", [16, 32, 64])
    def test_blocks_have_the_size_asked_for(self, simulated, size):
        for record in requests(simulated[0], f"qa_b{size}"):
            full = record["prompt_tokens"] // size
            assert full - 1 <= len(record["hash_ids"]) <= full + 1

    def test_prompts_are_shared_as_their_workload_says(self, simulated):
        folder, _ = simulated
        reuse = {
            name: np.mean([record["reuse_fraction"] for record in requests(folder, f"{name}_b16")])
            for name in ("chat_multi", "chat_single", "qa", "summarization")
        }
        assert reuse["chat_multi"] > 0.5
        assert reuse["qa"] > 0.5
        assert reuse["chat_single"] < 0.05
        assert reuse["summarization"] < 0.05

    def test_times_are_those_of_the_client_although_nobody_waited(self, simulated):
        """20 conversations, a new one in five seconds, turns five seconds apart."""
        records = requests(simulated[0], "chat_multi_b32")
        times = [record["monotonic_s"] for record in records]
        assert 50 < max(times) - min(times) < 600

    def test_sessions_are_the_conversations_of_the_client(self, simulated):
        records = requests(simulated[0], "chat_multi_b32")
        assert {record["session_id"] for record in records} == {f"multi-{i}" for i in range(20)}
        assert {record["workload"] for record in records} == {"chat_multi"}

    def test_the_trace_tells_what_was_served(self, simulated):
        trace = read_trace(simulated[0] / "prefix_qa_b16")
        assert trace.model == "demo (tokens made up)"
        assert trace.recorded_on == f"{datetime.now(UTC):%Y-%m-%d}"

    @pytest.mark.parametrize("workload", ["chat_multi", "qa", "summarization"])
    def test_small_blocks_merged_are_as_large_ones_recorded(self, simulated, workload):
        merged = coarsen(read_trace(simulated[0] / f"prefix_{workload}_b16"), 64)
        recorded = read_trace(simulated[0] / f"prefix_{workload}_b64")
        assert np.diff(merged.offsets).tolist() == np.diff(recorded.offsets).tolist()
        assert merged.infinite_hits == recorded.infinite_hits

    @pytest.mark.parametrize("columns", [40, 80])
    def test_no_heading_is_broken_in_a_narrow_terminal(self, simulated, columns):
        """Of the tables of recording, of all workloads, and of the mix."""
        folder, _ = simulated
        tables = {
            ("trace", "analyze-all"): ("workload block requests mean median p90 p99 above 0 no limit",),
            ("trace", "mix"): ("capacity workload events LRU FIFO WA-LRU no limit",),
        }  # fmt: skip
        for command, headings in tables.items():
            answer = run(["-m", "vllm_pensieve", *command, str(folder)], COLUMNS=str(columns))
            lines = [" ".join(line.split()) for line in answer.stdout.splitlines()]
            assert set(headings) <= set(lines), answer.stdout


@pytest.mark.engine
def test_the_clients_prompts_are_shown_so_that_they_can_be_read(tmp_path):
    answer = run(
        ["scripts/demo_sharegpt_client.py", "--simulate", "--conversations", "2", *GENERATED,
         "--out", str(tmp_path)]
    )  # fmt: skip
    assert is_quiet(answer), answer.stderr
    shown = {" ".join(line.removeprefix("  | ").split()) for line in answer.stdout.splitlines()}
    for mode in ("single", "multi"):
        events = run(
            ["tools/sharegpt_client_simulator.py", "--mode", mode, "--conversations", "2",
             "--max-prompt-tokens", "4096", "--requests-per-s", "1.0", *GENERATED]
        )  # fmt: skip
        for event in map(json.loads, events.stdout.splitlines()):
            said = event["prompt"].removesuffix("\nAssistant:").split("\n")[-1]
            assert len(said) > 300 or " ".join(said.split()) in shown
    assert not list(tmp_path.glob("prefix_chat*"))


@pytest.mark.engine
def test_with_a_model_blocks_of_16_tokens_are_recorded_without_it_and_that_is_said(
    tmp_path, tiny_model
):
    answer = collect(
        "qa", "--model", str(tiny_model), "--block-tokens", "16,32", "--out", str(tmp_path),
        "--conversations", "5", "--max-output-tokens", "6", "--max-prompt-tokens", "1000",
        "--kv-cache-gib", "0.05",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "prefix_qa_b16: vLLM's attention on this CPU takes blocks of 32 tokens" in answer.stdout
    model, simulated = requests(tmp_path, "qa_b32"), requests(tmp_path, "qa_b16")
    for key in ("prompt_tokens", "output_tokens", "session_id"):
        assert [r[key] for r in model] == [r[key] for r in simulated]
    assert np.mean([record["reuse_fraction"] for record in simulated]) > 0.5


@pytest.mark.engine
def test_a_greeting_is_not_shared_and_a_letter_is_the_second_time(tmp_path):
    answer = run(["scripts/demo_prefix_metrics_hello.py", "--simulate", "--out", str(tmp_path)])
    assert is_quiet(answer), answer.stderr
    assert "  | Hello world\n" in answer.stdout
    names = [f"prefix_metrics_toy_{kind}.jsonl" for kind in ("blocks", "requests")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    reuse = [record["reuse_fraction"] for record in requests(tmp_path, "metrics_toy")]
    assert reuse[0] == reuse[1] == reuse[4] == 0
    assert min(reuse[2:4]) > 0.9
