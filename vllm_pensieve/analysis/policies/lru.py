"""Least recently used first; of blocks used together the deepest first, as vLLM frees them."""

from __future__ import annotations

from typing import NamedTuple

from numba.extending import register_jitable

from vllm_pensieve.analysis.policies.kernel import make_run
from vllm_pensieve.analysis.policies.policy import Policy, Replay
from vllm_pensieve.analysis.policies.queues import (
    Queues,
    append,
    forget,
    new_queues,
    oldest,
    unlink,
)

CACHED = 1


class State(NamedTuple):
    queues: Queues


def new_state(replay: Replay) -> State:
    return State(new_queues(replay.unique_blocks, resident=1))


@register_jitable
def remove(state: State, block: int) -> None:
    unlink(state.queues, block)


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    victim = oldest(state.queues, CACHED)
    unlink(state.queues, victim)
    forget(state.queues, victim)
    return victim


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    append(state.queues, CACHED, block)


POLICY = Policy(
    "lru",
    "least recently used, the deepest of a request first",
    make_run(remove, evict, insert, new_state, deepest_first=True),
)
