"""Replays a trace through cache policies at several capacities."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vllm_pensieve.analysis.policies import load_policy
from vllm_pensieve.analysis.policies.policy import (
    ACCESSES,
    HITS_ANY,
    HITS_PREFIX,
    MISSED_POSITIONS,
    MISSED_POSITIONS_PREFIX,
    REQUESTS,
    Parameters,
    Policy,
    Replay,
    Tally,
)
from vllm_pensieve.errors import UsageError
from vllm_pensieve.trace.trace import Trace

SCHEMA = 1
SLOPE_BLOCK_TOKENS = 512
"""Blocks that `Parameters.cost_slope` is meant for; smaller ones lie less deep at the same position."""
REFERENCE = "lru"
"""Under prefix rules this stands for stock vLLM; costs are given relative to it."""
NO_EVICTIONS = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Result:
    """One policy at one capacity.

    hits_any: blocks found. hits_prefix: those before their request's first missing block.
    cost_holes, cost_prefix: what the missed blocks cost, one at position i 1 + slope x i; missed are those not found,
    or all from the first missing one on. cost_vs_lru: cost_holes relative to LRU's cost_prefix.
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
    return Parameters.cost_slope * (trace.block_tokens or SLOPE_BLOCK_TOKENS) / SLOPE_BLOCK_TOKENS


def parse_policies(text: str) -> tuple[str, ...]:
    """The policies of `lru,fifo,...`, each once. UsageError for an unknown one."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        load_policy(name)
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
    tallies = {key: tally.sum(axis=0) for key, tally in simulate_tallies(trace, simulation).items()}
    slope = simulation.parameters.cost_slope
    results = []
    for name in simulation.policies:
        for capacity in simulation.capacities:
            counts = tallies[name, capacity]
            lru_cost = costs(tallies[REFERENCE, capacity], slope)[1]
            holes, prefix = costs(counts, slope)
            results.append(
                Result(
                    policy=name,
                    capacity_blocks=capacity,
                    requests=int(counts[REQUESTS]),
                    accesses=int(counts[ACCESSES]),
                    hits_any=int(counts[HITS_ANY]),
                    hits_prefix=int(counts[HITS_PREFIX]),
                    cost_holes=holes,
                    cost_prefix=prefix,
                    cost_vs_lru=holes / lru_cost,
                )
            )
    return results


def simulate_tallies(trace: Trace, simulation: Simulation) -> dict[tuple[str, int], Tally]:
    """Counts by workload for each policy and capacity, LRU's always among them.

    The compiled loops let go of Python's lock, so that threads share the trace and run side by side.
    """
    check_cached_workloads(simulation, trace.workloads)
    stream = trace.stream(simulation.flat)
    policies = [load_policy(name) for name in dict.fromkeys((REFERENCE, *simulation.policies))]

    def run(task: tuple[Policy, int]) -> tuple[tuple[str, int], Tally]:
        policy, capacity = task
        replay = Replay(
            stream,
            trace.unique_blocks,
            trace.workloads,
            capacity,
            simulation.parameters,
            simulation.flat,
        )
        return (policy.name, capacity), policy.run(replay, NO_EVICTIONS)

    tasks = [(policy, capacity) for policy in policies for capacity in simulation.capacities]
    if simulation.jobs == 1:
        return dict(map(run, tasks))
    with ThreadPoolExecutor(simulation.jobs) as pool:
        return dict(pool.map(run, tasks))


def costs(counts: Any, slope: float) -> tuple[float, float]:
    """Cost of what is missed, with holes and under prefix rules. counts: a row of a tally."""
    missed = int(counts[ACCESSES] - counts[HITS_ANY])
    missed_prefix = int(counts[ACCESSES] - counts[HITS_PREFIX])
    return (
        missed + slope * int(counts[MISSED_POSITIONS]),
        missed_prefix + slope * int(counts[MISSED_POSITIONS_PREFIX]),
    )


def total_cost(trace: Trace, slope: float) -> float:
    """Cost of computing every block of every request."""
    lengths = np.diff(trace.offsets)
    return float(lengths.sum() + slope * (lengths * (lengths - 1) // 2).sum())


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
