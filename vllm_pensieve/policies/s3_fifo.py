"""S3-FIFO (Yang et al., SOSP 2023): a small queue on probation, a main queue, and ghosts of what left the small one.

10 % small, 90 % main, ghosts for 90 % of the capacity; two uses on probation lead into the main queue. Until the first
eviction, what does not fit into the small queue goes to the main one, as in libCacheSim.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from vllm_pensieve.policies.policy import Cache, Policy
from vllm_pensieve.policies.queues import (
    QUEUE,
    Queues,
    in_use,
    leave,
    length,
    new_queues,
    oldest,
    pull,
    push,
    queue_of,
)

SMALL, MAIN, GHOST = 1, 2, -1
RETURNING = -2
"""Of a block that was a ghost and is coming in."""
USES_TO_MAIN = 2
MOST_USES = 3


class State(NamedTuple):
    """uses: [blocks], since the block came into its queue. has_evicted: [1]."""

    queues: Queues
    uses: NDArray[np.int32]
    has_evicted: NDArray[np.bool_]
    small_size: int
    main_size: int
    ghost_size: int


def new_state(cache: Cache) -> State:
    small = max(1, int(cache.capacity * 0.1))
    return State(
        new_queues(cache.ids, resident=2, ghosts=1),
        np.zeros(cache.ids, np.int32),
        np.zeros(1, np.bool_),
        small,
        cache.capacity - small,
        int(cache.capacity * 0.9),
    )


@register_jitable
def remove(state: State, block: int) -> None:
    state.uses[block] += 1


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    queues = state.queues
    if queue_of(queues, incoming) == GHOST:
        pull(queues, incoming)
        queues.table[incoming, QUEUE] = RETURNING
    state.has_evicted[0] = True
    victim = -1
    while victim < 0:
        if length(queues, MAIN) > state.main_size or length(queues, SMALL) == 0:
            victim = _evict_main(state)
            if victim >= 0:
                break
        victim = _evict_small(state)
    return victim


@register_jitable
def _evict_small(state: State) -> int:
    """The first block that was hardly used; -1 if the queue ran empty."""
    queues = state.queues
    while length(queues, SMALL) > 0:
        block = oldest(queues, SMALL)
        pull(queues, block)
        if state.uses[block] >= USES_TO_MAIN or in_use(queues, block):
            push(queues, MAIN, block)
            state.uses[block] = 0
            continue
        leave(queues, block)
        if state.ghost_size > 0:
            if length(queues, GHOST) == state.ghost_size:
                dropped = oldest(queues, GHOST)
                pull(queues, dropped)
                leave(queues, dropped)
            push(queues, GHOST, block)
        return block
    return -1


@register_jitable
def _evict_main(state: State) -> int:
    """The first block that was not used since its last turn; -1 if all are in use."""
    queues = state.queues
    used_in_a_row = 0
    while used_in_a_row < length(queues, MAIN):
        block = oldest(queues, MAIN)
        pull(queues, block)
        if in_use(queues, block):
            push(queues, MAIN, block)
            used_in_a_row += 1
        elif state.uses[block] > 0:
            push(queues, MAIN, block)
            state.uses[block] = min(state.uses[block], MOST_USES) - 1
            used_in_a_row = 0
        else:
            leave(queues, block)
            return block
    return -1


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    queues = state.queues
    queue = queue_of(queues, block)
    if queue > 0:
        return
    if queue == GHOST:  # the cache was not full
        pull(queues, block)
    filling = not state.has_evicted[0] and length(queues, SMALL) >= state.small_size
    push(queues, MAIN if queue != 0 or filling else SMALL, block)
    state.uses[block] = 0


POLICY = Policy(new_state, remove, evict, insert, deepest_first=False)
