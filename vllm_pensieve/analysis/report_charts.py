"""Charts of the report that have a time axis: SVG inside the page, in its colours, light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.plotting import SOURCE_COLOURS, SOURCE_MEANINGS
from vllm_pensieve.trace.served import SOURCES, Served
from vllm_pensieve.trace.trace import Trace

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 12, 42
BINS = 48
TICKS = 6
UNITS = ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
SEEN = {"seen": SOURCE_COLOURS["resident"], "new": SOURCE_COLOURS["new"]}
PERCENTILES = {"median": (50, SOURCE_COLOURS["resident"]), "p90": (90, SOURCE_COLOURS["new"])}


class Layer(NamedTuple):
    """One kind of a stacked bar. amounts: [requests]."""

    name: str
    colour: str
    amounts: NDArray[np.float64]


def sources_over_time(trace: Trace, served: Served) -> str:
    """Prompt tokens a bar of time, by where they came from."""
    layers = [
        Layer(
            SOURCE_MEANINGS[source], SOURCE_COLOURS[source], served.tokens[:, number].astype(float)
        )
        for number, source in enumerate(SOURCES)
    ]
    told = ", ".join(f"{share:.0%} {source}" for source, share in served.shares().items())
    return _stacked(
        _since_first(trace),
        layers,
        "prompt tokens",
        f"Prompt tokens over time by where they came from; of the whole trace {told}.",
    )


def blocks_over_time(trace: Trace) -> str:
    """Block lookups a bar of time, by whether an earlier request had the block."""
    first = np.zeros(trace.accesses, np.bool_)
    first[np.unique(trace.blocks, return_index=True)[1]] = True
    new = np.add.reduceat(np.append(first, False).astype(float), trace.offsets[:-1])
    lengths = np.diff(trace.offsets)
    new = np.where(lengths > 0, new, 0.0)
    layers = [
        Layer("had by an earlier request", SEEN["seen"], lengths - new),
        Layer("new", SEEN["new"], new),
    ]
    return _stacked(
        _since_first(trace),
        layers,
        "block lookups",
        f"Block lookups over time; {trace.infinite_hits / trace.accesses:.0%} of all are of blocks that an earlier "
        "request had.",
    )


def ttft_over_time(trace: Trace, served: Served) -> str:
    """Median and 90th percentile of the time to first token, a point a bar of time."""
    known = ~np.isnan(served.ttft_s)
    times_s = _since_first(trace)
    times, values = times_s[known], served.ttft_s[known]
    edges = _edges(times_s)
    bin_of = _bins(times, edges)
    lines = {}
    for name, (percent, colour) in PERCENTILES.items():
        points = [
            (
                (edges[number] + edges[number + 1]) / 2,
                np.percentile(values[bin_of == number], percent),
            )
            for number in np.unique(bin_of)
        ]
        lines[name] = (colour, points)
    frame = _Frame(edges[-1], max(y for _, points in lines.values() for _, y in points))
    drawn = []
    for colour, points in lines.values():
        places = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)
        drawn.append(
            f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        drawn += [
            f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2.5" fill="{colour}"/>'
            for x, y in points
        ]
    median, p90 = np.percentile(values, [50, 90])
    meaning = (
        f"Time to first token over time; of the whole trace the median is {median:.3g} s, and 90 % take at most "
        f"{p90:.3g} s."
    )
    legend = [(name, colour) for name, (colour, _) in lines.items()]
    return frame.svg(drawn, "time to first token (s)", legend, meaning)


def _since_first(trace: Trace) -> NDArray[np.float64]:
    """[requests], seconds since the first one."""
    return trace.times_s - trace.times_s[0]


def _stacked(
    times_s: NDArray[np.float64], layers: Sequence[Layer], quantity: str, meaning: str
) -> str:
    edges = _edges(times_s)
    bin_of = _bins(times_s, edges)
    heights = [np.bincount(bin_of, layer.amounts, len(edges) - 1) for layer in layers]
    tops = np.cumsum(heights, axis=0)
    frame = _Frame(edges[-1], float(tops[-1].max()))
    drawn = []
    for layer, top, height in zip(layers, tops, heights, strict=True):
        for number, (begin, end) in enumerate(pairwise(edges)):
            if height[number] <= 0:
                continue
            left, right = frame.x(begin), frame.x(end)
            upper, lower = frame.y(top[number]), frame.y(top[number] - height[number])
            drawn.append(
                f'<rect x="{left:.1f}" y="{upper:.1f}" width="{max(0.5, right - left - 0.6):.1f}" '
                f'height="{lower - upper:.1f}" fill="{layer.colour}"/>'
            )
    legend = [
        (layer.name, layer.colour)
        for layer, height in zip(layers, heights, strict=True)
        if height.any()
    ]
    return frame.svg(drawn, quantity, legend, meaning)


def _edges(times_s: NDArray[np.float64]) -> list[float]:
    """Of bars of one width, from 0 to the last request."""
    return np.linspace(0.0, max(float(times_s.max()), 1e-3), BINS + 1).tolist()


def _bins(times_s: NDArray[np.float64], edges: list[float]) -> NDArray[np.int64]:
    return np.clip(np.searchsorted(edges, times_s, "right") - 1, 0, len(edges) - 2)


class _Frame:
    """Axes from 0 to the greatest values of both quantities."""

    def __init__(self, longest_s: float, most: float) -> None:
        self._unit_s, self._unit = next(
            (unit for unit in UNITS if longest_s >= 2 * unit[0]), UNITS[-1]
        )
        self._longest = longest_s / self._unit_s
        self._most = most * 1.05 or 1.0

    def x(self, time_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time_s / self._unit_s / self._longest

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self._most

    def svg(
        self, drawn: Sequence[str], quantity: str, legend: Sequence[tuple[str, str]], meaning: str
    ) -> str:
        """The chart with axes, and its legend below it."""
        floor = HEIGHT - BOTTOM
        parts = []
        for value in _ticks(self._most):
            y = self.y(value)
            parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_said(value)}</text>'
            )
        for value in _ticks(self._longest):
            x = self.x(value * self._unit_s)
            parts.append(
                f'<text x="{x:.1f}" y="{floor + 16}" text-anchor="middle">{_said(value)}</text>'
            )
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">time since the first request '
            f"({self._unit})</text>"
        )
        keys = "".join(
            f'<li><span style="background:{colour}"></span>{escape(name)}'
            for name, colour in legend
        )
        return (
            f"<figure><figcaption>{escape(quantity)}</figcaption>"
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(meaning)}">'
            f"{''.join(parts)}{''.join(drawn)}</svg><ul class=legend>{keys}</ul></figure>"
        )


def _ticks(most: float) -> list[float]:
    """Round values from 0 up to `most`."""
    power = 10.0 ** np.floor(np.log10(most / TICKS))
    step = next(power * step for step in STEPS if power * step * TICKS >= most)
    return np.arange(0.0, most + step / 1000, step).tolist()


def _said(value: float) -> str:
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"
