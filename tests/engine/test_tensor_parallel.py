"""Tensor parallel: every worker carries out the same plans on its part of the blocks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.engine


def test_two_workers_swap_in_step(tiny_model):
    command = [sys.executable, "-m", "tests.engine.tensor_parallel", str(tiny_model)]
    folder = Path(__file__).parents[2]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    result = json.loads(answer.stdout.splitlines()[-1])
    assert result["slots"] == 200, "the size asked for is that of all workers together"
    assert result["swapped"] >= 2 * 672, "the second round comes from host memory"
    first, second = result["rounds"]
    assert first == second
