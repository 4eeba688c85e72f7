"""A set of the times at which cached blocks are needed next, as a tree of 64-bit words: the farthest in four steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

WORD_BITS = 6
LEVELS = 4


class Times(NamedTuple):
    """One word array a level; a bit says that the word below it, or on level 0 the time, is in."""

    level0: NDArray[np.uint64]
    level1: NDArray[np.uint64]
    level2: NDArray[np.uint64]
    level3: NDArray[np.uint64]


def new_times(count: int) -> Times:
    """An empty set of times 0 .. count - 1. The top level is searched word by word: 2^24 times a word."""
    sizes = [(count >> WORD_BITS * (level + 1)) + 1 for level in range(LEVELS)]
    return Times(*(np.zeros(size, np.uint64) for size in sizes))


@register_jitable
def put(times: Times, time: int) -> None:
    one = np.uint64(1)
    times.level0[time >> 6] |= one << np.uint64(time & 63)
    times.level1[time >> 12] |= one << np.uint64((time >> 6) & 63)
    times.level2[time >> 18] |= one << np.uint64((time >> 12) & 63)
    times.level3[time >> 24] |= one << np.uint64((time >> 18) & 63)


@register_jitable
def take(times: Times, time: int) -> None:
    one = np.uint64(1)
    times.level0[time >> 6] &= ~(one << np.uint64(time & 63))
    if times.level0[time >> 6]:
        return
    times.level1[time >> 12] &= ~(one << np.uint64((time >> 6) & 63))
    if times.level1[time >> 12]:
        return
    times.level2[time >> 18] &= ~(one << np.uint64((time >> 12) & 63))
    if times.level2[time >> 18]:
        return
    times.level3[time >> 24] &= ~(one << np.uint64((time >> 18) & 63))


@register_jitable
def farthest(times: Times) -> int:
    """The largest time in the set, which must not be empty."""
    word = len(times.level3) - 1
    while not times.level3[word]:
        word -= 1
    word = (word << 6) | _highest_bit(times.level3[word])
    word = (word << 6) | _highest_bit(times.level2[word])
    word = (word << 6) | _highest_bit(times.level1[word])
    return (word << 6) | _highest_bit(times.level0[word])


@register_jitable
def _highest_bit(word: np.uint64) -> int:
    bit = 0
    for shift in (32, 16, 8, 4, 2, 1):
        if word >> np.uint64(shift):
            word >>= np.uint64(shift)
            bit += shift
    return bit
