"""Figures of traces and simulations. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
LINES = ("-", "--")


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dash of the n-th line of a figure: 14 different ones."""
    kinds = len(COLOURS)
    return {
        "color": COLOURS[index % kinds],
        "marker": MARKERS[index % kinds],
        "linestyle": LINES[index // kinds % len(LINES)],
    }


def draw(
    path: Path, paint: Callable[[Sequence[Axes]], None], caption: str, panels: int = 1
) -> Path:
    """Draw panels side by side with a caption below; return the path."""
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
    figure.savefig(path, format="png")
    return path


def draw_capacity_curve(
    results: Sequence[Result],
    trace: Trace,
    everything: float,
    gib_per_block: float | None,
    path: Path,
) -> Path:
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
            one.set_xscale("log")
            one.set_ylim(bottom=0)
            one.set_xlabel("capacity (blocks)")
            _gib_axis(one, gib_per_block)
        axes[1].legend(frameon=False, fontsize=8)

    tokens = f" of {trace.block_tokens} tokens" if trace.block_tokens else ""
    caption = (
        f"{Path(trace.name).name}: {trace.requests:,} requests, {trace.accesses:,} lookups, {trace.unique_blocks:,} "
        f"unique blocks{tokens}; dotted: a cache without limit"
    )
    return draw(path, paint, caption, panels=2)


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


def draw_cdf(
    path: Path, samples: dict[str, NDArray[np.float64]], quantity: str, title: str, caption: str
) -> Path:
    """Cumulative distributions, one line a label. quantity: what is on the x axis, with its unit."""

    def paint(axes: Sequence[Axes]) -> None:
        highest = max((float(values.max(initial=0)) for values in samples.values()), default=0.0)
        for index, (label, values) in enumerate(samples.items()):
            ordered = np.sort(values)
            share = np.arange(1, len(ordered) + 1) / max(1, len(ordered))
            style = line_style(index)
            axes[0].step(
                np.concatenate((ordered[:1], ordered)),
                100 * np.concatenate(([0.0], share[: len(ordered)])),
                where="post",
                label=f"{label} (n = {len(ordered):,})",
                color=style["color"],
                linestyle=style["linestyle"],
                linewidth=2,
            )
        if highest > 1.0 + 1e-9:
            axes[0].set_xscale("symlog", linthresh=1)
            axes[0].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[0].set(xlabel=quantity, ylabel="at most so much (%)", title=title, ylim=(0, 101))
        axes[0].spines["top"].set_visible(False)
        axes[0].legend(frameon=False, fontsize=9)

    return draw(path, paint, caption)
