"""Several workloads share one cache: who hits how often under LRU, FIFO, and LRU that keeps chosen workloads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vllm_pensieve.analysis.replay import ACCESSES, HITS_ANY, HITS_PREFIX
from vllm_pensieve.analysis.simulate import SCHEMA, Simulation, describe_trace, simulate_counts
from vllm_pensieve.trace.trace import Trace

MIXED_POLICIES = ("lru", "fifo", "workload-aware-lru")
OVERALL = "overall"


@dataclass(frozen=True)
class MixedResult:
    """One policy at one capacity, seen by one workload, or by all (`overall`)."""

    policy: str
    capacity_blocks: int
    workload: str
    accesses: int
    hits_any: int
    hits_prefix: int

    @property
    def hit_rate(self) -> float:
        """Of all blocks found, each for itself."""
        return self.hits_any / self.accesses if self.accesses else 0.0

    @property
    def prefix_hit_rate(self) -> float:
        """Of those up to a request's first missing block, which are all that stock vLLM would use."""
        return self.hits_prefix / self.accesses if self.accesses else 0.0


def infinite_hit_rates(trace: Trace) -> dict[str, float]:
    """Hit rate of each workload and of all in a cache that never evicts."""
    first_access = np.zeros(trace.accesses, np.bool_)
    first_access[np.unique(trace.blocks, return_index=True)[1]] = True
    workload_of = np.repeat(trace.workload_of, np.diff(trace.offsets))
    accesses = np.bincount(workload_of, minlength=len(trace.workloads))
    misses = np.bincount(workload_of, first_access, len(trace.workloads))
    rates = 1 - misses / np.maximum(accesses, 1)
    return {
        OVERALL: trace.infinite_hits / trace.accesses,
        **dict(zip(trace.workloads, rates.tolist(), strict=True)),
    }


def worth_keeping(trace: Trace) -> tuple[str, ...]:
    """The workloads that a cache without limit would serve at least as well as the average."""
    rates = infinite_hit_rates(trace)
    return tuple(name for name in trace.workloads if rates[name] >= rates[OVERALL])


def simulate_mixed(trace: Trace, simulation: Simulation) -> list[MixedResult]:
    """Results by policy, capacity and workload, the overall one first."""
    results = []
    simulation = replace(simulation, policies=MIXED_POLICIES)
    for (policy, capacity), (tally, _) in simulate_counts(trace, simulation).items():
        for workload, counts in [
            (OVERALL, tally.sum(axis=0)),
            *zip(trace.workloads, tally, strict=True),
        ]:
            results.append(
                MixedResult(
                    policy,
                    capacity,
                    workload,
                    int(counts[ACCESSES]),
                    int(counts[HITS_ANY]),
                    int(counts[HITS_PREFIX]),
                )
            )
    return results


def mixed_to_json(
    trace: Trace, results: Sequence[MixedResult], kept: Sequence[str]
) -> dict[str, Any]:
    """What `pensieve trace mix --json` writes."""
    return {
        "schema": SCHEMA,
        "trace": describe_trace(trace),
        "cached_workloads": list(kept),
        "infinite_hit_rates": infinite_hit_rates(trace),
        "results": [
            vars(result) | {"hit_rate": result.hit_rate, "prefix_hit_rate": result.prefix_hit_rate}
            for result in results
        ],
    }
