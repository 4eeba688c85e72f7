"""PyTorch's FlexAttention over the pool: the block table as block mask, a rule from physical to logical positions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from benchmarks.attention.contract import Prepared, Way, tried
from benchmarks.attention.problem import Problem

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

QUERY_BLOCK = 128


def prepare(problem: Problem, compiled: bool = True) -> Prepared:
    """Compiled for these sizes; not compiled it holds all scores in memory."""
    from torch.nn.attention.flex_attention import flex_attention

    kv, case = problem.kv, problem.kv.case
    # [1, kv_heads, blocks * block_tokens, head_dim]: a view, nothing is moved
    keys, values = (
        pool.view(1, -1, case.kv_heads, case.head_dim).transpose(1, 2)
        for pool in (kv.keys, kv.values)
    )
    mask = block_mask(problem)
    torch.compiler.reset()  # else it stops compiling after a few cases
    attend = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention

    def run() -> torch.Tensor:
        with torch.no_grad():
            query = problem.query.transpose(1, 2)
            output = attend(query, keys, values, block_mask=mask, enable_gqa=True)
        return output.transpose(1, 2)

    return Prepared(tried(run, "FlexAttention"), "FlexAttention" + " compiled" * compiled)


def block_mask(problem: Problem) -> BlockMask:
    """Which blocks of the pool each request reads, and which of their keys each query attends to."""
    from torch.nn.attention.flex_attention import BlockMask

    case, tables, device = problem.kv.case, problem.kv.block_tables, problem.device
    logical = torch.full((case.batch, case.blocks), -1, dtype=torch.int64, device=device)
    in_order = torch.arange(case.blocks_per_request, device=device).expand(case.batch, -1)
    logical.scatter_(1, tables.long(), in_order)
    positions = problem.positions()

    def attends(
        batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        block = logical[batch, key // case.block_tokens]
        position = block * case.block_tokens + key % case.block_tokens
        return (block >= 0) & (position <= positions[query])

    # [batch, 1, query blocks, blocks of the pool], of which only a request's own are read
    blocks = torch.zeros(
        (case.batch, 1, -(-len(positions) // QUERY_BLOCK), case.blocks),
        dtype=torch.int32,
        device=device,
    )
    blocks[..., : case.blocks_per_request] = tables[:, None, None, :]
    return BlockMask.from_kv_blocks(
        torch.full_like(blocks[..., 0], case.blocks_per_request),
        blocks,
        BLOCK_SIZE=(QUERY_BLOCK, case.block_tokens),
        mask_mod=attends,
        seq_lengths=(len(positions), case.blocks * case.block_tokens),
        compute_q_blocks=False,
    )


WAY = Way("flex", prepare)
