"""First in, first out, as a server can run it: blocks in use stay, and a request's blocks come in deepest first."""

from __future__ import annotations

from numba.extending import register_jitable

from vllm_pensieve.policies.fifo import CACHED, State, insert, new_state, remove
from vllm_pensieve.policies.policy import Policy
from vllm_pensieve.policies.queues import in_use, leave, newer, oldest, unlink


@register_jitable
def choose(state: State, now_s: float) -> int:
    victim = oldest(state.queues, CACHED)
    while in_use(state.queues, victim):
        victim = newer(state.queues, victim)
    return victim


@register_jitable
def forget(state: State, block: int) -> None:
    unlink(state.queues, block)
    leave(state.queues, block)


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    victim = choose(state, now_s)
    remove(state, victim)
    forget(state, victim)
    return victim


POLICY = Policy(new_state, remove, evict, insert, choose, forget)
