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
from vllm_pensieve.tables import RULE, Table, said, show
from vllm_pensieve.trace.trace import Trace

MEASURES = {
    "reuse_fraction": "share of a prompt found in the cache",
    "block_hits": "uses of a block after its first",
    "reuse_gap_s": "time between two uses of a block (s)",
}
PREFIX_NOTE = "in brackets, where they are fewer: hits up to a request's first missing block, which vLLM needs"


def print_summaries(all_stats: Sequence[PrefixStats]) -> None:
    """Print each trace's table."""
    columns = ("mean", "median", "p90", "p99")
    for stats in all_stats:
        print_trace(stats.trace)
        summary = summarize(stats)
        rows = [
            [
                meaning,
                *(number(summary[key][column]) for column in columns),
                said(summary[key].get("share_above_0"), "{:.1%}", missing=""),
            ]
            for key, meaning in MEASURES.items()
        ]
        show(Table((stats.label, *columns, "above 0"), rows))
        reuse, blocks = (summary[key]["source"] for key in ("reuse_fraction", "block_hits"))
        _note(f"prompts: {reuse}; blocks: {blocks}")


def print_hits(results: Sequence[Result]) -> None:
    """Print events, hits and misses: a row for each policy and capacity."""
    rows = [
        [
            policy_title(one.policy),
            f"{one.capacity_blocks:,}",
            f"{one.accesses:,}",
            f"{one.hits_any:,}",
            f"{one.accesses - one.hits_any:,}",
            f"{one.hits_any / one.accesses:.2%}",
            f"{one.hits_prefix / one.accesses:.2%}",
        ]
        for one in results
    ]
    show(Table(("policy", "capacity", "events", "hits", "misses", "hit rate", "prefix"), rows))
    _note("events: block lookups; prefix: hits up to a request's first missing block only")


def print_all_reuse(all_stats: Sequence[PrefixStats]) -> None:
    """Print what prompts found in the cache, how often blocks are used again, and when: a row a trace."""
    reuse, blocks = [], []
    for stats in all_stats:
        summary = summarize(stats)
        name = [stats.workload_label, str(stats.trace.block_tokens or "?")]
        own, hits, gaps = (summary[key] for key in MEASURES)
        shares = [own[key] for key in ("mean", "median", "p90", "p99", "share_above_0")]
        limit = summary["infinite_hit_rate"]
        reuse.append([*name, f"{own['count']:,}", *map(_percent, [*shares, limit])])
        uses = [number(hits[key]) for key in ("mean", "p90", "p99")]
        times = [number(gaps[key]) for key in ("median", "p99")]
        blocks.append([*name, f"{hits['count']:,}", *uses, _percent(hits["share_above_0"]), *times])
    what = ("workload", "block")
    headings = ("requests", "mean", "median", "p90", "p99", "above 0", "no limit")
    show(Table((*what, *headings), reuse, "Share of a prompt found in the cache (%)"))
    _note("no limit: share of block lookups that a cache without limit would hit")
    headings = ("blocks", "mean", "p90", "p99", "above 0", "gap s", "p99")
    show(Table((*what, *headings), blocks, "Uses of a block after its first"))
    _note("gap s: median seconds between two uses of a block, and their 99th percentile")
    for stats in all_stats:
        print_remarks(stats.trace.notes, stats.skipped, stats.trace.records, stats.trace.name)


def print_all_hits(
    all_stats: Sequence[PrefixStats], hits: Mapping[str, Sequence[Result]], policies: Sequence[str]
) -> None:
    """Print a table a policy: a row for each trace, a column for each of the small capacities."""
    for policy in policies:
        rows = []
        for stats in all_stats:
            own = {one.capacity_blocks: one for one in hits[stats.label] if one.policy == policy}
            cells = [_hit_cell(own[size]) for size in SMALL_CAPACITIES]
            rows.append([stats.workload_label, str(stats.trace.block_tokens or "?"), *cells])
        title = f"Hits of {policy_title(policy)} (%) by capacity (blocks)"
        show(Table(("workload", "block", *map(str, SMALL_CAPACITIES)), rows, title))
    _note(PREFIX_NOTE)


def print_mixed(
    results: Sequence[MixedResult], trace: Trace, kept: Sequence[str], order: str
) -> None:
    """Print hit rates: a row for each capacity and workload, a column for each policy."""
    policies = list(dict.fromkeys(one.policy for one in results))
    by_key = {(one.policy, one.capacity_blocks, one.workload): one for one in results}
    no_limit = infinite_hit_rates(trace)
    rows: list[Sequence[str]] = []
    for capacity in sorted({one.capacity_blocks for one in results}):
        for workload in (OVERALL, *trace.workloads):
            own = [by_key[policy, capacity, workload] for policy in policies]
            size = f"{capacity:,}" if workload == OVERALL else ""
            cells = [*map(_hit_cell, own), _percent(no_limit[workload])]
            rows.append([size, workload, f"{own[0].accesses:,}", *cells])
        rows.append(RULE)
    headings = ("events", *(policy_title(name) for name in policies), "no limit")
    title = "Block lookups that hit (%)"
    show(Table(("capacity", "workload", *headings), rows, title, text=("workload",)))
    how = "in turns, a request of each workload after the other" if order == "turns" else "by time"
    _note(f"requests {how}; WA-LRU: workload-aware LRU, which keeps {', '.join(kept)} alone")
    _note(PREFIX_NOTE)


def _hit_cell(one: Result | MixedResult) -> str:
    """All hits, and in brackets those up to the first missing block where they are fewer to see."""
    text, shorter = (
        _percent(hits / max(1, one.accesses)) for hits in (one.hits_any, one.hits_prefix)
    )
    return text if text == shorter else f"{text} ({shorter})"


def _percent(share: float | None) -> str:
    return said(None if share is None else 100 * share, "{:.1f}", missing="–")


def _note(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
