"""Tables of a summary that the terminal and the measurement sheet have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vllm_pensieve.bench.counters import SOURCES
from vllm_pensieve.bench.statistics import SUBJECT
from vllm_pensieve.tables import Table, said

TIME, FACTOR, SHARE = "{:.3f} s", "{:.2f}x", "{:.1%}"


def by_turn(summary: dict[str, Any]) -> Table:
    """Mean TTFT of each mode, of how many requests (in the mode that answered fewest), and each speed-up."""
    modes = summary["modes"]
    pairs = {pair: s for pair, s in summary["speedup"].items() if pair.startswith(f"{SUBJECT}/")}
    turns = max((len(numbers["ttft_s"]["by_turn"]) for numbers in modes.values()), default=0)
    rows = []
    for index in range(turns):
        means = [_at(numbers["ttft_s"]["by_turn"], index) for numbers in modes.values()]
        better = [_at(speedup["ttft_by_turn"], index) for speedup in pairs.values()]
        answered = [_at(n["ttft_s"]["requests_by_turn"], index) or 0 for n in modes.values()]
        cells = [*(said(mean, TIME) for mean in means), *(said(own, FACTOR) for own in better)]
        rows.append([str(index + 1), str(min(answered)), *cells])
    headings = ("turn", "n", *(f"{name}, mean TTFT" for name in modes), *pairs)
    return Table(headings, rows, "By turn")


def prompt_shares(modes: dict[str, Any]) -> Table:
    """Where the prompt tokens of each mode came from, as shares of them."""
    rows = [
        [name, str(numbers["prompt_tokens"].get("total", 0))]
        + [said(numbers["prompt_shares"].get(source), SHARE) for source in SOURCES]
        for name, numbers in modes.items()
    ]
    headings = ("resident (GPU hits)", "swapped (CPU hits)", "recovered", "new")
    title = "Where prompt tokens came from"
    return Table(("mode", "prompt tokens", *headings), rows, title)


def cache_and_batches(modes: dict[str, Any]) -> Table:
    """What the plugin did with its memory, and how many requests were answered at the same time."""
    rows = []
    for name, numbers in modes.items():
        cache, batch = numbers["cache"], numbers["batch"]
        evictions = cache.get("evictions", {})
        counts = (evictions.get("host"), evictions.get("dropped"), cache.get("recoveries"))
        rows.append(
            [
                name,
                *(said(cache.get(f"{tier}_gb"), "{:.4g} GB") for tier in ("gpu", "cpu")),
                *(said(count, "{}") for count in counts),
                said(batch["mean"], "{:.2f}"),
                str(batch["most"]),
            ]
        )
    usage = ("GPU cache usage", "CPU cache usage")
    evictions = ("evictions to host memory", "evictions, dropped", "recoveries")
    headings = ("mode", *usage, *evictions, "batch, mean", "batch, most")
    return Table(headings, rows, "Cache and batches")


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None
