"""Blocks in doubly linked queues inside one table, so that one access touches one cache line.

Row b of the table belongs to block b; after the blocks, each queue has a row that closes it to a ring. Queues of
resident blocks are numbered from 1, those of blocks that are only remembered (ghosts) from -1 downwards; 0: in none.
Rows are addressed by unsigned numbers: with signed ones every access would first ask whether it counts from the end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

NEWER, OLDER, QUEUE, IN_USE = range(4)
"""Columns. IN_USE, set by who calls the policies: a request uses the block, it must not be evicted."""


class Queues(NamedTuple):
    """table: [blocks + queues, 4]. lengths: [queues]. zero_row: the row of queue 0."""

    table: NDArray[np.int32]
    lengths: NDArray[np.int64]
    zero_row: int
    ghosts: int


def new_queues(blocks: int, resident: int, ghosts: int = 0) -> Queues:
    """Empty queues 1..resident and -ghosts..-1 for that many blocks."""
    queues = ghosts + 1 + resident
    table = np.zeros((blocks + queues, 4), np.int32)
    rows = np.arange(blocks, blocks + queues)
    table[rows, NEWER] = table[rows, OLDER] = rows
    return Queues(table, np.zeros(queues, np.int64), blocks + ghosts, ghosts)


@register_jitable
def append(queues: Queues, queue: int, block: int) -> None:
    """Put a block that is in no queue into one, as its newest. Does not count: for queues whose length is not asked."""
    table = queues.table
    end = np.uint32(queues.zero_row + queue)
    newest = np.uint32(table[end, OLDER])
    row = np.uint32(block)
    table[row, NEWER] = end
    table[row, OLDER] = newest
    table[row, QUEUE] = queue
    table[newest, NEWER] = row
    table[end, OLDER] = row


@register_jitable
def unlink(queues: Queues, block: int) -> None:
    """Take an appended block out of its queue. It still counts as resident, or as a ghost, until `leave`."""
    table = queues.table
    row = np.uint32(block)
    newer = np.uint32(table[row, NEWER])
    older = np.uint32(table[row, OLDER])
    table[newer, OLDER] = older
    table[older, NEWER] = newer


@register_jitable
def push(queues: Queues, queue: int, block: int) -> None:
    """`append`, counted in the queue's length."""
    append(queues, queue, block)
    queues.lengths[queues.ghosts + queue] += 1


@register_jitable
def pull(queues: Queues, block: int) -> None:
    """`unlink` for a block that was pushed."""
    unlink(queues, block)
    queues.lengths[queues.ghosts + queue_of(queues, block)] -= 1


@register_jitable
def leave(queues: Queues, block: int) -> None:
    """A pulled block is neither resident nor remembered any more."""
    queues.table[block, QUEUE] = 0


@register_jitable
def queue_of(queues: Queues, block: int) -> int:
    return queues.table[block, QUEUE]


@register_jitable
def length(queues: Queues, queue: int) -> int:
    return queues.lengths[queues.ghosts + queue]


@register_jitable
def oldest(queues: Queues, queue: int) -> int:
    """The oldest block; the queue's own row if it is empty."""
    return queues.table[queues.zero_row + queue, NEWER]


@register_jitable
def newest(queues: Queues, queue: int) -> int:
    """The newest block; the queue's own row if it is empty."""
    return queues.table[queues.zero_row + queue, OLDER]


@register_jitable
def newer(queues: Queues, block: int) -> int:
    """The block that came after this one; the queue's own row after the newest."""
    return queues.table[block, NEWER]


@register_jitable
def in_use(queues: Queues, block: int) -> bool:
    return queues.table[block, IN_USE] != 0
