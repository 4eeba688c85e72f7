"""Second command lines: each script is in the table, and each entry of the table is a script that runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from vllm_pensieve.cli.aliases import COMMANDS, PROGRAMS

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    [
        *(ROOT / "tools").glob("*.py"),
        *(
            path
            for kind in ("run", "demo", "test")
            for path in (ROOT / "scripts").glob(f"{kind}_*.py")
        ),
    ]
)


def test_the_table_and_the_scripts_are_the_same():
    assert {path.name for path in SCRIPTS} == COMMANDS.keys() | PROGRAMS.keys()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_explains_itself(script):
    answer = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, check=False
    )
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "Usage: " in answer.stdout and "--help" in answer.stdout
