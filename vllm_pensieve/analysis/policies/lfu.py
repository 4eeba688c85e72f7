"""Least frequently used first, counted since the block came into the cache; of equals the least recently used."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from vllm_pensieve.analysis.policies.heap import Heap, add, least, new_heap, take_out
from vllm_pensieve.analysis.policies.kernel import make_run
from vllm_pensieve.analysis.policies.policy import Policy, Replay
from vllm_pensieve.analysis.policies.queues import QUEUE, Queues, forget, new_queues

CACHED = 1


class State(NamedTuple):
    """uses: [blocks], of a resident block since it came."""

    queues: Queues
    heap: Heap
    uses: NDArray[np.int32]


def new_state(replay: Replay) -> State:
    return State(
        new_queues(replay.unique_blocks, resident=1),
        new_heap(replay.unique_blocks, replay.resident_blocks),
        np.zeros(replay.unique_blocks, np.int32),
    )


@register_jitable
def remove(state: State, block: int) -> None:
    take_out(state.heap, block)


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    victim = least(state.heap)
    take_out(state.heap, victim)
    forget(state.queues, victim)
    state.uses[victim] = 0
    return victim


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    state.uses[block] += 1
    state.queues.table[block, QUEUE] = CACHED
    add(state.heap, block, float(state.uses[block]))


POLICY = Policy(
    "lfu",
    "least frequently used",
    make_run(remove, evict, insert, new_state, deepest_first=True),
)
