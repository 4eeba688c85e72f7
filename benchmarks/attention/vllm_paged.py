"""vLLM's own paged attention: the operation of its CPU build, or its flash attention on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from benchmarks.attention.contract import Prepared, UnavailableError, Way, tried
from benchmarks.attention.problem import Problem, ScatteredKv
from benchmarks.attention.reference import SubRequest


class Metadata(NamedTuple):
    """Sub-requests as vLLM's kernels take them, int32: query_starts [n + 1], key_tokens [n], block_tables [n, blocks].

    A kernel gives the last query of a sub-request the last key, so positions need not be given.
    """

    query_starts: torch.Tensor
    key_tokens: torch.Tensor
    block_tables: torch.Tensor
    most_queries: int
    most_keys: int


def metadata(requests: Sequence[SubRequest], device: torch.device) -> Metadata:
    """Those of these sub-requests."""
    queries = [request.query_tokens for request in requests]
    keys = [request.stop for request in requests]
    starts = torch.zeros(len(requests) + 1, dtype=torch.int32)
    starts[1:] = torch.tensor(queries).cumsum(0)
    return Metadata(
        starts.to(device),
        torch.tensor(keys, dtype=torch.int32, device=device),
        torch.tensor([request.block_table for request in requests], dtype=torch.int32).to(device),
        max(queries),
        max(keys),
    )


def vllm_kernel(
    kv: ScatteredKv, requests: Sequence[SubRequest]
) -> tuple[Callable[[torch.Tensor], torch.Tensor], str]:
    """From queries [tokens, heads, head_dim] of these sub-requests to their results, and what computes them.

    Raises UnavailableError if the installed vLLM has no kernel for this.
    """
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"vLLM cannot be imported ({error})") from error
    if kv.keys.device.type == "cuda":
        from benchmarks.attention.vllm_cuda import cuda_kernel

        return cuda_kernel(kv, metadata(requests, kv.keys.device))
    from benchmarks.attention.vllm_cpu import cpu_kernel

    return cpu_kernel(kv, metadata(requests, kv.keys.device))


def prepare(problem: Problem) -> Prepared:
    """All sub-requests in one call."""
    attend, what = vllm_kernel(problem.kv, problem.sub_requests())
    run = tried(lambda: attend(problem.flat_query).view_as(problem.query), what)
    return Prepared(run, what)


WAY = Way("vllm", prepare)
