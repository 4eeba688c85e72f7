"""What a policy is to the simulator: a name, and a function that replays a stream through a cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.trace.trace import Stream

REQUESTS, ACCESSES, HITS_ANY, HITS_PREFIX, MISSED_POSITIONS, MISSED_POSITIONS_PREFIX = range(6)
"""Columns of a tally."""
TALLY_COLUMNS = 6

Tally: TypeAlias = NDArray[np.int64]
"""[workloads, columns]. Hits under prefix rules stop at a request's first missing block; the last two columns are
sums of the positions of missed blocks, under either rule."""


@dataclass(frozen=True)
class Parameters:
    """Settings of the policies that have any.

    cost_slope: a block at position i costs 1 + cost_slope * i to compute again; the default is for 512 tokens.
    cost_bucket_ratio: blocks whose costs differ by less count as equally expensive (`retention`); 1: none do.
    cached_workloads: those whose blocks `workload-aware-lru` keeps.
    """

    cost_slope: float = 0.018
    cost_bucket_ratio: float = 1.05
    cached_workloads: tuple[str, ...] = ()


@dataclass(frozen=True)
class Replay:
    """One simulation: a stream of requests through an empty cache of `capacity` blocks (1 or more).

    flat: every request of the stream is one access.
    """

    stream: Stream
    unique_blocks: int
    workloads: tuple[str, ...]
    capacity: int
    parameters: Parameters = Parameters()
    flat: bool = False

    @property
    def resident_blocks(self) -> int:
        """The most blocks that are ever in the cache."""
        return min(self.capacity, self.unique_blocks)

    @property
    def longest_position(self) -> int:
        lengths = np.diff(self.stream.offsets)
        return int((self.stream.first_positions + np.maximum(lengths, 1) - 1).max(initial=0))


@dataclass(frozen=True)
class Policy:
    """run(replay, evictions): the tally; evicted blocks go to `evictions` in order, as far as it is long."""

    name: str
    meaning: str
    run: Callable[[Replay, NDArray[np.int32]], Tally]
