"""Figures of what caches would hit: one policy by block size, and workloads that share a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from vllm_pensieve.analysis.figures import capacity_axis, caption, workload_numbers
from vllm_pensieve.analysis.mixed import OVERALL, MixedResult
from vllm_pensieve.analysis.simulate import Result
from vllm_pensieve.plotting import (
    COLOURS,
    GREY,
    MARKERS,
    line_style,
    make_figure,
    percent_axis,
    save,
)
from vllm_pensieve.trace.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALE = 0.45
SEEN = 0.5
"""Percentage points by which prefix rules must hit less for a line or bar of their own."""
HIT_SHARE = "share of block lookups that hit (%)"
PALE_LINES = "paler: up to the first missing block"
PALE_BARS = "paler: after a missing block"
POLICY_TITLES = {"workload-aware-lru": "WA-LRU"}


def draw_cache_hits(
    series: Sequence[tuple[Trace, Sequence[Result]]], label: str, out: Path | IO[bytes]
) -> None:
    """Hit rate of one policy against capacity, one line a block size. series: a trace and its results, by size."""
    save(cache_hits_figure(series, label), out)


def cache_hits_figure(series: Sequence[tuple[Trace, Sequence[Result]]], label: str) -> Figure:
    """As `draw_cache_hits`; with a paler line where vLLM, which needs all that stands before a block, hits less."""
    traces = [trace for trace, _ in series]
    colours = workload_numbers(traces)

    def paint(axes: Sequence[Axes]) -> None:
        for index, (trace, results) in enumerate(series):
            style = line_style(colours[trace.workloads[0]], index)
            style |= {"linewidth": 2, "marker": MARKERS[index % len(MARKERS)], "markersize": 5}
            capacities = [result.capacity_blocks for result in results]
            found = [100 * result.hits_any / result.accesses for result in results]
            prefix = [100 * result.hits_prefix / result.accesses for result in results]
            name = f"blocks of {trace.block_tokens} tokens" if trace.block_tokens else "blocks"
            axes[0].plot(capacities, found, label=name, clip_on=False, zorder=3, **style)
            if max(np.subtract(found, prefix)) > SEEN:
                pale = style | {"alpha": PALE, "linewidth": 1.5, "markersize": 3}
                axes[0].plot(capacities, prefix, label=PALE_LINES, clip_on=False, **pale)
        capacity_axis(
            axes[0], sorted({result.capacity_blocks for _, own in series for result in own})
        )
        percent_axis(axes[0])
        axes[0].set(
            ylabel=HIT_SHARE, title=f"{label}: hits with {policy_title(series[0][1][0].policy)}"
        )
        axes[0].spines["top"].set_visible(False)

    more = "a block of twice the tokens takes twice the memory" if len(series) > 1 else ""
    return make_figure(paint, caption(traces, more))


def policy_title(policy: str) -> str:
    """The policy's name as it is written in figures, tables and names of files: LRU, FIFO, WA-LRU."""
    return POLICY_TITLES.get(policy, policy.upper())


def draw_mixed(results: Sequence[MixedResult], trace: Trace, out: Path | IO[bytes]) -> None:
    """Hit rates of workloads that share a cache, by policy."""
    save(mixed_figure(results, trace), out)


def mixed_figure(results: Sequence[MixedResult], trace: Trace) -> Figure:
    """Bars for each workload, at the middle capacity; with several capacities also overall against capacity."""
    policies = list(dict.fromkeys(result.policy for result in results))
    capacities = sorted({result.capacity_blocks for result in results})
    shown = capacities[len(capacities) // 2]
    by_key = {(one.policy, one.capacity_blocks, one.workload): one for one in results}
    groups = (OVERALL, *trace.workloads)

    def paint(axes: Sequence[Axes]) -> None:
        for index, policy in enumerate(policies):
            own = [by_key[policy, shown, group] for group in groups]
            places = np.arange(len(groups)) + (index - (len(policies) - 1) / 2) * 0.8 / len(policies)  # fmt: skip
            _bars(axes[-1], places, own, 0.8 / len(policies), COLOURS[index])
            if len(capacities) > 1:
                rates = [100 * by_key[policy, size, OVERALL].hit_rate for size in capacities]
                axes[0].plot(
                    capacities, rates, linewidth=2, markersize=5, clip_on=False, **line_style(index)
                )
        axes[-1].set_xticks(range(len(groups)), groups, rotation=20, ha="right")
        axes[-1].set_title(f"Workloads that share {shown:,} blocks")
        if len(capacities) > 1:
            capacity_axis(axes[0], capacities)
            axes[0].set_title("All workloads together")
        for one in axes:
            percent_axis(one)
            one.set_ylabel(HIT_SHARE)
            one.spines["top"].set_visible(False)
        for index, policy in enumerate(policies):
            axes[-1].bar(0, 0, color=COLOURS[index], label=policy_title(policy))
        if any(100 * (one.hit_rate - one.prefix_hit_rate) > SEEN for one in results):
            axes[-1].bar(0, 0, color=GREY, alpha=PALE, label=PALE_BARS)

    return make_figure(paint, caption([trace]), panels=min(2, len(capacities)))


def _bars(
    axes: Axes, places: np.ndarray, results: Sequence[MixedResult], width: float, colour: str
) -> None:
    """All hits pale, those up to the first missing block in full colour before them, the numbers above."""
    rates = [100 * one.hit_rate for one in results]
    axes.bar(places, rates, width, color=colour, alpha=PALE)
    axes.bar(places, [100 * one.prefix_hit_rate for one in results], width, color=colour)
    for place, rate in zip(places, rates, strict=True):
        axes.annotate(
            f"{rate:.0f}",
            (place, rate),
            (0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
