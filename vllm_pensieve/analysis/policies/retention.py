"""Smallest retention value first: cost to compute the block again / time it has been idle.

The compiled twin of the server's `retention/value.py`: buckets of nearly equal cost, each in order of last use, of
which only the oldest blocks compete. Evicts the same blocks (`tests/analysis/test_twins.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from vllm_pensieve.analysis.policies.kernel import make_run
from vllm_pensieve.analysis.policies.policy import Policy, Replay
from vllm_pensieve.analysis.policies.queues import (
    Queues,
    append,
    forget,
    new_queues,
    oldest,
    queue_of,
    unlink,
)
from vllm_pensieve.retention.cost_model import AnalyticCostModel, CostModel
from vllm_pensieve.retention.value import SHORTEST_IDLE_S

NEVER = np.inf
ROUNDING = 1 + 1e-12
"""Larger than what rounding can do to a product."""


class State(NamedTuple):
    """Bucket k is queue k + 1.

    bucket_at: [positions]. cost: [buckets]. last_use_s: [blocks].
    oldest_use_s: [buckets], of the oldest block; NEVER for an empty bucket.
    """

    queues: Queues
    bucket_at: NDArray[np.int32]
    cost: NDArray[np.float64]
    last_use_s: NDArray[np.float64]
    oldest_use_s: NDArray[np.float64]


def new_state(replay: Replay) -> State:
    parameters = replay.parameters
    model = AnalyticCostModel(linear=1.0, attention=parameters.cost_slope)
    bucket_at, cost = buckets_of(model, replay.longest_position + 1, parameters.cost_bucket_ratio)
    return State(
        new_queues(replay.unique_blocks, resident=len(cost)),
        bucket_at,
        cost,
        np.zeros(replay.unique_blocks),
        np.full(len(cost), NEVER),
    )


def buckets_of(
    model: CostModel, positions: int, ratio: float
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The server's buckets for blocks of one unit of length: bucket of each position, cost of each bucket."""
    costs = [model.span(position, position + 1) for position in range(positions)]
    log_ratio = math.log(ratio)
    if log_ratio:
        numbers = [int(math.log(cost / costs[0]) / log_ratio) for cost in costs]
        cost_of = {number: costs[0] * math.exp(log_ratio * number) for number in numbers}
    else:
        numbers = list(range(positions))
        cost_of = dict(enumerate(costs))
    used, bucket_at = np.unique(numbers, return_inverse=True)
    return bucket_at.astype(np.int32), np.array([cost_of[number] for number in used.tolist()])


@register_jitable
def _take_out(state: State, block: int) -> None:
    queue = queue_of(state.queues, block)
    was_oldest = oldest(state.queues, queue) == block
    unlink(state.queues, block)
    if was_oldest:
        following = oldest(state.queues, queue)
        empty = following >= len(state.last_use_s)
        state.oldest_use_s[queue - 1] = NEVER if empty else state.last_use_s[following]


@register_jitable
def remove(state: State, block: int) -> None:
    _take_out(state, block)


@register_jitable
def evict(state: State, incoming: int, now_s: float) -> int:
    best = -1
    lowest = np.inf
    for bucket in range(len(state.cost)):
        cost = state.cost[bucket]
        idle_s = now_s - state.oldest_use_s[bucket]
        idle_s = idle_s if idle_s > SHORTEST_IDLE_S else SHORTEST_IDLE_S
        # Dividing is slow: only what may be the lowest is divided.
        if cost < lowest * idle_s * ROUNDING and state.oldest_use_s[bucket] != NEVER:
            value = cost / idle_s
            if value < lowest:
                best = bucket
                lowest = value
    victim = oldest(state.queues, best + 1)
    _take_out(state, victim)
    forget(state.queues, victim)
    return victim


@register_jitable
def insert(state: State, block: int, position: int, now_s: float) -> None:
    bucket = state.bucket_at[position]
    state.last_use_s[block] = now_s
    append(state.queues, bucket + 1, block)
    if state.oldest_use_s[bucket] == NEVER:
        state.oldest_use_s[bucket] = now_s


POLICY = Policy(
    "retention",
    "smallest (cost to recompute / idle time) first",
    make_run(remove, evict, insert, new_state, deepest_first=False),
)
