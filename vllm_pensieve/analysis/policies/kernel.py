"""The loop that all policies share: look up a request's blocks, make room, let them fall out of use.

A policy is three functions that may change its state and the queues, in the words of the server's eviction orders
(`retention/eviction_order.py`):

    remove(state, block)                    a resident block is used by the request at hand
    evict(state, incoming, now_s) -> block  take out a resident block, to make room for `incoming`
    insert(state, block, position, now_s)   a block falls out of use: one that was removed, or a new one

A block that the request uses is evicted only by a policy that does not look at it; then it stays evicted.
They are plain Python under `register_jitable`, compiled together with the loop, one machine code a policy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.analysis.policies.compiled import compiled
from vllm_pensieve.analysis.policies.policy import (
    ACCESSES,
    HITS_ANY,
    HITS_PREFIX,
    MISSED_POSITIONS,
    MISSED_POSITIONS_PREFIX,
    REQUESTS,
    TALLY_COLUMNS,
    Replay,
    Tally,
)
from vllm_pensieve.analysis.policies.queues import IN_USE, QUEUE, Queues

HIT, MISSING, ROOM_MADE = 1, 1, 2
"""Values of IN_USE: a resident block in use, a missing one, a missing one for which there is room."""
LOOK_AHEAD = 16
"""Accesses by which the flat loop reads a block's row before it is needed, so that it is in the processor's cache."""


class State(Protocol):
    """Every policy's state is a named tuple with queues; `QUEUE` of a block says whether it is resident."""

    @property
    def queues(self) -> Queues: ...


def sources_digest() -> str:
    """Of all files next to this one: compiled code that is kept on disk must not outlive them."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = sources_digest()


def make_run(
    remove: Callable[..., None],
    evict: Callable[..., int],
    insert: Callable[..., None],
    new_state: Callable[[Replay], Any],
    *,
    deepest_first: bool,
    keeps: Callable[[Replay], NDArray[np.bool_]] = lambda replay: np.ones(
        len(replay.workloads), np.bool_
    ),
) -> Callable[[Replay, NDArray[np.int32]], Tally]:
    """The `run` of a policy.

    deepest_first: blocks of a request fall out of use from its end to its front, as vLLM frees them.
    keeps: [workloads], whose requests may change the cache.
    """
    by_request = request_kernel(remove, evict, insert, SOURCES)
    by_access = access_kernel(remove, evict, insert, SOURCES)

    def run(replay: Replay, evictions: NDArray[np.int32]) -> Tally:
        tally = np.zeros((len(replay.workloads), TALLY_COLUMNS), np.int64)
        settings = (new_state(replay), replay.stream, replay.capacity, keeps(replay))
        if replay.flat:
            by_access(*settings, tally, evictions)
        else:
            by_request(*settings, deepest_first, tally, evictions)
        return tally

    return run


@cache
def request_kernel(
    remove: Callable[..., None],
    evict: Callable[..., int],
    insert: Callable[..., None],
    sources: str,
) -> Callable[..., None]:
    """The loop over requests for one policy. `sources` is in it only to be part of its key on disk."""

    @compiled
    def kernel(
        state: Any,
        stream: Any,
        capacity: int,
        keeps: NDArray[np.bool_],
        deepest_first: bool,
        tally: Tally,
        evictions: NDArray[np.int32],
    ) -> None:
        assert sources
        table = state.queues.table
        blocks, offsets, first_positions, clock_s, workload_of = stream
        resident = 0
        evicted = 0
        for request in range(len(offsets) - 1):
            start, end = offsets[request], offsets[request + 1]
            first_position = first_positions[request]
            now_s = clock_s[request]
            workload = workload_of[request]
            kept_end = min(end, start + capacity) if keeps[workload] else start

            # Look up everything before anything changes.
            hits = hits_prefix = missing = missed_positions = 0
            for access in range(start, end):
                block = blocks[access]
                if table[block, QUEUE] > 0:
                    hits += 1
                    if access < kept_end and table[block, IN_USE] == 0:
                        remove(state, block)
                        table[block, IN_USE] = HIT
                else:
                    if hits == access - start:
                        hits_prefix = hits
                        missed = end - access
                        tally[workload, MISSED_POSITIONS_PREFIX] += (
                            missed * (first_position + access - start) + missed * (missed - 1) // 2
                        )
                    missed_positions += first_position + access - start
                    if access < kept_end and table[block, IN_USE] == 0:
                        table[block, IN_USE] = MISSING
                        missing += 1
            length = end - start
            tally[workload, REQUESTS] += 1
            tally[workload, ACCESSES] += length
            tally[workload, HITS_ANY] += hits
            tally[workload, HITS_PREFIX] += hits if hits == length else hits_prefix
            tally[workload, MISSED_POSITIONS] += missed_positions

            # Make room. A request longer than the cache keeps its leading blocks.
            if missing > capacity - resident:
                for step in range(kept_end - start):
                    block = blocks[kept_end - 1 - step if deepest_first else start + step]
                    if table[block, IN_USE] == MISSING and table[block, QUEUE] <= 0:
                        table[block, IN_USE] = ROOM_MADE
                        if resident < capacity:
                            resident += 1
                        else:
                            victim = evict(state, block, now_s)
                            table[victim, IN_USE] = 0
                            if evicted < len(evictions):
                                evictions[evicted] = victim
                            evicted += 1
            else:
                resident += missing

            for step in range(kept_end - start):
                access = kept_end - 1 - step if deepest_first else start + step
                block = blocks[access]
                if table[block, IN_USE]:
                    insert(state, block, first_position + access - start, now_s)
                    table[block, IN_USE] = 0

    return kernel


@cache
def access_kernel(
    remove: Callable[..., None],
    evict: Callable[..., int],
    insert: Callable[..., None],
    sources: str,
) -> Callable[..., int]:
    """The same where each access is a request of its own, which leaves little of it.

    The result means nothing; it is there so that looking ahead is not optimised away.
    """

    @compiled
    def kernel(
        state: Any,
        stream: Any,
        capacity: int,
        keeps: NDArray[np.bool_],
        tally: Tally,
        evictions: NDArray[np.int32],
    ) -> int:
        assert sources
        table = state.queues.table
        blocks, _, positions, clock_s, workload_of = stream
        resident = 0
        evicted = 0
        looked_ahead = 0
        for access in range(len(blocks)):
            ahead = np.uint32(blocks[min(access + LOOK_AHEAD, len(blocks) - 1)])
            looked_ahead += table[ahead, QUEUE]
            block = np.uint32(blocks[access])
            workload = np.uint32(workload_of[access])
            if table[block, QUEUE] > 0:
                tally[workload, HITS_ANY] += 1
                if not keeps[workload]:
                    continue
                remove(state, block)
            else:
                tally[workload, MISSED_POSITIONS] += positions[access]
                if not keeps[workload]:
                    continue
                if resident < capacity:
                    resident += 1
                else:
                    victim = evict(state, block, clock_s[access])
                    if evicted < len(evictions):
                        evictions[evicted] = victim
                    evicted += 1
            insert(state, block, positions[access], clock_s[access])
        for workload in workload_of:
            tally[workload, ACCESSES] += 1
        tally[:, REQUESTS] = tally[:, ACCESSES]
        tally[:, HITS_PREFIX] = tally[:, HITS_ANY]
        tally[:, MISSED_POSITIONS_PREFIX] = tally[:, MISSED_POSITIONS]
        return looked_ahead

    return kernel
