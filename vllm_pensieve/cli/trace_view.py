"""What `pensieve trace` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from vllm_pensieve.analysis.cache_figures import policy_title
from vllm_pensieve.analysis.capacity import SMALL_CAPACITIES
from vllm_pensieve.analysis.mixed import OVERALL, MixedResult, infinite_hit_rates
from vllm_pensieve.analysis.report import number
from vllm_pensieve.analysis.simulate import Result
from vllm_pensieve.analysis.summaries import PrefixStats, summarize
from vllm_pensieve.cli.simulate_view import print_remarks, print_trace
from vllm_pensieve.cli.tables import plain_table, show
from vllm_pensieve.trace.trace import Trace

MEASURES = {
    "reuse_fraction": "share of a prompt found in the cache",
    "block_hits": "uses of a block after its first",
    "reuse_gap_s": "time between two uses of a block (s)",
}
PREFIX_NOTE = "in brackets, where they are fewer: hits up to a request's first missing block, which vLLM needs"


def print_summaries(all_stats: Sequence[PrefixStats]) -> None:
    """Print each trace's table."""
    for stats in all_stats:
        print_trace(stats.trace)
        summary = summarize(stats)
        table = plain_table()
        table.add_column(stats.label, no_wrap=True)
        for heading in ("mean", "median", "p90", "p99", "above 0"):
            table.add_column(heading, justify="right", no_wrap=True)
        for key, meaning in MEASURES.items():
            numbers = summary[key]
            share = numbers.get("share_above_0")
            table.add_row(
                meaning,
                *(number(numbers[column]) for column in ("mean", "median", "p90", "p99")),
                "" if share is None else f"{share:.1%}",
            )
        show(table)
        reuse, blocks = (summary[key]["source"] for key in ("reuse_fraction", "block_hits"))
        _note(f"prompts: {reuse}; blocks: {blocks}")


def print_hits(results: Sequence[Result]) -> None:
    """Print events, hits and misses: a row for each policy and capacity."""
    table = plain_table()
    table.add_column("policy", no_wrap=True)
    for heading in ("capacity", "events", "hits", "misses", "hit rate", "prefix"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in results:
        table.add_row(
            policy_title(one.policy),
            f"{one.capacity_blocks:,}",
            f"{one.accesses:,}",
            f"{one.hits_any:,}",
            f"{one.accesses - one.hits_any:,}",
            f"{one.hits_any / one.accesses:.2%}",
            f"{one.hits_prefix / one.accesses:.2%}",
        )
    show(table)
    _note("events: block lookups; prefix: hits up to a request's first missing block only")


def print_all_reuse(all_stats: Sequence[PrefixStats]) -> None:
    """Print what prompts found in the cache, how often blocks are used again, and when: a row a trace."""
    summaries = [summarize(stats) for stats in all_stats]
    reuse, blocks = (
        plain_table("Share of a prompt found in the cache (%)"),
        plain_table("Uses of a block after its first"),
    )
    for table, headings in (
        (reuse, ("requests", "mean", "median", "p90", "p99", "above 0", "no limit")),
        (blocks, ("blocks", "mean", "p90", "p99", "above 0", "gap s", "p99")),
    ):
        table.add_column("workload", no_wrap=True)
        for heading in ("block", *headings):
            table.add_column(heading, justify="right", no_wrap=True)
    for stats, summary in zip(all_stats, summaries, strict=True):
        name, size = stats.workload_label, str(stats.trace.block_tokens or "?")
        own, hits, gaps = (summary[key] for key in MEASURES)
        reuse.add_row(
            name,
            size,
            f"{own['count']:,}",
            *(_percent(own[key]) for key in ("mean", "median", "p90", "p99", "share_above_0")),
            _percent(summary["infinite_hit_rate"]),
        )
        blocks.add_row(
            name,
            size,
            f"{hits['count']:,}",
            *(number(hits[key]) for key in ("mean", "p90", "p99")),
            _percent(hits["share_above_0"]),
            *(number(gaps[key]) for key in ("median", "p99")),
        )
    show(reuse)
    _note("no limit: share of block lookups that a cache without limit would hit")
    show(blocks)
    _note("gap s: median seconds between two uses of a block, and their 99th percentile")
    for stats in all_stats:
        print_remarks(stats.trace.notes, stats.skipped, stats.trace.records, stats.trace.name)


def print_all_hits(
    all_stats: Sequence[PrefixStats], hits: Mapping[str, Sequence[Result]], policies: Sequence[str]
) -> None:
    """Print a table a policy: a row for each trace, a column for each of the small capacities."""
    for policy in policies:
        table = plain_table(f"Hits of {policy_title(policy)} (%) by capacity (blocks)")
        table.add_column("workload", no_wrap=True)
        for heading in ("block", *map(str, SMALL_CAPACITIES)):
            table.add_column(heading, justify="right", no_wrap=True)
        for stats in all_stats:
            own = {one.capacity_blocks: one for one in hits[stats.label] if one.policy == policy}
            cells = (
                _hit_cell(own[size].accesses, own[size].hits_any, own[size].hits_prefix)
                for size in SMALL_CAPACITIES
            )
            table.add_row(stats.workload_label, str(stats.trace.block_tokens or "?"), *cells)
        show(table)
    _note(PREFIX_NOTE)


def print_mixed(
    results: Sequence[MixedResult], trace: Trace, kept: Sequence[str], order: str
) -> None:
    """Print hit rates: a row for each capacity and workload, a column for each policy."""
    table = plain_table("Block lookups that hit (%)")
    policies = list(dict.fromkeys(one.policy for one in results))
    capacities = sorted({one.capacity_blocks for one in results})
    by_key = {(one.policy, one.capacity_blocks, one.workload): one for one in results}
    no_limit = infinite_hit_rates(trace)
    table.add_column("capacity", justify="right", no_wrap=True)
    table.add_column("workload", no_wrap=True)
    for heading in ("events", *(policy_title(name) for name in policies), "no limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for capacity in capacities:
        for workload in (OVERALL, *trace.workloads):
            own = [by_key[policy, capacity, workload] for policy in policies]
            table.add_row(
                f"{capacity:,}" if workload == OVERALL else "",
                workload,
                f"{own[0].accesses:,}",
                *(_hit_cell(one.accesses, one.hits_any, one.hits_prefix) for one in own),
                _percent(no_limit[workload]),
            )
        table.add_section()
    show(table)
    how = "in turns, a request of each workload after the other" if order == "turns" else "by time"
    _note(f"requests {how}; WA-LRU: workload-aware LRU, which keeps {', '.join(kept)} alone")
    _note(PREFIX_NOTE)


def _hit_cell(accesses: int, found: int, prefix: int) -> str:
    """All hits, and in brackets those up to the first missing block where they are fewer to see."""
    text, shorter = (_percent(hits / max(1, accesses)) for hits in (found, prefix))
    return text if text == shorter else f"{text} ({shorter})"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _note(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
