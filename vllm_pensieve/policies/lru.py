"""Least recently used first; of blocks used together the deepest first, as vLLM frees them."""

from __future__ import annotations

from typing import NamedTuple

from numba.extending import register_jitable

from vllm_pensieve.policies.policy import Cache, Policy
from vllm_pensieve.policies.queues import Queues, append, leave, new_queues, oldest, unlink

CACHED = 1


class State(NamedTuple):
    queues: Queues


def new_state(cache: Cache) -> State:
    return State(new_queues(cache.ids, resident=1))


@register_jitable
def remove(state: State, block: int) -> None:
    unlink(state.queues, block)


@register_jitable
def choose(state: State, now_s: float) -> int:
    return oldest(state.queues, CACHED)


@register_jitable
def forget(state: State, block: int) -> None:
    leave(state.queues, block)


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    victim = choose(state, now_s)
    remove(state, victim)
    forget(state, victim)
    return victim


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    append(state.queues, CACHED, block)


POLICY = Policy(new_state, remove, evict, insert, choose, forget)
