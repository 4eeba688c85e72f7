"""Timing ways to do the same thing, so that all of them meet the same noise of the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch


def alternating_medians(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Run every way in turn, `repeats` times after one that does not count; return the median of what each returns."""
    results: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            result = way()
            if repeat:
                results[name].append(result)
    return {name: statistics.median(values) for name, values in results.items()}


def seconds_each(work: Sequence[Callable[[], object]], device: torch.device) -> float:
    """Seconds that each piece of work takes on average, to its end on the device."""
    finish(device)
    start = time.perf_counter()
    for piece in work:
        piece()
        finish(device)
    return (time.perf_counter() - start) / len(work)


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
