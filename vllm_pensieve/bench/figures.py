"""The three figures of a comparison, drawn from its summary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODE_COLOURS = {
    "vllm": "#7f7f7f",
    "vllm-apc": "#e69f00",
    "vllm-offload": "#000000",
    "pensieve": "#0072b2",
    "pensieve-no-swap": "#56b4e9",
    "pensieve-lru": "#cc79a7",
    "pensieve-no-recovery": "#009e73",
}
MODE_MARKERS = {
    "vllm": "s",
    "vllm-apc": "^",
    "vllm-offload": "P",
    "pensieve": "o",
    "pensieve-no-swap": "X",
    "pensieve-lru": "D",
    "pensieve-no-recovery": "v",
}
SOURCE_COLOURS = {
    "resident": "#0072b2",
    "swapped": "#56b4e9",
    "recovered": "#f0e442",
    "new": "#d55e00",
}
SOURCE_MEANINGS = {
    "resident": "resident: used in place",
    "swapped": "swapped: copied back from host memory",
    "recovered": "recovered: computed again inside the prefix",
    "new": "new: computed",
}
"""Colours of the Okabe-Ito palette, which stays distinguishable with colour blindness."""


def draw_figures(summary: dict[str, Any], out: Path) -> list[Path]:
    """Draw `ttft_by_turn.png`, `throughput.png` and `prompt_tokens_by_source.png` into `out`;
    return their paths.

    Modes of which no request was answered are left out; without any mode nothing is drawn.
    """
    answered = {
        name: numbers
        for name, numbers in summary["modes"].items()
        if numbers["requests"] > numbers["failed"]
    }
    if not answered:
        return []
    summary = summary | {"modes": answered}
    return [
        _draw(out / "ttft_by_turn.png", summary, _ttft_by_turn),
        _draw(out / "throughput.png", summary, _throughput),
        _draw(out / "prompt_tokens_by_source.png", summary, _prompt_tokens),
    ]


def _draw(
    path: Path, summary: dict[str, Any], draw: Callable[[Axes, dict[str, Any]], None]
) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw(axes, summary["modes"])
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(_caption(summary), fontsize=8, color="#555555")
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
    if workload.get("kv_cache_gib"):
        size += f", {workload['kv_cache_gib']:g} GiB of KV memory"
    return f"model {workload['model']}, workload {name} on {device}:\n{size}"


def _ttft_by_turn(axes: Axes, modes: dict[str, Any]) -> None:
    turns = 1
    means = [mean for numbers in modes.values() for mean in numbers["ttft_s"]["by_turn"] if mean]
    for name, numbers in modes.items():
        values = [
            float("nan") if value is None else value for value in numbers["ttft_s"]["by_turn"]
        ]
        turns = max(turns, len(values))
        axes.plot(
            range(1, len(values) + 1),
            values,
            label=name,
            color=MODE_COLOURS[name],
            marker=MODE_MARKERS[name],
            linewidth=2,
        )
    axes.set(
        xlabel="turn of the conversation",
        ylabel="mean time to first token (s)",
        title="Time to first token by turn",
    )
    if max(means, default=1) > 10 * min(means, default=1):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xticks(range(1, turns + 1, 1 + turns // 15))
    axes.grid(axis="y", which="both", alpha=0.25)
    axes.legend(frameon=False)


def _throughput(axes: Axes, modes: dict[str, Any]) -> None:
    names = list(modes)
    values = [modes[name]["throughput_rps"] for name in names]
    bars = axes.bar(names, values, color=[MODE_COLOURS[name] for name in names], width=0.6)
    axes.bar_label(bars, labels=[f"{value:.2f}" for value in values], padding=2)
    axes.set(ylabel="finished requests per second", title="Throughput (think times included)")
    axes.margins(y=0.12)


def _prompt_tokens(axes: Axes, modes: dict[str, Any]) -> None:
    names = list(modes)
    left = [0.0] * len(names)
    for source, colour in SOURCE_COLOURS.items():
        values = [modes[name]["prompt_tokens"].get(source, 0) / 1000 for name in names]
        if any(values):
            axes.barh(
                names, values, left=left, color=colour, label=SOURCE_MEANINGS[source], height=0.6
            )
        left = [start + value for start, value in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="prompt tokens (thousands)", title="Where prompt tokens came from")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, fontsize=9)
