"""Help is shown without anything that takes long to import."""

import subprocess
import sys

COMMANDS = (
    "",
    "bench",
    "bench sharegpt",
    "bench users",
    "chat",
    "compare",
    "profile",
    "report",
    "serve",
    "simulate",
    "trace",
    "trace analyze-all",
    "trace collect",
    "trace summarize",
)
HEAVY = ("matplotlib", "numba", "numpy", "torch", "transformers", "vllm")


def test_no_help_imports_anything_heavy():
    program = f"""
import sys
from vllm_pensieve.cli import main
for command in {COMMANDS!r}:
    sys.argv = ["pensieve", *command.split(), "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
    found = [name for name in {HEAVY!r} if name in sys.modules]
    assert not found, (command, found)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.count("Usage:") == len(COMMANDS)
