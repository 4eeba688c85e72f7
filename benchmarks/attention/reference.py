"""Multi-token attention over KV blocks that lie anywhere in memory, in plain torch.

Section 4.4 of the Pensieve paper: several queries of a request at once, keys and values read in place by a block table,
the causal mask part of the same pass. A dropped run that is computed again is a sub-request (section 4.3.4, figure 8):
its queries attend to what stands before them, those of the new tokens to everything, over the same blocks. Only the
list of sub-requests separates the two; no key or value is moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

STEP_TOKENS = 256
"""Keys of a request that one step reads: few steps, and scores that stay in the processor's cache."""


@dataclass(frozen=True)
class SubRequest:
    """Queries at the positions `start` to `stop` - 1 of a sequence whose blocks, in its order, are `block_table`.

    The query at a position attends to the keys of all positions up to its own.
    """

    block_table: Sequence[int]
    start: int
    stop: int

    @property
    def query_tokens(self) -> int:
        """How many queries there are."""
        return self.stop - self.start


def sub_requests(
    block_table: Sequence[int], dropped: Sequence[tuple[int, int]], context_tokens: int, tokens: int
) -> list[SubRequest]:
    """One sub-request for each dropped run, then one for the new tokens, over the same blocks.

    dropped: the runs [start, stop) of the context whose keys and values are computed again, in order.
    context_tokens: tokens before the new ones. tokens: all of them, new ones included.

    Raises ValueError if the runs overlap, are out of order, or do not lie in the context.
    """
    stretches = [*dropped, (context_tokens, tokens)]
    bounds = [0, *(bound for stretch in stretches for bound in stretch)]
    if any(left > right for left, right in pairwise(bounds)):
        raise ValueError(f"dropped runs {list(dropped)} are not in order within {context_tokens}")
    return [SubRequest(block_table, start, stop) for start, stop in stretches]


def paged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    requests: Sequence[SubRequest],
    step_tokens: int = STEP_TOKENS,
) -> torch.Tensor:
    """Attention of all sub-requests in one call.

    query: [tokens, heads, head_dim], the queries of one sub-request after those of another.
    keys, values: [blocks, block_tokens, kv_heads, head_dim]; heads is a multiple of kv_heads.
    step_tokens: about this many keys of a request are read at a time, in whole blocks.
    Returns [tokens, heads, head_dim] in the query's number format; sums are kept in float32.
    """
    firsts = accumulate((request.query_tokens for request in requests), initial=0)
    alike: dict[tuple[int, int], list[tuple[int, SubRequest]]] = {}
    for first, request in zip(firsts, requests, strict=False):
        alike.setdefault((request.start, request.stop), []).append((first, request))
    output = torch.empty_like(query)
    for (start, stop), group in alike.items():
        queries = torch.arange(stop - start) + torch.tensor([first for first, _ in group])[:, None]
        used = -(-stop // keys.shape[1])
        tables = torch.tensor([request.block_table[:used] for _, request in group])
        places = queries.to(query.device)
        output[places] = _attend(
            query[places], keys, values, tables.to(query.device), start, step_tokens
        )
    return output


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    block_tables: torch.Tensor,
    start: int,
    step_tokens: int,
) -> torch.Tensor:
    """Softmax over all keys, a few blocks at a time: a larger maximum rescales what has been summed up so far.

    query: [requests, tokens, heads, head_dim], as is the result; the first is at position `start` in every request.
    Each step reads the next blocks of each request from where they lie.
    """
    count, tokens, heads, head_dim = query.shape
    block_tokens, kv_heads = keys.shape[1:3]
    group, device, stop = heads // kv_heads, query.device, start + tokens
    # [requests, kv_heads, group * tokens, head_dim]: the queries that share a key's head are rows of one matrix
    rows = query.float().view(count, tokens, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4)
    rows = rows.reshape(count, kv_heads, group * tokens, head_dim) * head_dim**-0.5
    positions = torch.arange(start, stop, device=device).repeat(group)[:, None]
    largest = torch.full((*rows.shape[:3], 1), -torch.inf, device=device)
    weights, weighted = torch.zeros_like(largest), torch.zeros_like(rows)
    behind = 0
    for blocks in block_tables.split(max(1, step_tokens // block_tokens), dim=1):
        # [requests, kv_heads, keys of the step, head_dim]
        step_keys, step_values = (
            pool[blocks].flatten(1, 2).transpose(1, 2).float() for pool in (keys, values)
        )
        first, behind = behind, behind + step_keys.shape[2]
        scores = rows @ step_keys.transpose(2, 3)
        if behind > start + 1:
            key_positions = torch.arange(first, behind, device=device)
            scores.masked_fill_(key_positions > positions, -torch.inf)
        larger = torch.maximum(largest, scores.amax(dim=-1, keepdim=True))
        rescale = torch.exp(largest - larger)
        scores.sub_(larger).exp_()
        weights.mul_(rescale).add_(scores.sum(dim=-1, keepdim=True))
        weighted.mul_(rescale).add_(scores @ step_values)
        largest = larger
    output = weighted.div_(weights).view(count, kv_heads, group, tokens, head_dim)
    return output.permute(0, 3, 1, 2, 4).reshape(count, tokens, heads, head_dim).to(query.dtype)
