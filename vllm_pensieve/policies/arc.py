"""ARC (Megiddo and Modha, FAST 2003): blocks seen once and blocks seen again, and a balance that ghosts adjust."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from vllm_pensieve.policies.policy import Cache, Policy
from vllm_pensieve.policies.queues import (
    QUEUE,
    Queues,
    leave,
    length,
    new_queues,
    oldest,
    pull,
    push,
    queue_of,
)

ONCE, AGAIN = 1, 2
ONCE_GHOST, AGAIN_GHOST = -1, -2
RETURNING = -3
"""Of a block that was a ghost and is coming in."""


class State(NamedTuple):
    """once_target: [1], how many blocks seen once the cache aims to hold."""

    queues: Queues
    once_target: NDArray[np.float64]
    capacity: int


def new_state(cache: Cache) -> State:
    queues = new_queues(cache.ids, resident=2, ghosts=2)
    return State(queues, np.zeros(1), cache.capacity)


@register_jitable
def remove(state: State, block: int) -> None:
    pull(state.queues, block)
    state.queues.table[block, QUEUE] = AGAIN


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    queues = state.queues
    ghost = queue_of(queues, incoming)
    once_ghosts, again_ghosts = length(queues, ONCE_GHOST), length(queues, AGAIN_GHOST)
    if ghost == ONCE_GHOST:
        step = max(again_ghosts / once_ghosts, 1.0)
        state.once_target[0] = min(state.once_target[0] + step, float(state.capacity))
    elif ghost == AGAIN_GHOST:
        step = max(once_ghosts / again_ghosts, 1.0)
        state.once_target[0] = max(state.once_target[0] - step, 0.0)
    elif length(queues, ONCE) + once_ghosts >= state.capacity:
        if once_ghosts == 0 and length(queues, ONCE) > 0:
            victim = oldest(queues, ONCE)
            pull(queues, victim)
            leave(queues, victim)
            return victim
        if once_ghosts > 0:
            _drop_oldest(queues, ONCE_GHOST)
    elif (
        length(queues, ONCE) + length(queues, AGAIN) + once_ghosts + again_ghosts
        >= 2 * state.capacity
        and again_ghosts > 0
    ):
        _drop_oldest(queues, AGAIN_GHOST)
    victim = _replace(state, ghost == AGAIN_GHOST)
    if ghost != 0:
        pull(queues, incoming)
        queues.table[incoming, QUEUE] = RETURNING
    return victim


@register_jitable
def _replace(state: State, incoming_was_again: bool) -> int:
    queues = state.queues
    once, target = length(queues, ONCE), state.once_target[0]
    from_once = once > target or (once == target and incoming_was_again)
    if (once > 0 and from_once) or length(queues, AGAIN) == 0:
        victim = oldest(queues, ONCE)
        pull(queues, victim)
        push(queues, ONCE_GHOST, victim)
    else:
        victim = oldest(queues, AGAIN)
        pull(queues, victim)
        push(queues, AGAIN_GHOST, victim)
    return victim


@register_jitable
def _drop_oldest(queues: Queues, queue: int) -> None:
    block = oldest(queues, queue)
    pull(queues, block)
    leave(queues, block)


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    queue = queue_of(state.queues, block)
    if queue in (ONCE_GHOST, AGAIN_GHOST):  # the cache was not full
        pull(state.queues, block)
    push(state.queues, ONCE if queue == 0 else AGAIN, block)


POLICY = Policy(new_state, remove, evict, insert)
