"""An eviction order that leaves holes all over the prefixes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from vllm_pensieve.retention.eviction_order import EvictionOrder

LAST = 4096  # added to a rank


class ScatteredOrder(EvictionOrder):
    """Evicts at random places, but the deepest block of a sequence last."""

    name = "scattered"

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._rank: dict[int, float] = {}

    def insert(self, keys: Sequence[int], positions: Sequence[int], last_use_s: float) -> None:
        for index, (key, position) in enumerate(zip(keys, positions, strict=True)):
            assert key not in self._rank
            self._rank[key] = self._random.random() * (position + 1) + LAST * (index == 0)

    def remove(self, key: int) -> None:
        del self._rank[key]

    def evict(self, count: int, now_s: float) -> list[int]:
        self._require(count)
        keys = self.peek(count, now_s)
        for key in keys:
            del self._rank[key]
        return keys

    def peek(self, count: int, now_s: float) -> list[int]:
        return sorted(self._rank, key=self._rank.__getitem__)[:count]

    def __len__(self) -> int:
        return len(self._rank)

    def __contains__(self, key: int) -> bool:
        return key in self._rank

    def check_integrity(self) -> None:
        assert all(rank >= 0 for rank in self._rank.values())
