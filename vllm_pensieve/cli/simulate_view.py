"""What `pensieve simulate` shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vllm_pensieve.analysis.simulate import Result
from vllm_pensieve.trace.trace import Trace

SHOWN_BAD_LINES = 3
CAPTION = (
    "hits: share of block lookups; prefix: only up to a request's first missing block. cost: to compute what is "
    "missed, LRU under prefix rules = 100"
)


def print_trace(trace: Trace) -> None:
    """Print what was read, and which lines were not."""
    console = Console()
    tokens = f" of {trace.block_tokens} tokens" if trace.block_tokens else ""
    console.print(
        f"{escape(trace.name)} ({trace.format}): {trace.requests:,} requests, {trace.sessions:,} sessions, "
        f"{trace.accesses:,} block lookups, {trace.unique_blocks:,} unique blocks{tokens}; "
        f"a cache without limit would hit {trace.infinite_hits / trace.accesses:.1%}",
        highlight=False,
        soft_wrap=True,
    )
    print_skipped("", trace.skipped)


def print_skipped(name: str, skipped: Sequence[str]) -> None:
    """Print how many lines of a file were bad, and the first of them; nothing if none was."""
    if skipped:
        told = "; ".join(skipped[:SHOWN_BAD_LINES])
        lines = "1 bad line" if len(skipped) == 1 else f"{len(skipped):,} bad lines"
        Console().print(
            f"{f'{name}: ' if name else ''}{lines} skipped: {told}",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def print_results(results: list[Result], trace: Trace) -> None:
    """Print one row for each policy and capacity."""
    table = Table(caption=CAPTION, box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("policy", no_wrap=True)
    headings = ("capacity", "of unique", "hits", "prefix hits", "cost", "cost, prefix")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    previous = None
    for result in results:
        if previous not in (None, result.policy):
            table.add_section()
        lru_cost = result.cost_holes / result.cost_vs_lru if result.cost_vs_lru else None
        table.add_row(
            result.policy,
            f"{result.capacity_blocks:,}",
            f"{result.capacity_blocks / trace.unique_blocks:.1%}",
            f"{result.hits_any / result.accesses:.2%}",
            f"{result.hits_prefix / result.accesses:.2%}",
            f"{100 * result.cost_vs_lru:.1f}",
            f"{100 * result.cost_prefix / lru_cost:.1f}" if lru_cost else "-",
        )
        previous = result.policy
    Console().print(table)
