"""Figures of simulations, and what figures of traces share: captions and the colour of a workload."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vllm_pensieve.plotting import QUIET, line_style, make_figure, percent_axis, save, steps_of_ten

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vllm_pensieve.analysis.simulate import Result
    from vllm_pensieve.trace.trace import Trace

MOST_TICKS = 9
"""So many capacities get a tick each."""
WORKLOADS = ("chat_multi", "chat_single", "qa", "summarization")
"""Have the same colours in every figure; other workloads get those that come next."""


def workload_numbers(traces: Sequence[Trace]) -> dict[str, int]:
    """The number of each trace's (first) workload, for `line_style`."""
    names = dict.fromkeys((*WORKLOADS, *(trace.workloads[0] for trace in traces)))
    return {name: number for number, name in enumerate(names)}


def capacity_axis(axes: Axes, capacities: Sequence[int]) -> None:
    """Make x a logarithmic axis of blocks with plain numbers."""
    axes.set_xscale("log")
    axes.set_xlabel("capacity (blocks)")
    few = len(capacities) <= MOST_TICKS
    axes.set_xticks(capacities if few else steps_of_ten(capacities[0], capacities[-1]))
    axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def caption(traces: Sequence[Trace], *more: str) -> str:
    """What a figure was drawn from: traces, their sizes, the model and the date, as far as they are known."""
    first = traces[0]
    requests = sum(trace.requests for trace in traces)
    lookups = sum(trace.accesses for trace in traces)
    sizes = sorted({trace.block_tokens for trace in traces if trace.block_tokens})
    name = re.sub(r"(_requests)?\.jsonl(\.gz)?$", "", Path(first.name).name)
    if len(traces) > 1 or first.format == "mixed":
        name = "traces of " + ", ".join(
            dict.fromkeys(name for trace in traces for name in trace.workloads)
        )
    parts = [f"{name}: {requests:,} requests, {lookups:,} block lookups"]
    if sizes:
        parts.append(f"blocks of {', '.join(map(str, sizes))} tokens")
    for values in ([trace.model for trace in traces], [trace.recorded_on for trace in traces]):
        known = sorted({value for value in values if value})
        if known:
            parts.append(", ".join(known))
    return "; ".join([*parts, *(text for text in more if text)])


def draw_capacity_curve(
    results: Sequence[Result],
    trace: Trace,
    everything: float,
    gib_per_block: float | None,
    out: Path | IO[bytes],
) -> None:
    """Hit rate and cost of what is missed against capacity, one line a policy.

    everything: cost of computing every block. gib_per_block: KV memory of a block, for a second axis.
    """

    def paint(axes: Sequence[Axes]) -> None:
        for index, (name, own) in enumerate(_by_policy(results).items()):
            capacities = [result.capacity_blocks for result in own]
            style = line_style(index) | {"markersize": 4, "linewidth": 1.8}
            hits = [100 * result.hits_any / result.accesses for result in own]
            cost = [100 * result.cost_holes / everything for result in own]
            axes[0].plot(capacities, hits, label=name, **style)
            axes[1].plot(capacities, cost, label=name, **style)
        axes[0].axhline(
            100 * trace.infinite_hits / trace.accesses,
            color=QUIET,
            linewidth=1,
            linestyle=":",
            label="cache without limit",
        )
        axes[0].set(ylabel="share of block lookups that hit (%)", title="Hits, holes usable")
        axes[1].set(
            ylabel="share of the cost of computing all (%)",
            title="Cost to compute what is missed",
        )
        for one in axes:
            percent_axis(one)
            capacity_axis(one, sorted({result.capacity_blocks for result in results}))
            _gib_axis(one, gib_per_block)

    save(make_figure(paint, caption([trace]), panels=2), out)


def _gib_axis(axes: Axes, gib_per_block: float | None) -> None:
    axes.spines["top"].set_visible(gib_per_block is not None)
    if gib_per_block is not None:
        scale: Any = gib_per_block
        top = axes.secondary_xaxis("top", functions=(lambda x: x * scale, lambda x: x / scale))
        top.set_xlabel("capacity (GiB of KV)")
        top.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _by_policy(results: Sequence[Result]) -> dict[str, list[Result]]:
    grouped: dict[str, list[Result]] = {}
    for result in results:
        grouped.setdefault(result.policy, []).append(result)
    return grouped
