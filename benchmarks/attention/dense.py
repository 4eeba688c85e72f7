"""The ideal: dense attention over contiguous keys and values, one call for each stretch of queries."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch.nn.attention.bias import causal_lower_right

from benchmarks.attention.contract import Prepared, Way
from benchmarks.attention.problem import Problem

NAME = "dense"


class DenseAttention:
    """Attention of all stretches of a problem's queries over contiguous KV; masks are made once."""

    def __init__(self, problem: Problem) -> None:
        case = problem.kv.case
        self._query, self._stretches = problem.query, problem.stretches
        self._group = case.heads // case.kv_heads
        self._seen = [
            _seen(start, stop, problem.device).repeat(self._group, 1)
            for start, stop in problem.stretches
            if problem.device.type != "cuda"
        ]

    def __call__(self, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """keys, values: [batch, kv_heads, tokens, head_dim]. Returns [batch, queries, heads, head_dim]."""
        output = torch.empty_like(self._query)
        first = 0
        for index, (start, stop) in enumerate(self._stretches):
            part = slice(first, first + stop - start)
            query, here = self._query[:, part], (keys[:, :, :stop], values[:, :, :stop])
            if self._seen:
                output[:, part] = attend_folded(query, *here, self._seen[index])
            else:
                output[:, part] = attend_lower_right(query, *here)
            first = part.stop
        return output


def attend_folded(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """The queries that share a key's head as rows of one head, so that it is read once: best on the CPU.

    query: [batch, queries, heads, head_dim]; seen: [heads / kv_heads * queries, tokens].
    """
    batch, queries, heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    rows = query.reshape(batch, queries, kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)
    output = functional.scaled_dot_product_attention(
        rows.reshape(batch, kv_heads, -1, head_dim), keys, values, attn_mask=seen
    )
    by_head = output.view(batch, kv_heads, -1, queries, head_dim)
    return by_head.permute(0, 3, 1, 2, 4).reshape(batch, queries, heads, head_dim)


def attend_lower_right(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """With the mask as a rule, not as numbers: CUDA's flash attention takes no other."""
    mask = causal_lower_right(query.shape[1], keys.shape[2])
    output = functional.scaled_dot_product_attention(
        query.transpose(1, 2), keys, values, attn_mask=mask, enable_gqa=True
    )
    return output.transpose(1, 2)


def _seen(start: int, stop: int, device: torch.device) -> torch.Tensor:
    """[stop - start, stop]: which keys each query attends to."""
    keys = torch.arange(stop, device=device)
    return keys <= torch.arange(start, stop, device=device)[:, None]


def prepare(problem: Problem) -> Prepared:
    """Dense attention over KV that is contiguous already."""
    attend, kv = DenseAttention(problem), problem.kv
    return Prepared(lambda: attend(kv.dense_keys, kv.dense_values), "SDPA, contiguous KV")


WAY = Way(NAME, prepare)
