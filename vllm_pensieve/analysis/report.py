"""One self-contained page about a trace: its numbers, what was served, and what other caches would have made of it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from io import BytesIO
from typing import IO, Any

from vllm_pensieve.analysis.advice import advice, gib
from vllm_pensieve.analysis.capacity import curve_capacities, default_capacities
from vllm_pensieve.analysis.figures import draw_capacity_curve
from vllm_pensieve.analysis.replay import Parameters
from vllm_pensieve.analysis.report_charts import (
    blocks_over_time,
    sources_over_time,
    ttft_over_time,
)
from vllm_pensieve.analysis.report_style import STYLE
from vllm_pensieve.analysis.simulate import (
    Result,
    Simulation,
    default_cost_slope,
    simulate,
    total_cost,
)
from vllm_pensieve.analysis.summaries import PrefixStats, spread, summarize
from vllm_pensieve.analysis.summary_figures import CDFS, draw_cdf
from vllm_pensieve.machine import GIB
from vllm_pensieve.trace.served import SOURCES
from vllm_pensieve.trace.wording import about_skipped, counted

REPORT_POLICIES = ("lru", "fifo", "gdsf", "retention", "min")
CDF_MEASURES = {
    "reuse_fraction": ("reuse_fraction", "share of a prompt found in the cache"),
    "block_hits": ("block_hits", "uses of a block after its first"),
    "block_reuse_gaps": ("reuse_gap_s", "seconds between two uses of a block"),
}


def build_report(stats: PrefixStats, bytes_per_block: float | None = None) -> str:
    """The page as HTML; pictures are inside, nothing is loaded from elsewhere.

    bytes_per_block: KV memory of a block, for capacities in GiB.
    """
    trace = stats.trace
    shown = default_capacities(trace.unique_blocks)
    every = tuple(sorted({*shown, *curve_capacities(trace.unique_blocks)}))
    slope = default_cost_slope(trace)
    parameters = Parameters.by_slope(slope)
    results = simulate(trace, Simulation(REPORT_POLICIES, every, parameters))
    everything = total_cost(trace, parameters)
    summary = summarize(stats)
    gib_per_block = None if bytes_per_block is None else bytes_per_block / GIB
    parts = [
        f"<h1>Prefix reuse: {escape(stats.label)}</h1>",
        f"<p class=advice>{escape(advice(trace, results, bytes_per_block))}",
        _facts(stats, summary),
        "<h2>Over time</h2>",
        *_over_time(stats),
        "<h2>Reuse</h2>",
        _reuse_table(summary),
        *(
            _picture(partial(draw_cdf, [stats], name), _about_distribution(summary, name))
            for name in CDFS
        ),
        "<h2>Other policies and capacities</h2>",
        _policy_matrix([r for r in results if r.capacity_blocks in shown], bytes_per_block, stats),
        "<p class=note>Upper number: share of block lookups that hit, every block found counted (what recovery can "
        "use). Lower number: cost to compute what is missed, LRU as in stock vLLM = 100; a block at position i costs "
        f"1 + {slope:.3g} i. <code>min</code> knows the future.",
        _picture(
            lambda out: draw_capacity_curve(results, trace, everything, gib_per_block, out),
            _about_curve(results, trace.accesses),
        ),
    ]
    title = f"Prefix reuse: {escape(stats.label)}"
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<meta name=color-scheme content='light dark'>"
        f"<title>{title}</title><style>{STYLE}</style>\n<main>\n"
        + "\n".join(parts)
        + "\n</main></html>\n"
    )


def _facts(stats: PrefixStats, summary: dict[str, Any]) -> str:
    trace = stats.trace
    tokens = f" of {trace.block_tokens} tokens" if trace.block_tokens else ""
    workloads = escape(", ".join(trace.workloads))
    lines = [
        f"<p>{counted(trace.requests, 'request')} in {counted(trace.sessions, 'session')}; workloads: {workloads}. "
        f"{counted(trace.accesses, 'block lookup')}, {counted(trace.unique_blocks, 'unique block')}{tokens}. "
        f"A cache without limit would hit {summary['infinite_hit_rate']:.1%}."
    ]
    lines += [f"<p class=note>Note: {escape(note)}." for note in trace.notes]
    if stats.skipped:
        told = about_skipped(stats.skipped, max(trace.records, len(stats.skipped)))
        lines.append(f"<p class=warning>{escape(told)}.")
    return "\n".join(lines)


def _over_time(stats: PrefixStats) -> list[str]:
    """What the server measured, or else what follows from the requests."""
    served = stats.trace.served
    if served is None:
        note = "<p class=note>The trace does not say where prompts came from, nor how long first tokens took."
        return [note, blocks_over_time(stats.trace)]
    shares = served.shares()
    totals = served.tokens.sum(axis=0).tolist()
    rows = [["prompt tokens", *(f"{total:,}" for total in totals)]]
    rows.append(["share", *(f"{shares[source]:.1%}" for source in SOURCES)])
    parts = [_table(["", *SOURCES], rows), sources_over_time(stats.trace, served)]
    if served.has_ttft:
        numbers = spread(served.ttft_s[served.ttft_s >= 0])
        cells = [
            f"{numbers['count']:,}",
            *(number(numbers[c]) for c in ("mean", "median", "p90", "p99")),
        ]
        headings = ["", "requests", "mean", "median", "p90", "p99"]
        parts += [
            _table(headings, [["time to first token (s)", *cells]]),
            ttft_over_time(stats.trace, served),
        ]
    return parts


def _reuse_table(summary: dict[str, Any]) -> str:
    rows = []
    for key, name in (
        ("reuse_fraction", "share of a prompt found in the cache"),
        ("block_hits", "uses of a block after its first"),
        ("reuse_gap_s", "time between two uses of a block (s)"),
    ):
        numbers = summary[key]
        shares = numbers.get("share_above_0")
        cells = [number(numbers[column]) for column in ("mean", "median", "p90", "p99")]
        cells.append("" if shares is None else f"{shares:.1%}")
        rows.append([f"{name}, {numbers['source']}", *cells])
    return _table(["", "mean", "median", "p90", "p99", "share above 0"], rows)


def _policy_matrix(
    results: Sequence[Result], bytes_per_block: float | None, stats: PrefixStats
) -> str:
    """A row a policy, a column a capacity; in each cell hits and cost."""
    capacities = sorted({result.capacity_blocks for result in results})
    cells: dict[str, list[str]] = {}
    for result in results:
        hits, cost = result.hits_any / result.accesses, 100 * result.cost_vs_lru
        cells.setdefault(result.policy, []).append(f"{hits:.1%}\n{cost:.1f}")
    headings = ["policy"]
    for blocks in capacities:
        text = f"{counted(blocks, 'block')}\n{blocks / stats.trace.unique_blocks:.0%} of unique"
        headings.append(
            text if bytes_per_block is None else f"{text}, {gib(blocks, bytes_per_block)} GiB"
        )
    return _table(headings, [[policy, *own] for policy, own in cells.items()])


def _about_distribution(summary: dict[str, Any], name: str) -> str:
    key, quantity = CDF_MEASURES[name]
    numbers = summary[key]
    if not numbers["count"]:
        return f"Distribution of {quantity}: there are none."
    return (
        f"Distribution of {quantity}, {numbers['source']}: {numbers['count']:,} values, "
        f"mean {number(numbers['mean'])}, half are at most {number(numbers['median'])}, nine in ten "
        f"at most {number(numbers['p90'])}."
    )


def _about_curve(results: Sequence[Result], accesses: int) -> str:
    told = []
    for policy in REPORT_POLICIES:
        own = [result for result in results if result.policy == policy]
        low, high = own[0], own[-1]
        told.append(
            f"{policy} from {low.hits_any / accesses:.0%} at {low.capacity_blocks:,} blocks to "
            f"{high.hits_any / accesses:.0%} at {high.capacity_blocks:,}"
        )
    return f"Hits and cost against capacity. Hits: {'; '.join(told)}."


def number(value: float | None) -> str:
    """A number for a table, three significant digits; a dash for none."""
    return "–" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    """Cells are escaped; their lines become lines."""
    head = "".join(f"<th scope=col>{_lines(text)}" for text in headings)
    body = "".join(
        f"<tr><th scope=row>{_lines(first)}"
        + "".join(f"<td>{_lines(cell)}" for cell in rest)
        + "\n"
        for first, *rest in rows
    )
    return f"<div class=scroll><table><tr>{head}\n{body}</table></div>"


def _lines(text: str) -> str:
    first, *rest = escape(text).split("\n")
    return first + "".join(f"<br><small>{line}</small>" for line in rest)


def _picture(paint: Callable[[IO[bytes]], None], meaning: str) -> str:
    out = BytesIO()
    paint(out)
    data = base64.b64encode(out.getvalue()).decode()
    return f'<p><img alt="{escape(meaning)}" src="data:image/png;base64,{data}">'
