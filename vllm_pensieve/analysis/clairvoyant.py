"""Clairvoyant MIN (Belady 1966): the block needed farthest in the future goes first.

Looks at one access after the other, without regard to requests. `min` need not cache what it is given (bypass) and
drops at once what is never needed again: no policy has more hits. `belady` must cache every block it is given, as
libCacheSim's does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.analysis.replay import (
    ACCESSES,
    HITS_ANY,
    HITS_PREFIX,
    HOLES,
    PREFIX,
    REQUESTS,
    Counts,
    Replay,
    Tally,
)
from vllm_pensieve.policies.compiled import compiled
from vllm_pensieve.policies.farthest import Times, farthest, new_times, put, take

NEVER = np.iinfo(np.int32).max


def run_clairvoyant(
    bypass: bool, replay: Replay, counts: Counts, evictions: NDArray[np.int32], sources: str
) -> None:
    """Add to the counts what MIN makes of a stream, with or without the right not to cache a block."""
    kernel = _kernel(bypass, sources)
    times = new_times(len(replay.stream.blocks))
    cached = np.zeros(replay.cache.ids, np.bool_)
    kernel(replay.stream, cached, times, replay.cache.capacity, *counts, evictions)


@cache
def _kernel(bypass: bool, sources: str) -> Callable[..., None]:
    """One variant of the loop. `sources` is in it only to be part of its key on disk."""

    @compiled
    def kernel(
        stream: Any,
        cached: NDArray[np.bool_],
        times: Times,
        capacity: int,
        tally: Tally,
        missed: NDArray[np.int64],
        evictions: NDArray[np.int32],
    ) -> None:
        assert sources
        blocks, offsets, first_positions, _, workload_of = stream
        next_use = np.empty(len(blocks), np.int32)
        seen_at = np.full(len(cached), NEVER, np.int32)
        for access in range(len(blocks) - 1, -1, -1):
            next_use[access] = seen_at[blocks[access]]
            seen_at[blocks[access]] = access

        resident = 0  # blocks in `times`, and those never needed again that still take room
        never_again = 0
        evicted = 0
        for request in range(len(offsets) - 1):
            workload = workload_of[request]
            tally[workload, REQUESTS] += 1
            whole = True
            for access in range(offsets[request], offsets[request + 1]):
                block = blocks[access]
                position = first_positions[request] + access - offsets[request]
                tally[workload, ACCESSES] += 1
                hit = cached[block]
                if hit:
                    take(times, access)
                    resident -= 1
                    tally[workload, HITS_ANY] += 1
                else:
                    whole = False
                    missed[HOLES, position] += 1
                if whole:
                    tally[workload, HITS_PREFIX] += 1
                else:
                    missed[PREFIX, position] += 1

                needed = next_use[access]
                cached[block] = False
                if bypass and needed == NEVER:
                    continue
                if resident == capacity:
                    if never_again:
                        never_again -= 1
                    else:
                        last = farthest(times)
                        if bypass and last < needed:
                            continue
                        take(times, last)
                        cached[blocks[last]] = False
                        if evicted < len(evictions):
                            evictions[evicted] = blocks[last]
                        evicted += 1
                    resident -= 1
                resident += 1
                if needed == NEVER:
                    never_again += 1
                else:
                    cached[block] = True
                    put(times, needed)

    return kernel
