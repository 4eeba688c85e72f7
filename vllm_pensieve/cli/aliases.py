"""Second command lines, given by others, that stay as they are: which command each of these scripts is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from vllm_pensieve.cli import main

FEW_AT_A_TIME = ("--requests-per-s", "0.2")
"""One new conversation in five seconds, so that few are under way at the same time."""
COMMANDS = {
    "analyze_all_prefix_cache.py": ("trace", "analyze-all"),
    "analyze_prefix_stats.py": ("trace", "analyze"),
    "sharegpt_client_simulator.py": ("trace", "events", "sharegpt"),
    "simulate_cache_policies.py": ("trace", "policies"),
    "simulate_mixed_workloads.py": ("trace", "mix"),
    "summarize_prefix_stats.py": ("trace", "summarize"),
    "run_all_workloads_prefix.py": (
        *("trace", "collect", "all", "--block-tokens", "16,32,64"),
        *FEW_AT_A_TIME,
    ),
    "run_sharegpt_prefix_multi.py": (
        *("trace", "collect", "sharegpt", "--block-tokens", "16"),
        *FEW_AT_A_TIME,
    ),
    "run_sharegpt_prefix_single.py": (
        *("trace", "collect", "sharegpt", "--mode", "single", "--block-tokens", "16"),
        *FEW_AT_A_TIME,
    ),
}
"""Words that stand before those given to the script. Blocks of 16 tokens can be merged into those of 32 and 64
afterwards; on a CPU vLLM runs no model with them, so that these traces are recorded without it, and the output says so.
"""
PROGRAMS = {
    "demo_prefix_metrics_hello.py": "vllm_pensieve.cli.study:demo_hello",
    "demo_sharegpt_client.py": "vllm_pensieve.cli.study:demo_client",
    "test_basic_inference.py": "vllm_pensieve.cli.self_checks:basic_inference",
    "test_chunk_pinning.py": "vllm_pensieve.cli.self_checks:chunk_pinning",
    "test_multiturn.py": "vllm_pensieve.cli.self_checks:multiturn",
}
"""Scripts that have a command of their own."""


def run(script: str) -> None:
    """Run what the script of this path stands for, with the words given to it."""
    name = Path(script).name
    if name in COMMANDS:
        sys.argv[1:1] = COMMANDS[name]
        main()
    module, _, function = PROGRAMS[name].partition(":")
    command: Callable[..., None] = getattr(importlib.import_module(module), function)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    main(app, None)
