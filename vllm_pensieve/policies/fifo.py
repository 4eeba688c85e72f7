"""First in, first out: by the time a block came into the cache, of those of one request the leading one first.

Being used does not help a block, not even in the request that uses it.
"""

from __future__ import annotations

from typing import NamedTuple

from numba.extending import register_jitable

from vllm_pensieve.policies.policy import Cache, Policy
from vllm_pensieve.policies.queues import (
    Queues,
    append,
    leave,
    new_queues,
    oldest,
    queue_of,
    unlink,
)

CACHED = 1


class State(NamedTuple):
    queues: Queues


def new_state(cache: Cache) -> State:
    return State(new_queues(cache.ids, resident=1))


@register_jitable
def remove(state: State, block: int) -> None:
    """It keeps its place."""


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    victim = oldest(state.queues, CACHED)
    unlink(state.queues, victim)
    leave(state.queues, victim)
    return victim


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    if queue_of(state.queues, block) == 0:
        append(state.queues, CACHED, block)


POLICY = Policy(new_state, remove, evict, insert, deepest_first=False)
