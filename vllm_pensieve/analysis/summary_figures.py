"""Figures of how much prompts repeat: distributions of reuse by request, hits by block, and reuse gaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.analysis.figures import caption, workload_numbers
from vllm_pensieve.analysis.summaries import PrefixStats
from vllm_pensieve.plotting import (
    count_axis,
    line_style,
    make_figure,
    percent_axis,
    save,
    say,
    steps_of_ten,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEVER_AGAIN = "no block was used twice"
WIDE = 20.0
"""Gaps of which the longest is this many times the shortest are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Distribution:
    """One kind of figure. values: of a trace; of: what is counted; empty: why there may be no values."""

    values: Callable[[PrefixStats], NDArray[np.float64]]
    title: str
    quantity: str
    of: str
    empty: str
    source: Callable[[PrefixStats], str]


DISTRIBUTIONS = {
    "reuse_fraction": Distribution(
        lambda stats: 100 * stats.reuse_fraction,
        "Reuse by request",
        "share of the prompt found in the cache, at most (%)",
        "requests",
        "no request was recorded",
        lambda stats: stats.reuse_source,
    ),
    "block_hits": Distribution(
        lambda stats: stats.block_hits.astype(np.float64),
        "Hits by block",
        "uses of a block after its first, at most",
        "blocks",
        "no block was recorded",
        lambda stats: stats.block_source,
    ),
    "block_reuse_gaps": Distribution(
        lambda stats: stats.reuse_gaps_s,
        "Reuse gaps",
        "time between two uses of a block, at most (s)",
        "reuses",
        NEVER_AGAIN,
        lambda stats: stats.block_source,
    ),
}
CDFS = tuple(DISTRIBUTIONS)
"""Names of the distributions, as in `reuse_fraction_cdf_<label>.png`."""


def draw_reuse_cdfs(many: Sequence[PrefixStats], folder: Path, label: str) -> list[Path]:
    """Draw the three distributions, one line a trace; return the files. label: stands in their names."""
    paths = [folder / f"{name}_cdf_{label}.png" for name in CDFS]
    for name, path in zip(CDFS, paths, strict=True):
        draw_cdf(many, name, path)
    return paths


def draw_cdf(many: Sequence[PrefixStats], name: str, out: Path | IO[bytes]) -> None:
    """Draw one of `CDFS`, one line a trace."""
    save(cdf_figure(many, name), out)


def cdf_figure(many: Sequence[PrefixStats], name: str) -> Figure:
    """One of `CDFS`: a colour a workload and a dash a block size. Empty data is said to be empty."""
    kind = DISTRIBUTIONS[name]
    samples = [np.sort(kind.values(stats)) for stats in many]
    everything = np.concatenate(samples)
    several = len({stats.workload_label for stats in many}) > 1

    def paint(axes: Sequence[Axes]) -> None:
        start, end = _quantity_axis(axes[0], name, everything)
        for stats, values, style in zip(many, samples, _styles(many), strict=True):
            shown = stats.title if several else stats.size_title
            label = f"{shown} (n = {len(values):,})"
            _cdf_line(axes[0], np.maximum(values, start), end, label, style)
        percent_axis(axes[0])
        axes[0].set(
            xlabel=kind.quantity,
            ylabel=f"share of the {kind.of} (%)",
            title=kind.title if several else f"{kind.title}: {many[0].workload_label}",
        )
        axes[0].spines["top"].set_visible(False)
        if not len(everything):
            say(axes[0], kind.empty)
        elif name == "block_hits" and not everything.any():
            say(axes[0], NEVER_AGAIN)

    count = f"n = {len(samples[0]):,} {kind.of}" if len(many) == 1 else ""
    sources = " / ".join(sorted({kind.source(stats) for stats in many}))
    about = caption([stats.trace for stats in many], count, sources)
    return make_figure(paint, about, legend=len(many) > 1)


def _styles(many: Sequence[PrefixStats]) -> list[dict[str, Any]]:
    colours = workload_numbers([stats.trace for stats in many])
    sizes = sorted({stats.trace.block_tokens or 0 for stats in many})
    return [
        line_style(colours[trace.workloads[0]], sizes.index(trace.block_tokens or 0))
        for trace in (stats.trace for stats in many)
    ]


def _quantity_axis(axes: Axes, name: str, values: NDArray[np.float64]) -> tuple[float, float]:
    """Set up x for these values; return where it begins and ends."""
    start, end = 0.0, float(values.max(initial=0)) or 1.0
    if name == "reuse_fraction":
        end = 100.0
    elif name == "block_hits":
        count_axis(axes, end)
    elif len(values):
        shortest = float(values.min(initial=end, where=values > 0))
        if end > WIDE * shortest:
            start = shortest
            axes.set_xscale("log")
            axes.set_xticks(steps_of_ten(start, end))
            axes.minorticks_off()
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlim(start, end)
    return start, end


def _cdf_line(
    axes: Axes, values: NDArray[np.float64], end: float, label: str, style: dict[str, Any]
) -> None:
    """values: ascending. The line begins at 0 % and goes on at 100 % to the end of the axis."""
    if not len(values):
        axes.plot([], [], label=label, color=style["color"], linestyle=style["linestyle"])
        return
    share = 100 * np.arange(len(values) + 1) / len(values)
    axes.step(
        np.concatenate((values[:1], values, [end])),
        np.concatenate((share, [100.0])),
        where="post",
        label=label,
        color=style["color"],
        linestyle=style["linestyle"],
        linewidth=2,
        clip_on=False,
    )
