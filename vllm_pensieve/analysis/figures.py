"""Figures of traces and simulations. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from vllm_pensieve.bench.figures import MODE_COLOURS, SOURCE_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vllm_pensieve.analysis.simulate import Result
    from vllm_pensieve.trace.trace import Trace

COLOURS = (
    MODE_COLOURS["pensieve"],
    MODE_COLOURS["vllm-apc"],
    MODE_COLOURS["pensieve-no-recovery"],
    SOURCE_COLOURS["new"],
    MODE_COLOURS["pensieve-lru"],
    SOURCE_COLOURS["swapped"],
    MODE_COLOURS["vllm"],
)
"""The colours of the comparison's figures that are legible as lines on white."""
MARKERS = "o^vsDPX"
LINES = ("-", "--", "-.", ":")
FEW = 6
"""So many capacities get a tick each."""


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dash of the n-th line of a figure; lines that coincide stay visible by their dashes."""
    kinds = len(COLOURS)
    return {
        "color": COLOURS[index % kinds],
        "marker": MARKERS[index % kinds],
        "linestyle": LINES[index % len(LINES)],
    }


def capacity_axis(axes: Axes, capacities: Sequence[int]) -> None:
    """Make x a logarithmic axis of blocks with plain numbers."""
    axes.set_xscale("log")
    axes.set_xlabel("capacity (blocks)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if len(capacities) <= FEW:
        axes.set_xticks(capacities)
        axes.minorticks_off()


def draw(
    out: Path | IO[bytes], paint: Callable[[Sequence[Axes]], None], caption: str, panels: int = 1
) -> None:
    """Draw panels side by side with a caption below, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 + 4.4 * (panels - 1), 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, panels, panel + 1) for panel in range(panels)]
    paint(axes)
    for one in axes:
        one.spines[["right"]].set_visible(False)
        one.grid(alpha=0.25)
    figure.supxlabel(caption, fontsize=8, color="#555555")
    figure.savefig(out, format="png")


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
            100 * trace.infinite_hits / trace.accesses, color="#999999", linewidth=1, linestyle=":"
        )
        axes[0].set(ylabel="blocks hit, holes usable (%)", title="Hits")
        axes[1].set(ylabel="of computing everything (%)", title="Cost to compute what is missed")
        for one in axes:
            one.set_ylim(bottom=0)
            capacity_axis(one, sorted({result.capacity_blocks for result in results}))
            _gib_axis(one, gib_per_block)
        axes[1].legend(frameon=False, fontsize=8)

    tokens = f" of {trace.block_tokens} tokens" if trace.block_tokens else ""
    caption = (
        f"{Path(trace.name).name}: {trace.requests:,} requests, {trace.accesses:,} lookups, {trace.unique_blocks:,} "
        f"unique blocks{tokens}; dotted: a cache without limit"
    )
    draw(out, paint, caption, panels=2)


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
