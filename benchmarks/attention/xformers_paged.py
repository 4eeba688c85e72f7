"""xformers' attention with a paged bias."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from benchmarks.attention.contract import Prepared, UnavailableError, Way, tried
from benchmarks.attention.problem import Problem


def prepare(problem: Problem) -> Prepared:
    """All sub-requests in one call, each with its block table."""
    if importlib.util.find_spec("xformers") is None:
        raise UnavailableError("xformers is not installed")
    if problem.device.type != "cuda":
        raise UnavailableError("xformers has kernels for CUDA only")
    try:
        from xformers.ops import fmha
    except (ImportError, OSError) as error:
        raise UnavailableError(f"xformers cannot be imported ({error})") from error
    case, kv = problem.kv.case, problem.kv
    bias = paged_bias(problem)
    group = case.heads // case.kv_heads
    # [1, tokens, kv_heads, heads of the group, head_dim]; keys and values are the same for a group
    query = problem.flat_query.view(1, -1, case.kv_heads, group, case.head_dim)
    keys, values = (
        pool.view(1, -1, case.kv_heads, 1, case.head_dim).expand(-1, -1, -1, group, -1)
        for pool in (kv.keys, kv.values)
    )

    def run() -> torch.Tensor:
        output = fmha.memory_efficient_attention_forward(query, keys, values, attn_bias=bias)
        return output.view_as(problem.query)

    return Prepared(tried(run, "xformers"), "memory_efficient_attention")


def paged_bias(problem: Problem) -> Any:
    """The causal mask of all sub-requests over the pool."""
    from xformers.ops.fmha import attn_bias

    requests, case = problem.sub_requests(), problem.kv.case
    unpaged = attn_bias.BlockDiagonalCausalWithOffsetPaddedKeysMask.from_seqlens(
        q_seqlen=[request.query_tokens for request in requests],
        kv_padding=case.blocks_per_request * case.block_tokens,
        kv_seqlen=[request.stop for request in requests],
    )
    tables = torch.tensor([request.block_table for request in requests], dtype=torch.int32)
    paged = unpaged.make_paged(
        block_tables=tables,
        page_size=case.block_tokens,
        paged_type=attn_bias.PagedBlockDiagonalCausalWithOffsetPaddedKeysMask,
    )
    return paged.to(problem.device)


WAY = Way("xformers", prepare)
