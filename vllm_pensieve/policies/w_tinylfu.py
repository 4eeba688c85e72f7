"""W-TinyLFU (Einziger et al., ACM TOS 2017): a small LRU window in front of a segmented LRU, admission by frequency.

Window 1 % of the capacity, 80 % of the rest protected. Frequencies are exact counts up to 15, halved every
10 x capacity accesses, instead of a sketch: blocks are numbered densely, so they cost no more and never collide.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from vllm_pensieve.policies.policy import Cache, Policy
from vllm_pensieve.policies.queues import (
    Queues,
    leave,
    length,
    new_queues,
    oldest,
    pull,
    push,
    queue_of,
)

WINDOW, PROBATION, PROTECTED = 1, 2, 3
MOST_USES = 15
PERIOD_FACTOR = 10


class State(NamedTuple):
    """uses, halved_in: [blocks], the count and the period in which it was last brought up to date.

    accesses: [1].
    """

    queues: Queues
    uses: NDArray[np.int32]
    halved_in: NDArray[np.int32]
    accesses: NDArray[np.int64]
    window_size: int
    protected_size: int
    period: int


def new_state(cache: Cache) -> State:
    window = max(1, cache.capacity // 100)
    return State(
        new_queues(cache.ids, resident=3),
        np.zeros(cache.ids, np.int32),
        np.zeros(cache.ids, np.int32),
        np.zeros(1, np.int64),
        window,
        (cache.capacity - window) * 4 // 5,
        PERIOD_FACTOR * cache.capacity,
    )


@register_jitable
def _uses(state: State, block: int) -> int:
    """Uses of a block, halved as often as periods have passed."""
    period = state.accesses[0] // state.period
    passed = min(period - state.halved_in[block], 31)
    state.uses[block] >>= passed
    state.halved_in[block] = period
    return state.uses[block]


@register_jitable
def remove(state: State, block: int) -> None:
    pull(state.queues, block)


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    queues = state.queues
    if length(queues, PROBATION) > 0:
        victim = oldest(queues, PROBATION)
    elif length(queues, PROTECTED) > 0:
        victim = oldest(queues, PROTECTED)
    else:
        victim = -1
    if victim < 0 or length(queues, WINDOW) >= state.window_size:
        candidate = oldest(queues, WINDOW)
        if victim >= 0 and _uses(state, candidate) > _uses(state, victim):
            pull(queues, candidate)
            push(queues, PROBATION, candidate)
        else:
            victim = candidate
    pull(queues, victim)
    leave(queues, victim)
    return victim


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    queues = state.queues
    state.uses[block] = min(_uses(state, block) + 1, MOST_USES)
    state.accesses[0] += 1
    queue = queue_of(queues, block)
    if queue in (PROBATION, PROTECTED):
        push(queues, PROTECTED, block)
        if length(queues, PROTECTED) > state.protected_size:
            _move_oldest(queues, PROTECTED, PROBATION)
        return
    push(queues, WINDOW, block)
    if length(queues, WINDOW) > state.window_size:
        _move_oldest(queues, WINDOW, PROBATION)


@register_jitable
def _move_oldest(queues: Queues, source: int, target: int) -> None:
    block = oldest(queues, source)
    pull(queues, block)
    push(queues, target, block)


POLICY = Policy(new_state, remove, evict, insert)
