"""SIEVE (Zhang et al., NSDI 2024): a queue in order of arrival and a hand that spares what was used since it passed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from vllm_pensieve.policies.policy import Cache, Policy
from vllm_pensieve.policies.queues import (
    Queues,
    append,
    in_use,
    leave,
    new_queues,
    newer,
    oldest,
    queue_of,
    unlink,
)

CACHED = 1


class State(NamedTuple):
    """hand: [1], the block to be looked at next, or the queue's own row: begin again. visited: [blocks]."""

    queues: Queues
    hand: NDArray[np.int32]
    visited: NDArray[np.bool_]


def new_state(cache: Cache) -> State:
    queues = new_queues(cache.ids, resident=1)
    hand = np.array([queues.zero_row + CACHED], np.int32)
    return State(queues, hand, np.zeros(cache.ids, np.bool_))


@register_jitable
def remove(state: State, block: int) -> None:
    state.visited[block] = True


@register_jitable
def choose(state: State, now_s: float) -> int:
    queues = state.queues
    begin_again = queues.zero_row + CACHED
    block = state.hand[0]
    while True:
        if block == begin_again:
            block = oldest(queues, CACHED)
        if not state.visited[block] and not in_use(queues, block):
            break
        state.visited[block] = False
        block = newer(queues, block)
    state.hand[0] = block
    return block


@register_jitable
def forget(state: State, block: int) -> None:
    if state.hand[0] == block:
        state.hand[0] = newer(state.queues, block)
    unlink(state.queues, block)
    leave(state.queues, block)


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    victim = choose(state, now_s)
    remove(state, victim)
    forget(state, victim)
    return victim


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    if queue_of(state.queues, block) == 0:
        append(state.queues, CACHED, block)
        state.visited[block] = False


POLICY = Policy(new_state, remove, evict, insert, choose, forget, deepest_first=False)
