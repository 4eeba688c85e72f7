"""What `pensieve trace` shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from vllm_pensieve.analysis.mixed import OVERALL, MixedResult, infinite_hit_rates
from vllm_pensieve.analysis.report import number
from vllm_pensieve.analysis.summaries import PrefixStats, summarize
from vllm_pensieve.cli.simulate_view import print_trace
from vllm_pensieve.trace.trace import Trace

MEASURES = {
    "reuse_fraction": "share of a prompt found in the cache",
    "block_hits": "uses of a block after its first",
    "reuse_gap_s": "time between two uses of a block (s)",
}


def print_summaries(all_stats: Sequence[PrefixStats]) -> None:
    """Print each trace's table."""
    for stats in all_stats:
        print_trace(stats.trace)
        summary = summarize(stats)
        table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
        table.add_column(stats.label)
        for heading in ("mean", "median", "p90", "p99", "above 0"):
            table.add_column(heading, justify="right", no_wrap=True)
        for key, meaning in MEASURES.items():
            numbers = summary[key]
            share = numbers.get("share_above_0")
            table.add_row(
                f"{meaning}, {numbers['source']}",
                *(number(numbers[column]) for column in ("mean", "median", "p90", "p99")),
                "" if share is None else f"{share:.1%}",
            )
        Console().print(table)


def print_mixed(results: Sequence[MixedResult], trace: Trace, kept: Sequence[str]) -> None:
    """Print hit rates: a row for each policy and capacity, a column for each workload."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    for heading in ("capacity", OVERALL, *trace.workloads):
        table.add_column(heading, justify="right", overflow="fold")
    rates: dict[tuple[str, int], dict[str, float]] = {}
    for result in results:
        rates.setdefault((result.policy, result.capacity_blocks), {})[result.workload] = (
            result.hit_rate
        )
    rows = {(policy, f"{capacity:,}"): own for (policy, capacity), own in rates.items()}
    for (policy, capacity), own in [*rows.items(), (("no limit", ""), infinite_hit_rates(trace))]:
        columns = (f"{own[name]:.1%}" for name in (OVERALL, *trace.workloads))
        table.add_row(policy, capacity, *columns)
    console = Console()
    console.print(table)
    note = f"share of blocks hit, prefix rules; workload-aware LRU keeps {', '.join(kept)}"
    console.print(note, highlight=False, markup=False, soft_wrap=True)
