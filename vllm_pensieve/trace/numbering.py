"""Dense numbers for blocks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TABLE_FACTOR = 16
"""Block ids that span at most this many times their count are renumbered by a table, others by sorting."""


def known_by_their_prefix(
    blocks: NDArray[np.int32], offsets: NDArray[np.int64], unique: int
) -> tuple[NDArray[np.int32], int, int]:
    """Numbers that name a block and everything before it; how many there are; lookups that this has changed.

    The ids of most formats name both already, and nothing is changed. An id of content alone may come after different
    blocks.
    """
    before = np.concatenate(([-1], blocks[:-1])).astype(np.int32)[: len(blocks)]
    starts = offsets[:-1][np.diff(offsets) > 0]
    before[starts] = -1
    first_before = np.empty(unique, np.int32)
    first_before[blocks[::-1]] = before[::-1]  # of several values for one block, the last one stays
    moved = int(np.count_nonzero(first_before[blocks] != before))
    if not moved:
        return blocks, unique, 0
    number_of: dict[tuple[int, int], int] = {}
    numbers = np.empty_like(blocks)
    is_start = np.zeros(len(blocks), np.bool_)
    is_start[starts] = True
    previous = -1
    for place, (block, start) in enumerate(zip(blocks.tolist(), is_start.tolist(), strict=True)):
        key = (-1 if start else previous, block)
        previous = number_of.setdefault(key, len(number_of))
        numbers[place] = previous
    return numbers, len(number_of), moved


def renumber(ids: NDArray[np.int64]) -> tuple[NDArray[np.int32], int]:
    """Dense numbers from 0 in the order of the ids, and how many there are."""
    if not len(ids):
        return np.zeros(0, np.int32), 0
    lowest, highest = int(ids.min()), int(ids.max())
    if highest - lowest < TABLE_FACTOR * len(ids):
        seen = np.zeros(highest - lowest + 1, np.bool_)
        seen[ids - lowest] = True
        number = np.cumsum(seen, dtype=np.int32) - np.int32(1)
        return number[ids - lowest], int(number[-1]) + 1
    unique, numbers = np.unique(ids, return_inverse=True)
    return numbers.astype(np.int32), len(unique)
