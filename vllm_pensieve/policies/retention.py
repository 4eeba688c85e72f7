"""Smallest retention value first: cost to compute the block again / time it has been idle (Pensieve, section 4.3.1).

Values change their order as time passes, so no heap can hold them. But of two blocks of equal cost the longer idle one
is always worth less: blocks are kept in buckets of (nearly) equal cost, each in order of last use, and only the oldest
of each bucket compete. Of blocks of one bucket that fell out of use together the leading one goes first: it is the
cheapest. A block that comes in with an older use than its bucket's newest counts as used when that one was.
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


class State(NamedTuple):
    """Bucket k is queue k + 1.

    bucket_at: [positions]. cost: [buckets].
    last_use_s: [blocks], of which those of a bucket never fall from its oldest to its newest.
    oldest_use_s: [buckets], of the oldest block; NEVER for an empty bucket.
    latest_use_s: [1], of all insertions so far.
    chosen: [1], the bucket that was lowest at the last choice; chosen_s: [2], the time then (NOW) and the use of its
        oldest block (USE). Values can only rise while time stands still, until an empty bucket is filled: so the bucket
        is the lowest still if its oldest block has that use.
    """

    queues: Queues
    bucket_at: NDArray[np.int32]
    cost: NDArray[np.float64]
    last_use_s: NDArray[np.float64]
    oldest_use_s: NDArray[np.float64]
    latest_use_s: NDArray[np.float64]
    chosen: NDArray[np.int32]
    chosen_s: NDArray[np.float64]


NOW, USE = 0, 1


def new_state(cache: Cache) -> State:
    bucket_at, cost = buckets_of(cache.costs, cache.cost_bucket_ratio)
    return State(
        new_queues(cache.ids, resident=len(cost)),
        bucket_at,
        cost,
        np.zeros(cache.ids),
        np.full(len(cost), NEVER),
        np.full(1, -np.inf),
        np.zeros(1, np.int32),
        np.full(2, np.nan),
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
    row = np.uint32(block)  # unsigned: see queues.py
    queue = queue_of(state.queues, row)
    was_oldest = oldest(state.queues, queue) == block
    unlink(state.queues, row)
    if was_oldest:
        following = np.uint32(oldest(state.queues, queue))
        empty = following >= len(state.last_use_s)
        state.oldest_use_s[np.uint32(queue - 1)] = NEVER if empty else state.last_use_s[following]


@register_jitable
def choose(state: State, now_s: float) -> int:
    best = np.uint32(state.chosen[0])
    if now_s == state.chosen_s[NOW] and state.oldest_use_s[best] == state.chosen_s[USE]:
        return oldest(state.queues, best + 1)
    best = np.uint32(0)
    lowest = np.inf
    for bucket in range(len(state.cost)):
        cost = state.cost[bucket]
        idle_s = now_s - state.oldest_use_s[bucket]
        idle_s = idle_s if idle_s > SHORTEST_IDLE_S else SHORTEST_IDLE_S
        # Dividing is slow: only what may be the lowest is divided.
        if cost < lowest * idle_s * ROUNDING and state.oldest_use_s[bucket] != NEVER:
            value = cost / idle_s
            if value < lowest:  # of equal ones the first
                best = np.uint32(bucket)
                lowest = value
    state.chosen[0] = best
    state.chosen_s[NOW] = now_s
    state.chosen_s[USE] = state.oldest_use_s[best]
    return oldest(state.queues, best + 1)


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
    row = np.uint32(block)  # unsigned: see queues.py
    bucket = np.uint32(state.bucket_at[np.uint32(position)])
    if now_s < state.latest_use_s[0]:
        before = newest(state.queues, bucket + 1)
        if before < len(state.last_use_s):
            now_s = max(now_s, state.last_use_s[before])
    else:
        state.latest_use_s[0] = now_s
    state.last_use_s[row] = now_s
    append(state.queues, bucket + 1, block)
    if state.oldest_use_s[bucket] == NEVER:
        state.oldest_use_s[bucket] = now_s
        state.chosen_s[NOW] = np.nan


POLICY = Policy(new_state, remove, evict, insert, choose, forget, deepest_first=False)
