"""Copy the blocks out into contiguous memory, then dense attention."""

from __future__ import annotations

import torch

from benchmarks.attention.contract import Prepared, Way
from benchmarks.attention.dense import DenseAttention
from benchmarks.attention.problem import Problem


def prepare(problem: Problem) -> Prepared:
    """The room for the copies is taken once; the copies are part of what every layer does."""
    attend, kv = DenseAttention(problem), problem.kv
    blocks = kv.block_tables.flatten()
    room = [torch.empty_like(pool) for pool in (kv.keys, kv.values)]
    by_request = (kv.case.batch, -1, kv.case.kv_heads, kv.case.head_dim)

    def run() -> torch.Tensor:
        torch.index_select(kv.keys, 0, blocks, out=room[0])
        torch.index_select(kv.values, 0, blocks, out=room[1])
        keys, values = (copied.view(by_request).transpose(1, 2) for copied in room)
        return attend(keys, values)

    return Prepared(run, "index_select, SDPA")


WAY = Way("copy-out", prepare)
