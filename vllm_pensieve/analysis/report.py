"""One self-contained page about a trace: its numbers, distributions, and what other policies would have made of it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from io import BytesIO
from typing import IO, Any

from vllm_pensieve.analysis.capacity import curve_capacities, default_capacities
from vllm_pensieve.analysis.figures import draw_capacity_curve
from vllm_pensieve.analysis.simulate import Result, Simulation, simulate, total_cost
from vllm_pensieve.analysis.summaries import PrefixStats, summarize
from vllm_pensieve.analysis.summary_figures import CDFS, draw_cdf

REPORT_POLICIES = ("lru", "fifo", "gdsf", "retention", "min")
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
p.note { color: #555; }
"""


def build_report(stats: PrefixStats) -> str:
    """The page as HTML; pictures are inside, nothing is loaded from elsewhere."""
    trace = stats.trace
    capacities = default_capacities(trace.unique_blocks)
    shown = set(capacities)
    every = tuple(sorted({*capacities, *curve_capacities(trace.unique_blocks)}))
    simulation = Simulation(REPORT_POLICIES, every)
    results = simulate(trace, simulation)
    everything = total_cost(trace, simulation.parameters.cost_slope)
    summary = summarize(stats)
    parts = [
        f"<h1>Prefix reuse: {escape(stats.label)}</h1>",
        _facts(stats, summary),
        "<h2>Reuse</h2>",
        _reuse_table(summary),
        *(_picture(partial(draw_cdf, [stats], name), name) for name in CDFS),
        "<h2>Other policies and capacities</h2>",
        _policy_table([result for result in results if result.capacity_blocks in shown]),
        f"<p class=note>Cost: to compute what is missed, a block at position i costing 1 + "
        f"{simulation.parameters.cost_slope} i; LRU under prefix rules = 100.</p>",
        _picture(
            lambda out: draw_capacity_curve(results, trace, everything, None, out),
            "hit rate and cost against capacity",
        ),
    ]
    return (
        "<!doctype html>\n<html lang=en><meta charset=utf-8>"
        f"<title>Prefix reuse: {escape(stats.label)}</title><style>{STYLE}</style>\n"
        + "\n".join(parts)
        + "\n</html>\n"
    )


def _facts(stats: PrefixStats, summary: dict[str, Any]) -> str:
    trace = stats.trace
    tokens = f" of {trace.block_tokens} tokens" if trace.block_tokens else ""
    skipped = ""
    if stats.skipped:
        skipped = f" {len(stats.skipped):,} bad lines were skipped; the first: {escape(stats.skipped[0])}."
    workloads = escape(", ".join(trace.workloads))
    return (
        f"<p>{trace.requests:,} requests in {trace.sessions:,} sessions; workloads: {workloads}. "
        f"{trace.accesses:,} block lookups, {trace.unique_blocks:,} unique blocks{tokens}. A cache without limit would "
        f"hit {summary['infinite_hit_rate']:.1%}.{skipped}</p>"
    )


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


def _policy_table(results: Sequence[Result]) -> str:
    headings = ["policy", "capacity (blocks)", "hits", "prefix hits", "cost"]
    return _table(
        headings,
        [
            [
                result.policy,
                f"{result.capacity_blocks:,}",
                f"{result.hits_any / result.accesses:.1%}",
                f"{result.hits_prefix / result.accesses:.1%}",
                f"{100 * result.cost_vs_lru:.1f}",
            ]
            for result in results
        ],
    )


def number(value: float | None) -> str:
    """A number for a table, three significant digits; a dash for none."""
    return "–" if value is None else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _table(headings: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(text)}" for text in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) + "\n" for row in rows)
    return f"<table><tr>{head}\n{body}</table>"


def _picture(paint: Callable[[IO[bytes]], None], meaning: str) -> str:
    out = BytesIO()
    paint(out)
    data = base64.b64encode(out.getvalue()).decode()
    return f'<p><img alt="{escape(meaning)}" src="data:image/png;base64,{data}">'
