"""Figures of a trace's reuse, of one policy's hits, and of workloads that share a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.analysis.figures import COLOURS, capacity_axis, draw, line_style
from vllm_pensieve.analysis.mixed import OVERALL, MixedResult
from vllm_pensieve.analysis.simulate import Result
from vllm_pensieve.analysis.summaries import PrefixStats
from vllm_pensieve.trace.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CDFS = ("reuse_fraction", "block_hits", "block_reuse_gaps")
"""Names of the distributions, as in `reuse_fraction_cdf_<label>.png`."""


def draw_reuse_cdfs(
    many: Sequence[PrefixStats], folder: Path, label: str | None = None
) -> list[Path]:
    """Draw the three distributions, one line a trace; return the files. label: of the files; one trace has its own."""
    label = label or many[0].label
    paths = []
    for name in CDFS:
        paths.append(folder / f"{name}_cdf_{label}.png")
        draw_cdf(many, name, paths[-1])
    return paths


def draw_cdf(many: Sequence[PrefixStats], name: str, out: Path | IO[bytes]) -> None:
    """Draw one of `CDFS`, one line a trace."""
    values_of, quantity, title = {
        "reuse_fraction": (
            lambda stats: 100 * stats.reuse_fraction,
            "prompt found in the cache (%)",
            "Reuse by request",
        ),
        "block_hits": (
            lambda stats: stats.block_hits.astype(np.float64),
            "uses of a block after its first",
            "Hits by block",
        ),
        "block_reuse_gaps": (
            lambda stats: stats.reuse_gaps_s,
            "time between two uses of a block (s)",
            "Reuse gaps",
        ),
    }[name]
    samples = {stats.label: values_of(stats) for stats in many}
    sources = {
        stats.reuse_source if name == "reuse_fraction" else stats.block_source for stats in many
    }

    def paint(axes: Sequence[Axes]) -> None:
        for index, (label, values) in enumerate(samples.items()):
            _cdf_line(axes[0], values, f"{label} (n = {len(values):,})", line_style(index))
        if name != "reuse_fraction":
            axes[0].set_xscale("symlog", linthresh=1)
            axes[0].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes[0].set(xlabel=quantity, ylabel="share at most so much (%)", title=title)
        axes[0].set_ylim(0, 101)
        axes[0].set_xlim(left=-0.02 * axes[0].get_xlim()[1] if name == "reuse_fraction" else -0.05)
        axes[0].spines["top"].set_visible(False)
        axes[0].legend(frameon=False, fontsize=9)

    draw(out, paint, " / ".join(sorted(sources)))


def _cdf_line(axes: Axes, values: NDArray[np.float64], label: str, style: dict[str, Any]) -> None:
    ordered = np.sort(values)
    share = 100 * np.arange(len(ordered) + 1) / max(1, len(ordered))
    axes.step(
        np.concatenate((ordered[:1], ordered)),
        share[-len(ordered) - 1 :] if len(ordered) else [],
        where="post",
        label=label,
        color=style["color"],
        linestyle=style["linestyle"],
        linewidth=2,
    )


def draw_cache_hits(results: Sequence[Result], trace: Trace, label: str, out: Path) -> None:
    """Hit rate of one policy against capacity, with holes and under prefix rules."""

    def paint(axes: Sequence[Axes]) -> None:
        capacities = [result.capacity_blocks for result in results]
        kinds = {
            "every block found": [result.hits_any for result in results],
            "up to the first missing block": [result.hits_prefix for result in results],
        }
        for index, (kind, hits) in enumerate(kinds.items()):
            rates = [100 * hit / result.accesses for hit, result in zip(hits, results, strict=True)]
            axes[0].plot(
                capacities, rates, label=kind, linewidth=2, markersize=5, **line_style(index)
            )
        axes[0].axhline(
            100 * trace.infinite_hits / trace.accesses,
            color="#777777",
            linestyle=":",
            label="cache without limit",
        )
        capacity_axis(axes[0], capacities)
        axes[0].set_ylim(bottom=0)
        axes[0].set(ylabel="blocks hit (%)", title=f"{label}: hits with {results[0].policy}")
        axes[0].spines["top"].set_visible(False)
        axes[0].legend(frameon=False, fontsize=9)

    tokens = f" of {trace.block_tokens} tokens" if trace.block_tokens else ""
    draw(
        out,
        paint,
        f"{trace.requests:,} requests, {trace.accesses:,} lookups, {trace.unique_blocks:,} unique blocks{tokens}",
    )


def draw_mixed(results: Sequence[MixedResult], trace: Trace, out: Path | IO[bytes]) -> None:
    """Overall hit rate against capacity, and each workload's at the middle capacity."""
    policies = list(dict.fromkeys(result.policy for result in results))
    capacities = sorted({result.capacity_blocks for result in results})
    shown = capacities[len(capacities) // 2]
    rate = {
        (result.policy, result.capacity_blocks, result.workload): 100 * result.hit_rate
        for result in results
    }
    groups = (OVERALL, *trace.workloads)

    def paint(axes: Sequence[Axes]) -> None:
        width = 0.8 / len(policies)
        for index, policy in enumerate(policies):
            rates = [rate[policy, capacity, OVERALL] for capacity in capacities]
            axes[0].plot(
                capacities, rates, label=policy, linewidth=2, markersize=5, **line_style(index)
            )
            places = np.arange(len(groups)) + (index - (len(policies) - 1) / 2) * width
            heights = [rate[policy, shown, group] for group in groups]
            axes[1].bar(places, heights, width, color=COLOURS[index], label=policy)
        capacity_axis(axes[0], capacities)
        axes[0].set_title("All workloads together")
        axes[1].set_xticks(range(len(groups)), groups, rotation=20, ha="right")
        axes[1].set(title=f"By workload, {shown:,} blocks")
        for one in axes:
            one.set_ylim(bottom=0)
            one.set_ylabel("blocks hit, prefix rules (%)")
            one.spines["top"].set_visible(False)
        axes[0].legend(frameon=False, fontsize=9)

    caption = (
        f"{trace.requests:,} requests interleaved by time, {trace.unique_blocks:,} unique blocks"
    )
    draw(out, paint, caption, panels=2)
