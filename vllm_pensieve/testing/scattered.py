"""An eviction order that leaves holes all over the prefixes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from typing_extensions import override

from vllm_pensieve.policies.order import Ids, Order

LAST = 128  # added to a rank, which is below a sequence's blocks


class ScatteredOrder(Order):
    """Evicts at random places, but the deepest block of a sequence last."""

    def __init__(self, ids: int, seed: int) -> None:
        self.position = np.zeros(ids, np.int32)
        self.last_use_s = np.zeros(ids)
        self._random = random.Random(seed)
        self._rank: dict[int, float] = {}

    @override
    def insert(self, ids: Ids, positions: Ids, last_use_s: Any) -> None:
        for index, (block, position) in enumerate(zip(ids, positions, strict=True)):
            assert block not in self._rank
            self._rank[block] = self._random.random() * (position + 1 / 32) + LAST * (index == 0)
        self.position[ids], self.last_use_s[ids] = positions, last_use_s

    @override
    def append(self, ids: Ids, positions: Ids, last_uses_s: Any) -> None:
        for block, position, last_use_s in zip(ids, positions, last_uses_s, strict=True):
            self.insert([block], [position], last_use_s)

    @override
    def remove(self, ids: Ids) -> None:
        for block in ids:
            del self._rank[block]

    @override
    def evict(self, count: int, now_s: float) -> list[int]:
        assert count <= len(self)
        return self.take(count, now_s)

    @override
    def take(self, count: int, now_s: float) -> list[int]:
        taken = self.peek(count, now_s)
        self.remove(taken)
        return taken

    @override
    def peek(self, count: int, now_s: float) -> list[int]:
        return sorted(self._rank, key=self._rank.__getitem__)[:count]

    @override
    def forget(self, ids: Ids) -> None:
        for block in ids:
            self._rank.pop(block, None)

    @override
    def __len__(self) -> int:
        return len(self._rank)

    @override
    def __contains__(self, block: int) -> bool:
        return block in self._rank

    @override
    def check_integrity(self) -> None:
        assert all(rank >= 0 for rank in self._rank.values())
