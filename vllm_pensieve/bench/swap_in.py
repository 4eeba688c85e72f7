"""What loading layer by layer hides: a forward pass that waits for the whole load, and one that waits by layers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from vllm_pensieve.bench.timing import alternating_medians, seconds_each
from vllm_pensieve.swap.copiers import Copier, Pairs

WIDTH = 1024
"""Of the matrices whose product stands for a layer's computation."""
MOST_ROWS = 1 << 17
CALIBRATIONS = 3


def measure_swap_in(
    copier: Copier, layers: int, pairs: Pairs, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Times of loading these blocks and computing all layers, one after the other and by layers.

    A layer's computation is a matrix product that takes about as long as its copy. On a CPU it leaves one core to the
    copier where there are two, as vLLM's CPU workers leave cores to others.
    """
    with _compute_threads(device) as threads:
        compute = _matched_product(_seconds_of_load(copier, pairs, device) / layers, device)
        ways: dict[str, Callable[[], None]] = {
            "copy": partial(_load_all, copier, pairs),
            "compute": partial(_compute_all, layers, compute),
            "sequential": partial(_sequential, copier, pairs, layers, compute),
            "pipelined": partial(_pipelined, copier, pairs, layers, compute),
        }
        seconds = alternating_medians(
            {name: partial(seconds_each, [way], device) for name, way in ways.items()}, repeats
        )
    hidden = seconds["sequential"] - seconds["pipelined"]
    return {
        **{f"{name}_ms": taken * 1e3 for name, taken in seconds.items()},
        "speedup": seconds["sequential"] / seconds["pipelined"],
        "overlap_percent": 100 * hidden / min(seconds["copy"], seconds["compute"]),
        "compute_threads": threads,
    }


def _load_all(copier: Copier, pairs: Pairs) -> None:
    copier.load(pairs)
    copier.wait_for_load()
    copier.fence()


def _compute_all(layers: int, compute: Callable[[], object]) -> None:
    for _ in range(layers):
        compute()


def _sequential(copier: Copier, pairs: Pairs, layers: int, compute: Callable[[], object]) -> None:
    _load_all(copier, pairs)
    _compute_all(layers, compute)


def _pipelined(copier: Copier, pairs: Pairs, layers: int, compute: Callable[[], object]) -> None:
    copier.load(pairs)
    for layer in range(layers):
        copier.wait_for_layer(layer)
        compute()
    copier.fence()


def _seconds_of_load(copier: Copier, pairs: Pairs, device: torch.device) -> float:
    load = partial(seconds_each, [partial(_load_all, copier, pairs)], device)
    return alternating_medians({"load": load}, CALIBRATIONS)["load"]


def _matched_product(seconds: float, device: torch.device) -> Callable[[], object]:
    """A matrix product that takes about so long, found by scaling its rows."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    weight = torch.ones((WIDTH, WIDTH), dtype=dtype, device=device)
    rows = 64
    for _ in range(CALIBRATIONS):
        product = _product(rows, weight)
        way = partial(seconds_each, [product], device)
        taken = alternating_medians({"product": way}, CALIBRATIONS)["product"]
        rows = min(MOST_ROWS, max(1, round(rows * seconds / taken)))
    return _product(rows, weight)


def _product(rows: int, weight: torch.Tensor) -> Callable[[], object]:
    activations = torch.ones((rows, WIDTH), dtype=weight.dtype, device=weight.device)
    result = torch.empty_like(activations)
    return partial(torch.mm, activations, weight, out=result)


@contextmanager
def _compute_threads(device: torch.device) -> Iterator[int | None]:
    if device.type != "cpu":
        yield None
        return
    before = torch.get_num_threads()
    threads = max(1, min(before, len(os.sched_getaffinity(0)) - 1))
    torch.set_num_threads(threads)
    try:
        yield threads
    finally:
        torch.set_num_threads(before)
