"""Smallest retention value first: cost to compute the block again / time it has been idle (Pensieve, section 4.3.1).

Values change their order as time passes, so no heap can hold them. But of two blocks of equal cost the longer idle one
is always worth less: blocks are kept in buckets of (nearly) equal cost, each in order of last use, and only the oldest
of each bucket compete. Of blocks of one bucket that fell out of use together the leading one goes first: it is the
cheapest. A block that comes in with an older use than its bucket's newest counts as used when that one was.

The first choice at a point in time values every bucket. After it values can only rise, until a bucket that was empty is
filled: only the group of buckets whose lowest one has changed is valued again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba.extending import register_jitable
from numpy.typing import NDArray

from vllm_pensieve.policies.policy import Cache, Policy
from vllm_pensieve.policies.queues import (
    Queues,
    append,
    leave,
    new_queues,
    newest,
    oldest,
    queue_of,
    unlink,
)

NEVER = np.inf
SHORTEST_IDLE_S = 1e-6
ROUNDING = 1 + 1e-12
"""Larger than what rounding can do to a product."""
GROUP = 64
"""Buckets that are valued together."""


class State(NamedTuple):
    """Bucket k is queue k + 1, and in group k // GROUP.

    bucket_at: [positions]. cost: [buckets].
    last_use_s: [blocks], of which those of a bucket never fall from its oldest to its newest.
    oldest_use_s: [buckets], of the oldest block; NEVER for an empty bucket.
    lowest: [groups, 2], the value of the group's lowest bucket, and of that the `oldest_use_s` that was valued.
    lowest_bucket: [groups]. times_s: [2], when all groups were valued last, and the latest use so far.
    """

    queues: Queues
    bucket_at: NDArray[np.int32]
    cost: NDArray[np.float64]
    last_use_s: NDArray[np.float64]
    oldest_use_s: NDArray[np.float64]
    lowest: NDArray[np.float64]
    lowest_bucket: NDArray[np.int32]
    times_s: NDArray[np.float64]


VALUE, VALUED_USE = 0, 1
VALUED_AT, LATEST_USE = 0, 1


def new_state(cache: Cache) -> State:
    bucket_at, cost = buckets_of(cache.costs, cache.cost_bucket_ratio)
    groups = (len(cost) + GROUP - 1) // GROUP
    return State(
        new_queues(cache.ids, resident=len(cost)),
        bucket_at,
        cost,
        np.zeros(cache.ids),
        np.full(len(cost), NEVER),
        np.zeros((groups, 2)),
        np.zeros(groups, np.int32),
        np.full(2, -np.inf),
    )


def buckets_of(
    costs: NDArray[np.float64], ratio: float
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Bucket of each position, cost of each bucket."""
    log_ratio = math.log(ratio)
    if not log_ratio:
        return np.arange(len(costs), dtype=np.int32), costs
    cheapest = float(costs[0])
    numbers = [int(math.log(cost / cheapest) / log_ratio) for cost in costs.tolist()]
    used, bucket_at = np.unique(numbers, return_inverse=True)
    cost_of = [cheapest * math.exp(log_ratio * number) for number in used.tolist()]
    return bucket_at.astype(np.int32), np.array(cost_of)


@register_jitable
def remove(state: State, block: int) -> None:
    queue = queue_of(state.queues, block)
    was_oldest = oldest(state.queues, queue) == block
    unlink(state.queues, block)
    if was_oldest:
        following = oldest(state.queues, queue)
        empty = following >= len(state.last_use_s)
        state.oldest_use_s[queue - 1] = NEVER if empty else state.last_use_s[following]


@register_jitable
def choose(state: State, now_s: float) -> int:
    groups = len(state.lowest_bucket)
    if now_s != state.times_s[VALUED_AT]:
        state.times_s[VALUED_AT] = now_s
        for group in range(groups):
            _value(state, group, now_s)
    while True:
        lowest = 0
        for group in range(1, groups):
            if state.lowest[group, VALUE] < state.lowest[lowest, VALUE]:
                lowest = group
        bucket = state.lowest_bucket[lowest]
        if state.oldest_use_s[bucket] == state.lowest[lowest, VALUED_USE]:
            return oldest(state.queues, bucket + 1)
        _value(state, lowest, now_s)


@register_jitable
def _value(state: State, group: int, now_s: float) -> None:
    """Find the lowest bucket of a group; of equal ones the first."""
    best = group * GROUP
    lowest = np.inf
    for bucket in range(best, min(best + GROUP, len(state.cost))):
        cost = state.cost[bucket]
        idle_s = now_s - state.oldest_use_s[bucket]
        idle_s = idle_s if idle_s > SHORTEST_IDLE_S else SHORTEST_IDLE_S
        # Dividing is slow: only what may be the lowest is divided.
        if cost < lowest * idle_s * ROUNDING and state.oldest_use_s[bucket] != NEVER:
            value = cost / idle_s
            if value < lowest:
                best = bucket
                lowest = value
    state.lowest_bucket[group] = best
    state.lowest[group, VALUE] = lowest
    state.lowest[group, VALUED_USE] = state.oldest_use_s[best]


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
    bucket = state.bucket_at[position]
    if now_s < state.times_s[LATEST_USE]:
        before = newest(state.queues, bucket + 1)
        if before < len(state.last_use_s):
            now_s = max(now_s, state.last_use_s[before])
    else:
        state.times_s[LATEST_USE] = now_s
    state.last_use_s[block] = now_s
    append(state.queues, bucket + 1, block)
    if state.oldest_use_s[bucket] == NEVER:
        state.oldest_use_s[bucket] = now_s
        state.lowest[bucket // GROUP, VALUE] = -1.0
        state.lowest[bucket // GROUP, VALUED_USE] = np.nan  # equals no time: to be valued again


POLICY = Policy(new_state, remove, evict, insert, choose, forget, deepest_first=False)
