"""The programs of parts 17 to 22 of the Pensieve guide: what each shows is shown by a program of this package.

They stand in docs/commands.md under "The guide's programs" and are run from there, on tiny models of the guide's names.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_pensieve.testing.originals.models import make_models

PAGE = Path(__file__).resolve().parents[2] / "docs" / "commands.md"
HEADING = "## The guide's programs"
WAIT_S = 300


def programs() -> dict[str, str]:
    """Python programs of the section, by the number of the guide's part that their text begins with."""
    section = PAGE.read_text().split(HEADING)[1].split("\n## ")[0]
    return dict(
        re.findall(r"^\*\*([\d.]+)\*\*(?:(?!```).)*```python\n(.*?)```", section, re.M | re.S)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `gpt2` is a model's folder."""
    made = tmp_path_factory.mktemp("models")
    make_models(made, ["gpt2"])
    return made


def run(program: str, folder: Path) -> str:
    """What a program prints when it is given to Python as the guide does."""
    done = subprocess.run(
        [sys.executable, "-"],
        input=program,
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


GUIDE_PART_22 = """
from vllm_pensieve import create_server
import time

print("=" * 60)
print("Single-Turn Performance Comparison")
print("=" * 60)

# Pensieve mode
server = create_server(mode='pensieve', model_name='gpt2')
start = time.time()
response = server.process_request('session_1', 'Hello, what is AI?', max_new_tokens=20)
time_pensieve = time.time() - start

print(f"\\nPensieve: {time_pensieve:.3f}s")
print(f"Response: {response[:50]}...")

# vLLM baseline
server_baseline = create_server(mode='vllm', model_name='gpt2')
start = time.time()
response_baseline = server_baseline.process_request('session_1', 'Hello, what is AI?', max_new_tokens=20)
time_baseline = time.time() - start

print(f"\\nvLLM: {time_baseline:.3f}s")
print(f"Response: {response_baseline[:50]}...")

# Both should be similar for turn 1 (no cache benefit yet)
ratio = time_baseline / time_pensieve if time_pensieve > 0 else 0
print(f"\\nSpeedup: {ratio:.2f}x (expected ~1.0x for turn 1)")
"""
"""As it stands there but for the name of the package."""


@pytest.mark.engine
def test_part_22_runs_as_it_stands_with_two_servers_in_one_process(folder):
    printed = run(GUIDE_PART_22, folder)
    times = re.findall(r"^(Pensieve|vLLM): \d+\.\d{3}s$", printed, re.M)
    assert times == ["Pensieve", "vLLM"]
    assert len(re.findall(r"^Response: .{20}\.\.\.$", printed, re.M)) == 2
    assert re.search(r"^Speedup: \d+\.\d\dx \(expected", printed, re.M)


@pytest.mark.engine
def test_parts_17_20_and_21_show_what_the_guide_expects(folder):
    """One process for all: starting Python and vLLM is what takes the time."""
    found = programs()
    assert set(found) == {"17.1", "17.2", "20", "21"}
    printed = run("\n".join(found[part] for part in sorted(found)), folder)
    for wanted in (
        r"Batch size: 3\nPrefill requests: 3\nCache swaps: 0\n",
        r"Execution time: \d+\.\d{3}s\nResults: 20 tokens, '.{20}'\n",
        r"No recovery needed \(no dropped blocks before cached ones\)\n",
        r"Recovery needed: 1 dropped runs, 96 tokens, \d+\.\d+ GFLOP instead of ",
        r"--- Turn 3: Tell me about neural networks\. ---\n",
    ):
        assert re.search(wanted, printed), (wanted, printed)
    turns = re.findall(r"Cache stats: GPU=(\d+) chunks, CPU=(\d+) chunks", printed)
    assert len(turns) == 3 and [int(gpu) for gpu, _ in turns] == sorted(
        int(gpu) for gpu, _ in turns
    )
    assert int(turns[-1][0]) > 0
