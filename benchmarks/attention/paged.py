"""The reference as one of the ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from benchmarks.attention.contract import Prepared, Way
from benchmarks.attention.problem import Problem, ScatteredKv
from benchmarks.attention.reference import SubRequest, paged_attention


def reference_kernel(
    kv: ScatteredKv, requests: Sequence[SubRequest]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """From queries [tokens, heads, head_dim] of these sub-requests to their results."""
    return lambda query: paged_attention(query, kv.keys, kv.values, requests)


def prepare(problem: Problem) -> Prepared:
    """All sub-requests in one call."""
    attend = reference_kernel(problem.kv, problem.sub_requests())
    return Prepared(
        lambda: attend(problem.flat_query).view_as(problem.query), "torch, a few blocks at a time"
    )


WAY = Way("reference", prepare)
