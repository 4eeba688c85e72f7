"""What `pensieve simulate` shows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.markup import escape

from vllm_pensieve.analysis.simulate import Result
from vllm_pensieve.machine import GIB
from vllm_pensieve.tables import RULE, Table, show
from vllm_pensieve.trace.trace import Trace
from vllm_pensieve.trace.wording import about_skipped, counted, skipped_loudly

SHOWN_BAD_LINES = 3
CAPTION = (
    "hits: share of block lookups; prefix: only up to a request's first missing block. cost: to compute what is "
    "missed, LRU under prefix rules = 100"
)


def print_trace(trace: Trace) -> None:
    """Print what was read, what is to be known of it, and which lines were left out."""
    console = Console()
    tokens = f" of {trace.block_tokens} tokens" if trace.block_tokens else ""
    console.print(
        f"{escape(trace.name)} ({trace.format}): {counted(trace.requests, 'request')}, "
        f"{counted(trace.sessions, 'session')}, {counted(trace.accesses, 'block lookup')}, "
        f"{counted(trace.unique_blocks, 'unique block')}{tokens}; "
        f"a cache without limit would hit {trace.infinite_hits / trace.accesses:.1%}",
        highlight=False,
        soft_wrap=True,
    )
    print_remarks(trace.notes, trace.skipped, trace.records)


def print_remarks(
    notes: Sequence[str], skipped: Sequence[str], records: int, name: str = ""
) -> None:
    """Print what is to be known of a trace, and which of its records were left out. name: where it is to be printed."""
    console = Console()
    beginning = f"{name}: " if name else ""
    for note in notes:
        text = escape(f"note: {beginning}{note}")
        console.print(text, style="yellow", highlight=False, soft_wrap=True)
    if skipped:
        console.print(
            escape(beginning + about_skipped(skipped, records, SHOWN_BAD_LINES)),
            style="bold red" if skipped_loudly(skipped, records) else "red",
            highlight=False,
            soft_wrap=True,
        )


def print_results(
    results: list[Result], trace: Trace, bytes_per_block: float | None = None
) -> None:
    """Print one row for each policy and capacity. bytes_per_block: KV memory of a block, for a column in GiB."""
    rows: list[Sequence[str]] = []
    for _, group in groupby(results, lambda result: result.policy):
        for result in group:
            lru_cost = result.cost_holes / result.cost_vs_lru if result.cost_vs_lru else None
            size_gib = result.capacity_blocks * (bytes_per_block or 0) / GIB
            rows.append(
                [
                    result.policy,
                    f"{result.capacity_blocks:,}",
                    *([f"{size_gib:,.3g}"] if bytes_per_block is not None else []),
                    f"{result.capacity_blocks / trace.unique_blocks:.1%}",
                    f"{result.hits_any / result.accesses:.2%}",
                    f"{result.hits_prefix / result.accesses:.2%}",
                    f"{100 * result.cost_vs_lru:.1f}",
                    f"{100 * result.cost_prefix / lru_cost:.1f}" if lru_cost else "-",
                ]
            )
        rows.append(RULE)
    sizes = () if bytes_per_block is None else ("GiB",)
    headings = ("of unique", "hits", "prefix hits", "cost", "cost, prefix")
    show(Table(("policy", "capacity", *sizes, *headings), rows, caption=CAPTION))
