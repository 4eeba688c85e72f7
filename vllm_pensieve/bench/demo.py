"""The demonstration: a comparison that is over in minutes on two cores, and what it showed in three numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vllm_pensieve.bench.memory import MemoryAsked, MemoryShares, choose_memory
from vllm_pensieve.bench.options import Workload, check_run, plan_run
from vllm_pensieve.bench.plan import ComparePlan
from vllm_pensieve.bench.run_options import RunOptions
from vllm_pensieve.demo_model import DEMO_MODEL_NAME
from vllm_pensieve.workloads.conversations import WorkloadSpec, generate_conversations
from vllm_pensieve.workloads.tokens import token_counter

MODES = "vllm,vllm-apc,pensieve"
CHATS = WorkloadSpec(
    name="demo",
    sessions=5,
    turns=3,
    history_tokens=4096,
    input_tokens=38,
    output_tokens=16,
    think_time_s=6.0,
    concurrency=5,
)
"""Chats about a text that was pasted into the first turn."""
SHARES = MemoryShares(gpu=0.27, cpu=1.0)
"""KV memory holds about one chat and a half; host memory holds all of them."""
FLOAT32 = ("--dtype", "float32")
"""In which answers do not depend on what else is in a batch, so that the modes' can be compared."""


def make_demo_plan(out: Path) -> ComparePlan:
    """The plan of the demonstration, with its results in `out`.

    Raises UsageError if the folder cannot be used.
    """
    options = RunOptions(modes=MODES, out=out, server_options=FLOAT32)
    check_run(options)
    counter = token_counter(DEMO_MODEL_NAME)
    conversations = generate_conversations(CHATS, options.seed, counter.characters)
    description: dict[str, object] = {
        "name": CHATS.name,
        "history_tokens": CHATS.history_tokens,
        "turns": CHATS.turns,
        "output_tokens": CHATS.output_tokens,
        "think_time_s": CHATS.think_time_s,
        "message_overhead_tokens": counter.message_overhead_tokens,
    }
    workload = Workload(
        conversations,
        CHATS.concurrency,
        description,
        shorten="",
        message_overhead_tokens=counter.message_overhead_tokens,
    )
    memory = choose_memory(MemoryAsked(None, None, SHARES), options, workload)
    return plan_run(options, memory, workload)


def returning_ttft_s(summary: Mapping[str, Any]) -> dict[str, float]:
    """Mean time in seconds to the first token of all turns but each chat's first, by mode that has any."""
    times = {
        mode: numbers["ttft_s"]["mean_returning"] for mode, numbers in summary["modes"].items()
    }
    return {mode: value for mode, value in times.items() if value}
