"""A binary heap of blocks in which any of them can be found and taken out: least key first, then the least recent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray


class Heap(NamedTuple):
    """key, order, block: [most blocks]. slot_of: [all blocks]. counts: how many are here, how many ever came."""

    key: NDArray[np.float64]
    order: NDArray[np.int64]
    block: NDArray[np.int32]
    slot_of: NDArray[np.int32]
    counts: NDArray[np.int64]


def new_heap(blocks: int, most: int) -> Heap:
    """An empty heap for at most `most` of the blocks 0 .. blocks - 1."""
    return Heap(
        np.zeros(most),
        np.zeros(most, np.int64),
        np.zeros(most, np.int32),
        np.zeros(blocks, np.int32),
        np.zeros(2, np.int64),
    )


@register_jitable
def least(heap: Heap) -> int:
    """The block that goes first. The heap must not be empty."""
    return heap.block[0]


@register_jitable
def add(heap: Heap, block: int, key: float) -> None:
    slot = heap.counts[0]
    heap.counts[0] += 1
    heap.counts[1] += 1
    _rise(heap, slot, block, key, heap.counts[1])


@register_jitable
def take_out(heap: Heap, block: int) -> None:
    slot = heap.slot_of[block]
    heap.counts[0] -= 1
    last = heap.counts[0]
    if slot == last:
        return
    moved, key, order = heap.block[last], heap.key[last], heap.order[last]
    if _before(key, order, heap.key[slot], heap.order[slot]):
        _rise(heap, slot, moved, key, order)
    else:
        _sink(heap, slot, moved, key, order)


@register_jitable
def _before(key: float, order: int, other_key: float, other_order: int) -> bool:
    return key < other_key or (key == other_key and order < other_order)


@register_jitable
def _put(heap: Heap, slot: int, block: int, key: float, order: int) -> None:
    heap.key[slot] = key
    heap.order[slot] = order
    heap.block[slot] = block
    heap.slot_of[block] = slot


@register_jitable
def _rise(heap: Heap, slot: int, block: int, key: float, order: int) -> None:
    while slot > 0:
        above = (slot - 1) // 2
        if not _before(key, order, heap.key[above], heap.order[above]):
            break
        _put(heap, slot, heap.block[above], heap.key[above], heap.order[above])
        slot = above
    _put(heap, slot, block, key, order)


@register_jitable
def _sink(heap: Heap, slot: int, block: int, key: float, order: int) -> None:
    count = heap.counts[0]
    while True:
        below = 2 * slot + 1
        if below >= count:
            break
        other = below + 1
        if other < count and _before(
            heap.key[other], heap.order[other], heap.key[below], heap.order[below]
        ):
            below = other
        if _before(key, order, heap.key[below], heap.order[below]):
            break
        _put(heap, slot, heap.block[below], heap.key[below], heap.order[below])
        slot = below
    _put(heap, slot, block, key, order)
