"""First in, first out, as the server runs it: blocks in use stay, and a request's blocks come in deepest first.

The compiled twin of `retention/fifo.py`; evicts the same blocks (`tests/analysis/test_twins.py`).
"""

from __future__ import annotations

from numba.extending import register_jitable

from vllm_pensieve.analysis.policies.fifo import CACHED, State, insert, new_state, remove
from vllm_pensieve.analysis.policies.kernel import make_run
from vllm_pensieve.analysis.policies.policy import Policy
from vllm_pensieve.analysis.policies.queues import forget, in_use, newer, oldest, unlink


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    victim = oldest(state.queues, CACHED)
    while in_use(state.queues, victim):
        victim = newer(state.queues, victim)
    unlink(state.queues, victim)
    forget(state.queues, victim)
    return victim


POLICY = Policy(
    "fifo-as-served",
    "first in, first out as the server runs it: blocks in use stay, the deepest first",
    make_run(remove, evict, insert, new_state, deepest_first=True),
)
