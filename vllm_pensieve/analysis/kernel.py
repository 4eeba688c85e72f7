"""The loop that all policies share: look up a request's blocks, make room, let them fall out of use.

It is compiled together with the functions of a policy (`policies/policy.py`), one machine code a policy. A block that
the request uses is evicted only by a policy that does not look at it; then it stays evicted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.analysis.clairvoyant import run_clairvoyant
from vllm_pensieve.analysis.replay import (
    ACCESSES,
    HITS_ANY,
    HITS_PREFIX,
    HOLES,
    PREFIX,
    REQUESTS,
    TALLY_COLUMNS,
    Counts,
    Replay,
    Tally,
)
from vllm_pensieve.policies.compiled import compiled
from vllm_pensieve.policies.policy import Clairvoyant, Policy, sources_digest
from vllm_pensieve.policies.queues import IN_USE, QUEUE

HIT, MISSING, ROOM_MADE = 1, 1, 2
"""Values of IN_USE: a resident block in use, a missing one, a missing one for which there is room."""
LOOK_AHEAD = 16
"""Accesses by which the flat loop reads a block's row before it is needed, so that it is in the processor's cache."""


def run(policy: Policy | Clairvoyant, replay: Replay, evictions: NDArray[np.int32]) -> Counts:
    """The counts of a replay; evicted blocks go to `evictions` in order, as far as it is long."""
    counts = Counts(
        np.zeros((len(replay.keeps), TALLY_COLUMNS), np.int64),
        np.zeros((2, len(replay.cache.costs) + 1), np.int64),
    )
    sources = sources_digest()
    if isinstance(policy, Clairvoyant):
        run_clairvoyant(policy.bypass, replay, counts, evictions, sources)
        return Counts(counts.tally, counts.missed[:, :-1])
    keeps = replay.keeps if policy.keeps_chosen_workloads else np.ones_like(replay.keeps)
    settings = (policy.new_state(replay.cache), replay.stream, replay.cache.capacity, keeps)
    functions = (policy.remove, policy.evict, policy.insert, sources)
    if replay.flat:
        access_kernel(*functions)(*settings, *counts, evictions)
        counts.missed[PREFIX] = counts.missed[HOLES]
    else:
        request_kernel(*functions)(*settings, policy.deepest_first, *counts, evictions)
        np.cumsum(counts.missed[PREFIX], out=counts.missed[PREFIX])
    return Counts(counts.tally, counts.missed[:, :-1])


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
        missed: NDArray[np.int64],
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
            hits = hits_prefix = missing = 0
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
                        # Where the count rises and falls again; the sums are made at the end.
                        missed[PREFIX, first_position + access - start] += 1
                        missed[PREFIX, first_position + end - start] -= 1
                    missed[HOLES, first_position + access - start] += 1
                    if access < kept_end and table[block, IN_USE] == 0:
                        table[block, IN_USE] = MISSING
                        missing += 1
            length = end - start
            tally[workload, REQUESTS] += 1
            tally[workload, ACCESSES] += length
            tally[workload, HITS_ANY] += hits
            tally[workload, HITS_PREFIX] += hits if hits == length else hits_prefix

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
        missed: NDArray[np.int64],
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
                missed[HOLES, positions[access]] += 1
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
        return looked_ahead

    return kernel
