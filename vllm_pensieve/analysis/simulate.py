"""Replays a trace through cache policies at several capacities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vllm_pensieve.analysis.kernel import run
from vllm_pensieve.analysis.replay import (
    ACCESSES,
    DEFAULT_SLOPE,
    HITS_ANY,
    HITS_PREFIX,
    PREFIX,
    REQUESTS,
    Counts,
    Parameters,
    Replay,
    positions_in,
)
from vllm_pensieve.errors import UsageError
from vllm_pensieve.policies.policy import Cache
from vllm_pensieve.policies.registry import POLICIES, load_policy
from vllm_pensieve.trace.trace import Trace

SCHEMA = 1
SLOPE_BLOCK_TOKENS = 512
"""Blocks that `DEFAULT_SLOPE` is meant for; smaller ones lie less deep at the same position."""
REFERENCE = "lru"
"""Under prefix rules this stands for stock vLLM; costs are given relative to it."""
NO_EVICTIONS = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Result:
    """One policy at one capacity.

    hits_any: blocks found. hits_prefix: those before their request's first missing block.
    cost_holes, cost_prefix: what the missed blocks cost, relative to the first of a sequence; missed are those not
    found, or all from the first missing one on. cost_vs_lru: cost_holes relative to LRU's cost_prefix.
    """

    policy: str
    capacity_blocks: int
    requests: int
    accesses: int
    hits_any: int
    hits_prefix: int
    cost_holes: float
    cost_prefix: float
    cost_vs_lru: float


@dataclass(frozen=True)
class Simulation:
    """What is to be simulated. flat: each block access counts as a request of its own."""

    policies: tuple[str, ...]
    capacities: tuple[int, ...]
    parameters: Parameters = field(default_factory=Parameters)
    flat: bool = False
    jobs: int = 1


def default_cost_slope(trace: Trace) -> float:
    """The slope that gives a token the same cost whatever the block size; as for 512 tokens if it is not known."""
    return DEFAULT_SLOPE * (trace.block_tokens or SLOPE_BLOCK_TOKENS) / SLOPE_BLOCK_TOKENS


def parse_policies(text: str) -> tuple[str, ...]:
    """The policies of `lru,fifo,...`, each once. UsageError for an unknown one."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in POLICIES:
            raise UsageError(f"unknown policy {name!r}; choose one of: {', '.join(POLICIES)}")
    return names


def check_cached_workloads(simulation: Simulation, workloads: Sequence[str]) -> None:
    """UsageError unless `workload-aware-lru`, if it is asked for, knows what to keep."""
    chosen = simulation.parameters.cached_workloads
    unknown = [name for name in chosen if name not in workloads]
    if unknown:
        raise UsageError(
            f"the trace has no workload {unknown[0]!r}; choose one of: {', '.join(workloads)}"
        )
    if "workload-aware-lru" in simulation.policies and not chosen:
        raise UsageError(
            "policy workload-aware-lru needs --cache-workloads with some of: "
            + ", ".join(workloads)
        )


def simulate(trace: Trace, simulation: Simulation) -> list[Result]:
    """Results by policy, then capacity, in the order asked for.

    Raises:
        UsageError: `workload-aware-lru` without a workload, or one that is not in the trace.
    """
    counts = simulate_counts(trace, simulation)
    missed_cost = {key: cost_of(one.missed, simulation.parameters) for key, one in counts.items()}
    results = []
    for name in simulation.policies:
        for capacity in simulation.capacities:
            tally = counts[name, capacity].tally.sum(axis=0)
            holes, prefix = missed_cost[name, capacity]
            results.append(
                Result(
                    policy=name,
                    capacity_blocks=capacity,
                    requests=int(tally[REQUESTS]),
                    accesses=int(tally[ACCESSES]),
                    hits_any=int(tally[HITS_ANY]),
                    hits_prefix=int(tally[HITS_PREFIX]),
                    cost_holes=holes,
                    cost_prefix=prefix,
                    cost_vs_lru=holes / missed_cost[REFERENCE, capacity][PREFIX],
                )
            )
    return results


def simulate_counts(trace: Trace, simulation: Simulation) -> dict[tuple[str, int], Counts]:
    """Counts for each policy and capacity, LRU's always among them.

    The compiled loops let go of Python's lock, so that threads share the trace and run side by side.
    """
    check_cached_workloads(simulation, trace.workloads)
    stream = trace.stream(simulation.flat)
    parameters = simulation.parameters
    costs = parameters.costs(positions_in(stream))
    keeps = np.isin(trace.workloads, parameters.cached_workloads)

    def count(task: tuple[str, int]) -> tuple[tuple[str, int], Counts]:
        name, capacity = task
        cache = Cache(trace.unique_blocks, capacity, costs, parameters.cost_bucket_ratio)
        replay = Replay(stream, cache, keeps, simulation.flat)
        return task, run(load_policy(name), replay, NO_EVICTIONS)

    names = dict.fromkeys((REFERENCE, *simulation.policies))
    tasks = [(name, capacity) for name in names for capacity in simulation.capacities]
    if simulation.jobs == 1:
        return dict(map(count, tasks))
    with ThreadPoolExecutor(simulation.jobs) as pool:
        return dict(pool.map(count, tasks))


def cost_of(missed: NDArray[np.int64], parameters: Parameters) -> tuple[float, float]:
    """What missed blocks cost, with holes and under prefix rules. missed: [rules, positions]."""
    holes, prefix = missed @ parameters.costs(missed.shape[1])
    return float(holes), float(prefix)


def total_cost(trace: Trace, parameters: Parameters) -> float:
    """Cost of computing every block of every request."""
    at_each = np.bincount(trace.positions())
    return float(at_each @ parameters.costs(len(at_each)))


def describe_trace(trace: Trace) -> dict[str, Any]:
    """The trace's own numbers, for `--json` and tables."""
    return {
        "name": trace.name,
        "format": trace.format,
        "requests": trace.requests,
        "sessions": trace.sessions,
        "accesses": trace.accesses,
        "unique_blocks": trace.unique_blocks,
        "block_tokens": trace.block_tokens,
        "longest_request_blocks": trace.longest_request_blocks,
        "infinite_hits": trace.infinite_hits,
        "workloads": list(trace.workloads),
        "lines": trace.records,
        "skipped_lines": len(trace.skipped),
        "notes": list(trace.notes),
    }


def to_json(trace: Trace, results: Iterable[Result]) -> dict[str, Any]:
    """What `pensieve simulate --json` writes."""
    return {
        "schema": SCHEMA,
        "trace": describe_trace(trace),
        "results": [dict(vars(result)) for result in results],
    }
