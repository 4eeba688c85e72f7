"""A kernel for one query at a time, called once for each query of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.attention.contract import Prepared, UnavailableError, Way, tried
from benchmarks.attention.paged import reference_kernel
from benchmarks.attention.problem import Problem
from benchmarks.attention.reference import SubRequest
from benchmarks.attention.vllm_paged import vllm_kernel


def prepare(problem: Problem) -> Prepared:
    """One round: the next query of every request, by vLLM's kernel if it is there, else by the reference."""
    tables = problem.kv.block_tables.tolist()
    rounds: list[Callable[[torch.Tensor], torch.Tensor]] = []
    for position in problem.positions().tolist():
        requests = [SubRequest(table, position, position + 1) for table in tables]
        attend, what = _kernel(problem, requests)
        rounds.append(attend)
    queries = [part.contiguous() for part in problem.query.unbind(1)]

    def run() -> torch.Tensor:
        output = torch.empty_like(problem.query)
        for index, (attend, query) in enumerate(zip(rounds, queries, strict=True)):
            output[:, index] = attend(query)
        return output

    return Prepared(tried(run, what), f"{len(rounds)} times {what}")


def _kernel(
    problem: Problem, requests: Sequence[SubRequest]
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    try:
        return vllm_kernel(problem.kv, requests)
    except UnavailableError:
        return reference_kernel(problem.kv, requests), "the reference"


WAY = Way("multi-round", prepare)
