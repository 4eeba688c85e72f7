"""How all figures look: colours, dashes and markers, axes of percentages and counts, captions, and writing a PNG.

matplotlib is imported when the first figure is made.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION = "#0072b2", "#e69f00", "#009e73", "#d55e00"
PURPLE, SKY, BLACK, GREY = "#cc79a7", "#56b4e9", "#000000", "#7f7f7f"
"""Of the Okabe-Ito palette, which stays distinguishable with colour blindness; its yellow is too pale for lines."""
SOURCE_COLOURS = {
    "resident": BLUE,
    "swapped": SKY,
    "recovered": "#f0e442",
    "new": VERMILION,
    "unknown": "#bbbbbb",
}
SOURCE_MEANINGS = {
    "resident": "resident: used in place",
    "swapped": "swapped: copied back from host memory",
    "recovered": "recovered: computed again inside the prefix",
    "new": "new: computed",
    "unknown": "not known: the server ended",
}
"""Of the prompt tokens, by where they came from."""
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, BLACK, GREY)
MARKERS = "o^vsDPX*"
LINES = ("-", "--", ":", "-.")
QUIET = "#555555"
"""Of captions, and of what only helps to read the rest."""

ASIDE = "paler"
"""A label that begins so explains the others, and stands last in the legend."""
PANEL_INCHES = (6.2, 4.4)
LEGEND_INCHES = 2.2
CAPTION_CHARACTERS_PER_INCH = 15
MANY = 60
"""Counts up to here are drawn on a linear axis."""


def line_style(index: int, dash: int | None = None) -> dict[str, Any]:
    """Colour, marker and dash of the n-th line of a figure; lines that coincide stay visible by their dashes.

    dash: number of the dash, where it means something of its own.
    """
    kinds = len(COLOURS)
    return {
        "color": COLOURS[index % kinds],
        "marker": MARKERS[index % kinds],
        "linestyle": LINES[(index if dash is None else dash) % len(LINES)],
    }


def make_figure(
    paint: Callable[[Sequence[Axes]], None], caption: str, panels: int = 1, legend: bool = True
) -> Figure:
    """Panels side by side, a caption below, and outside on the right the legend of what is labelled.

    paint: draws into the panels' axes. legend: whether there is one; lines of one label share an entry.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = PANEL_INCHES
    width = width * panels + (LEGEND_INCHES if legend else 0)
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, panels, panel + 1) for panel in range(panels)]
    paint(axes)
    for one in axes:
        one.spines[["right"]].set_visible(False)
        one.grid(alpha=0.25)
        one.set_axisbelow(True)
    if legend:
        _legend(figure, axes)
    lines = textwrap.wrap(caption, int(width * CAPTION_CHARACTERS_PER_INCH))
    figure.supxlabel("\n".join(lines), fontsize=8, color=QUIET)
    return figure


def save(figure: Figure, out: Path | IO[bytes]) -> None:
    """Write the figure as PNG."""
    figure.savefig(out, format="png")


def _legend(figure: Figure, axes: Sequence[Axes]) -> None:
    entries: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    for label in [label for label in entries if label.startswith(ASIDE)]:
        entries[label] = entries.pop(label)
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside right upper",
            frameon=False,
            fontsize=8,
            handlelength=3,
        )


def percent_axis(axes: Axes) -> None:
    """Make y an axis of shares in percent, all of it, so that figures can be compared."""
    axes.set_ylim(0, 100)
    axes.margins(y=0)


def count_axis(axes: Axes, largest: float) -> None:
    """Make x an axis of whole numbers from 0, logarithmic from 1 on if there are many."""
    from matplotlib.ticker import MaxNLocator

    if largest <= MANY:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True))
    else:
        axes.set_xscale("symlog", linthresh=1, linscale=0.3)
        axes.set_xticks([0, *steps_of_ten(1, largest)])
        axes.minorticks_off()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def steps_of_ten(lowest: float, highest: float) -> list[float]:
    """1, 2, 5, 10, 20, 50 and so on, from the lowest to the highest; only the powers of ten if those are many."""
    powers = [10.0**power for power in range(-9, 16)]
    factors = (1,) if highest > 10_000 * lowest else (1, 2, 5)
    steps = (power * factor for power in powers for factor in factors)
    return [step for step in steps if lowest <= step <= highest]


def say(axes: Axes, text: str) -> None:
    """Write in the middle of axes why there is nothing in them."""
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=11, color=QUIET
    )
