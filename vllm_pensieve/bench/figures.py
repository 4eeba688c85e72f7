"""The figures of a comparison, drawn from its summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vllm_pensieve.machine import GB, GIB
from vllm_pensieve.plotting import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    QUIET,
    SKY,
    SOURCE_COLOURS,
    SOURCE_MEANINGS,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {
    "vllm": (GREY, "s"),
    "vllm-apc": (ORANGE, "^"),
    "vllm-offload": (BLACK, "P"),
    "pensieve": (BLUE, "o"),
    "pensieve-no-swap": (SKY, "X"),
    "pensieve-lru": (PURPLE, "D"),
    "pensieve-no-recovery": (GREEN, "v"),
}
"""Colour and marker of each mode."""
LOG_FROM = 10
"""Times that differ by more than this factor are drawn on a logarithmic axis."""
LABELLED_SHARE = 0.06
"""A part of a bar that is smaller has no room for its label."""


def draw_figures(summary: dict[str, Any], out: Path) -> list[Path]:
    """Draw `ttft_by_turn.png`, `throughput.png`, `prompt_tokens_by_source.png`, and where users have classes
    `ttft_by_class.png`, into `out`; return their paths.

    Modes of which no request was answered are left out; without any mode nothing is drawn.
    """
    modes = {
        name: numbers
        for name, numbers in summary["modes"].items()
        if numbers["requests"] > numbers["failed"]
    }
    if not modes:
        return []
    caption = _caption(summary)
    figure, (axes,) = _figure(1)
    _ttft_by_turn(axes, {name: numbers["ttft_s"] for name, numbers in modes.items()})
    _scale_times([axes])
    _legend_of_modes(figure, axes)
    paths = [_save(figure, caption, out / "ttft_by_turn.png")]
    if classes := list(next(iter(modes.values())).get("by_class", ())):
        paths.append(_save(_by_class(modes, classes), caption, out / "ttft_by_class.png"))
    figure, (axes,) = _figure(1)
    _throughput(axes, modes, summary.get("repeats", {}))
    paths.append(_save(figure, caption, out / "throughput.png"))
    figure, (axes,) = _figure(1)
    _prompt_tokens(axes, modes)
    paths.append(_save(figure, caption, out / "prompt_tokens_by_source.png"))
    return paths


def _figure(panels: int) -> tuple[Figure, Sequence[Axes]]:
    """Panels side by side with one vertical scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width = 7.2 if panels == 1 else 3.4 * panels
    figure = Figure(figsize=(width, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, panels, sharey=True, squeeze=False)[0]


def _save(figure: Figure, caption: str, path: Path) -> Path:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(caption, fontsize=8, color=QUIET)
    figure.savefig(path)
    return path


def _caption(summary: dict[str, Any]) -> str:
    workload = summary["workload"]
    name = Path(str(workload.get("dataset") or workload["name"])).name
    partial = ", interrupted" if summary["interrupted"] else ""
    machine = summary["machine"]
    device = ", ".join(machine["gpus"]) or f"{machine['processor']}, {machine['cores']} cores"
    size = f"{workload['sessions']} sessions, {workload['requests']} requests a mode{partial}"
    if workload.get("history_tokens"):
        size += f", {workload['history_tokens']:,} tokens of history"
    for key, memory in (("kv_cache_gib", "KV memory"), ("host_cache_gib", "host memory")):
        if workload.get(key):
            size += f", {workload[key] * GIB / GB:.3g} GB of {memory}"
    return f"model {workload['model']}, workload {name} on {device}:\n{size}"


def _by_class(modes: dict[str, Any], classes: Sequence[str]) -> Figure:
    figure, panels = _figure(len(classes))
    for axes, user_class in zip(panels, classes, strict=True):
        own = {name: numbers["by_class"][user_class]["ttft_s"] for name, numbers in modes.items()}
        _ttft_by_turn(axes, own, labels=5)
        axes.set_title(f"{user_class} users")
        axes.label_outer()
    _scale_times(panels)
    _legend_of_modes(figure, panels[0])
    return figure


def _legend_of_modes(figure: Figure, axes: Axes) -> None:
    """Above the panels, where no line runs."""
    handles, labels = axes.get_legend_handles_labels()
    title = "time to first token: mean, in a band from the 10th to the 90th percentile"
    where = {"loc": "outside upper center", "ncols": len(labels)}
    figure.legend(handles, labels, title=title, frameon=False, fontsize=9, **where)


def _ttft_by_turn(axes: Axes, modes: dict[str, Any], labels: int = 12) -> None:
    """A line of means for each mode, in a band from the 10th to the 90th percentile.

    Under each turn, of which at most that many are labelled, stands how many requests it is over, in the mode that
    answered fewest.
    """
    turns = max(1, *(len(ttft["by_turn"]) for ttft in modes.values()))
    for name, ttft in modes.items():
        xs = range(1, len(ttft["by_turn"]) + 1)
        mean, low, high = (
            [float("nan") if value is None else value for value in ttft[key]]
            for key in ("by_turn", "by_turn_p10", "by_turn_p90")
        )
        colour, marker = LOOKS[name]
        axes.plot(xs, mean, label=name, color=colour, marker=marker, linewidth=2)
        axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    shown = range(1, turns + 1, -(-turns // labels))
    axes.set_xticks(shown, [f"{turn}\nn={_fewest(modes, turn)}" for turn in shown])
    axes.set(xlabel="turn of the conversation", ylabel="time to first token (s)")
    axes.grid(axis="y", alpha=0.25)


def _fewest(modes: dict[str, Any], turn: int) -> int:
    counts = [ttft["requests_by_turn"] for ttft in modes.values()]
    return min(count[turn - 1] if turn <= len(count) else 0 for count in counts)


def _drawn(axes: Axes) -> list[float]:
    """The times that lines are drawn through."""
    return [y for line in axes.get_lines() for y in np.asarray(line.get_ydata(), float) if y > 0]


def _scale_times(panels: Sequence[Axes]) -> None:
    """The vertical axis that the panels share: logarithmic, labelled at 1, 2 and 5 of each power of ten, where times
    differ much; else one from 0.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    axes = panels[0]
    times_s = [time_s for panel in panels for time_s in _drawn(panel)]
    if times_s and max(times_s) > LOG_FROM * min(times_s):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)


def _throughput(axes: Axes, modes: dict[str, Any], repeats: dict[str, Any]) -> None:
    """A bar for each mode, with the span of its repeats."""
    names = list(modes)
    values = [modes[name]["throughput_rps"] for name in names]
    runs = [[run["throughput_rps"] for run in repeats.get(name, ())] or [0.0] for name in names]
    several = max(map(len, runs)) > 1
    spans = [
        [max(0.0, value - min(own)) for value, own in zip(values, runs, strict=True)],
        [max(0.0, max(own) - value) for value, own in zip(values, runs, strict=True)],
    ]
    bars = axes.bar(
        names,
        values,
        color=[LOOKS[name][0] for name in names],
        width=0.6,
        yerr=spans if several else None,
        capsize=4,
    )
    axes.bar_label(bars, labels=[f"{value:.2f}" for value in values], padding=2)
    answered = [modes[name]["requests"] - modes[name]["failed"] for name in names]
    axes.set_xticks(
        range(len(names)),
        [f"{name}\nn={count}" for name, count in zip(names, answered, strict=True)],
    )
    span = f"; median and span of {max(map(len, runs))} repeats" if several else ""
    axes.set(
        ylabel="finished requests per second", title=f"Throughput (think times included{span})"
    )
    axes.margins(y=0.12)


def _prompt_tokens(axes: Axes, modes: dict[str, Any]) -> None:
    """A bar for each mode, in parts by source, each labelled with its share."""
    names = list(modes)
    sources = {name: _sources(modes[name]["prompt_tokens"]) for name in names}
    left = [0.0] * len(names)
    for source, colour in SOURCE_COLOURS.items():
        values = [sources[name].get(source, 0) / 1000 for name in names]
        if any(values):
            bars = axes.barh(
                names, values, left=left, color=colour, label=SOURCE_MEANINGS[source], height=0.6
            )
            totals = [sum(sources[name].values()) / 1000 for name in names]
            shares = [
                value / total if total else 0 for value, total in zip(values, totals, strict=True)
            ]
            labels = [f"{share:.0%}" if share >= LABELLED_SHARE else "" for share in shares]
            light = source in ("recovered", "swapped", "unknown")
            axes.bar_label(
                bars,
                labels=labels,
                label_type="center",
                fontsize=8,
                color="black" if light else "white",
            )
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="prompt tokens (thousands)", title="Where prompt tokens came from")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=9)


def _sources(prompt: dict[str, Any]) -> dict[str, float]:
    """Prompt tokens by source; all of them `unknown` where no source is known."""
    known = {source: tokens for source, tokens in prompt.items() if source != "total"}
    return known or {"unknown": prompt["total"]}
