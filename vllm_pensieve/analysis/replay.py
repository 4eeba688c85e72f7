"""One simulation: what goes into it, and the counts that come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.policies.policy import Cache
from vllm_pensieve.retention.cost_model import AnalyticCostModel, CostModel, block_costs
from vllm_pensieve.trace.trace import Stream

REQUESTS, ACCESSES, HITS_ANY, HITS_PREFIX = range(4)
"""Columns of a tally."""
TALLY_COLUMNS = 4
HOLES, PREFIX = range(2)
"""Rules of what is missed: each block that is not found, or all of a request from its first such block on."""

Tally: TypeAlias = NDArray[np.int64]
"""[workloads, columns]. Hits under prefix rules stop at a request's first missing block."""


class Counts(NamedTuple):
    """missed: [rules, positions], the blocks missed at each position, of all workloads."""

    tally: Tally
    missed: NDArray[np.int64]


DEFAULT_SLOPE = 0.018
"""For blocks of 512 tokens."""
LINE = AnalyticCostModel(1.0, DEFAULT_SLOPE)


@dataclass(frozen=True)
class Parameters:
    """Settings of the policies that have any.

    cost_model: of tokens; what a block costs to compute again is relative to the first of its sequence.
    block_tokens: tokens of a block.
    cost_bucket_ratio: blocks whose costs differ by less count as equally expensive (`retention`); 1: none do.
    cached_workloads: those whose blocks `workload-aware-lru` keeps.
    """

    cost_model: CostModel = LINE
    block_tokens: int = 1
    cost_bucket_ratio: float = 1.05
    cached_workloads: tuple[str, ...] = ()

    @classmethod
    def by_slope(
        cls, slope: float, cost_bucket_ratio: float = 1.05, cached_workloads: tuple[str, ...] = ()
    ) -> Parameters:
        """A block at position i costs 1 + slope x i."""
        return cls(AnalyticCostModel(1.0, slope), 1, cost_bucket_ratio, cached_workloads)

    def costs(self, positions: int) -> NDArray[np.float64]:
        """[positions], that of the first being 1."""
        costs = block_costs(self.cost_model, self.block_tokens, positions)
        return costs / costs[0]


@dataclass(frozen=True)
class Replay:
    """A stream of requests through an empty cache.

    workloads: whose requests they are. keeps: [workloads], which of them are chosen.
    flat: every request of the stream is one access.
    """

    stream: Stream
    cache: Cache
    keeps: NDArray[np.bool_]
    flat: bool = False


def positions_in(stream: Stream) -> int:
    """One more than the deepest position of a stream."""
    lengths = np.diff(stream.offsets)
    return int((stream.first_positions + np.maximum(lengths, 1)).max(initial=1))
