"""Options that several benchmarks over servers have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option(help="Model name or folder; `demo` is a random model made on this machine.")
]
Modes = Annotated[
    str,
    typer.Option(
        help="Comma-separated: vllm, vllm-apc, vllm-offload, pensieve, pensieve-no-swap, pensieve-lru, "
        "pensieve-no-recovery."
    ),
]
GpuCache = Annotated[
    float | None,
    typer.Option(
        metavar="GB",
        help="KV memory of each server in GB (10^9 bytes); without it, a part of what all conversations "
        "that go on at a time need.",
    ),
]
CpuCache = Annotated[
    float | None,
    typer.Option(
        metavar="GB",
        help="Host memory for blocks that leave KV memory, in GB, in the modes that use any; 0 for none; "
        "without it, a part of what all conversations that go on at a time need.",
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first bad record of the data set.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, or cuda:N.")]
Repeat = Annotated[
    int, typer.Option(help="Measure all modes this many times, in turn, and report medians.")
]
Seed = Annotated[int, typer.Option(help="Seed of texts, lengths and pauses.")]
Out = Annotated[
    Path, typer.Option(help="Folder for summary.json, requests.jsonl, figures and logs.")
]
Sheet = Annotated[
    Path | None,
    typer.Option(metavar="FILE.md", help="Write the results as a measurement sheet, too."),
]
ServerOptions = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- VLLM_OPTIONS]", help="Options for every server.", show_default=False
    ),
]
