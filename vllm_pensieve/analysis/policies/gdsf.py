"""Greedy-Dual-Size-Frequency (Cherkasova 1998): smallest uses x cost + age, where age is the value of the last victim.

All blocks are of one size; the cost of one at position i is 1 + cost_slope x i.
"""

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
    """uses: [blocks], of a resident block since it came. age: [1]."""

    queues: Queues
    heap: Heap
    uses: NDArray[np.int32]
    age: NDArray[np.float64]
    cost_slope: float


def new_state(replay: Replay) -> State:
    return State(
        new_queues(replay.unique_blocks, resident=1),
        new_heap(replay.unique_blocks, replay.resident_blocks),
        np.zeros(replay.unique_blocks, np.int32),
        np.zeros(1),
        float(replay.parameters.cost_slope),
    )


@register_jitable
def remove(state: State, block: int) -> None:
    take_out(state.heap, block)


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    victim = least(state.heap)
    state.age[0] = state.heap.key[0]
    take_out(state.heap, victim)
    forget(state.queues, victim)
    state.uses[victim] = 0
    return victim


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    state.uses[block] += 1
    state.queues.table[block, QUEUE] = CACHED
    cost = 1.0 + state.cost_slope * position
    add(state.heap, block, state.age[0] + state.uses[block] * cost)


POLICY = Policy(
    "gdsf",
    "Greedy-Dual-Size-Frequency: uses x cost, aged",
    make_run(remove, evict, insert, new_state, deepest_first=True),
)
