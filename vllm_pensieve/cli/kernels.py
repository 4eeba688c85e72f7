"""`pensieve bench kernels`: the benchmark in benchmarks/attention, which the repository has and the wheel has not."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import typer

from vllm_pensieve.errors import UsageError

FOLDER = Path(__file__).parents[2] / "benchmarks" / "attention"
"""Where it is in a checkout."""


def add_kernels(app: typer.Typer, folder: Path = FOLDER) -> None:
    """Add the command to an app: the benchmark itself where it is, else one that says where it is."""
    if (folder / "command.py").is_file():
        sys.path.insert(0, str(folder.parents[1]))
        app.command("kernels")(importlib.import_module("benchmarks.attention.command").kernels)
        return
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command("kernels", context_settings=anything)(_elsewhere)


def _elsewhere() -> None:
    """Measure attention over scattered blocks: only from a checkout, where it is in benchmarks/attention."""
    raise UsageError(
        "the attention benchmark is not part of the installed package; it is in the folder benchmarks/attention of "
        "vllm-pensieve's repository and source archive: run `python -m benchmarks.attention` there"
    )
