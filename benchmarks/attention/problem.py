"""What every way has to compute: queries of a batch of equal requests, over KV that lies scattered and contiguous."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from benchmarks.attention.cases import Case
from benchmarks.attention.reference import SubRequest, sub_requests

ELSEWHERE = 100.0
"""What stands in memory that belongs to no token: a way that reads it is far off."""


class ScatteredKv:
    """Keys and values of a batch of requests, twice: in blocks all over a pool, and contiguous.

    keys, values: [blocks, block_tokens, kv_heads, head_dim]; block_tables: [batch, blocks of a request], int32.
    dense_keys, dense_values: [batch, kv_heads, tokens, head_dim].
    """

    def __init__(self, case: Case, device: torch.device, seed: int) -> None:
        self.case = case
        generator = torch.Generator(device).manual_seed(seed)
        dtype = getattr(torch, case.dtype)
        shape = (case.batch, case.kv_heads, case.tokens, case.head_dim)
        self.dense_keys, self.dense_values = (
            torch.randn(shape, dtype=dtype, device=device, generator=generator) for _ in range(2)
        )
        tables = scattered_tables(case, np.random.default_rng(seed))
        self.block_tables = torch.from_numpy(tables).to(device)
        self.keys, self.values = self._paged(self.dense_keys), self._paged(self.dense_values)
        self._layouts: dict[str, Any] = {}

    def _paged(self, dense: torch.Tensor) -> torch.Tensor:
        case = self.case
        shape = (case.blocks, case.block_tokens, case.kv_heads, case.head_dim)
        pool = dense.new_full(shape, ELSEWHERE)
        slots = pool.view(-1, case.kv_heads, case.head_dim)
        for request in range(case.batch):
            slots[self.slots(request)] = dense[request].transpose(0, 1)
        return pool

    def slots(self, request: int) -> torch.Tensor:
        """Where each token of a request is in the pool: its block's number * block_tokens + its place there."""
        positions = torch.arange(self.case.tokens, device=self.block_tables.device)
        blocks = self.block_tables[request, positions // self.case.block_tokens].long()
        return blocks * self.case.block_tokens + positions % self.case.block_tokens

    def layout(self, name: str, make: Callable[[], Any]) -> Any:
        """The same KV as some kernel wants it, made when it is first asked for."""
        if name not in self._layouts:
            self._layouts[name] = make()
        return self._layouts[name]


def scattered_tables(case: Case, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Block tables [batch, blocks of a request]: each request's blocks in `case.pieces` pieces, in random order.

    No piece lies directly after the one before it, so that there are not fewer.
    """
    bounds = [case.blocks_per_request * piece // case.pieces for piece in range(case.pieces + 1)]
    pieces = [(request, *ends) for request in range(case.batch) for ends in pairwise(bounds)]
    order = random.permutation(len(pieces))
    while case.pieces > 1 and _neighbours(order, case.pieces):
        order = random.permutation(len(pieces))
    tables = np.empty((case.batch, case.blocks_per_request), dtype=np.int32)
    block = 0
    for request, first, stop in (pieces[index] for index in order):
        tables[request, first:stop] = range(block, block + stop - first)
        block += stop - first
    return tables


def _neighbours(order: np.ndarray[Any, Any], pieces: int) -> bool:
    """Whether a piece is followed by the next one of its request."""
    return bool(np.any((np.diff(order) == 1) & (order[1:] % pieces != 0)))


@dataclass(frozen=True, eq=False)
class Problem:
    """Queries [batch, queries, heads, head_dim] at the positions of `stretches`, the same in each request."""

    kv: ScatteredKv
    stretches: tuple[tuple[int, int], ...]
    query: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Where all of it is."""
        return self.query.device

    @property
    def flat_query(self) -> torch.Tensor:
        """[batch * queries, heads, head_dim], as kernels take them."""
        return self.query.flatten(0, 1)

    def sub_requests(self) -> list[SubRequest]:
        """Those of all requests, in the order of the queries."""
        case, dropped = self.kv.case, self.stretches[:-1]
        return [
            part
            for table in self.kv.block_tables.tolist()
            for part in sub_requests(table, dropped, case.context_tokens, case.tokens)
        ]

    def positions(self) -> torch.Tensor:
        """The position of each query of a request."""
        parts = [torch.arange(*stretch, device=self.device) for stretch in self.stretches]
        return torch.cat(parts)

    def flops(self) -> int:
        """Multiplications and additions that the causal mask leaves: 4 * head_dim for each head, query and key."""
        pairs = sum(stop * (stop + 1) - start * (start + 1) for start, stop in self.stretches) // 2
        case = self.kv.case
        return 4 * case.head_dim * case.heads * case.batch * pairs

    def dense_result(self, request: int) -> torch.Tensor:
        """[queries, heads, head_dim] of one request in float32: those rows of dense causal attention over all of it."""
        case = self.kv.case
        keys, values = (
            dense[request].float().repeat_interleave(case.heads // case.kv_heads, dim=0)
            for dense in (self.kv.dense_keys, self.kv.dense_values)
        )
        seen = torch.arange(case.tokens, device=self.device) <= self.positions()[:, None]
        query = self.query[request].float().transpose(0, 1)
        return functional.scaled_dot_product_attention(query, keys, values, seen).transpose(0, 1)


def make_problem(kv: ScatteredKv, dropped: tuple[tuple[int, int], ...], seed: int) -> Problem:
    """Queries for the dropped runs, if any, and for the new tokens."""
    case = kv.case
    stretches = (*dropped, (case.context_tokens, case.tokens))
    queries = sum(stop - start for start, stop in stretches)
    generator = torch.Generator(kv.keys.device).manual_seed(seed + 1)
    query = torch.randn(
        (case.batch, queries, case.heads, case.head_dim),
        dtype=kv.keys.dtype,
        device=kv.keys.device,
        generator=generator,
    )
    return Problem(kv, stretches, query)
