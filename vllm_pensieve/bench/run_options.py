"""Options of the commands that compare servers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from vllm_pensieve.bench.memory_options import CPU_GB, GPU_GB, HOST_GIB, KV_GIB
from vllm_pensieve.device import AUTO
from vllm_pensieve.modes import MODES

Strict = Annotated[bool, Option("--strict", help="Stop at the first bad record of the data set.")]
RESULTS = "Runs and results"
"""Where the help has the options that every comparison has."""
Out = Annotated[
    Path,
    Option(
        help="Folder for summary.json, requests.jsonl, figures and logs.", rich_help_panel=RESULTS
    ),
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What the benchmarks that compare servers have in common; None means: take the default."""

    model: Annotated[
        str, Option(help="Model name or folder; `demo` is a random model made on this machine.")
    ] = "demo"
    modes: Annotated[str, Option(help=f"Comma-separated: {', '.join(MODES)}.")] = (
        "vllm,vllm-apc,pensieve"
    )
    repeat: Annotated[
        int,
        Option(
            min=1,
            help="Measure all modes this many times, in turn, and report medians.",
            rich_help_panel=RESULTS,
        ),
    ] = 1
    seed: Annotated[
        int, Option(min=0, help="Seed of texts, lengths and pauses.", rich_help_panel=RESULTS)
    ] = 0
    out: Out
    sheet: Annotated[
        Path | None,
        Option(
            metavar="FILE.md",
            help="Write the results as a measurement sheet, too.",
            rich_help_panel=RESULTS,
        ),
    ] = None
    device: str = AUTO
    max_model_len: int | None = None
    port: int | None = None
    server_options: Annotated[
        tuple[str, ...],
        Argument(metavar="[-- VLLM_OPTIONS]", help="Options for every server.", show_default=False),
    ] = ()


@dataclass(frozen=True, kw_only=True)
class BenchmarkOptions(RunOptions):
    """What the benchmarks named after the guide's have in common. Memory is in GB of 10^9 bytes."""

    device: Annotated[str, Option(help="auto, cpu, cuda, or cuda:N.", rich_help_panel=RESULTS)] = (
        AUTO
    )
    gpu_cache_gb: Annotated[
        float | None,
        Option(
            "--gpu-cache",
            metavar="GB",
            help="KV memory of each server in GB (10^9 bytes); without it, a part of what all conversations "
            "that go on at a time need.",
        ),
        *GPU_GB,
    ] = None
    cpu_cache_gb: Annotated[
        float | None,
        Option(
            "--cpu-cache",
            metavar="GB",
            help="Host memory for blocks that leave KV memory, in GB, in the modes that use any; 0 for none; "
            "without it, a part of what all conversations that go on at a time need.",
        ),
        *CPU_GB,
    ] = None


@dataclass(frozen=True, kw_only=True)
class CompareOptions(RunOptions):
    """The options of `pensieve compare`; None means: take the workload's or the machine's default."""

    workload: Annotated[
        str,
        Option(
            help="demo: chats about a long text; chat: ShareGPT statistics; documents: long documents, few turns."
        ),
    ] = "demo"
    dataset: Annotated[
        Path | None,
        Option(
            help="Conversations from a file (JSON, JSON lines, Parquet; also .gz and .zst) or OWNER/NAME on the "
            "Hugging Face hub."
        ),
    ] = None
    strict: Strict = False
    sessions: Annotated[int | None, Option(min=1, help="Conversations to replay.")] = None
    turns: Annotated[
        int | None, Option(min=1, help="Turns of each conversation (of a dataset: at most).")
    ] = None
    history_tokens: Annotated[
        int | None, Option(min=0, help="Length of the text pasted into the first turn.")
    ] = None
    output_tokens: Annotated[int | None, Option(min=1, help="Length of every reply.")] = None
    think_time_s: Annotated[
        float | None, Option(min=0, help="Mean pause before each turn (exponential).")
    ] = None
    concurrency: Annotated[int | None, Option(min=1, help="Conversations at a time.")] = None
    kv_cache_gib: Annotated[
        float | None, Option(min=0.001, help="KV memory of each server."), *KV_GIB
    ] = None
    host_cache_gib: Annotated[
        float | None,
        Option(min=0.001, help="Host memory for blocks that leave KV memory; none by default."),
        *HOST_GIB,
    ] = None
    max_model_len: Annotated[
        int | None, Option(min=256, help="Context of each server in tokens.")
    ] = None
    port: Annotated[
        int | None,
        Option(
            min=1,
            max=65535,
            help="Port of each server, one after the other.",
            rich_help_panel=RESULTS,
        ),
    ] = None
