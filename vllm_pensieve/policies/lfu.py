"""Least frequently used first, counted since the block came into the cache; of equals the least recently used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from vllm_pensieve.policies.heap import Heap, add, least, new_heap, take_out
from vllm_pensieve.policies.policy import Cache, Policy
from vllm_pensieve.policies.queues import QUEUE, Queues, leave, new_queues

CACHED = 1


class State(NamedTuple):
    """uses: [blocks], of a resident block since it came."""

    queues: Queues
    heap: Heap
    uses: NDArray[np.int32]


def new_state(cache: Cache) -> State:
    return State(
        new_queues(cache.ids, resident=1),
        new_heap(cache.ids, min(cache.capacity, cache.ids)),
        np.zeros(cache.ids, np.int32),
    )


@register_jitable
def remove(state: State, block: int) -> None:
    take_out(state.heap, block)


@register_jitable
def choose(state: State, now_s: float) -> int:
    return least(state.heap)


@register_jitable
def forget(state: State, block: int) -> None:
    leave(state.queues, block)
    state.uses[block] = 0


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    victim = choose(state, now_s)
    remove(state, victim)
    forget(state, victim)
    return victim


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    state.uses[block] += 1
    state.queues.table[block, QUEUE] = CACHED
    add(state.heap, block, float(state.uses[block]))


POLICY = Policy(new_state, remove, evict, insert, choose, forget)
